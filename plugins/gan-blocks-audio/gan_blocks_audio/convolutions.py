"""What the three discriminators do with their convolutions."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from gan_blocks.authoring import check_tensor


def weight_norm(layer: nn.Module) -> nn.Module:
    r"""Give each output channel of a layer a length $g$ and a direction $v$: $W = g\, v / \|v\|$.

    It is `torch.nn.utils.parametrizations.weight_norm`, with the same names in `state_dict`, but for
    the gradient of the gradient: torch's takes $\|v\|$ to be constant there (seen in torch 2.14.1).
    """
    parametrize.register_parametrization(layer, "weight", _WeightNorm())
    return layer


class _WeightNorm(nn.Module):
    def forward(self, length: Tensor, direction: Tensor) -> Tensor:
        return length * direction / _lengths(direction)

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return _lengths(weight), weight


def _lengths(weight: Tensor) -> Tensor:
    """Of each output channel's weights."""
    return torch.linalg.vector_norm(weight, dim=tuple(range(1, weight.dim())), keepdim=True)


def feature_maps(layers: Iterable[nn.Module], x: Tensor, slope: float) -> list[Tensor]:
    """The output of each layer, with leaky ReLU after each but the last."""
    *hidden, last = layers
    maps = []
    for layer in hidden:
        x = F.leaky_relu(layer(x), slope)
        maps.append(x)
    return [*maps, last(x)]


def check_waveform(block: nn.Module, x: Tensor, channels: int, shortest: int = 1) -> None:
    """Refuse what is no batch of waveforms of these channels, or one that is too short."""
    check_tensor("x", x, of=block, empty=False)
    if x.dim() != 3 or x.shape[1] != channels or x.shape[2] < shortest:
        raise ValueError(
            f"{type(block).__name__} takes waveforms of shape (N, {channels}, T), T at least "
            f"{shortest}, got {tuple(x.shape)}"
        )
