"""Class labels that blocks get beside the samples."""

from typing import Any

import torch
from torch import Tensor


def checked_labels(labels: Any, count: int) -> Tensor:
    """One class number for each sample, as `torch.nn.functional.embedding` takes them."""
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
    """The labels as arguments for the layers within, if the block has classes."""
    name, classes = type(conditional).__name__, conditional.num_classes
    if classes and labels is None:
        raise ValueError(f"{name} has {classes} classes: pass the labels of the samples too")
    if not classes and labels is not None:
        raise ValueError(f"{name} has no classes; build it with num_classes, or pass no labels")
    return () if labels is None else (checked_labels(labels, count),)
