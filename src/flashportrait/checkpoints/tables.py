"""The released files' key names and ours: tables that read both ways and refuse what they don't know.

A table is a list of rules, each pairing one released name with one or more of ours. ``{i}`` stands for a number and
``{p}`` for ``weight`` or ``bias``, so that one rule covers a layer in every block. Renaming never copies a tensor.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from flashportrait.errors import UserError

PLACEHOLDERS = {"{i}": r"(?P<i>\d+)", "{p}": r"(?P<p>weight|bias)"}


def _pattern(template: str) -> re.Pattern[str]:
    pattern = re.escape(template)
    for name, expression in PLACEHOLDERS.items():
        pattern = pattern.replace(re.escape(name), expression)
    return re.compile(pattern)


@dataclass(frozen=True)
class Rule:
    """One released tensor and what it is called here."""

    official: str
    """Template of the released name."""
    ours: tuple[str, ...]
    """Templates of our names; with several, the released tensor is their concatenation on the first axis."""
    leading_ones: int = 0
    """Axes of size 1 that only the released tensor has in front."""

    def split(self, tensor: Tensor) -> tuple[Tensor, ...]:
        """The released tensor as ours, without copying."""
        tensor = tensor.reshape(tensor.shape[self.leading_ones :])
        return tensor.chunk(len(self.ours)) if len(self.ours) > 1 else (tensor,)

    def join(self, parts: list[Tensor]) -> Tensor:
        """Ours as the released tensor."""
        tensor = torch.cat(parts) if len(parts) > 1 else parts[0]
        return tensor.reshape((1,) * self.leading_ones + tensor.shape)


@dataclass(frozen=True)
class KeyTable:
    """The names of one released file and ours, read both ways."""

    name: str
    """What the file holds, for error messages."""
    rules: tuple[Rule, ...]
    ignored: tuple[str, ...] = ()
    """Prefixes of released keys that we have no use for (the text half of CLIP, for one)."""
    aliases: tuple[str, ...] = ()
    """Our keys that are tied to another and have no released name of their own."""
    advice: str = "give the file the model was released as, and its configuration if it isn't the 14B"
    """What to do about a file that is another, for error messages."""
    _compiled: dict[str, list[tuple[re.Pattern[str], Rule, int]]] = field(
        default_factory=dict, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        official = [(_pattern(rule.official), rule, 0) for rule in self.rules]
        ours = [(_pattern(name), rule, part) for rule in self.rules for part, name in enumerate(rule.ours)]
        self._compiled.update(official=official, ours=ours)

    @classmethod
    def same_names(
        cls, name: str, keys: Iterable[str], ignored: tuple[str, ...] = (), aliases: tuple[str, ...] = ()
    ) -> KeyTable:
        """The table of a file that calls everything as we do."""
        return cls(name, tuple(Rule(key, (key,)) for key in keys if key not in aliases), ignored, aliases)

    def _find(self, side: str, key: str) -> tuple[Rule, int, dict[str, str]] | None:
        for pattern, rule, part in self._compiled[side]:
            if match := pattern.fullmatch(key):
                return rule, part, match.groupdict()
        return None

    def our_names(self, official: str) -> tuple[str, ...]:
        """Our names for a released key; empty if the table doesn't know it."""
        found = self._find("official", official)
        return tuple(name.format(**found[2]) for name in found[0].ours) if found else ()

    def official_names(self, ours: Iterable[str]) -> dict[str, str]:
        """Our names by released name, for those of ``ours`` that are whole released tensors."""
        found = ((key, self._find("ours", key)) for key in ours)
        return {match[0].official.format(**match[2]): key for key, match in found if match and len(match[0].ours) == 1}

    def to_ours(self, official: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename a released state dict (views of the same memory). Raises UserError naming an unknown key."""
        check_keys(self, official, expected=None)
        return {name: tensor for key in official for name, tensor in self.parts(key, official[key])}

    def parts(self, key: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Our names and tensors for one released key of known shape; nothing for an ignored key."""
        found = self._find("official", key)
        if found:
            rule, _, groups = found
            yield from zip((name.format(**groups) for name in rule.ours), rule.split(tensor), strict=True)

    def to_official(self, ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Our state dict under the released names. Tensors are shared, except where several become one."""
        gathered: dict[str, tuple[Rule, dict[int, Tensor]]] = {}
        for key, tensor in ours.items():
            if key in self.aliases:
                continue
            found = self._find("ours", key)
            if found is None:
                raise UserError(f"the model's {key!r} has no name in the released {self.name} layout")
            rule, part, groups = found
            gathered.setdefault(rule.official.format(**groups), (rule, {}))[1][part] = tensor
        official = {}
        for key, (rule, parts) in gathered.items():
            absent = [rule.ours[part] for part in range(len(rule.ours)) if part not in parts]
            assert not absent, f"{key} needs {absent} too"
            official[key] = rule.join([parts[part] for part in range(len(rule.ours))])
        return official


def check_keys(
    table: KeyTable,
    tensors: Mapping[str, Tensor],
    expected: Mapping[str, Tensor] | None,
    source: str = "the state dict",
) -> None:
    """Every released key is known, wanted and of the right shape, and none is missing.

    Args:
        table: the layout.
        tensors: the released state dict.
        expected: what the model needs, under the released names (on any device, only shapes are read), or None to
            check only that the table knows every key.
        source: where the tensors come from, for the message.

    Raises:
        UserError: naming the first wrong keys.
    """
    wanted = expected if expected is not None else {key for key in tensors if table.our_names(key)}
    extra = [key for key in tensors if key not in wanted and not key.startswith(table.ignored)]
    missing = [key for key in wanted if key not in tensors]
    problems = []
    if missing:
        problems.append(f"lacks {listing(missing)}")
    if extra:
        problems.append(f"has {listing(extra)}, which the {table.name} doesn't have")
    if expected is not None:
        wrong = [
            f"{key} {tuple(tensors[key].shape)}, not {tuple(tensor.shape)}"
            for key, tensor in expected.items()
            if key in tensors and tensors[key].shape != tensor.shape
        ]
        if wrong:
            problems.append(f"has the wrong shape in {listing(wrong)}")
    if problems:
        raise UserError(
            f"{source} is not a released {table.name} of this size: it {'; it '.join(problems)}; {table.advice}"
        )


def listing(names: Iterable[str], shown: int = 4) -> str:
    """The first names and how many more there are, for a one-line message."""
    names = list(names)
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def _rules(pairs: Mapping[str, str | tuple[str, ...]], official_prefix: str = "", our_prefix: str = "") -> list[Rule]:
    def ours(names: str | tuple[str, ...]) -> tuple[str, ...]:
        return tuple(our_prefix + name for name in ((names,) if isinstance(names, str) else names))

    return [Rule(official_prefix + official, ours(names)) for official, names in pairs.items()]


TRANSFORMER = KeyTable(
    "transformer",
    tuple(
        _rules(
            {
                "patch_embedding.{p}": "patch_embedding.{p}",
                "text_embedding.0.{p}": "condition_embedder.text_embedder.linear_1.{p}",
                "text_embedding.2.{p}": "condition_embedder.text_embedder.linear_2.{p}",
                "time_embedding.0.{p}": "condition_embedder.time_embedder.linear_1.{p}",
                "time_embedding.2.{p}": "condition_embedder.time_embedder.linear_2.{p}",
                "time_projection.1.{p}": "condition_embedder.time_proj.{p}",
                "img_emb.proj.0.{p}": "condition_embedder.image_embedder.norm1.{p}",
                "img_emb.proj.1.{p}": "condition_embedder.image_embedder.ff.net.0.proj.{p}",
                "img_emb.proj.3.{p}": "condition_embedder.image_embedder.ff.net.2.{p}",
                "img_emb.proj.4.{p}": "condition_embedder.image_embedder.norm2.{p}",
                "head.modulation": "scale_shift_table",
                "head.head.{p}": "proj_out.{p}",
            }
        )
        + _rules(
            {
                "modulation": "scale_shift_table",
                "self_attn.q.{p}": "attn1.to_q.{p}",
                "self_attn.k.{p}": "attn1.to_k.{p}",
                "self_attn.v.{p}": "attn1.to_v.{p}",
                "self_attn.o.{p}": "attn1.to_out.0.{p}",
                "self_attn.norm_q.weight": "attn1.norm_q.weight",
                "self_attn.norm_k.weight": "attn1.norm_k.weight",
                "norm3.{p}": "norm2.{p}",
                "cross_attn.q.{p}": "attn2.to_q.{p}",
                "cross_attn.k.{p}": "attn2.to_k.{p}",
                "cross_attn.v.{p}": "attn2.to_v.{p}",
                "cross_attn.o.{p}": "attn2.to_out.0.{p}",
                "cross_attn.norm_q.weight": "attn2.norm_q.weight",
                "cross_attn.norm_k.weight": "attn2.norm_k.weight",
                "cross_attn.k_img.{p}": "attn2.add_k_proj.{p}",
                "cross_attn.v_img.{p}": "attn2.add_v_proj.{p}",
                "cross_attn.norm_k_img.weight": "attn2.norm_added_k.weight",
                "cross_attn.emo_k_proj.weight": "attn2.emo_k_proj.weight",
                "cross_attn.emo_v_proj.weight": "attn2.emo_v_proj.weight",
                "ffn.0.{p}": "ffn.net.0.proj.{p}",
                "ffn.2.{p}": "ffn.net.2.{p}",
            },
            official_prefix="blocks.{i}.",
            our_prefix="blocks.{i}.",
        )
    ),
)
"""``transformer.pt`` and FlashPortraitTransformer3DModel (the names of diffusers' WanTransformer3DModel)."""

TEXT_ENCODER = KeyTable(
    "text encoder",
    tuple(
        _rules({"token_embedding.weight": "shared.weight", "norm.weight": "encoder.final_layer_norm.weight"})
        + _rules(
            {
                "norm1.weight": "layer.0.layer_norm.weight",
                "attn.q.weight": "layer.0.SelfAttention.q.weight",
                "attn.k.weight": "layer.0.SelfAttention.k.weight",
                "attn.v.weight": "layer.0.SelfAttention.v.weight",
                "attn.o.weight": "layer.0.SelfAttention.o.weight",
                "pos_embedding.embedding.weight": "layer.0.SelfAttention.relative_attention_bias.weight",
                "norm2.weight": "layer.1.layer_norm.weight",
                "ffn.gate.0.weight": "layer.1.DenseReluDense.wi_0.weight",
                "ffn.fc1.weight": "layer.1.DenseReluDense.wi_1.weight",
                "ffn.fc2.weight": "layer.1.DenseReluDense.wo.weight",
            },
            official_prefix="blocks.{i}.",
            our_prefix="encoder.block.{i}.",
        )
    ),
    aliases=("encoder.embed_tokens.weight",),
)
"""``models_t5_umt5-xxl-enc-bf16.pth`` and transformers' UMT5EncoderModel."""


def image_encoder_table(our_prefix: str = "") -> KeyTable:
    """The open-clip file's visual half and transformers' CLIPVisionModel.

    Args:
        our_prefix: ``vision_model.`` in releases of transformers that nest the vision tower, else empty.
    """
    whole = _rules(
        {
            "visual.patch_embedding.weight": "embeddings.patch_embedding.weight",
            "visual.pre_norm.{p}": "pre_layrnorm.{p}",
            "visual.post_norm.{p}": "post_layernorm.{p}",
        },
        our_prefix=our_prefix,
    )
    embeddings = [
        Rule("visual.cls_embedding", (f"{our_prefix}embeddings.class_embedding",), leading_ones=2),
        Rule("visual.pos_embedding", (f"{our_prefix}embeddings.position_embedding.weight",), leading_ones=1),
    ]
    layers = _rules(
        {
            "norm1.{p}": "layer_norm1.{p}",
            "attn.to_qkv.{p}": ("self_attn.q_proj.{p}", "self_attn.k_proj.{p}", "self_attn.v_proj.{p}"),
            "attn.proj.{p}": "self_attn.out_proj.{p}",
            "norm2.{p}": "layer_norm2.{p}",
            "mlp.0.{p}": "mlp.fc1.{p}",
            "mlp.2.{p}": "mlp.fc2.{p}",
        },
        official_prefix="visual.transformer.{i}.",
        our_prefix=f"{our_prefix}encoder.layers.{{i}}.",
    )
    return KeyTable(
        "image encoder", tuple(whole + embeddings + layers), ignored=("textual.", "log_scale", "visual.head")
    )


VAE_STAGES = 4
VAE_UP_RESIDUALS = 3
"""Residual blocks in each stage of the decoder; the encoder's stages have one fewer and keep their flat numbering."""


def _vae_rules() -> list[Rule]:
    residual = {
        "residual.0.gamma": "norm1.gamma",
        "residual.2.{p}": "conv1.{p}",
        "residual.3.gamma": "norm2.gamma",
        "residual.6.{p}": "conv2.{p}",
        "shortcut.{p}": "conv_shortcut.{p}",
    }
    resample = {"resample.1.{p}": "resample.1.{p}", "time_conv.{p}": "time_conv.{p}"}
    attention = {"norm.gamma": "norm.gamma", "to_qkv.{p}": "to_qkv.{p}", "proj.{p}": "proj.{p}"}
    rules = _rules({"conv1.{p}": "quant_conv.{p}", "conv2.{p}": "post_quant_conv.{p}"})
    for half in ("encoder", "decoder"):
        rules += _rules(
            {"conv1.{p}": "conv_in.{p}", "head.0.gamma": "norm_out.gamma", "head.2.{p}": "conv_out.{p}"},
            f"{half}.",
            f"{half}.",
        )
        rules += _rules(residual, f"{half}.middle.0.", f"{half}.mid_block.resnets.0.")
        rules += _rules(attention, f"{half}.middle.1.", f"{half}.mid_block.attentions.0.")
        rules += _rules(residual, f"{half}.middle.2.", f"{half}.mid_block.resnets.1.")
    rules += _rules(residual | resample, "encoder.downsamples.{i}.", "encoder.down_blocks.{i}.")
    for stage in range(VAE_STAGES):
        first = stage * (VAE_UP_RESIDUALS + 1)
        for block in range(VAE_UP_RESIDUALS):
            rules += _rules(
                residual, f"decoder.upsamples.{first + block}.", f"decoder.up_blocks.{stage}.resnets.{block}."
            )
        if stage < VAE_STAGES - 1:
            up = f"decoder.up_blocks.{stage}.upsamplers.0."
            rules += _rules(resample, f"decoder.upsamples.{first + VAE_UP_RESIDUALS}.", up)
    return rules


VAE = KeyTable("VAE", tuple(_vae_rules()))
"""``Wan2.1_VAE.pth`` and diffusers' AutoencoderKLWan."""
