"""Refit the neutral face and expression basis in rig/face_mesh.npz from folders of photos with landmarks.npz.

    python scripts/fit_face_mesh.py FOLDER [FOLDER ...]

Triangles, canonical face, pose weights and mirror twins stay as they are: they come from the geometry metadata of
MediaPipe's face_landmarker.task (Apache-2.0).
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
import torch

from flashportrait.face.blendshapes import ROW_INDICES
from flashportrait.rig import mesh as face_mesh
from flashportrait.rig.pose import head_angles

MAX_YAW = math.radians(20)
"""Faces turned further are left out: half of what they show is guessed."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path)
    landmarks, coefficients = [], []
    for folder in parser.parse_args().folders:
        with np.load(folder / "landmarks.npz") as arrays:
            landmarks.append(torch.from_numpy(arrays["landmarks"].astype(np.float32)))
            coefficients.append(torch.from_numpy(arrays["blendshapes"].astype(np.float32)[:, ROW_INDICES]))
    faces, readings = torch.cat(landmarks), torch.cat(coefficients)
    frontal = head_angles(faces)[:, 0].abs() < MAX_YAW
    mesh = face_mesh.load_face_mesh()
    neutral_face, basis = face_mesh.fit_expression_basis(faces[frontal], readings[frontal], mesh)
    path = Path(face_mesh.__file__).with_name("face_mesh.npz")
    with np.load(path) as arrays:
        kept = dict(arrays)
    kept |= {"neutral_face": neutral_face.numpy(), "expression_basis": basis.numpy().astype(np.float16)}
    np.savez_compressed(path, **kept)
    print(f"{path}: fitted to {int(frontal.sum())} of {len(faces)} faces")


if __name__ == "__main__":
    main()
