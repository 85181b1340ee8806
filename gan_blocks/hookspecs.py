"""The whole extension surface: one hook per kind of block.

A plugin is a module (or any object) with some of these functions, each marked with ``hookimpl``
and returning the classes it adds:

    from gan_blocks import hookimpl

    @hookimpl
    def gan_blocks_losses():
        return [MyLoss]

A package names its plugin in the entry-point group ``gan_blocks``. A plugin may state the
version of the hooks that it was written for as ``hook_version = 2``.
"""

from collections.abc import Sequence

import pluggy

from gan_blocks.types import Kind

HOOK_VERSION = 2

CHANGES = (
    "losses take real_logits of generator by keyword",
    "penalties take generator=",
    "schedules have their own hook",
    "auxiliary terms declare side and compares",
    "batch_dependent is a reason in words",
    "batch norm and the like declare moves_in_forward",
    "counts and averages derive from gan_blocks.authoring.Clocked",
    "a constructor's ValueError alone is translated",
    "arguments are read-only",
    "blocks refuse wrong tensors, with gan_blocks.authoring.check_tensor",
)
"""What a plugin that was written for version 1 has to change, one item for each row of the page."""

PAGE = 'the page "Moving a plugin from 1 to 2", docs/moving_a_plugin.md'
"""Where the changes are explained."""

hookspec = pluggy.HookspecMarker("gan_blocks")
hookimpl = pluggy.HookimplMarker("gan_blocks")

HOOKS: dict[Kind, str] = {
    "layer": "gan_blocks_layers",
    "loss": "gan_blocks_losses",
    "auxiliary": "gan_blocks_auxiliary",
    "schedule": "gan_blocks_schedules",
    "divergence": "gan_blocks_divergences",
    "penalty": "gan_blocks_penalties",
    "constraint": "gan_blocks_constraints",
    "network": "gan_blocks_networks",
}


@hookspec
def gan_blocks_layers() -> Sequence[type] | None:
    """Modules to put into one's own network."""


@hookspec
def gan_blocks_losses() -> Sequence[type] | None:
    """Adversarial losses, with ``discriminator`` and ``generator``."""


@hookspec
def gan_blocks_auxiliary() -> Sequence[type] | None:
    """Further loss terms and weights, which declare their side and what they compare."""


@hookspec
def gan_blocks_schedules() -> Sequence[type] | None:
    """Numbers that change from step to step."""


@hookspec
def gan_blocks_divergences() -> Sequence[type] | None:
    """f-divergences."""


@hookspec
def gan_blocks_penalties() -> Sequence[type] | None:
    """Penalties on the critic's gradient with respect to its input."""


@hookspec
def gan_blocks_constraints() -> Sequence[type] | None:
    """Constraints that act on a module after an optimiser step."""


@hookspec
def gan_blocks_networks() -> Sequence[type] | None:
    """Whole generators and discriminators."""
