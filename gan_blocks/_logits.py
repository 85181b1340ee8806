"""What adversarial losses do with logits before and after their formula."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gan_blocks._math import softplus
from gan_blocks.precision import at_least_float32
from gan_blocks.types import Combine, Comparison, Logits


def squared_error(x: Tensor, target: float) -> Tensor:
    """The mean of (x - target)^2, in one pass."""
    return F.mse_loss(x, x.new_full((), target).expand_as(x))


COMPARISONS: dict[Comparison, Callable[[Tensor], Tensor]] = {
    "softplus": lambda d: softplus(-d).mean(),
    "least_squares": lambda d: squared_error(d, 1.0),
    "hinge": lambda d: (1 - d).relu_().mean(),
}
"""What a relativistic loss makes of how far the better logits exceed the worse ones, on average."""


def sub_critics(name: str, logits: Logits) -> list[Tensor]:
    """The logits of each sub-discriminator, checked, in float32 at least."""
    tensors: Sequence[Any] = logits if isinstance(logits, list | tuple) else [logits]
    if not tensors:
        raise ValueError(
            f"{name} is an empty list; give the logits of one sub-discriminator at least"
        )
    for i, x in enumerate(tensors):
        if not isinstance(x, Tensor):
            what = f"item {i} is a" if tensors is logits else "got"
            raise TypeError(
                f"{name} should be a tensor, or a list of tensors from several "
                f"sub-discriminators; {what} {type(x).__name__}"
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


def squared_differences(
    name: str, logits: Logits, other_name: str, other_logits: Logits
) -> list[Tensor]:
    """The mean of (x - y)^2 over logits of the same samples, of each sub-discriminator."""
    first, second = sub_critics(name, logits), sub_critics(other_name, other_logits)
    shapes = [[tuple(x.shape) for x in group] for group in (first, second)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"{name} {shapes[0]} and {other_name} {shapes[1]} should be of one shape")
    return [(x - y).square().mean() for x, y in zip(first, second, strict=True)]


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
