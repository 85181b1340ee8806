"""Blocks for gan_blocks. One hook for each kind names the classes."""

from gan_blocks import hookimpl
from gan_blocks_template.exponential_loss import ExponentialLoss

__all__ = ["ExponentialLoss"]

hook_version = 2


@hookimpl
def gan_blocks_losses() -> list[type]:
    return [ExponentialLoss]


def cases():
    """What `gan-blocks check` runs. The kit is imported only then."""
    from gan_blocks_template.conformance import CASES

    return CASES
