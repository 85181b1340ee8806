"""The layers whose weights are matrices."""

from typing import Any

from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils.parametrize import is_parametrized
from torch.nn.utils.spectral_norm import SpectralNorm as OldSpectralNorm
from torch.nn.utils.weight_norm import WeightNorm as OldWeightNorm

from gan_blocks._checks import check_module
from gan_blocks.types import Normalization

_NORMALIZATIONS = (
    Normalization,
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
)


def is_convolution(layer: nn.Module) -> bool:
    """Transposed ones too."""
    return isinstance(layer, _ConvNd)


def is_transposed(layer: nn.Module) -> bool:
    """Whether the weight has its inputs first."""
    return isinstance(layer, _ConvTransposeNd)


def is_normalization(layer: nn.Module) -> bool:
    """Whether its parameters are scales and offsets of normalized features, as its class says."""
    return isinstance(layer, _NORMALIZATIONS)


def hooked_weights(layer: nn.Module) -> list[str]:
    """The weights that torch's old forms of spectral and weight normalisation compute by a hook."""
    old = (OldSpectralNorm, OldWeightNorm)
    return [hook.name for hook in layer._forward_pre_hooks.values() if isinstance(hook, old)]


def linear_maps(constraint: str, module: nn.Module, *others: type[nn.Module]) -> dict[str, Any]:
    """Linear layers, convolutions and layers of the other classes, by name.

    What else has a parameter of two or more dimensions named as a weight is refused, normalisation
    layers and embeddings excepted.
    """
    check_module("module", module)
    classes = (nn.Linear, _ConvNd, *others)
    names = ", ".join(["linear layers", "convolutions", *(f"{c.__name__}s" for c in others)])
    found: dict[str, Any] = {}
    unknown: list[str] = []
    for name, layer in module.named_modules():
        if isinstance(layer, classes):
            _check_that_it_is_a_parameter(constraint, name or type(layer).__name__, layer)
            if complex_ones := [p.dtype for p in layer.parameters() if p.is_complex()]:
                raise TypeError(f"module should have real weights, got {complex_ones[0]} in {name}")
            found[name] = layer
        elif not isinstance(layer, nn.Embedding) and not is_normalization(layer):
            unknown += [
                f"{name}.{key} of {type(layer).__name__}".lstrip(".")
                for key, parameter in layer._parameters.items()
                if parameter is not None and "weight" in key and parameter.dim() > 1
            ]
    if unknown:
        raise ValueError(
            f"{constraint} knows {names} and would leave out {'; '.join(unknown)}; apply it to the "
            "parts that it knows, or put a parametrisation of torch.nn.utils.parametrizations on these "
            "weights first"
        )
    if not found:
        raise ValueError(
            f"module should have a layer to constrain, of {names}; this {type(module).__name__} has none"
        )
    return found


def _check_that_it_is_a_parameter(constraint: str, name: str, layer: nn.Module) -> None:
    if "weight" not in layer._parameters and not is_parametrized(layer, "weight"):
        raise ValueError(
            f"{constraint} cannot set the weight of {name}, which is no parameter but computed by a "
            "hook, as torch.nn.utils.spectral_norm and weight_norm do; take the forms of "
            "torch.nn.utils.parametrizations or remove the hook"
        )
