"""PD-FGC's motion encoder: an aligned face -> head pose, eyes, emotion and mouth, each free of identity.

Wang et al., "Progressive Disentangled Representation Learning for Fine-Grained Controllable Talking Head Synthesis",
CVPR 2023: one hourglass of a Face Alignment Network, whose 68 landmark maps are read by four small heads. Module
names are those of the released ``pd_fpg.pth``: ``state_dict()`` is in the released naming.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from flashportrait.checkpoints.files import Source, load_strictly
from flashportrait.checkpoints.tables import KeyTable
from flashportrait.errors import UserError

CROP_SIDE = 224
"""Height and width of the face crops in pixels; the network has no other size."""

FEATURES = 512
"""Width of the trunk's feature vector and of the mouth group."""

HEATMAPS = 68
"""Landmark maps at the end of the hourglass."""

TRAINING_ONLY_PREFIXES = ("classifier.", "mouth_fc.", "headpose_fc.", "eye_fc.", "emo_fc.", "feature_fuse.")
"""Keys of heads that only PD-FGC's training uses; a checkpoint may hold them."""


def _conv3x3(in_channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)


class MultiScaleBlock(nn.Module):
    """Pre-activation residual block: three convolutions in a row, the outputs of all three concatenated."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        half, quarter = out_channels // 2, out_channels // 4
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = _conv3x3(in_channels, half)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv2 = _conv3x3(half, quarter)
        self.bn3 = nn.BatchNorm2d(quarter)
        self.conv3 = _conv3x3(quarter, quarter)
        self.downsample: nn.Sequential | None = None
        if in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.BatchNorm2d(in_channels), nn.ReLU(), nn.Conv2d(in_channels, out_channels, 1, bias=False)
            )

    def forward(self, x: Tensor) -> Tensor:
        half = self.conv1(F.relu(self.bn1(x)))
        quarter = self.conv2(F.relu(self.bn2(half)))
        last = self.conv3(F.relu(self.bn3(quarter)))
        shortcut = x if self.downsample is None else self.downsample(x)
        return torch.cat([half, quarter, last], dim=1) + shortcut


class Hourglass(nn.Module):
    """``depth`` poolings and as many upsamplings, with a skip connection at every size."""

    def __init__(self, depth: int, channels: int):
        super().__init__()
        self.depth = depth
        for level in range(1, depth + 1):
            for name in ("b1", "b2", "b3"):
                self.add_module(f"{name}_{level}", MultiScaleBlock(channels, channels))
        self.add_module("b2_plus_1", MultiScaleBlock(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        return self._at_level(self.depth, x)

    def _at_level(self, level: int, x: Tensor) -> Tensor:
        shortcut = self.get_submodule(f"b1_{level}")(x)
        low = self.get_submodule(f"b2_{level}")(F.max_pool2d(x, 2))
        low = self._at_level(level - 1, low) if level > 1 else self.get_submodule("b2_plus_1")(low)
        low = self.get_submodule(f"b3_{level}")(low)
        return shortcut + F.interpolate(low, size=shortcut.shape[-2:], mode="bilinear", align_corners=False)


class LandmarkTrunk(nn.Module):
    """Face crops ``[n 3 224 224]`` -> features ``[n 512]``, through landmark maps."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3)
        self.bn1 = nn.BatchNorm2d(64)
        self.conv2 = MultiScaleBlock(64, 128)
        self.conv3 = MultiScaleBlock(128, 128)
        self.conv4 = MultiScaleBlock(128, 256)
        self.m0 = Hourglass(depth=4, channels=256)
        self.top_m_0 = MultiScaleBlock(256, 256)
        self.conv_last0 = nn.Conv2d(256, 256, 1)
        self.bn_end0 = nn.BatchNorm2d(256)
        self.l0 = nn.Conv2d(256, HEATMAPS, 1)
        self.bn5 = nn.BatchNorm2d(HEATMAPS)
        self.conv6 = nn.Conv2d(HEATMAPS, 1, 3, stride=2, padding=1)
        self.fc = nn.Linear((CROP_SIDE // 8) ** 2, FEATURES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.max_pool2d(self.conv2(x), 2)
        x = self.top_m_0(self.m0(self.conv4(self.conv3(x))))
        heatmaps = self.l0(F.relu(self.bn_end0(self.conv_last0(x))))
        attention = self.conv6(F.relu(self.bn5(heatmaps)))
        return self.fc(F.relu(attention.flatten(1)))


def _subspace() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(FEATURES, FEATURES), nn.ReLU(), nn.BatchNorm1d(FEATURES), nn.Linear(FEATURES, FEATURES)
    )


def _embedding(dim: int) -> nn.Sequential:
    return nn.Sequential(nn.ReLU(), nn.Linear(FEATURES, dim))


class MotionEncoder(ModelMixin, ConfigMixin):
    """Reads the four groups of a PD-FGC motion row from aligned faces. Meant for ``eval()``, as it is loaded.

    Args:
        head_pose_dim, eyes_dim, emotion_dim: widths of these groups; the mouth's is 512.
    """

    @register_to_config
    def __init__(self, head_pose_dim: int = 6, eyes_dim: int = 6, emotion_dim: int = 30):
        super().__init__()
        self.model = LandmarkTrunk()
        self.to_headpose = _subspace()
        self.headpose_embed = _embedding(head_pose_dim)
        self.to_eye = _subspace()
        self.eye_embed = _embedding(eyes_dim)
        self.to_emo = _subspace()
        self.emo_embed = _embedding(emotion_dim)
        self.to_mouth = _subspace()
        # The mouth group is the feature itself; its embedding is here because the released file holds it.
        self.mouth_embed = _embedding(FEATURES - head_pose_dim - eyes_dim)

    @classmethod
    def from_official(cls, source: Source) -> MotionEncoder:
        """Loads the released ``pd_fpg.pth``.

        Args:
            source: file or state dict. Heads that only training uses are skipped.

        Raises:
            UserError: a key is missing, extra or of the wrong shape; the error names it.
        """
        with torch.device("meta"):
            model = cls().eval()
        table = KeyTable.same_names("PD-FGC motion encoder", model.state_dict(), ignored=TRAINING_ONLY_PREFIXES)
        load_strictly(model, source, table)
        return model

    def to_official(self) -> dict[str, Tensor]:
        """The state dict under the released names, which are ours; the tensors are the model's own."""
        return self.state_dict()

    def forward(self, faces: Tensor) -> dict[str, Tensor]:
        """Aligned RGB faces ``[n 3 224 224]`` in [-1, 1] -> ``[n d]`` for each group, in row order.

        Groups: ``head_pose`` (d = 6), ``eyes`` (6), ``emotion`` (30), ``mouth`` (512).

        Raises:
            UserError: the faces aren't 3x224x224.
        """
        if faces.shape[1:] != (3, CROP_SIDE, CROP_SIDE):
            raise UserError(f"faces are {tuple(faces.shape)}; [n, 3, {CROP_SIDE}, {CROP_SIDE}] is needed: align them")
        features = self.model(faces)
        return {
            "head_pose": self.headpose_embed(self.to_headpose(features)),
            "eyes": self.eye_embed(self.to_eye(features)),
            "emotion": self.emo_embed(self.to_emo(features)),
            "mouth": self.to_mouth(features),
        }
