"""The profile paper: SMIRK, ArcFace and I3D in the layouts of their files, loaded strictly, never mixed with others."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from flashportrait.cli import main
from flashportrait.errors import UserError
from flashportrait.evaluation.arcface import ArcFace
from flashportrait.evaluation.features import Extractors
from flashportrait.evaluation.fvd import ScriptedVideoFeatures
from flashportrait.evaluation.page import render
from flashportrait.evaluation.paper_extractors import PaperExtractors, PaperFiles
from flashportrait.evaluation.profiles import METRICS
from flashportrait.evaluation.protocols import Entry
from flashportrait.evaluation.scoring import Scored, Scorer, summarise
from flashportrait.evaluation.smirk import SmirkEncoders, crop_face
from flashportrait.files import sha256_of
from flashportrait.media.reader import VideoReader
from flashportrait.media.writer import VideoWriter
from make_smirk_golden import GOLDEN, SAMPLED, SEEDS, frame_and_landmarks, pictures
from make_toy_extractors import smirk_weights, write_arcface, write_i3d, write_smirk

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
FRAMES, SIDE = 16, 240


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> PaperFiles:
    """Random weights in the layouts of the real files."""
    folder = tmp_path_factory.mktemp("weights")
    smirk, arcface = write_smirk(folder / "SMIRK_em1.pt", seed=1), write_arcface(folder / "w600k_r50.onnx")
    return PaperFiles(smirk, arcface, write_i3d(folder / "i3d_torchscript.pt"))


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of two items: the truth itself, and another performance of the same drawn person."""
    folder = tmp_path_factory.mktemp("items")
    for name, start in (("truth", 0), ("other", 25)):
        frames = VideoReader(EXAMPLES / "driving_talking.mp4", trim=f"{start}f:{start + FRAMES}f")
        with VideoWriter(folder / f"{name}.mp4", Fraction(25), mark=False) as writer:
            for frame in frames:
                writer.write(np.asarray(Image.fromarray(frame).resize((SIDE, SIDE), Image.Resampling.LANCZOS)))
    Image.open(EXAMPLES / "drawn_1.png").resize((SIDE, SIDE)).save(folder / "portrait.png")
    rows = ["portrait,driving,result,truth"]
    rows += ["portrait.png,truth.mp4,truth.mp4,truth.mp4", "portrait.png,truth.mp4,other.mp4,truth.mp4"]
    (folder / "table.csv").write_text("\n".join(rows))
    return folder / "table.csv"


def words(files: PaperFiles, fvd: bool = False) -> list[str]:
    """Options of the profile."""
    given = ["--profile", "paper", "--smirk", str(files.smirk), "--arcface", str(files.arcface)]
    return [*given, "--fvd", "--i3d", str(files.i3d)] if fvd else given


@torch.no_grad()
@pytest.mark.parametrize("seed", SEEDS)
def test_the_encoders_give_what_smirks_own_code_gives(seed: int, tmp_path: Path):
    encoders = SmirkEncoders.from_file(write_smirk(tmp_path / "smirk.pt", seed))
    expected = torch.tensor(json.loads(GOLDEN.read_text())["encoded"][str(seed)])
    assert torch.allclose(encoders(pictures()), expected, rtol=1e-3, atol=1e-4)


def test_faces_are_cut_out_as_smirk_does():
    crop = crop_face(*frame_and_landmarks())
    assert crop.shape == (224, 224, 3)
    assert crop[::SAMPLED, ::SAMPLED].tolist() == json.loads(GOLDEN.read_text())["cropped"]


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda weights: weights.pop("smirk_encoder.pose_encoder.pose_cam_layers.0.bias"), "pose_cam_layers.0.bias"),
        (lambda weights: weights.update({"smirk_encoder.more": torch.zeros(1)}), "has smirk_encoder.more"),
        (
            lambda weights: weights.update({"smirk_encoder.shape_encoder.shape_layers.0.bias": torch.zeros(100)}),
            r"\(100,\), not \(300,\)",
        ),
    ],
)
def test_smirks_file_is_read_strictly(spoil: Callable[[dict[str, torch.Tensor]], Any], told: str, tmp_path: Path):
    weights = smirk_weights()
    spoil(weights)
    torch.save(weights, tmp_path / "smirk.pt")
    with pytest.raises(UserError, match=told) as caught:
        SmirkEncoders.from_file(tmp_path / "smirk.pt")
    assert "georgeretsi/smirk" in str(caught.value)


def test_arcface_takes_red_first_and_pixels_from_minus_one_to_one(files: PaperFiles):
    cv2 = pytest.importorskip("cv2")
    red = np.full((200, 200, 3), (255, 0, 0), np.uint8)
    points = np.array([(60, 80), (140, 80), (100, 120), (70, 160), (130, 160)], float)
    (found,) = ArcFace(files.arcface)([red], points[None])
    network = cv2.dnn.readNetFromONNX(str(files.arcface))
    network.setInput(np.stack([np.full((112, 112), value, np.float32) for value in (1, -1, -1)])[None])
    expected = network.forward()[0]
    assert np.allclose(found, expected / np.linalg.norm(expected), atol=1e-5)


def test_i3d_sees_the_middle_square_from_minus_one_to_one(files: PaperFiles):
    network = ScriptedVideoFeatures(files.i3d)
    frame = torch.zeros(3, 240, 480)
    frame[:, :, 130:350] = 1
    picture = network.picture(frame)
    assert picture.shape == (3, 224, 224)
    assert picture[:, :, 20:200].min() == pytest.approx(1)
    assert picture[:, :, (0, -1)].max() == 0
    white, black = (network(torch.full((1, 3, 16, 224, 224), value))[0] for value in (1.0, 0.0))
    assert white.shape == (400,)
    assert torch.allclose(white, -black)
    assert white.abs().max() > 1


def test_both_profiles_score_a_table_and_say_how(
    table: Path, files: PaperFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    cache = tmp_path / "cache"
    common = [str(table), "--without", "lpips", "--cache", str(cache)]
    told = {}
    for name, options in (("open", []), ("paper", words(files, fvd=True))):
        report, page = tmp_path / f"{name}.json", tmp_path / f"{name}.html"
        assert main(["evaluate", *common, *options, "--json", str(report), "--html", str(page)]) == 0
        told[name] = json.loads(report.read_text())
        assert told[name]["profile"] == name
        assert {item["profile"] for item in told[name]["items"]} == {name}
        assert f"Profile: {name}" in page.read_text()
        assert f"profile {name}" in capsys.readouterr().out
        assert len(list(cache.glob(f"*-{name}-*.npz"))) == 2
    same, other = told["paper"]["items"]
    assert [same[name] for name in ("aed", "apd", "ssim")] == [0, 0, 1]
    assert same["psnr"] == "inf"
    assert other["aed"] > 0
    assert other["apd"] > 0
    assert -1 <= other["identity"] <= 1
    for name in ("gaze_mae", "landmark_distance"):
        assert other[name] is None
        assert "never mixed" in other["missing"][name]
        assert told["paper"]["summary"][name] is None
        assert told["open"]["items"][1][name] > 0
    for name in ("psnr", "ssim", "flicker", "color_drift", "seam"):  # which need no face extractor
        assert other[name] == told["open"]["items"][1][name]
    assert other["aed"] != told["open"]["items"][1]["aed"]
    assert told["paper"]["summary"]["fvd"]["value"] > 0
    assert told["paper"]["summary"]["fvd"]["clips"] == 2
    metrics = told["paper"]["metrics"]
    for name, extractor, path in (
        ("aed", "SMIRK", files.smirk),
        ("apd", "SMIRK", files.smirk),
        ("identity", "ArcFace", files.arcface),
        ("fvd", "I3D", files.i3d),
    ):
        entry = metrics[name]["extractor"]
        assert (entry["name"], entry["file"], entry["sha256"]) == (extractor, path.name, sha256_of(path))
        assert "the user's to keep" in entry["licence"]
    assert metrics["apd"]["unit"] == "radians"
    assert metrics["aed"]["extractor"]["faces"]["name"] == "face_landmarker"
    assert "SMIRK_em1.pt" in (tmp_path / "paper.html").read_text()


def test_what_other_weights_read_is_not_taken_from_the_cache(table: Path, files: PaperFiles, tmp_path: Path):
    video, cache = table.parent / "truth.mp4", tmp_path / "cache"
    first = PaperExtractors(files, cache).features(video)
    assert first.expression.shape == (FRAMES, 55)
    assert first.pose.shape == (FRAMES, 3)
    again = PaperExtractors(files, cache).features(video)
    assert np.array_equal(first.expression, again.expression)
    assert len(list(cache.iterdir())) == 1
    others = PaperFiles(write_smirk(tmp_path / "others.pt", seed=2), files.arcface)
    assert not np.allclose(PaperExtractors(others, cache).features(video).expression, first.expression)
    Extractors(cache).features(video)
    assert len(list(cache.iterdir())) == 3


def test_items_of_two_profiles_are_not_put_in_one_table(table: Path, files: PaperFiles):
    entry = Entry(*(table.parent / name for name in ("portrait.png", "truth.mp4", "other.mp4")))
    items = [Scorer(extractors, None).score(entry) for extractors in (Extractors(None), PaperExtractors(files, None))]
    assert [item.profile for item in items] == ["open", "paper"]
    with pytest.raises(UserError, match="open and paper can't stand in one table"):
        summarise(items)
    with pytest.raises(UserError, match="open and paper can't stand in one table"):
        render({"profile": "paper"}, [Scored(entry)])


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda folder: ["--smirk", str(folder / "gone.pt")], ["SMIRK", "gone.pt", "georgeretsi/smirk"]),
        (
            lambda folder: (
                torch.save({"state_dict": {"layer.weight": torch.zeros(2)}}, folder / "net.pt")
                or ["--smirk", str(folder / "net.pt")]
            ),
            ["SMIRK", "lacks smirk_encoder.", "has layer.weight", "SMIRK_em1.pt"],
        ),
        (
            lambda folder: (folder / "text.pt").write_text("no weights") and ["--smirk", str(folder / "text.pt")],
            ["SMIRK", "is no checkpoint of tensors", "SMIRK_em1.pt"],
        ),
        (lambda folder: ["--arcface", str(folder / "gone.onnx")], ["ArcFace", "gone.onnx", "w600k_r50.onnx"]),
        (
            lambda folder: ["--arcface", str(write_arcface(folder / "a.onnx", (1, 3, 160, 160)))],
            ["ArcFace", "takes 1x3x160x160, not 1x3x112x112", "insightface"],
        ),
        (
            lambda folder: ["--arcface", str(write_arcface(folder / "a.onnx", width=128))],
            ["ArcFace", "gives 1x128, not 1x512"],
        ),
        (
            lambda folder: ["--arcface", str(write_arcface(folder / "a.onnx", nodes="_minusscalar"))],
            ["ArcFace", "centres pixels itself"],
        ),
        (
            lambda folder: (folder / "a.onnx").write_text("nothing") and ["--arcface", str(folder / "a.onnx")],
            ["ArcFace", "isn't a working ONNX network"],
        ),
        (lambda folder: ["--fvd", "--i3d", str(folder / "gone.pt")], ["I3D", "gone.pt", "universome/fvd-comparison"]),
        (
            lambda folder: (
                torch.save({"a": torch.zeros(1)}, folder / "i.pt") or ["--fvd", "--i3d", str(folder / "i.pt")]
            ),
            ["I3D", "isn't a TorchScript network"],
        ),
        (
            lambda folder: (
                torch.jit.save(torch.jit.script(nn.ReLU()), str(folder / "i.pt"))
                or ["--fvd", "--i3d", str(folder / "i.pt")]
            ),
            ["I3D", "isn't called with clips, rescale"],
        ),
        (
            lambda folder: ["--fvd", "--i3d", str(write_i3d(folder / "i.pt", 1024))],
            ["I3D", "gives [1, 1024] for a clip, not [1, 400]"],
        ),
    ],
)
def test_a_wrong_file_is_told_in_one_line(
    make: Callable[[Path], list[str]],
    told: list[str],
    table: Path,
    files: PaperFiles,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    # Of an option that is given twice, the last counts.
    assert main(["evaluate", str(table), "--quiet", "--no-cache", *words(files), *make(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1
    for part in told:
        assert part in error


def test_files_that_are_not_given_or_not_read_are_told(
    table: Path, files: PaperFiles, capsys: pytest.CaptureFixture[str]
):
    assert main(["evaluate", str(table), "--profile", "paper", "--fvd", "--arcface", str(files.arcface)]) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1
    assert "SMIRK (--smirk FILE)" in error
    assert "I3D (--i3d FILE)" in error
    assert "ArcFace" not in error
    assert main(["evaluate", str(table), "--smirk", str(files.smirk)]) == 2
    assert "add --profile paper" in capsys.readouterr().err
    assert set(METRICS) == set(PaperExtractors.profile.metrics)
