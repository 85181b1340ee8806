"""Formulas that the references of several kinds share, as the papers print them."""

import math
from collections.abc import Callable

import scipy.special
import torch
from torch import Tensor

Term = Callable[[Tensor], Tensor]

LOG2 = math.log(2)
ALPHAS = (-1.5, 0.3, 0.7, 1.7, 3.0)


def mean(function: Callable[..., Tensor], *batches: Tensor) -> Tensor:
    """The mean of a function of one sample (or one of each batch) over the batch."""
    values = [function(*samples) for samples in zip(*batches, strict=True)]
    return torch.stack(values).mean()


def log_sigmoid(x: Tensor) -> Tensor:
    return torch.log(1 / (1 + torch.exp(-x)))


def identity(x: Tensor) -> Tensor:
    return x


def lambert(t: Tensor) -> Tensor:
    """Jeffrey's conjugate as the paper has it."""
    w = torch.as_tensor(scipy.special.lambertw(math.exp(1 - float(t))).real, dtype=t.dtype)
    return w + 1 / w + t - 2


def power(alpha: float) -> Term:
    def conjugate(t: Tensor) -> Tensor:
        base = t * (alpha - 1) + 1
        base = base if alpha < 1 or base > 0 else 0 * base
        return (base ** (alpha / (alpha - 1)) - 1) / alpha

    return conjugate


def log_sigmoid_plus(constant: float) -> Term:
    return lambda v: constant - torch.log(1 + torch.exp(-v))
