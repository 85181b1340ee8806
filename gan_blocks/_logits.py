"""What adversarial losses do with logits before and after their formula."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gan_blocks._checks import check_tensor, is_batched, warn_caller
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
    if isinstance(logits, tuple):
        raise TypeError(
            f"{name} is a tuple: is it (logits, features)? pass the logits only, for a penalty "
            "lambda x: critic(x)[0]; several sub-discriminators are a list"
        )
    tensors: list[Any] = logits if isinstance(logits, list) else [logits]
    if not tensors:
        raise ValueError(
            f"{name} should hold the logits of one sub-discriminator at least, got an empty list"
        )
    for i, x in enumerate(tensors):
        if not isinstance(x, Tensor):
            what = f"item {i} is a" if tensors is logits else "got"
            raise TypeError(
                f"{name} should be a tensor, or a list of tensors from several "
                f"sub-discriminators; {what} {type(x).__name__}"
            )
        check_tensor(name, x, empty=False)
        if x.device != tensors[0].device:
            raise ValueError(
                f"{name} should be on one device, got {tensors[0].device} and {x.device}"
            )
    return [at_least_float32(x) for x in tensors]


def pairs_of_critics(
    real_logits: Logits, fake_logits: Logits, *, paired: bool = False
) -> list[tuple[Tensor, Tensor]]:
    """Real and fake logits of each sub-discriminator.

    Args:
        real_logits: Logits on real samples.
        fake_logits: Logits on generated samples.
        paired: Whether sample i of one belongs to sample i of the other, so that the batches must
            be of one size.
    """
    real, fake = sub_critics("real_logits", real_logits), sub_critics("fake_logits", fake_logits)
    if len(real) != len(fake):
        raise ValueError(
            "real_logits and fake_logits should come from as many sub-discriminators, got "
            f"{len(real)} and {len(fake)}"
        )
    for r, f in zip(real, fake, strict=True):
        if r.dim() != f.dim() or r.shape[1:] != f.shape[1:]:
            raise ValueError(
                f"real_logits {tuple(r.shape)} and fake_logits {tuple(f.shape)} differ in more than "
                "the batch size; bring them to one shape, for instance with squeeze(1) or view(-1)"
            )
        if r.device != f.device:
            raise ValueError(
                f"real_logits and fake_logits should be on one device, got {r.device} and {f.device}"
            )
        if paired and r.shape != f.shape:
            raise ValueError(
                f"this loss pairs sample i with sample i: real_logits {tuple(r.shape)} and "
                f"fake_logits {tuple(f.shape)} need one batch size"
            )
    return list(zip(real, fake, strict=True))


def discriminator_pairs(
    loss: Any,
    real_logits: Logits,
    fake_logits: Logits,
    *,
    paired: bool = False,
    unbounded: bool = False,
) -> list[tuple[Tensor, Tensor]]:
    """Return real and fake logits of each sub-discriminator for the discriminator's loss.

    Args:
        loss: The loss, for the warnings.
        real_logits: Logits on real samples.
        fake_logits: Logits on generated samples.
        paired: Whether real sample i is compared with generated sample i.
        unbounded: Whether the loss applies a sigmoid or another output function itself.
    """
    pairs = pairs_of_critics(real_logits, fake_logits, paired=paired)
    logits = [x for pair in pairs for x in pair]
    _warn_of_logits(loss, "discriminator", "logits", logits, logits, unbounded)
    return pairs


def generator_logits(loss: Any, fake_logits: Logits, *, unbounded: bool = False) -> list[Tensor]:
    """Return fake logits of each sub-discriminator for the generator's loss."""
    fake = sub_critics("fake_logits", fake_logits)
    _warn_of_logits(loss, "generator", "fake_logits", fake, fake, unbounded)
    return fake


def generator_pairs(
    loss: Any,
    fake_logits: Logits,
    real_logits: Logits,
    *,
    paired: bool = False,
    unbounded: bool = False,
) -> list[tuple[Tensor, Tensor]]:
    """Return fake and real logits of each sub-discriminator for the generator's loss."""
    pairs = pairs_of_critics(real_logits, fake_logits, paired=paired)
    fake, logits = [f for _, f in pairs], [x for pair in pairs for x in pair]
    _warn_of_logits(loss, "generator", "fake_logits", fake, logits, unbounded)
    return [(f, r) for r, f in pairs]


def _warn_of_logits(
    loss: Any, side: str, name: str, trained: list[Tensor], logits: list[Tensor], unbounded: bool
) -> None:
    """Warn of mistakes that give plausible numbers: logits without gradient, or a second sigmoid."""
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return
    # Inside torch.vmap, requires_grad of a tensor is not reliable.
    if not any(map(_is_differentiable, trained)) and not any(map(is_batched, trained)):
        warn_caller(
            f"no gradient is required of {name}, so {type(loss).__name__}.{side} trains nothing: is "
            "something detached, computed under no_grad, or frozen? Use torch.no_grad to look at the "
            "value only"
        )
    if unbounded and any(map(_is_from_sigmoid, logits)):
        warn_caller(
            f"the logits come out of a sigmoid, but {type(loss).__name__} takes any real number and "
            "applies its own output function: let the critic return what it feeds to its sigmoid"
        )


def _is_differentiable(x: Tensor) -> bool:
    # In forward-mode AD the derivative is a tangent.
    return x.requires_grad or torch.autograd.forward_ad.unpack_dual(x).tangent is not None


_KEEP_VALUES = (
    "Alias", "Clone", "Expand", "Index", "Permute", "Reshape", "Select", "Slice", "Split", "Squeeze",
    "TBackward", "ToCopy", "Transpose", "Unbind", "Unsqueeze", "UnsafeSplit", "UnsafeView", "View",
)  # fmt: skip
"""Name prefixes of autograd nodes that change only the shape or the dtype, not the values."""


def _is_from_sigmoid(x: Tensor) -> bool:
    node: Any = x.grad_fn
    while node is not None and node.name().startswith(_KEEP_VALUES):
        node = node.next_functions[0][0]
    return node is not None and node.name().startswith(("Sigmoid", "LogSigmoid", "Hardsigmoid"))


def squared_differences(
    name: str, logits: Logits, other_name: str, other_logits: Logits
) -> list[Tensor]:
    """The mean of (x - y)^2 over logits of the same samples, of each sub-discriminator."""
    first, second = sub_critics(name, logits), sub_critics(other_name, other_logits)
    shapes = [[tuple(x.shape) for x in group] for group in (first, second)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"{name} {shapes[0]} and {other_name} {shapes[1]} should be of one shape")
    if first[0].device != second[0].device:
        raise ValueError(
            f"{name} and {other_name} should be on one device, got {first[0].device} and "
            f"{second[0].device}"
        )
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
