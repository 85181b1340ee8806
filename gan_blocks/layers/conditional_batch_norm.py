"""Conditional batch normalisation."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan_blocks._checks import check_tensor, explains_failures
from gan_blocks.labels import checked_labels
from gan_blocks.layers._batch_norm import BatchNorm2d
from gan_blocks.spec import block
from gan_blocks.types import Normalization, PositiveFloat, PositiveInt, Probability


@block(
    double_backward=True,
    compile=True,
    autocast=True,
    distributed=True,
    batch_dependent="batch norm normalizes by the mean and variance of the batch",
    moves_in_forward=True,
)
class ConditionalBatchNorm2d(Normalization):
    r"""Batch normalisation whose scale and offset are learned for each class.

    With mean $\mu$ and biased variance $\sigma^2$ of each channel over the batch and all positions,

    $$y = \gamma_c\, \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta_c$$

    for a sample of class $c$; $\gamma$ starts at 1 and $\beta$ at 0. In evaluation mode the running
    statistics take the place of the batch's.

    In a run of several processes the statistics are over the batch of all of them.

    Args:
        num_features: Channels of the map.
        num_classes: Number of classes.
        eps: $\epsilon$.
        momentum: Weight of the newest batch in the running statistics.
        device: Where the weights are made.
        dtype: Their dtype.

    Shape:
        `(N, num_features, H, W)` and labels `(N,)` to `(N, num_features, H, W)`.

    Raises:
        ValueError: If the map or the labels have another shape.
        TypeError: If the labels are no integers.

    Example:
        >>> import torch
        >>> norm = ConditionalBatchNorm2d(8, num_classes=10)
        >>> norm(torch.randn(4, 8, 5, 5), torch.tensor([3, 1, 4, 1])).shape
        torch.Size([4, 8, 5, 5])

    Reference:
        Dumoulin, Shlens and Kudlur, "A Learned Representation for Artistic Style", 2017,
        arXiv:1610.07629, section 2.2; in GANs: Miyato and Koyama, "cGANs with Projection
        Discriminator", 2018, arXiv:1802.05637, section 4.
    """

    def __init__(
        self,
        num_features: PositiveInt,
        num_classes: PositiveInt,
        eps: PositiveFloat = 1e-5,
        momentum: Probability = 0.1,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.num_features = num_features
        self.norm = BatchNorm2d(
            num_features, eps, momentum, affine=False, device=device, dtype=dtype
        )
        self.weight = nn.Parameter(
            torch.ones(num_classes, num_features, device=device, dtype=dtype)
        )
        self.bias = nn.Parameter(torch.zeros(num_classes, num_features, device=device, dtype=dtype))

    @explains_failures
    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """The normalised map, scaled and shifted as the labels say."""
        check_tensor("x", x, ("N", self.num_features, "H", "W"), of=self)
        labels = checked_labels(labels, len(x), x.device)
        scale, offset = F.embedding(labels, self.weight), F.embedding(labels, self.bias)
        return self.norm(x) * scale[:, :, None, None] + offset[:, :, None, None]
