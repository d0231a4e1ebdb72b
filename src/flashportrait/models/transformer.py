"""FlashPortrait's video diffusion transformer: Wan2.1 with the Normalized Facial Expression Block in every block.

The class is diffusers' ``WanTransformer3DModel`` with its cross-attention replaced, so saving, loading, LoRA,
offloading, quantisation, attention backends and caches of that class apply. One network serves the released 14B
weights and the embedded model; they differ in configuration alone.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.hooks import HookRegistry
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.modeling_utils import ModelMixin  # noqa: F401 (from_pretrained of pipelines looks for it here)
from diffusers.models.transformers.transformer_wan import (
    WanRotaryPosEmbed,
    WanTransformer3DModel,
    WanTransformerBlock,
)
from einops import rearrange
from torch import Tensor, nn

from flashportrait.checkpoints.config import transformer_config
from flashportrait.checkpoints.files import Source, load_strictly
from flashportrait.checkpoints.tables import TRANSFORMER
from flashportrait.models.expression_block import ExpressionAttention
from flashportrait.models.self_attention import SelfAttnProcessor


class TimestepAngles(nn.Module):
    """Cosines and sines of a timestep at ``width / 2`` speeds from 1 down to 1/10000.

    The angles are float64 as in the released code: at timestep 1000 those in float32 are off by 1e-4.
    """

    def __init__(self, width: int):
        super().__init__()
        self.width = width

    def forward(self, timestep: Tensor) -> Tensor:
        """``[b]`` -> ``[b width]`` float32, cosines first."""
        dtype = torch.float32 if timestep.device.type == "mps" else torch.float64
        half = self.width // 2
        speeds = 10000.0 ** (-torch.arange(half, dtype=dtype, device=timestep.device) / half)
        angles = timestep.to(dtype)[:, None] * speeds
        return torch.cat([angles.cos(), angles.sin()], dim=-1).float()


class FlashPortraitBlock(WanTransformerBlock):
    """A Wan block whose cross-attention also attends to expression tokens."""

    def __init__(
        self,
        dim: int,
        ffn_dim: int,
        num_heads: int,
        qk_norm: str | None = "rms_norm_across_heads",
        cross_attn_norm: bool = False,
        eps: float = 1e-6,
        added_kv_proj_dim: int | None = None,
        expression_dim: int = 2048,
    ):
        super().__init__(dim, ffn_dim, num_heads, qk_norm, cross_attn_norm, eps, added_kv_proj_dim)
        self.attn1.set_processor(SelfAttnProcessor())
        self.attn2 = ExpressionAttention(dim, num_heads, dim // num_heads, eps, expression_dim, added_kv_proj_dim)
        if qk_norm is None:
            for attention in (self.attn1, self.attn2):
                attention.norm_q, attention.norm_k = nn.Identity(), nn.Identity()
                if attention.add_k_proj is not None:
                    attention.norm_added_k = nn.Identity()

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        temb: Tensor,
        rotary_emb: tuple[Tensor, Tensor],
        expression_tokens: Tensor | None = None,
        expression_scale: float | Tensor = 1.0,
        image_tokens: int = 0,
        frame_tokens: int = 0,
    ) -> Tensor:
        """One block.

        Args:
            hidden_states: ``[b n d]``, tokens of all latent frames, frame by frame.
            encoder_hidden_states: ``[b m + k d]``, image tokens first, then text.
            temb: ``[b 6 d]``, the timestep's shifts, scales and gates.
            rotary_emb: cosines and sines, each ``[1 n 1 head_dim]``.
            expression_tokens: ``[b f k expression_dim]``, or None for no expression.
            expression_scale: a number, or one a sample ``[b]``.
            image_tokens: how many of ``encoder_hidden_states`` are image tokens.
            frame_tokens: how many of ``hidden_states`` a latent frame has; needed where they are split over devices.
        """
        # Modulation, norms and gates run in float32 whatever the weights' type, as the released code does.
        shift_sa, scale_sa, gate_sa, shift_ff, scale_ff, gate_ff = (self.scale_shift_table + temb.float()).chunk(6, 1)

        x = (self.norm1(hidden_states.float()) * (1 + scale_sa) + shift_sa).type_as(hidden_states)
        x = self.attn1(x, None, None, rotary_emb)
        hidden_states = (hidden_states.float() + x * gate_sa).type_as(hidden_states)

        x = self.norm2(hidden_states.float()).type_as(hidden_states)
        hidden_states = hidden_states + self.attn2(
            x,
            encoder_hidden_states,
            expression_tokens=expression_tokens,
            expression_scale=expression_scale,
            image_tokens=image_tokens,
            frame_tokens=frame_tokens,
        )

        x = (self.norm3(hidden_states.float()) * (1 + scale_ff) + shift_ff).type_as(hidden_states)
        return (hidden_states.float() + self.ffn(x).float() * gate_ff).type_as(hidden_states)


class FlashPortraitTransformer3DModel(WanTransformer3DModel):
    """Velocity of the latents of one window, given portrait, expression, text and time.

    Args:
        text_len: width the text embeddings are padded to with zeros, which are attended (512 in the 14B).
        expression_dim: width of the expression tokens (2048 in the 14B).
        others: as in diffusers' ``WanTransformer3DModel``; the defaults here are the released 14B's.
    """

    _no_split_modules = ["FlashPortraitBlock"]  # noqa: RUF012 (diffusers' convention)
    _repeated_blocks = ["FlashPortraitBlock"]  # noqa: RUF012
    # The parent's, but for its timesteps: ours are one a sample, and whole everywhere.
    _cp_plan = {name: plan for name, plan in WanTransformer3DModel._cp_plan.items() if name}  # noqa: RUF012

    @register_to_config
    def __init__(
        self,
        patch_size: tuple[int, int, int] = (1, 2, 2),
        num_attention_heads: int = 40,
        attention_head_dim: int = 128,
        in_channels: int = 36,
        out_channels: int = 16,
        text_dim: int = 4096,
        freq_dim: int = 256,
        ffn_dim: int = 13824,
        num_layers: int = 40,
        cross_attn_norm: bool = True,
        qk_norm: str | None = "rms_norm_across_heads",
        eps: float = 1e-6,
        image_dim: int | None = 1280,
        added_kv_proj_dim: int | None = 5120,
        rope_max_seq_len: int = 1024,
        pos_embed_seq_len: int | None = None,
        text_len: int = 512,
        expression_dim: int = 2048,
    ):
        super().__init__(
            patch_size=patch_size,
            num_attention_heads=num_attention_heads,
            attention_head_dim=attention_head_dim,
            in_channels=in_channels,
            out_channels=out_channels,
            text_dim=text_dim,
            freq_dim=freq_dim,
            ffn_dim=ffn_dim,
            num_layers=0,
            cross_attn_norm=cross_attn_norm,
            qk_norm=qk_norm,
            eps=eps,
            image_dim=image_dim,
            added_kv_proj_dim=added_kv_proj_dim,
            rope_max_seq_len=rope_max_seq_len,
            pos_embed_seq_len=pos_embed_seq_len,
        )
        # The parent has just recorded the number of blocks it built, none.
        self.register_to_config(num_layers=num_layers)
        self.condition_embedder.timesteps_proj = TimestepAngles(freq_dim)
        inner_dim = num_attention_heads * attention_head_dim
        self.blocks = nn.ModuleList(
            FlashPortraitBlock(
                inner_dim,
                ffn_dim,
                num_attention_heads,
                qk_norm,
                cross_attn_norm,
                eps,
                added_kv_proj_dim,
                expression_dim,
            )
            for _ in range(num_layers)
        )

    @classmethod
    def from_official(
        cls,
        source: Source,
        *,
        torch_dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        **config: Any,
    ) -> FlashPortraitTransformer3DModel:
        """The released transformer, or a smaller one stored in its layout.

        Args:
            source: a path (.pt, .pth, .safetensors, a folder of shards) or a state dict, in the released naming.
            torch_dtype: of the weights; norms, modulation and time embedding stay float32 where one is given, as in
                diffusers. None keeps the file's.
            device: where the weights go, tensor by tensor; None leaves them in the mapped file.
            config: the released configuration's words (dim, ffn_dim, num_heads, num_layers, in_dim, out_dim, text_dim,
                freq_dim, text_len, eps, cross_attn_norm, qk_norm) where it isn't the 14B.

        Raises:
            UserError: naming a wrong, missing or extra key, a wrong shape or an unknown word.
        """
        with torch.device("meta"):
            model = cls(**transformer_config(**config)).eval()
        ours = model.config
        # The rotary tables are computed, not stored, so the meta device would lose them.
        model.rope = WanRotaryPosEmbed(ours.attention_head_dim, ours.patch_size, ours.rope_max_seq_len).to(device)
        load_strictly(
            model, source, TRANSFORMER, dtype=torch_dtype, device=device, keep_in_float32=cls._keep_in_fp32_modules
        )
        return model

    def to_official(self) -> dict[str, Tensor]:
        """The state dict in the released naming; the tensors are the model's own."""
        return TRANSFORMER.to_official(self.state_dict())

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        encoder_hidden_states_image: Tensor | None = None,
        expression_tokens: Tensor | None = None,
        expression_scale: float | Tensor = 1.0,
        return_dict: bool | None = None,
        attention_kwargs: dict[str, Any] | None = None,
    ) -> Tensor | tuple[Tensor] | Transformer2DModelOutput:
        """Predicts the flow-matching velocity ``noise - latents``.

        Args:
            hidden_states: ``[b 36 f h w]``: 16 noisy latents, 4 mask channels, 16 reference latents.
            timestep: ``[b]``, ``1000 sigma``.
            encoder_hidden_states: text embeddings ``[b n text_dim]``, n <= text_len; padded here with zeros.
            encoder_hidden_states_image: image embeddings ``[b m image_dim]``, or None.
            expression_tokens: ``[b f k expression_dim]``, or None for no expression.
            expression_scale: weight of the expression branch, a number or one a sample ``[b]``.
            return_dict: None gives the tensor; True and False give diffusers' output object and tuple.
            attention_kwargs: accepted for diffusers' callers; holds nothing of ours.

        Returns:
            The velocity ``[b 16 f h w]``.

        Raises:
            ValueError: expression tokens of another number of latent frames, or text longer than text_len.
        """
        self._check(hidden_states, encoder_hidden_states, expression_tokens)
        grid = [size // patch for size, patch in zip(hidden_states.shape[2:], self.config.patch_size, strict=True)]
        rotary_emb = self.rope(hidden_states)
        tokens = self.patch_embedding(hidden_states).flatten(2).transpose(1, 2).contiguous()

        padding = self.config.text_len - encoder_hidden_states.shape[1]
        encoder_hidden_states = nn.functional.pad(encoder_hidden_states, (0, 0, 0, padding))
        temb, timestep_proj, context, image = self.condition_embedder(
            timestep, encoder_hidden_states, encoder_hidden_states_image
        )
        image_tokens = 0
        if image is not None:
            image_tokens = image.shape[1]
            context = torch.cat([image, context], dim=1)

        tokens = self.run_blocks(
            tokens,
            context,
            timestep_proj.unflatten(1, (6, -1)),
            rotary_emb,
            expression_tokens,
            expression_scale,
            image_tokens,
            grid[1] * grid[2],
        )
        velocity = self._unpatchify(self._project(tokens, temb), grid)
        if return_dict is None:
            return velocity
        return Transformer2DModelOutput(sample=velocity) if return_dict else (velocity,)

    def run_blocks(self, tokens: Tensor, *conditions: Any) -> Tensor:
        """The whole stack: tokens ``[b n d]`` through every block. The place for hooks that skip or replace it all."""
        checkpointing = torch.is_grad_enabled() and self.gradient_checkpointing
        for block in self.blocks:
            if checkpointing:
                tokens = self._gradient_checkpointing_func(block, tokens, *conditions)
            else:
                tokens = block(tokens, *conditions)
        return tokens

    def enable_cache(self, config: Any) -> None:
        """As in diffusers; any configuration with ``apply(transformer)`` and ``remove(transformer)`` serves too."""
        if not hasattr(config, "apply"):
            super().enable_cache(config)
            return
        if self.is_cache_enabled:
            raise ValueError(f"a cache is enabled already ({self._cache_config}); call disable_cache first")
        config.apply(self)
        HookRegistry.check_if_exists_or_initialize(self).invalidate_child_registries_cache()
        self._cache_config = config

    def disable_cache(self) -> None:
        """Take out what ``enable_cache`` put in."""
        if not hasattr(self._cache_config, "remove"):
            super().disable_cache()
            return
        self._cache_config.remove(self)
        HookRegistry.check_if_exists_or_initialize(self).invalidate_child_registries_cache()
        self._cache_config: Any = None

    def _project(self, tokens: Tensor, temb: Tensor) -> Tensor:
        shift, scale = (self.scale_shift_table + temb.unsqueeze(1)).to(tokens.device).chunk(2, dim=1)
        return self.proj_out((self.norm_out(tokens.float()) * (1 + scale) + shift).type_as(tokens))

    def _unpatchify(self, tokens: Tensor, grid: list[int]) -> Tensor:
        (f, h, w), (pf, ph, pw) = grid, self.config.patch_size
        pattern = "b (f h w) (pf ph pw c) -> b c (f pf) (h ph) (w pw)"
        return rearrange(tokens, pattern, f=f, h=h, w=w, pf=pf, ph=ph, pw=pw)

    def _check(self, hidden_states: Tensor, text: Tensor, expression_tokens: Tensor | None) -> None:
        if text.shape[1] > self.config.text_len:
            raise ValueError(f"the text has {text.shape[1]} tokens; this model takes at most {self.config.text_len}")
        latent_frames = hidden_states.shape[2]
        if expression_tokens is not None and expression_tokens.shape[1] != latent_frames:
            raise ValueError(
                f"expression tokens cover {expression_tokens.shape[1]} latent frames, the latents {latent_frames}; "
                "make the tokens with tokens_per_latent_frame for the frames of this window"
            )
        h, w = hidden_states.shape[-2:]
        if h % self.config.patch_size[1] or w % self.config.patch_size[2]:
            raise ValueError(f"latents are {h}x{w}; both must be multiples of the patch {self.config.patch_size[1:]}")


def with_mask(reference: Tensor, strength: float | Tensor = 0.0) -> Tensor:
    """Reference latents of a window ``[b 16 f h w]`` -> ``[b 20 f h w]``, before them four channels of a mask.

    As released, the mask is 1 on the first latent frame and 0 on the others. Where a reference shows the portrait in
    every frame, the others hold the ``strength`` of the expression drawn in it, one number in [0, 1] or ``[b]``.
    """
    mask = torch.ones_like(reference[:, :4])
    mask[:, :, 1:] = torch.as_tensor(strength).to(mask).view(-1, 1, 1, 1, 1)
    return torch.cat([mask, reference], dim=1)
