"""Class labels that blocks get beside the samples: for whoever writes conditional blocks."""

from typing import Any

import torch
from torch import Tensor


def checked_labels(labels: Any, count: int) -> Tensor:
    """One class number for each sample, as `torch.nn.functional.embedding` takes them.

    Args:
        labels: Integers of shape `(count,)`.
        count: How many samples there are.

    Raises:
        TypeError: If they are no tensor of integers.
        ValueError: If they are of another shape.

    Example:
        >>> import torch
        >>> checked_labels(torch.tensor([2, 0], dtype=torch.uint8), 2)
        tensor([2, 0])
    """
    if not isinstance(labels, Tensor):
        raise TypeError(f"labels should be a tensor of integers, got {type(labels).__name__}")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"labels should be integers, the number of each class, got {labels.dtype}")
    if labels.shape != (count,):
        raise ValueError(
            f"labels should have shape ({count},), one for each sample, got {tuple(labels.shape)}"
        )
    return labels.long()


def labels_for(conditional: Any, labels: Tensor | None, count: int) -> tuple[Tensor, ...]:
    """The labels as arguments for the layers within: one if the block has classes, else none.

    Args:
        conditional: The block; its attribute `num_classes` is the number of classes, 0 or None without.
        labels: What its caller gave.
        count: How many samples there are.

    Raises:
        TypeError: As `checked_labels`.
        ValueError: As `checked_labels`, or if labels are missing or needless.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> class Features(nn.Module):
        ...     def __init__(self, num_classes=0):
        ...         super().__init__()
        ...         self.num_classes = num_classes
        ...         self.inner = nn.Embedding(num_classes, 4) if num_classes else None
        ...     def forward(self, x, labels=None):
        ...         for each in labels_for(self, labels, len(x)):
        ...             x = x + self.inner(each)
        ...         return x
        >>> Features()(torch.ones(2, 4), torch.tensor([0, 1]))
        Traceback (most recent call last):
        ValueError: Features has no classes; build it with num_classes, or pass no labels
    """
    name, classes = type(conditional).__name__, conditional.num_classes
    if classes and labels is None:
        raise ValueError(f"{name} has {classes} classes: pass the labels of the samples too")
    if not classes and labels is not None:
        raise ValueError(f"{name} has no classes; build it with num_classes, or pass no labels")
    return () if labels is None else (checked_labels(labels, count),)
