"""Checks and warnings that every kind of block shares."""

import sys
import warnings
from typing import Any

import torch


def check_generator(generator: Any) -> None:
    """Refuse anything but a `torch.Generator` or None where random numbers are drawn.

    In a GAN "generator" is a network too, so the mistake is an easy one.
    """
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(
            "generator should be a torch.Generator, which draws random numbers, or None, got "
            f"{type(generator).__name__}"
        )


def warn_caller(message: str) -> None:
    """Warn at the first line outside gan_blocks and torch, which is the one to change."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and _is_ours(frame.f_globals.get("__name__", "")):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] in ("gan_blocks", "torch")
