"""Class labels that blocks get beside the samples."""

from typing import Any

import torch
from torch import Tensor


def check_labels(labels: Tensor, count: int) -> None:
    """Refuse what is not one integer for each sample."""
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise TypeError(f"labels should be integers, the number of each class, got {labels.dtype}")
    if labels.shape != (count,):
        raise ValueError(
            f"labels should have shape ({count},), one for each sample, got {tuple(labels.shape)}"
        )


def labels_for(conditional: Any, labels: Tensor | None) -> tuple[Tensor, ...]:
    """The labels as arguments for the layers within, if the block has classes."""
    name, count = type(conditional).__name__, conditional.num_classes
    if count and labels is None:
        raise ValueError(f"{name} has {count} classes: pass the labels of the samples too")
    if not count and labels is not None:
        raise ValueError(f"{name} has no classes; build it with num_classes, or pass no labels")
    return () if labels is None else (labels,)
