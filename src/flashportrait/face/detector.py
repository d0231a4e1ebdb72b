"""BlazeFace short range: square picture in, face boxes with six keypoints out, and a search over scales around it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from flashportrait.face.tflite import TfliteModel

INPUT_SIDE = 128
"""Side of the detector's input in pixels."""
MIN_SCORE = 0.5
"""Detections below this probability are dropped."""
OVERLAP = 0.3
"""Detections whose boxes overlap by more than this (intersection over union) are one face."""
SEARCH_SIDE = 2048
"""Longest side of the picture that is searched, in pixels; larger pictures are reduced first."""
FINEST_TILE = 100
"""Least side of a search tile in pixels: a face of 20 px fills a tenth of twice that, which the detector can see."""


@dataclass(frozen=True)
class Detection:
    """One face as the detector sees it, in pixels of the picture."""

    box: np.ndarray
    """x0, y0, x1, y1  [4]"""
    keypoints: np.ndarray
    """Right eye, left eye, nose tip, mouth, right ear, left ear (the subject's own sides)  [6 2]"""
    score: float
    """Probability in [0, 1]."""


def make_anchors() -> np.ndarray:
    """Centres of the 896 anchors in [0, 1], x then y: two a cell at stride 8, six a cell at stride 16.  [896 2]"""
    layers = []
    for stride, per_cell in ((8, 2), (16, 6)):
        cells = INPUT_SIDE // stride
        centers = (np.arange(cells, dtype=np.float32) + 0.5) / cells
        y, x = np.meshgrid(centers, centers, indexing="ij")
        layers.append(np.repeat(np.stack([x, y], axis=-1).reshape(-1, 2), per_cell, axis=0))
    return np.concatenate(layers)


def box_overlap(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Intersection over union of one box [4] with each of many [n 4].  [n]"""
    corner0 = np.maximum(box[:2], boxes[:, :2])
    corner1 = np.minimum(box[2:], boxes[:, 2:])
    shared = np.prod(np.clip(corner1 - corner0, 0, None), axis=1)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    return shared / np.maximum(areas + np.prod(box[2:] - box[:2]) - shared, 1e-9)


def merge_detections(detections: list[Detection]) -> list[Detection]:
    """Weighted non-maximum suppression: each cluster becomes its score-weighted mean, under its best score."""
    remaining = sorted(detections, key=lambda detection: -detection.score)
    merged = []
    while remaining:
        overlaps = box_overlap(remaining[0].box, np.stack([detection.box for detection in remaining]))
        overlaps[0] = 1.0
        cluster = [detection for detection, overlap in zip(remaining, overlaps, strict=True) if overlap > OVERLAP]
        remaining = [detection for detection, overlap in zip(remaining, overlaps, strict=True) if overlap <= OVERLAP]
        weights = [detection.score for detection in cluster]
        merged.append(
            Detection(
                box=np.average([detection.box for detection in cluster], axis=0, weights=weights),
                keypoints=np.average([detection.keypoints for detection in cluster], axis=0, weights=weights),
                score=cluster[0].score,
            )
        )
    return merged


class FaceDetector:
    """Finds faces of any size in a picture of any size."""

    def __init__(self, model: TfliteModel) -> None:
        self._model = model
        self._anchors = make_anchors()

    def scan(self, image: np.ndarray) -> Iterator[list[Detection]]:
        """Faces in a uint8 RGB picture [h w 3], one list a scale, best score first.

        From the whole picture to ever smaller tiles; lazily, so that a caller who has found enough can stop.
        """
        step = max(1, -(-max(image.shape[:2]) // SEARCH_SIDE))
        reduced = Image.fromarray(np.ascontiguousarray(image))
        reduced = reduced.reduce(step) if step > 1 else reduced
        for tiles in _search_tiles(*reduced.size):
            found = [detection for tile in tiles for detection in self._detect_square(reduced, *tile)]
            merged = merge_detections(found)
            yield [Detection(each.box * step, each.keypoints * step, each.score) for each in merged]

    def _detect_square(self, image: Image.Image, x: float, y: float, side: float) -> list[Detection]:
        """Faces in the square of ``image`` at (x, y); what lies outside the picture is black."""
        width, height = image.size
        x0, y0, x1, y1 = max(0, int(x)), max(0, int(y)), min(width, round(x + side)), min(height, round(y + side))
        scale = INPUT_SIDE / side
        fitted = (max(1, round((x1 - x0) * scale)), max(1, round((y1 - y0) * scale)))
        canvas = Image.new("RGB", (INPUT_SIDE, INPUT_SIDE))
        part = image.resize(fitted, Image.Resampling.BILINEAR, box=(x0, y0, x1, y1))
        canvas.paste(part, (round((x0 - x) * scale), round((y0 - y) * scale)))
        pixels = np.asarray(canvas, dtype=np.float32)[None] / 127.5 - 1.0
        regressors, logits = self._model(pixels)
        scores = 1.0 / (1.0 + np.exp(-np.clip(logits[0, :, 0], -80, 80)))
        kept = scores >= MIN_SCORE
        values = regressors[0, kept] / INPUT_SIDE
        points = values.reshape(-1, 8, 2) + self._anchors[kept][:, None]
        center, half = points[:, 0], values[:, 2:4] / 2
        boxes = np.concatenate([center - half, center + half], axis=1) * side + np.array([x, y, x, y])
        keypoints = points[:, 2:] * side + np.array([x, y])
        return merge_detections(
            [Detection(*each) for each in zip(boxes, keypoints, map(float, scores[kept]), strict=True)]
        )


def _search_tiles(width: int, height: int) -> Iterator[list[tuple[float, float, float]]]:
    """Squares (x, y, side) to look at, one list a scale.

    First the whole picture, letterboxed; then the picture at half that scale, for faces that fill it; then squares of
    the short side, of half of it and so on, overlapping by half.
    """
    long_side, short_side = max(width, height), min(width, height)
    for side in (long_side, 2 * long_side):
        yield [((width - side) / 2, (height - side) / 2, side)]
    side = short_side if short_side < long_side else short_side / 2
    while side >= FINEST_TILE:
        columns, rows = (int(np.ceil((length - side) / (side / 2))) + 1 for length in (width, height))
        yield [
            (float(x), float(y), side)
            for y in np.linspace(0, height - side, rows)
            for x in np.linspace(0, width - side, columns)
        ]
        side /= 2
