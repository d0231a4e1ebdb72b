"""Faster ways to compute the same network, applied to a finished model from outside: attention kernels, compilation."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from flashportrait.errors import UserError

if TYPE_CHECKING:
    from diffusers import ModelMixin

ATTENTION = {
    "native": "native",
    "cudnn": "_native_cudnn",
    "flash": "flash",
    "flash3": "_flash_3",
    "sage": "sage",
    "flash3-fp8": "_flash_3",
}
"""Kernels by our names, and diffusers' for them. ``native`` is PyTorch's own choice and works everywhere."""

EXACT = ("flash3", "flash")
"""Those that are tried by themselves on a CUDA device, best first: they compute what ``native`` does, up to rounding.
PyTorch's own choice is cuDNN's where that is fastest. ``sage`` and ``flash3-fp8`` round to 8 bits, so they are taken
only where they are asked for."""

FLOAT8 = "flash3-fp8"
"""Self-attention in fp8; attention to text, image and expression, a hundredth of the work, stays exact."""


SPLITTABLE = ("flash",)
"""Those of :data:`EXACT` that attend right where a pass is split along its tokens, as ``native`` does."""


def set_attention(transformer: ModelMixin, name: str | None, device: torch.device, *, splittable: bool = False) -> str:
    """Have a transformer attend with a kernel, and return the kernel's name.

    Args:
        transformer: changed in place.
        name: a key of :data:`ATTENTION`; None tries :data:`EXACT` where there is a CUDA device.
        device: of the transformer.
        splittable: its passes may be split among processes: then None tries :data:`SPLITTABLE` alone.

    Raises:
        UserError: the kernel isn't installed, or this driver, torch or device can't run it.
    """
    _offer_flash3()
    exact = SPLITTABLE if splittable else EXACT
    tried = [name] if name is not None else [*(exact if device.type == "cuda" else ()), "native"]
    for kernel in tried:
        try:
            if kernel not in ("native",) and device.type != "cuda":
                raise RuntimeError(f"it needs a CUDA device, and this is {device.type}")
            with _silent():
                transformer.set_attention_backend(ATTENTION[kernel])
            _set_float8(transformer, kernel == FLOAT8)
            if kernel != "native":
                _try(kernel, device)
        except (RuntimeError, ValueError, ImportError, AttributeError) as error:
            with _silent():
                transformer.set_attention_backend("native")
            _set_float8(transformer, False)
            if name is not None:
                reason = " ".join(str(error).split())[:160]
                raise UserError(f"attention by {name} can't be used here ({reason}): leave --attention out") from error
            continue
        return kernel
    return "native"


def attention_of(transformer: ModelMixin) -> str:
    """The name of the kernel that a transformer attends with."""
    processor = transformer.blocks[0].attn1.processor
    if processor.float8:
        return FLOAT8
    backend = processor._attention_backend
    value = getattr(backend, "value", backend) or "native"
    return next((name for name, theirs in ATTENTION.items() if theirs == value), str(value))


def _set_float8(transformer: ModelMixin, float8: bool) -> None:
    for block in transformer.blocks:
        block.attn1.processor.float8 = float8


def compile_blocks(transformer: ModelMixin, backend: str | None = None, *, splittable: bool = False) -> None:
    """Compile the block, once for all blocks; it is compiled again only for another size of pictures or windows.

    Args:
        transformer: changed in place.
        backend: of ``torch.compile``; its own default unless given.
        splittable: its passes may be split among processes, which exchange tokens between compiled parts of a block,
            or its weights shared out among them.

    Raises:
        UserError: there is no compiler on this machine.
    """
    if backend is None:
        _check_compiler()
    options: dict[str, Any] = {} if backend is None else {"backend": backend}
    if not splittable:
        transformer.compile_repeated_blocks(fullgraph=True, **options)
        return
    for block in transformer.blocks:  # what a block computes, not its call, in which weights are gathered first
        block.forward = torch.compile(block.forward, **options)


def can_compile() -> bool:
    """Whether what compiling for a GPU takes seems to be there: Triton and a C compiler. Nothing is tried."""
    compiler = os.environ.get("CC") or next(filter(shutil.which, ("cc", "gcc", "clang")), None)
    return compiler is not None and importlib.util.find_spec("triton") is not None


def _check_compiler() -> None:
    """torch.compile fails only when it is used, and then at length."""
    try:
        compiled = torch.compile(torch.sin)
        compiled(torch.ones(8, device="cuda" if torch.cuda.is_available() else "cpu"))
    except Exception as error:
        reason = str(error).strip().splitlines()[0][:160]
        raise UserError(
            f"blocks can't be compiled here ({type(error).__name__}: {reason}): give --no-compile"
        ) from error


def _offer_flash3() -> None:
    """Let diffusers use the forward-only build of FlashAttention-3 that PyPI has, where the whole isn't installed."""
    from diffusers.models import attention_dispatch

    if attention_dispatch._CAN_USE_FLASH_ATTN_3:
        return
    with contextlib.suppress(ImportError, OSError):  # no CUDA library, for instance
        from fa3_fwd_interface import flash_attn_func

        attention_dispatch.flash_attn_3_func = flash_attn_func
        attention_dispatch._CAN_USE_FLASH_ATTN_3 = True


def _try(kernel: str, device: torch.device) -> None:
    """Attend once: a driver too old, or a card too small, shows only then."""
    from diffusers.models.attention_dispatch import dispatch_attention_fn

    from flashportrait.models.self_attention import attend_in_float8

    query = torch.zeros(1, 128, 2, 128, device=device, dtype=torch.bfloat16)
    if kernel == FLOAT8:
        attend_in_float8(query, query, query)
    dispatch_attention_fn(query, query, query, backend=ATTENTION[kernel])
    torch.cuda.synchronize(device)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Without diffusers' note that kernels are experimental, each time one is chosen."""
    logger = logging.getLogger("diffusers.models.modeling_utils")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
