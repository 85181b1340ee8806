"""Base classes for blocks, used by this library and by plugins."""

from gan_blocks._checks import check_tensor
from gan_blocks.authoring.clock import Averaging, Clocked

__all__ = ["Averaging", "Clocked", "check_tensor"]
