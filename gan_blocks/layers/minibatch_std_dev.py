"""Minibatch standard deviation."""

import torch
from torch import Tensor, nn

from gan_blocks._checks import check_tensor
from gan_blocks.distributed import all_reduce, place_in_batch
from gan_blocks.precision import at_least_float32
from gan_blocks.spec import block
from gan_blocks.types import ALL_FLOATS, PositiveFloat, PositiveInt


@block(
    double_backward=True,
    compile=True,
    autocast=True,
    distributed=True,
    batch_dependent="it appends the standard deviation over a group of the batch",
    dtypes=ALL_FLOATS,
)
class MinibatchStdDev(nn.Module):
    r"""Tells a discriminator how much the samples of a batch differ.

    For each group $g$ of samples the standard deviation of every feature over the group is averaged
    over the features,

    $$s_g = \frac1F \sum_f \sqrt{\frac1{|g|} \sum_{i \in g} (x_{i,f} - \bar x_{g,f})^2 + \epsilon},$$

    and appended to each sample of the group as a constant map. A collapsed generator shows as a
    small $s$. In a run of several processes the batch is that of all of them.

    A batch of $N$ has $\lceil N / \mathrm{group\_size} \rceil$ groups, to which the samples are dealt
    out in turn, so any batch size will do; groups differ in size by one at most. If the size divides
    $N$ they are StyleGAN2's. With `group_size=None` the group is the whole batch, and the order of
    the samples does not matter.

    Args:
        group_size: Samples in a group at most; 4 in StyleGAN2, the whole batch before it.
        num_channels: Maps that are appended; the channels are divided among them.
        eps: $\epsilon$.

    Shape:
        `(N, C, ...)` to `(N, C + num_channels, ...)`.

    Raises:
        ValueError: If the number of channels is no multiple of `num_channels`, or there are none.

    Example:
        >>> import torch
        >>> MinibatchStdDev()(torch.tensor([[1.0, 1.0], [3.0, 1.0]]))
        tensor([[1.0000, 1.0000, 0.5001],
                [3.0000, 1.0000, 0.5001]])

    Reference:
        Karras et al., "Progressive Growing of GANs", 2018, arXiv:1710.10196, section 3; the groups
        are those of Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", 2020,
        arXiv:1912.04958, in its code.
    """

    def __init__(
        self,
        group_size: PositiveInt | None = 4,
        num_channels: PositiveInt = 1,
        eps: PositiveFloat = 1e-8,
    ) -> None:
        super().__init__()
        self.group_size = group_size
        self.num_channels = num_channels
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """The features with the statistic behind them."""
        check_tensor("x", x, ("N", "C", ...), of=self)
        start, total = place_in_batch(x)
        if x.shape[1] % self.num_channels or not total or 0 in x.shape[1:]:
            raise ValueError(
                f"MinibatchStdDev: x should have shape (N, C, ...), not empty, with C a multiple of "
                f"{self.num_channels}, got {tuple(x.shape)}"
            )
        groups = 1 if self.group_size is None else -(-total // self.group_size)
        group = torch.arange(start, start + len(x), device=x.device) % groups
        sizes = (total - 1 - torch.arange(groups, device=x.device)) // groups + 1

        def mean(y: Tensor) -> Tensor:
            sums = all_reduce(y.new_zeros(groups, y.shape[1]).index_add(0, group, y))
            return sums / sizes[:, None]

        y = at_least_float32(x).flatten(1)
        std = (mean((y - mean(y)[group]).square()) + self.eps).sqrt()
        # The channels are divided among the maps, each averaged over its own and all positions.
        statistic = std.unflatten(1, (self.num_channels, -1)).mean(2)[group]
        maps = statistic.view(*statistic.shape, *[1] * (x.dim() - 2))
        return torch.cat([x, maps.expand(-1, -1, *x.shape[2:]).to(x.dtype)], dim=1)
