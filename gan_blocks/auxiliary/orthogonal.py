"""Orthogonal regularisation."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from gan_blocks._checks import check_module
from gan_blocks.precision import at_least_float32
from gan_blocks.spec import block
from gan_blocks.types import NonNegativeFloat


@block(
    double_backward=True,
    distributed=True,
    side="both",
    compares="module",
)
class OrthogonalRegularizer(nn.Module):
    r"""Pulls the rows of a network's weights towards being orthogonal to each other.

    With each weight of two dimensions at least reshaped to a matrix $W$ with one row for each output,

    $$\lambda \sum_W \left\|W W^\top \odot (1 - I)\right\|_F^2 \text{ (BigGAN)}, \qquad
      \lambda \sum_W \left\|W W^\top - I\right\|_F^2 \text{ (with unit norm)}.$$

    The first leaves the lengths of the rows alone. Offsets and normalisation layers have no rows and
    are left out, and so are embeddings, whose rows are classes, and what needs no gradient. Where a
    parametrisation computes a weight, it is the computed one.

    Args:
        weight: $\lambda$; BigGAN has 1e-4, for the generator.
        unit_norm: Whether rows are asked for the length 1 too. Then no more than as many rows as
            columns can be orthogonal.

    Shape:
        A module; the result is a scalar of at least float32.

    Raises:
        ValueError: If the module has no such weight.

    Example:
        >>> import torch
        >>> layer = torch.nn.Linear(2, 2)
        >>> _ = layer.weight.data.copy_(torch.tensor([[3.0, 0.0], [1.0, 2.0]]))
        >>> OrthogonalRegularizer(weight=1.0)(layer)
        tensor(18., grad_fn=<MulBackward0>)

    Reference:
        Brock, Donahue and Simonyan, "Large Scale GAN Training for High Fidelity Natural Image
        Synthesis" (BigGAN), 2019, arXiv:1809.11096, section 3.1, equations 2 and 3. Its public code
        adds half of this gradient, so its 1e-4 is 5e-5 here.
    """

    def __init__(self, weight: NonNegativeFloat = 1e-4, unit_norm: bool = False) -> None:
        super().__init__()
        self.weight = weight
        self.unit_norm = unit_norm

    def forward(self, module: nn.Module) -> Tensor:
        """The sum over the module's weights, weight included."""
        check_module("module", module, of=self)
        terms = [self._of_one(w) for w in _matrices(module)]
        if not terms:
            raise ValueError(
                "module should have a weight of two dimensions at least that requires a gradient; this "
                f"{type(module).__name__} has none"
            )
        return self.weight * torch.stack(terms).sum()

    def _of_one(self, w: Tensor) -> Tensor:
        products = w @ w.T
        itself = torch.eye(len(w), dtype=torch.bool, device=w.device)
        away = products - itself.to(w) if self.unit_norm else products.masked_fill(itself, 0)
        return away.square().sum()


def _matrices(module: nn.Module) -> list[Tensor]:
    """Each weight as one row for each output."""
    found: dict[int, Tensor] = {}
    for layer in module.modules():
        if isinstance(layer, nn.Embedding | nn.EmbeddingBag | ParametrizationList):
            continue
        computed = getattr(layer, "parametrizations", {})
        for name in (*layer._parameters, *computed):
            weight = getattr(layer, name)
            if isinstance(weight, Tensor) and weight.dim() > 1 and weight.requires_grad:
                if weight.is_complex():
                    raise TypeError(
                        f"module should have real weights, got {weight.dtype} in {name}"
                    )
                found[id(weight)] = at_least_float32(_rows(layer, weight))
    return list(found.values())


def _rows(layer: Any, weight: Tensor) -> Tensor:
    if not isinstance(layer, nn.modules.conv._ConvTransposeNd):
        return weight.flatten(1)
    # The inputs come first here, group by group.
    return torch.cat([part.transpose(0, 1).flatten(1) for part in weight.chunk(layer.groups)])
