"""Helpers that two or more blocks share."""

import warnings
from collections.abc import Callable, Sequence
from math import inf, isfinite
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan_blocks.types import Combine, Critic, Logits


def softplus(x: Tensor) -> Tensor:
    r"""$\log(1 + e^x)$.

    PyTorch's default switches to $x$ at 20, where the difference is still $2 \cdot 10^{-9}$; at 50
    it is below the rounding of float64.
    """
    return F.softplus(x, threshold=50.0)


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision becomes float32; float32 and float64 stay."""
    return x.float() if x.dtype.itemsize < 4 else x


def sub_critics(name: str, logits: Logits) -> list[Tensor]:
    """The logits of each sub-discriminator, checked, in float32 at least."""
    tensors: Sequence[Any] = logits if isinstance(logits, list | tuple) else [logits]
    if not tensors:
        raise ValueError(
            f"{name} is an empty list; give the logits of one sub-discriminator at least"
        )
    for x in tensors:
        if not isinstance(x, Tensor):
            raise TypeError(
                f"{name} should be a tensor, or a list of tensors from several "
                f"sub-discriminators, got {type(x).__name__}"
            )
        if not x.is_floating_point():
            raise TypeError(f"{name} should be floating-point logits, got {x.dtype}")
        if x.numel() == 0:
            raise ValueError(f"{name} is empty: shape {tuple(x.shape)}; its mean does not exist")
    return [at_least_float32(x) for x in tensors]


def pairs_of_critics(
    real_logits: Logits | None, fake_logits: Logits, *, paired: bool = False
) -> list[tuple[Tensor, Tensor]]:
    """Real and fake logits of each sub-discriminator.

    Args:
        real_logits: Logits on real samples.
        fake_logits: Logits on generated samples.
        paired: Whether sample i of one belongs to sample i of the other, so that the batches must
            be of one size.
    """
    if real_logits is None:
        raise ValueError("this loss compares both sides: pass real_logits to generator() too")
    real, fake = sub_critics("real_logits", real_logits), sub_critics("fake_logits", fake_logits)
    if len(real) != len(fake):
        raise ValueError(
            f"real_logits come from {len(real)} sub-discriminators and fake_logits from {len(fake)}"
        )
    for r, f in zip(real, fake, strict=True):
        if r.dim() != f.dim() or r.shape[1:] != f.shape[1:]:
            raise ValueError(
                f"real_logits {tuple(r.shape)} and fake_logits {tuple(f.shape)} differ in more than "
                "the batch size; bring them to one shape, for instance with squeeze(1) or view(-1)"
            )
        if paired and r.shape != f.shape:
            raise ValueError(
                f"this loss pairs sample i with sample i: real_logits {tuple(r.shape)} and "
                f"fake_logits {tuple(f.shape)} need one batch size"
            )
    return list(zip(real, fake, strict=True))


def combined(terms: list[Tensor], how: Combine) -> Tensor:
    """The sum or the mean of the terms of the sub-discriminators."""
    total = torch.stack(terms).sum() if len(terms) > 1 else terms[0]
    return total / len(terms) if how == "mean" else total


def two_sided(loss: Any, *args: Any, **kwargs: Any) -> Tensor:
    """The ``forward`` of adversarial losses: they have two sides and are not called."""
    raise TypeError(
        f"{type(loss).__name__} is not called itself: use .discriminator(real_logits, fake_logits) "
        "in the critic's step and .generator(fake_logits) in the generator's"
    )


def f_divergence(
    f: Callable[[Tensor], Tensor], slope_at_infinity: float, p: Tensor, q: Tensor
) -> Tensor:
    r"""$\sum_x q\, f(p/q)$ over the last dimension, with $0 f(p/0) = p \lim_{u\to\infty} f(u)/u$."""
    if p.shape != q.shape or p.dim() == 0:
        raise ValueError(
            f"p {tuple(p.shape)} and q {tuple(q.shape)} should be of one shape (..., n)"
        )
    for name, x in (("p", p), ("q", q)):
        if not x.is_floating_point():
            raise TypeError(f"{name} should be floating point, got {x.dtype}")
        tolerance = x.shape[-1] * torch.finfo(x.dtype).eps * 8
        if not bool((x >= 0).all() & ((x.sum(-1) - 1).abs() <= tolerance).all()):
            raise ValueError(f"{name} is no distribution: entries >= 0 that sum to 1 are needed")
    there = q > 0
    u = torch.where(there, p, 1) / torch.where(there, q, 1)
    beyond = torch.where(there, 0, p)
    # An infinite slope as a constant: inf times a gradient of 0 would be NaN.
    beyond = (
        slope_at_infinity * beyond
        if isfinite(slope_at_infinity)
        else torch.where(beyond > 0, inf, 0.0)
    )
    return torch.where(there, q * f(u), beyond).sum(-1)


def check_samples(*samples: Tensor) -> None:
    """Refuse what no gradient can be taken at, before anything is computed."""
    for x in samples:
        if not isinstance(x, Tensor):
            raise TypeError(f"the penalty needs a tensor of samples, got {type(x).__name__}")
        if not x.is_floating_point():
            raise TypeError(f"the penalty needs floating-point samples, got {x.dtype}")
    if torch.is_inference_mode_enabled():
        raise RuntimeError(
            "the penalty takes a gradient, which torch.inference_mode forbids; use torch.no_grad"
        )


def input_gradient(critic: Critic, points: Tensor) -> Tensor:
    """The critic's gradient at each point, `(N, d)`, to be differentiated by the weights."""
    check_samples(points)
    _warn_of_batch_norm(critic)
    points = points.detach().requires_grad_()
    with torch.enable_grad():
        return gradient_of_logits(critic(points), points)


def gradient_of_logits(logits: Tensor, points: Tensor) -> Tensor:
    """The gradient of each sample's logits with respect to that sample, flattened to `(N, d)`."""
    if not isinstance(logits, Tensor):
        raise TypeError(f"the critic should return a tensor of logits, got {type(logits).__name__}")
    if points.dim() < 2 or points.numel() == 0:
        raise ValueError(
            f"the penalty takes samples of shape (N, ...), none of it empty, got {tuple(points.shape)}"
        )
    if not points.requires_grad:
        raise ValueError(
            "the inputs carry no gradient: call inputs.requires_grad_() before the critic sees them"
        )
    gradient = None
    if logits.requires_grad:
        # Samples do not mix, so the gradient of the sum holds each sample's own. Where a layer
        # mixes them on purpose this is the gradient of the batch's sum, as in StyleGAN2.
        (gradient,) = torch.autograd.grad(
            at_least_float32(logits).sum(), points, create_graph=True, allow_unused=True
        )
    if gradient is None:
        raise ValueError(
            "the critic's output does not depend on its input: is something detached, or computed "
            "under no_grad, inside the critic?"
        )
    return at_least_float32(gradient).flatten(1)


def _warn_of_batch_norm(critic: Critic) -> None:
    for name, module in critic.named_modules() if isinstance(critic, nn.Module) else ():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training:
            warnings.warn(
                f"the critic's {name or 'module'} is a {type(module).__name__} in training mode: it "
                "mixes the samples, so the gradient is not each sample's own and the penalty is not "
                "what its paper defines; use layer, group or spectral normalisation in the critic",
                stacklevel=5,
            )
            return
