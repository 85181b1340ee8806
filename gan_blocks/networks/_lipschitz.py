"""The Lipschitz bound of a network whose parts act in turn."""

from typing import Any

from torch import nn

from gan_blocks.lipschitz import lipschitz_bound
from gan_blocks.lipschitz.bound import Rule


def in_turn(*parts: str) -> Rule:
    """The rule of a network that calls these attributes, modules or lists of modules, in turn."""

    def rule(module: Any, input_shape: tuple[int, ...]) -> float:
        if getattr(module, "num_classes", 0):
            raise TypeError(
                f"no Lipschitz bound is known for {type(module).__name__} with classes: labels are a "
                "second input"
            )
        layers: list[nn.Module] = []
        for part in parts:
            layer = getattr(module, part)
            layers += layer if isinstance(layer, nn.ModuleList) else [layer]
        return lipschitz_bound(nn.Sequential(*layers), input_shape)

    return rule
