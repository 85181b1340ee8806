"""The layers whose weights are matrices."""

from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd


def is_convolution(layer: nn.Module) -> bool:
    """Transposed ones too."""
    return isinstance(layer, _ConvNd)


def is_transposed(layer: nn.Module) -> bool:
    """Whether the weight has its inputs first."""
    return isinstance(layer, _ConvTransposeNd)


def linear_maps(module: nn.Module, *others: type[nn.Module]) -> dict[str, nn.Module]:
    """Linear layers, convolutions and layers of the other classes, by name."""
    classes = (nn.Linear, _ConvNd, *others)
    found = {name: layer for name, layer in module.named_modules() if isinstance(layer, classes)}
    if not found:
        names = ", ".join(["linear layers", "convolutions", *(f"{c.__name__}s" for c in others)])
        raise ValueError(f"this {type(module).__name__} has no layer to constrain; {names} are")
    return found
