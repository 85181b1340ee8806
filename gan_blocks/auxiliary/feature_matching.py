"""Feature matching."""

from typing import Literal

from torch import Tensor, nn

from gan_blocks._checks import check_tensor
from gan_blocks.distributed import mean
from gan_blocks.precision import at_least_float32
from gan_blocks.spec import block
from gan_blocks.types import ALL_FLOATS


@block(
    double_backward=True,
    compile=True,
    autocast=True,
    distributed=True,
    batch_dependent="it compares means of the batch",
    side="generator",
    compares="features",
    dtypes=ALL_FLOATS,
)
class FeatureMatchingLoss(nn.Module):
    r"""Asks the generator to match the mean features of real samples in the discriminator.

    For features $f(x)$ of an intermediate layer of the discriminator,

    $$\left\|\mathbb{E}_{x \sim p} f(x) - \mathbb{E}_z f(G(z))\right\|_2^2,$$

    the squared distance between **batch means**, summed over the features. The real side is detached.
    It is no distance between arbitrary pairs of samples: that is positive between a batch and its
    own permutation, and smaller for a collapsed generator than for the right one. In a run of several
    processes the means are over the batch of all of them.

    Args:
        distance: `l2` is the paper's, the sum of squares; `l1` is the sum of absolute differences of
            the means. `mean_squared` and `mean_absolute` average over the features instead, as the
            authors' code does for MNIST and for CIFAR-10.

    Shape:
        Real features `(N, ...)` and generated features `(M, ...)`, equal but for the batch size. The
        result is a scalar of at least float32.

    Raises:
        ValueError: If the features differ in more than the batch size, or are empty.

    Example:
        >>> import torch
        >>> loss = FeatureMatchingLoss()
        >>> real = torch.tensor([[0.0, 2.0], [2.0, 2.0]])
        >>> loss(real, real.flip(0))
        tensor(0.)
        >>> loss(real, torch.zeros(3, 2))
        tensor(5.)

    Reference:
        Salimans et al., "Improved Techniques for Training GANs", 2016, arXiv:1606.03498, section 3.1.
    """

    def __init__(
        self, distance: Literal["l2", "l1", "mean_squared", "mean_absolute"] = "l2"
    ) -> None:
        super().__init__()
        self.distance = distance

    def forward(self, real_features: Tensor, fake_features: Tensor) -> Tensor:
        """The distance between the batch means; its gradient goes to the generated side only."""
        for name, features in (("real_features", real_features), ("fake_features", fake_features)):
            check_tensor(name, features, ("N", "C", ...), empty=False)
        if real_features.device != fake_features.device:
            raise ValueError(
                f"real_features and fake_features should be on one device, got "
                f"{real_features.device} and {fake_features.device}"
            )
        if real_features.shape[1:] != fake_features.shape[1:]:
            raise ValueError(
                f"real_features {tuple(real_features.shape)} and fake_features "
                f"{tuple(fake_features.shape)} should differ in the batch size alone"
            )
        real_mean = mean(at_least_float32(real_features).detach(), 0)
        difference = real_mean - mean(at_least_float32(fake_features), 0)
        squared = self.distance in ("l2", "mean_squared")
        terms = difference.square() if squared else difference.abs()
        return terms.sum() if self.distance in ("l2", "l1") else terms.mean()
