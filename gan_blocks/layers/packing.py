"""Several samples shown to a discriminator as one."""

from typing import Any

from torch import Tensor, nn

from gan_blocks._checks import type_name
from gan_blocks.spec import block
from gan_blocks.types import ALL_FLOATS, PositiveInt


def pack(x: Tensor, m: int) -> Tensor:
    r"""Joins each $m$ consecutive samples along their channels, as PacGAN does.

    $$y_j = (x_{jm},\, x_{jm+1},\, \dots,\, x_{jm+m-1}), \qquad j = 0, \dots, N/m - 1.$$

    Pack real samples with real ones and generated samples with generated ones, in front of the critic;
    everything behind it, penalties included, takes a pack for a sample. The network that judges packs
    has $m$ times the channels and gives $N/m$ logits.

    Args:
        x: Samples, in random order.
        m: The paper's degree of packing; 1 changes nothing.

    Shape:
        `(N, C, ...)` to `(N / m, m * C, ...)`.

    Raises:
        TypeError: If `x` is not a tensor or `m` not an integer.
        ValueError: If there are no channels, or the number of samples is not a multiple of `m`.

    Example:
        >>> import torch
        >>> from gan_blocks import GradientPenalty, MLPDiscriminator, pack
        >>> critic = MLPDiscriminator((6,))  # two samples of length 3
        >>> real, fake = pack(torch.randn(8, 3), 2), pack(torch.randn(8, 3), 2)
        >>> critic(real).shape
        torch.Size([4])
        >>> penalty = GradientPenalty()(critic, real, fake)  # one point between each two packs

    Reference:
        Lin, Khetan, Fanti and Oh, "PacGAN: The power of two samples in generative adversarial
        networks", 2018, arXiv:1712.04086, section 2.
    """
    _check(x, m)
    return x.reshape(x.shape[0] // m, m * x.shape[1], *x.shape[2:])


def _check(x: Any, m: Any) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"x should be a tensor of samples, got {type_name(x)}")
    if not isinstance(m, int) or isinstance(m, bool):
        raise TypeError(f"m should be the number of samples of a pack, got {m!r}")
    if m < 1:
        raise ValueError(f"m should be 1 or more, got {m}")
    if x.dim() < 2:
        raise ValueError(f"x should have shape (N, C, ...), got {tuple(x.shape)}")
    if x.shape[0] % m:
        raise ValueError(
            f"x should hold a multiple of {m} samples, which pack joins {m} by {m}, got {x.shape[0]}: "
            "drop what is left over at the end of an epoch"
        )


@block(
    double_backward=True,
    compile=True,
    autocast=True,
    distributed=True,
    batch_dependent="consecutive samples become one",
    dtypes=ALL_FLOATS,
)
class Packing(nn.Module):
    r"""Joins several samples, so that a discriminator judges them together and sees when they are alike.

    Each $m$ consecutive samples are joined along their channels,

    $$y_j = (x_{jm},\, x_{jm+1},\, \dots,\, x_{jm+m-1}), \qquad j = 0, \dots, N/m - 1.$$

    The discriminator then compares $p^m$ with $q^m$, the distributions of $m$ independent samples. This
    penalizes mode collapse: of two generators at the same distance from the data, the distance grows
    faster with $m$ for the one that leaves out modes. The discriminator takes $m$ times the channels and
    gives $N/m$ logits. Losses take them as they are.

    It is [`pack`][gan_blocks.pack] as a module. Apply it to the samples before the critic and give
    penalties the packs; a penalty refuses a critic that packs inside, since it cannot tell the logits
    of packs from too few logits of samples.

    Shuffle the samples of a batch. If neighbors in the data are alike, as in images sorted by class, the
    discriminator recognizes real packs by that. Under DDP each process packs its own samples.

    Args:
        pack_size: $m$, the paper's degree of packing; 1 changes nothing.

    Shape:
        `(N, C, ...)` to `(N / pack_size, pack_size * C, ...)`.

    Raises:
        TypeError: If the samples are not a tensor.
        ValueError: If there are no channels, or the number of samples is not a multiple of `pack_size`.

    Example:
        >>> import torch
        >>> Packing(2)(torch.tensor([[1, 2], [3, 4], [5, 6], [7, 8]]))
        tensor([[1, 2, 3, 4],
                [5, 6, 7, 8]])

    Reference:
        Lin, Khetan, Fanti and Oh, "PacGAN: The power of two samples in generative adversarial
        networks", 2018, arXiv:1712.04086, section 2; section 3 says why.
    """

    def __init__(self, pack_size: PositiveInt = 2) -> None:
        super().__init__()
        self.pack_size = pack_size

    def forward(self, x: Tensor) -> Tensor:
        """The packs."""
        return pack(x, self.pack_size)
