"""Class labels that blocks get beside the samples: for whoever writes conditional blocks."""

from typing import Any

import torch
from torch import Tensor

from gan_blocks._checks import check_count, check_tensor, type_name


def checked_labels(labels: Any, count: int, device: torch.device | None = None) -> Tensor:
    """One class number for each sample, as `torch.nn.functional.embedding` takes them.

    Args:
        labels: Integers of shape `(count,)`.
        count: How many samples there are.
        device: The device of the samples, if the labels have to be there too.

    Raises:
        TypeError: If they are no tensor of integers.
        ValueError: If they are of another shape or on another device.

    Example:
        >>> import torch
        >>> checked_labels(torch.tensor([2, 0], dtype=torch.uint8), 2)
        tensor([2, 0])
    """
    check_count("count", count, least=0)
    check_tensor("labels", labels, floating=False)
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"labels should be integers, the number of each class, got {labels.dtype}")
    if labels.shape != (count,):
        raise ValueError(
            f"labels should have shape (count,), here ({count},), one for each sample, got "
            f"{tuple(labels.shape)}"
        )
    if device is not None and labels.device != device:
        raise ValueError(
            f"labels should be on {device}, where the samples are, got {labels.device}"
        )
    return labels.long()


def labels_for(
    conditional: Any, labels: Tensor | None, count: int, device: torch.device | None = None
) -> tuple[Tensor, ...]:
    """The labels as arguments for the layers within: one if the block has classes, else none.

    Args:
        conditional: The block; its attribute `num_classes` is the number of classes, 0 or None without.
        labels: What its caller gave.
        count: How many samples there are.
        device: The device of the samples, if the labels have to be there too.

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
    name, classes = type(conditional).__name__, getattr(conditional, "num_classes", None)
    if classes is None and not hasattr(conditional, "num_classes"):
        raise TypeError(
            f"conditional should be a block with num_classes, got {type_name(conditional)}"
        )
    if classes and labels is None:
        raise ValueError(f"{name} has {classes} classes: pass the labels of the samples too")
    if not classes and labels is not None:
        raise ValueError(f"{name} has no classes; build it with num_classes, or pass no labels")
    return () if labels is None else (checked_labels(labels, count, device),)
