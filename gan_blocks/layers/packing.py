"""Several samples shown to a discriminator as one."""

from torch import Tensor

from gan_blocks._input_gradient import JoinsSamples
from gan_blocks.spec import block
from gan_blocks.types import ALL_FLOATS, PositiveInt


@block(
    double_backward=True,
    compile=True,
    autocast=True,
    distributed=True,
    batch_dependent="consecutive samples become one",
    dtypes=ALL_FLOATS,
)
class Packing(JoinsSamples):
    r"""Lets a discriminator judge several samples together, so that it sees when they are alike.

    Each $m$ consecutive samples are joined along their channels,

    $$y_j = (x_{jm},\, x_{jm+1},\, \dots,\, x_{jm+m-1}), \qquad j = 0, \dots, N/m - 1.$$

    As the first layer of a discriminator it makes the game one between $p^m$ and $q^m$, the
    distributions of $m$ independent samples. Two generators may be as far from the data, and one of
    them leave out modes while the other does not: with $m$ the distance of the first grows faster. What
    follows takes $m$ times the channels and gives $N/m$ logits, on both sides alike, and losses take
    them as they are. Only the first layer that follows grows, and all see fewer rows.

    The samples of a batch have to be in random order: neighbours that are alike in the data, such as
    images sorted by class, would tell it from the generator's. In a run of several processes each
    packs its own samples.

    Args:
        pack_size: $m$, the paper's degree of packing; 1 changes nothing.

    Shape:
        `(N, C, ...)` to `(N / pack_size, pack_size * C, ...)`.

    Raises:
        ValueError: If there are no channels, or the number of samples is no multiple of `pack_size`.

    Example:
        >>> import torch
        >>> Packing(2)(torch.tensor([[1, 2], [3, 4], [5, 6], [7, 8]]))
        tensor([[1, 2, 3, 4],
                [5, 6, 7, 8]])

    Reference:
        Lin, Khetan, Fanti and Oh, "PacGAN: The power of two samples in generative adversarial
        networks", 2018, arXiv:1712.04086, section 2; section 3 says
        why.
    """

    def __init__(self, pack_size: PositiveInt = 2) -> None:
        super().__init__()
        self.pack_size = pack_size

    def forward(self, x: Tensor) -> Tensor:
        """The packs."""
        m = self.pack_size
        if x.dim() < 2:
            raise ValueError(f"Packing takes samples of shape (N, C, ...), got {tuple(x.shape)}")
        if len(x) % m:
            raise ValueError(
                f"Packing joins each {m} samples, got {len(x)}: make the batch a multiple of {m}, and "
                "drop what is left over at the end of an epoch"
            )
        return x.reshape(len(x) // m, m * x.shape[1], *x.shape[2:])
