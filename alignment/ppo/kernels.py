"""Norms and rotations in as few passes over memory as they need, where transformers writes each as half a dozen.

On a GPU, where `align[gpu]` is installed, they are single kernels, and gates too (Liger; Hsu et al. 2024, arXiv
2410.10989). Letters: h = heads, t = tokens, e = size of a head, d = hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from alignment.console import note

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# whose norms are x / rms(x) * weight and whose rotations turn halves
FAMILIES = ("llama", "mistral", "qwen2", "qwen3")


def fuse_layers(models: Sequence[PreTrainedModel], *, everywhere: bool = False) -> None:
    """Run the layers of `models`, those of a known family, through what is below, or Liger's kernels on a GPU.

    Liger replaces rotations for the whole family in this process. everywhere: some of its models stay on the CPU,
    where its kernels do not run.
    """
    for model in models:
        if model.config.model_type not in FAMILIES:
            continue
        if model.device.type == "cuda" and not everywhere and has_liger():
            from transformers.integrations.liger import apply_liger_kernel

            apply_liger_kernel(model, {"cross_entropy": False, "fused_linear_cross_entropy": False})
            continue
        for module in model.modules():
            if type(module).__name__.endswith("RMSNorm"):
                module.forward = partial(normed_by, module)
            elif type(module).__name__.endswith("Attention"):
                module.forward = MethodType(rotating_by(rotate, type(module).forward), module)


def has_liger() -> bool:
    try:
        import liger_kernel  # noqa: F401
    except ImportError:
        note("PPO: updates are slower without fused kernels: pip install 'align[gpu]'")
        return False
    return True


def normed_by(norm: Any, x: Tensor) -> Tensor:
    if not torch.is_grad_enabled():  # a decoding step's few rows would wait for autograd
        return rms_norm(x, norm.weight, norm.variance_epsilon)[0]
    return RMSNorm.apply(x, norm.weight, norm.variance_epsilon)  # type: ignore[no-any-return]


def rotating_by(rotation: Any, forward: Any) -> FunctionType:
    """An attention layer's forward that calls `rotation`; the function that transformers has there is its family's."""
    seen = forward.__globals__ | {"apply_rotary_pos_emb": rotation}
    found = FunctionType(forward.__code__, seen, forward.__name__, forward.__defaults__, forward.__closure__)
    found.__kwdefaults__ = forward.__kwdefaults__
    return found


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """x / sqrt(mean(x^2) + eps) * weight, the mean in float32 (Zhang and Sennrich 2019, arXiv 1910.07467).

    x: (..., d), weight: (d,). Returns it, and 1 / sqrt(mean(x^2) + eps) (..., 1).
    """
    wide = x.float()
    rms = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(x.shape[-1])
    scale = rms.add_(eps).rsqrt_()
    return weight * (wide * scale if wide is x else wide.mul_(scale)).to(x.dtype), scale


class RMSNorm(torch.autograd.Function):
    """`rms_norm` and its gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        normed, scale = rms_norm(x, weight, eps)
        ctx.save_for_backward(x, weight, scale)
        return normed

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None]:  # type: ignore[override]
        x, weight, scale = ctx.saved_tensors
        normed = x.float() * scale
        of_weight = None
        if ctx.needs_input_grad[1]:
            of_weight = (gradient * normed).flatten(0, -2).sum(0).to(weight.dtype)
        of_normed = (gradient * weight).float()
        along = torch.linalg.vecdot(of_normed, normed)[..., None] / x.shape[-1]
        return of_normed.addcmul_(normed, along, value=-1).mul_(scale).to(x.dtype), of_weight, None


class Rotation(torch.autograd.Function):
    """Each pair of an element of the first half and its fellow in the second, turned by its position's angle.

    x: (..., h, t, e); cos, sin: (..., 1, t, e), their halves alike (Su et al. 2021, arXiv 2104.09864).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return turn(x, cos, sin, 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        cos, sin = ctx.saved_tensors
        return turn(gradient, cos, sin, -1), None, None


def turn(x: Tensor, cos: Tensor, sin: Tensor, direction: int) -> Tensor:
    half = x.shape[-1] // 2
    turned = x * cos
    turned[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-direction)
    turned[..., half:].addcmul_(x[..., :half], sin[..., half:], value=direction)
    return turned


def rotate(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> tuple[Tensor, Tensor]:
    """As transformers calls it: queries and keys (b, h, t, e), cos and sin (b, t, e)."""
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    if not torch.is_grad_enabled():
        return turn(q, cos, sin, 1), turn(k, cos, sin, 1)
    return Rotation.apply(q, cos, sin), Rotation.apply(k, cos, sin)
