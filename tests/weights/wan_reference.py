"""Small, slow, plain-PyTorch readings of the released networks, under the released key names.

They are written from the papers and the behaviour of the released code, share nothing with the package, and exist to
be compared with it at toy size.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def randomize(module: nn.Module, seed: int = 0, scale: float = 1.0) -> nn.Module:
    """Every parameter random (norms near one), so that no term of the network is zero by initialisation."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 1
        is_gain = (parameter.ndim == 1 and name.endswith("weight")) or name.endswith("gamma")
        parameter.data = 1 + 0.2 * noise if is_gain else scale * noise / math.sqrt(max(fan_in, 4))
    return module.eval()


class RMSNorm(nn.Module):
    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x: Tensor) -> Tensor:
        return x / torch.sqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.weight


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Softmax attention of ``[b n d]`` tensors, head by head, scaled by the head's width."""
    out = []
    for one_q, one_k, one_v in zip(q.chunk(heads, -1), k.chunk(heads, -1), v.chunk(heads, -1), strict=True):
        logits = one_q @ one_k.transpose(1, 2) / math.sqrt(one_q.shape[-1])
        out.append(logits.softmax(-1) @ one_v)
    return torch.cat(out, -1)


def rotate(x: Tensor, heads: int, grid: tuple[int, int, int]) -> Tensor:
    """Rotary positions in float64: pairs of neighbouring channels turn by frame, row or column.

    Of a head's ``c`` pairs, a third each (rounded down) turns by row and by column, the rest by frame.
    """
    f, h, w = grid
    pairs = x.shape[-1] // heads // 2
    counts = (pairs - 2 * (pairs // 3), pairs // 3, pairs // 3)
    where = torch.stack(torch.meshgrid(torch.arange(f), torch.arange(h), torch.arange(w), indexing="ij")).reshape(3, -1)
    angles = []
    for axis, count in enumerate(counts):
        speed = 10000.0 ** (-torch.arange(count, dtype=torch.float64) / count)
        angles.append(where[axis].double()[:, None] * speed)
    turn = torch.exp(1j * torch.cat(angles, -1))[None, :, None]
    as_pairs = torch.view_as_complex(x.double().reshape(*x.shape[:2], heads, pairs, 2))
    return torch.view_as_real(as_pairs * turn).reshape(x.shape).to(x.dtype)


class Attention(nn.Module):
    def __init__(self, dim: int, heads: int, eps: float, qk_norm: bool):
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))
        self.norm_q = RMSNorm(dim, eps) if qk_norm else nn.Identity()
        self.norm_k = RMSNorm(dim, eps) if qk_norm else nn.Identity()

    def forward(self, x: Tensor, grid: tuple[int, int, int]) -> Tensor:
        q, k = self.norm_q(self.q(x)), self.norm_k(self.k(x))
        return self.o(attend(rotate(q, self.heads, grid), rotate(k, self.heads, grid), self.v(x), self.heads))


class CrossAttention(Attention):
    def __init__(self, dim: int, heads: int, eps: float, qk_norm: bool, expression_dim: int):
        super().__init__(dim, heads, eps, qk_norm)
        self.k_img, self.v_img = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.norm_k_img = RMSNorm(dim, eps) if qk_norm else nn.Identity()
        self.emo_k_proj = nn.Linear(expression_dim, dim, bias=False)
        self.emo_v_proj = nn.Linear(expression_dim, dim, bias=False)

    def forward(self, x: Tensor, text: Tensor, image: Tensor, expression: Tensor, scale: float) -> Tensor:
        q = self.norm_q(self.q(x))
        branch = attend(q, self.norm_k(self.k(text)), self.v(text), self.heads)
        branch = branch + attend(q, self.norm_k_img(self.k_img(image)), self.v_img(image), self.heads)
        frames = q.chunk(expression.shape[1], dim=1)
        e = torch.cat(
            [
                attend(frame, self.emo_k_proj(expression[:, i]), self.emo_v_proj(expression[:, i]), self.heads)
                for i, frame in enumerate(frames)
            ],
            dim=1,
        )
        out = []
        for one, other in zip(branch, e, strict=True):
            gain = one.flatten().std(unbiased=True) / (other.flatten().std(unbiased=True) + 1e-5)
            out.append(one + scale * ((other - other.mean()) * gain + one.mean()))
        return self.o(torch.stack(out))


class Block(nn.Module):
    def __init__(self, dim, ffn_dim, heads, eps, qk_norm, cross_attn_norm, expression_dim):
        super().__init__()
        self.eps = eps
        self.self_attn = Attention(dim, heads, eps, qk_norm)
        self.norm3 = nn.LayerNorm(dim, eps) if cross_attn_norm else nn.Identity()
        self.cross_attn = CrossAttention(dim, heads, eps, qk_norm, expression_dim)
        self.ffn = nn.Sequential(nn.Linear(dim, ffn_dim), nn.GELU(approximate="tanh"), nn.Linear(ffn_dim, dim))
        self.modulation = nn.Parameter(torch.zeros(1, 6, dim))

    def forward(self, x, e, grid, text, image, expression, scale):
        shift1, scale1, gate1, shift2, scale2, gate2 = (self.modulation + e).unbind(1)
        y = F.layer_norm(x, x.shape[-1:], eps=self.eps) * (1 + scale1[:, None]) + shift1[:, None]
        x = x + self.self_attn(y, grid) * gate1[:, None]
        x = x + self.cross_attn(self.norm3(x), text, image, expression, scale)
        y = F.layer_norm(x, x.shape[-1:], eps=self.eps) * (1 + scale2[:, None]) + shift2[:, None]
        return x + self.ffn(y) * gate2[:, None]


class Head(nn.Module):
    def __init__(self, dim: int, out: int, eps: float):
        super().__init__()
        self.eps, self.head, self.modulation = eps, nn.Linear(dim, out), nn.Parameter(torch.zeros(1, 2, dim))

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        shift, scale = (self.modulation + e[:, None]).unbind(1)
        return self.head(F.layer_norm(x, x.shape[-1:], eps=self.eps) * (1 + scale[:, None]) + shift[:, None])


class ImageProjection(nn.Module):
    def __init__(self, width: int, dim: int):
        super().__init__()
        self.proj = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, dim), nn.LayerNorm(dim)
        )


class Transformer(nn.Module):
    """The released transformer: the arguments are its configuration's words."""

    def __init__(
        self,
        dim: int,
        ffn_dim: int,
        num_heads: int,
        num_layers: int,
        in_dim: int = 36,
        out_dim: int = 16,
        text_dim: int = 4096,
        freq_dim: int = 256,
        text_len: int = 512,
        eps: float = 1e-6,
        cross_attn_norm: bool = True,
        qk_norm: bool = True,
        image_dim: int = 1280,
        expression_dim: int = 2048,
    ):
        super().__init__()
        self.freq_dim, self.text_len, self.out_dim = freq_dim, text_len, out_dim
        self.patch_embedding = nn.Conv3d(in_dim, dim, (1, 2, 2), (1, 2, 2))
        self.text_embedding = nn.Sequential(nn.Linear(text_dim, dim), nn.GELU(approximate="tanh"), nn.Linear(dim, dim))
        self.time_embedding = nn.Sequential(nn.Linear(freq_dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.blocks = nn.ModuleList(
            Block(dim, ffn_dim, num_heads, eps, qk_norm, cross_attn_norm, expression_dim) for _ in range(num_layers)
        )
        self.head = Head(dim, 4 * out_dim, eps)
        self.img_emb = ImageProjection(image_dim, dim)

    def forward(self, latents, timestep, text, image, expression, scale=1.0):
        """``[b c f h w], [b], [b n text_dim], [b m image_dim], [b f k expression_dim]`` -> velocity."""
        b, _, f, h, w = latents.shape
        grid = (f, h // 2, w // 2)
        x = self.patch_embedding(latents).flatten(2).transpose(1, 2)
        speed = 10000.0 ** (-torch.arange(self.freq_dim // 2, dtype=torch.float64) / (self.freq_dim // 2))
        angle = timestep.double()[:, None] * speed
        e = self.time_embedding(torch.cat([angle.cos(), angle.sin()], -1).float())
        e6 = self.time_projection(e).unflatten(1, (6, -1))
        padding = text.new_zeros(b, self.text_len - text.shape[1], text.shape[2])
        text = self.text_embedding(torch.cat([text, padding], 1))
        image = self.img_emb.proj(image)
        for block in self.blocks:
            x = block(x, e6, grid, text, image, expression, scale)
        patches = self.head(x, e).reshape(b, *grid, 2, 2, self.out_dim)
        return torch.einsum("bfhwpqc->bcfhpwq", patches).reshape(b, self.out_dim, f, h, w)


class ViTBlock(nn.Module):
    def __init__(self, dim: int, mlp: int):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = nn.ModuleDict({"to_qkv": nn.Linear(dim, 3 * dim), "proj": nn.Linear(dim, dim)})
        self.mlp = nn.Sequential(nn.Linear(dim, mlp), nn.GELU(), nn.Linear(mlp, dim), nn.Dropout())

    def forward(self, x: Tensor, heads: int) -> Tensor:
        q, k, v = self.attn["to_qkv"](self.norm1(x)).chunk(3, -1)
        x = x + self.attn["proj"](attend(q, k, v, heads))
        return x + self.mlp(self.norm2(x))


class Visual(nn.Module):
    """The visual half of the open-clip file."""

    def __init__(self, size: int, patch: int, dim: int, mlp: int, heads: int, layers: int, out: int):
        super().__init__()
        self.heads = heads
        self.patch_embedding = nn.Conv2d(3, dim, patch, patch, bias=False)
        self.cls_embedding = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embedding = nn.Parameter(torch.zeros(1, 1 + (size // patch) ** 2, dim))
        self.pre_norm, self.post_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.transformer = nn.Sequential(*(ViTBlock(dim, mlp) for _ in range(layers)))
        self.head = nn.Parameter(torch.zeros(dim, out))

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalised pixels -> tokens of the last layer but one."""
        x = self.patch_embedding(pixels).flatten(2).transpose(1, 2)
        x = self.pre_norm(torch.cat([self.cls_embedding.expand(len(x), -1, -1), x], 1) + self.pos_embedding)
        for block in self.transformer[:-1]:
            x = block(x, self.heads)
        return x


class T5Norm(RMSNorm):
    def __init__(self, width: int):
        super().__init__(width, 1e-6)


class T5Block(nn.Module):
    def __init__(self, dim: int, ffn: int, heads: int, buckets: int):
        super().__init__()
        self.heads, self.buckets = heads, buckets
        self.norm1, self.norm2 = T5Norm(dim), T5Norm(dim)
        self.attn = nn.ModuleDict({name: nn.Linear(dim, dim, bias=False) for name in "qkvo"})
        self.ffn = nn.ModuleDict(
            {
                "gate": nn.Sequential(nn.Linear(dim, ffn, bias=False)),
                "fc1": nn.Linear(dim, ffn, bias=False),
                "fc2": nn.Linear(ffn, dim, bias=False),
            }
        )
        self.pos_embedding = nn.ModuleDict({"embedding": nn.Embedding(buckets, heads)})

    def bucket(self, distance: int) -> int:
        """Half of the buckets look back, half ahead; in each, half are exact and half logarithmic up to 128."""
        side = self.buckets // 2
        base, distance, exact = (side if distance > 0 else 0), abs(distance), side // 2
        if distance < exact:
            return base + distance
        return base + min(side - 1, exact + int(math.log(distance / exact) / math.log(128 / exact) * (side - exact)))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        n = x.shape[1]
        y = self.norm1(x)
        q, k, v = (self.attn[name](y).unflatten(2, (self.heads, -1)) for name in "qkv")
        where = torch.tensor([[self.bucket(j - i) for j in range(n)] for i in range(n)])
        logits = torch.einsum("bihc,bjhc->bhij", q, k)
        logits = logits + self.pos_embedding["embedding"](where).permute(2, 0, 1)
        logits = logits.masked_fill(~mask[:, None, None].bool(), -torch.inf)
        y = torch.einsum("bhij,bjhc->bihc", logits.softmax(-1), v).flatten(2)
        x = x + self.attn["o"](y)
        y = self.norm2(x)
        return x + self.ffn["fc2"](self.ffn["fc1"](y) * F.gelu(self.ffn["gate"](y), approximate="tanh"))


class TextEncoder(nn.Module):
    """The released UMT5 encoder: relative positions in every block, no scaling of the logits."""

    def __init__(self, vocabulary: int, dim: int, ffn: int, heads: int, layers: int, buckets: int = 32):
        super().__init__()
        self.token_embedding = nn.Embedding(vocabulary, dim)
        self.blocks = nn.ModuleList(T5Block(dim, ffn, heads, buckets) for _ in range(layers))
        self.norm = T5Norm(dim)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        x = self.token_embedding(ids)
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x)
