"""Facial expression features -> expression tokens -> the tokens that each latent frame attends to.

Module names are those of the released ``portrait_encoder.pt``: ``state_dict()`` is in the released naming.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from torch import Tensor, nn

from flashportrait.checkpoints.files import Source, load_strictly, read_checkpoint
from flashportrait.checkpoints.tables import KeyTable
from flashportrait.errors import UserError

GROUP_TOKENS = 4
"""Tokens that are one linear projection each: head pose, eyes, emotion, mouth."""

OFFICIAL_TOKENS_PER_FRAME = 24
"""Tokens per pixel frame of the released model: one a group, 16 of the mouth and 4 of the emotion resampler."""

TEMPORAL_RATIO = 4
"""Pixel frames per latent frame, after the first."""


class GroupProjection(nn.Module):
    """One token per group of the motion row: a linear map each, one LayerNorm shared."""

    def __init__(
        self, head_pose_dim: int, eyes_dim: int, emotion_dim: int, mouth_dim: int, token_dim: int, bias: bool = False
    ):
        super().__init__()
        self.headpose_proj = nn.Linear(head_pose_dim, token_dim, bias=bias)
        self.eye_proj = nn.Linear(eyes_dim, token_dim, bias=bias)
        self.emo_proj = nn.Linear(emotion_dim, token_dim, bias=bias)
        self.mouth_proj = nn.Linear(mouth_dim, token_dim, bias=bias)
        self.norm = nn.LayerNorm(token_dim)

    def forward(self, head_pose: Tensor, eyes: Tensor, emotion: Tensor, mouth: Tensor) -> Tensor:
        """Groups ``[n d]`` each -> ``[n 4 token_dim]``, in the order of the arguments."""
        tokens = [self.headpose_proj(head_pose), self.eye_proj(eyes), self.emo_proj(emotion), self.mouth_proj(mouth)]
        return self.norm(torch.stack(tokens, dim=1))


class PerceiverAttention(nn.Module):
    """Queries attend to the input and to themselves, concatenated; each side has its own LayerNorm."""

    def __init__(self, dim: int, heads: int, head_dim: int):
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, heads * head_dim, bias=False)
        self.to_kv = nn.Linear(dim, 2 * heads * head_dim, bias=False)
        self.to_out = nn.Linear(heads * head_dim, dim, bias=False)

    def forward(self, inputs: Tensor, queries: Tensor) -> Tensor:
        """``inputs [n m dim]``, ``queries [n q dim]`` -> ``[n q dim]``."""
        queries = self.norm2(queries)
        context = torch.cat([self.norm1(inputs), queries], dim=1)
        q = rearrange(self.to_q(queries), "n q (h d) -> n h q d", h=self.heads)
        k, v = rearrange(self.to_kv(context), "n m (two h d) -> two n h m d", two=2, h=self.heads)
        return self.to_out(rearrange(F.scaled_dot_product_attention(q, k, v), "n h q d -> n q (h d)"))


def _feed_forward(dim: int, multiple: int = 4) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(dim),
        nn.Linear(dim, multiple * dim, bias=False),
        nn.GELU(),
        nn.Linear(multiple * dim, dim, bias=False),
    )


class PerceiverResampler(nn.Module):
    """A few learned queries read one vector: ``[n input_dim]`` -> ``[n queries token_dim]``."""

    def __init__(
        self, input_dim: int, token_dim: int, queries: int, *, dim: int, depth: int, heads: int, head_dim: int
    ):
        super().__init__()
        self.latents = nn.Parameter(torch.randn(1, queries, dim) / dim**0.5)
        self.proj_in = nn.Linear(input_dim, dim)
        self.proj_out = nn.Linear(dim, token_dim)
        self.norm_out = nn.LayerNorm(token_dim)
        self.layers = nn.ModuleList(
            nn.ModuleList([PerceiverAttention(dim, heads, head_dim), _feed_forward(dim)]) for _ in range(depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        inputs = self.proj_in(x)[:, None]
        queries = self.latents.expand(len(x), -1, -1)
        for attention, feed_forward in self.layers:
            queries = queries + attention(inputs, queries)
            queries = queries + feed_forward(queries)
        return self.norm_out(self.proj_out(queries))


class PortraitEncoder(ModelMixin, ConfigMixin):
    """Turns motion rows into expression tokens, each frame alone.

    The defaults are the released model's.

    Args:
        head_pose_dim, eyes_dim, emotion_dim, mouth_dim: columns of each group of the motion row, in this order.
        token_dim: width of the expression tokens.
        resampler_dim, resampler_depth: width and layers of the two perceiver resamplers.
        resampler_heads, resampler_head_dim: their attention heads.
        mouth_queries, emotion_queries: tokens from the resamplers over the mouth and over the emotion group.
        frame_phases: whether to add a learned vector that tells a latent frame's four pixel frames apart, which
            the expression attention, having no positions, can't. The released model has none. Frame t of the
            window gets vector ``(t - 1) mod 4``: frames 4i-3 .. 4i, which share latent frame i, get 0, 1, 2, 3,
            and frame 0 gets 3, like the last frame of any latent frame.
        group_bias: whether the groups' linear maps have a bias. Without one (as released) the LayerNorm after them
            forgets how large a group is and keeps its direction alone: half a blink would equal a whole one in
            coefficients that are zero at rest.
    """

    @register_to_config
    def __init__(
        self,
        head_pose_dim: int = 6,
        eyes_dim: int = 6,
        emotion_dim: int = 30,
        mouth_dim: int = 512,
        token_dim: int = 2048,
        resampler_dim: int = 1280,
        resampler_depth: int = 4,
        resampler_heads: int = 20,
        resampler_head_dim: int = 64,
        mouth_queries: int = 16,
        emotion_queries: int = 4,
        frame_phases: bool = False,
        group_bias: bool = False,
    ):
        super().__init__()
        self.group_dims = (head_pose_dim, eyes_dim, emotion_dim, mouth_dim)
        self.tokens_per_frame = GROUP_TOKENS + mouth_queries + emotion_queries
        resampler = {
            "dim": resampler_dim,
            "depth": resampler_depth,
            "heads": resampler_heads,
            "head_dim": resampler_head_dim,
        }
        self.proj_model = GroupProjection(*self.group_dims, token_dim, group_bias)
        self.mouth_proj_model = PerceiverResampler(mouth_dim, token_dim, mouth_queries, **resampler)
        self.emo_proj_model = PerceiverResampler(emotion_dim, token_dim, emotion_queries, **resampler)
        # The tokens leave their LayerNorms with unit variance; half of that tells phases apart without drowning them.
        self.frame_phase = nn.Parameter(0.5 * torch.randn(TEMPORAL_RATIO, token_dim)) if frame_phases else None

    @classmethod
    def from_official(
        cls, source: Source, *, resampler_heads: int | None = None, resampler_head_dim: int = 64
    ) -> PortraitEncoder:
        """Loads the released ``portrait_encoder.pt``, or any model stored under the same names.

        Args:
            source: file, folder of shards, or state dict.
            resampler_heads, resampler_head_dim: shapes tell only their product; either says the other.

        Raises:
            UserError: a key is missing, extra or of the wrong shape; the error names it.
        """
        config = _infer_config(read_checkpoint(source), resampler_heads, resampler_head_dim)
        with torch.device("meta"):
            model = cls(**config).eval()
        load_strictly(model, source, KeyTable.same_names("portrait encoder", model.state_dict()))
        return model

    def to_official(self) -> dict[str, Tensor]:
        """The state dict under the released names, which are ours; the tensors are the model's own.

        Raises:
            UserError: this model has frame phases or group biases, which the released layout doesn't know.
        """
        if self.config.frame_phases or self.config.group_bias:
            raise UserError("the released layout has no frame phases or group biases; save with save_pretrained")
        return self.state_dict()

    def forward(self, motion: Tensor) -> Tensor:
        """Motion rows ``[b t d]``, t being frames of one window -> tokens ``[b t*p token_dim]``, frame by frame.

        The p tokens of a frame: head pose, eyes, emotion, mouth, then the mouth resampler's, then the emotion's.

        Raises:
            UserError: d is not the sum of the group widths.
        """
        batch, frames, width = motion.shape
        if width != sum(self.group_dims):
            raise UserError(
                f"motion rows have {width} columns; this model needs {sum(self.group_dims)}: "
                "use the extractor that it was trained with"
            )
        head_pose, eyes, emotion, mouth = motion.flatten(0, 1).split(self.group_dims, dim=-1)
        tokens = torch.cat(
            [
                self.proj_model(head_pose, eyes, emotion, mouth),
                self.mouth_proj_model(mouth),
                self.emo_proj_model(emotion),
            ],
            dim=1,
        )
        tokens = rearrange(tokens, "(b t) p d -> b t p d", b=batch)
        if self.frame_phase is not None:
            phases = (torch.arange(frames, device=tokens.device) - 1) % TEMPORAL_RATIO
            tokens = tokens + self.frame_phase[phases][:, None]
        return rearrange(tokens, "b t p d -> b (t p) d")

    def tokens_per_latent_frame(self, tokens: Tensor, frames: int) -> Tensor:
        """``tokens_per_latent_frame`` with this model's tokens per frame."""
        return tokens_per_latent_frame(tokens, frames, self.tokens_per_frame)


def _infer_config(state_dict: dict[str, Tensor], heads: int | None, head_dim: int) -> dict[str, int]:
    """The sizes of a portrait encoder from the shapes of its weights."""

    def size(key: str, axis: int) -> int:
        if key not in state_dict:
            raise UserError(f"this is not a released portrait encoder: it lacks {key}; give portrait_encoder.pt")
        return state_dict[key].shape[axis]

    heads_width = size("mouth_proj_model.layers.0.0.to_q.weight", 0)
    heads = heads or max(1, heads_width // head_dim)
    depth = len({key.split(".")[2] for key in state_dict if key.startswith("mouth_proj_model.layers.")})
    return {
        "head_pose_dim": size("proj_model.headpose_proj.weight", 1),
        "eyes_dim": size("proj_model.eye_proj.weight", 1),
        "emotion_dim": size("proj_model.emo_proj.weight", 1),
        "mouth_dim": size("proj_model.mouth_proj.weight", 1),
        "token_dim": size("proj_model.norm.weight", 0),
        "resampler_dim": size("mouth_proj_model.latents", 2),
        "resampler_depth": depth,
        "resampler_heads": heads,
        "resampler_head_dim": heads_width // heads,
        "mouth_queries": size("mouth_proj_model.latents", 1),
        "emotion_queries": size("emo_proj_model.latents", 1),
    }


def latent_frame_token_ranges(latent_frames: int, tokens_per_frame: int) -> list[tuple[int, int]]:
    """First and last token (inclusive) of each latent frame's range; it may reach outside the sequence.

    Latent frame i >= 1 is centred on the middle c of its four pixel frames and reaches half of their 4p tokens to
    each side, c = (p(4(i-1)+1) + p(4i+1)) / 2 - 1. Latent frame 0 ends where latent frame 1 starts.
    """
    half = 2 * tokens_per_frame
    centres = [tokens_per_frame * (TEMPORAL_RATIO * i - 1) - 1 for i in range(1, latent_frames)]
    first_end = tokens_per_frame - 1
    return [(first_end - 2 * half, first_end)] + [(c - half, c + half) for c in centres]


def tokens_per_latent_frame(tokens: Tensor, frames: int, tokens_per_frame: int = OFFICIAL_TOKENS_PER_FRAME) -> Tensor:
    """Expression tokens of a window -> those that each latent frame attends to, as the released model was trained.

    Tokens of a range that lie outside the window are dropped, and as many zero vectors come after the valid ones;
    the zeros are attended. Latent frame 0 so sees frame 0 and zeros, latent frame i the last token of frame 4i-4 and
    all tokens of frames 4i-3 .. 4i.

    Args:
        tokens: ``[b t*p width]``, the window's own frames only.
        frames: pixel frames t of the window (17 for five latent frames). The window's latent frames f are taken
            too: both say the same of a window, and must agree with ``tokens``.
        tokens_per_frame: p.

    Returns:
        ``[b f 4p+1 width]`` with ``f = (t - 1) // 4 + 1``.

    Raises:
        UserError: ``tokens`` don't hold p tokens for each frame.
    """
    pixel_frames, rest = divmod(tokens.shape[1], tokens_per_frame)
    latent_frames = (pixel_frames - 1) // TEMPORAL_RATIO + 1
    if rest or pixel_frames < 1 or frames not in (pixel_frames, latent_frames):
        raise UserError(
            f"{tokens.shape[1]} tokens for {frames} frames; {tokens_per_frame} a frame are needed: "
            f"pass the window's {frames * tokens_per_frame}"
        )
    padding = tokens.shape[1]  # index of the zero vector appended below
    indices = torch.full((latent_frames, 4 * tokens_per_frame + 1), padding)
    for row, (first, last) in zip(indices, latent_frame_token_ranges(latent_frames, tokens_per_frame), strict=True):
        valid = torch.arange(max(first, 0), last + 1)
        row[: len(valid)] = valid
    return F.pad(tokens, (0, 0, 0, 1))[:, indices.to(tokens.device)]
