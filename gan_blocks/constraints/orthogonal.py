"""Weights that are orthogonal matrices."""

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from gan_blocks.constraints._maps import is_convolution, is_transposed, linear_maps
from gan_blocks.precision import at_least_float32
from gan_blocks.spec import block
from gan_blocks.types import PositiveFloat


@block()
class Orthogonal:
    r"""Moves each weight to the nearest matrix with orthonormal rows, in place.

    With the singular value decomposition $W = U S V^\top$ of a weight, one row for each output,

    $$W \leftarrow g\, U V^\top, \qquad
      \|U V^\top - W\|_F = \min_{Q Q^\top = I} \|Q - W\|_F,$$

    or over $Q^\top Q = I$ where there are more rows than columns. All singular values become $g$: no
    direction of the features fades and none grows. Call it after every step of the optimiser.

    It acts on linear layers and convolutions. A convolution's weight is reshaped to one row for each
    output channel, in each group of channels by itself; so the map of a whole image is not orthogonal.
    Embeddings, normalisation layers and learned tensors that are not named as a weight are left alone;
    any other layer with a weight of two or more dimensions, as attention's joint projection, is refused
    by name.

    It costs a singular value decomposition of each weight, about $10\, m n \min(m, n)$ operations. A
    weight with a singular value of 0 has several nearest matrices and gets one of them.

    Args:
        gain: $g$, for instance $\sqrt2$ before a ReLU.

    Raises:
        ValueError: If the module has no such layer or one that is not known, a weight is not finite, or
            one is computed from other parameters as `torch.nn.utils.parametrizations` do.

    Example:
        >>> import torch
        >>> layer = torch.nn.Linear(4, 3)
        >>> Orthogonal()(layer)
        >>> torch.allclose(layer.weight @ layer.weight.T, torch.eye(3), atol=1e-5)
        True

    Reference:
        Higham, "Computing the Polar Decomposition, with Applications", SIAM Journal on Scientific and
        Statistical Computing 7(4), 1986, section 2. In GANs a penalty stands in its place:
        Brock et al., "Neural Photo Editing with Introspective Adversarial Networks", 2017,
        arXiv:1609.07093, section 3.3.
    """

    def __init__(self, gain: PositiveFloat = 1.0) -> None:
        self.gain = gain

    @torch.no_grad()
    def __call__(self, module: nn.Module) -> None:
        """Project the weights.

        Args:
            module: The network.
        """
        layers = linear_maps("Orthogonal", module)
        for name, layer in layers.items():
            _check(name or type(layer).__name__, layer)
        for layer in layers.values():
            matrices = _one_row_for_each_output(layer)
            u, _, vh = torch.linalg.svd(at_least_float32(matrices.flatten(2)), full_matrices=False)
            matrices.copy_((self.gain * u @ vh).view_as(matrices))


def _one_row_for_each_output(layer: nn.Module) -> Tensor:
    """A view of the weight, of shape (groups, outputs, inputs, ...)."""
    weight: Tensor = layer.weight  # type: ignore[assignment]
    groups: int = layer.groups if is_convolution(layer) else 1  # type: ignore[assignment]
    grouped = weight.unflatten(0, (groups, -1))
    return grouped.transpose(1, 2) if is_transposed(layer) else grouped


def _check(name: str, layer: nn.Module) -> None:
    if is_parametrized(layer, "weight"):
        raise ValueError(
            f"Orthogonal cannot set the weight of {name}, which a parametrisation computes; remove "
            "the parametrisation"
        )
    weight: Tensor = layer.weight  # type: ignore[assignment]
    if not weight.is_meta and not bool(weight.isfinite().all()):
        raise ValueError(f"Orthogonal: the weight of {name} should be finite")
