"""The last layer of a conditional discriminator."""

import torch
from torch import Tensor, nn

from gan_blocks._checks import check_tensor, explains_failures
from gan_blocks.labels import checked_labels
from gan_blocks.spec import block
from gan_blocks.types import PositiveInt


@block(double_backward=True, compile=True, autocast=True, distributed=True)
class ProjectionHead(nn.Module):
    r"""One logit from features and a class.

    $$\mathrm{logit}(x, y) = \langle v_y, \phi(x) \rangle + \langle w, \phi(x) \rangle + b,$$

    with the features $\phi(x)$ and a learned vector $v_y$ for each class. If both densities
    $p(y \mid x)$ and $q(y \mid x)$ are log-linear in the features, the log ratio
    $\log p(x, y)/q(x, y)$ has this form, its first part for $y$ given $x$, its second for $x$.

    Args:
        in_features: Length of $\phi$.
        num_classes: Number of classes.
        device: Where the weights are made.
        dtype: Their dtype.

    Shape:
        `(N, in_features)` and labels `(N,)` to `(N,)`.

    Raises:
        ValueError: If the features or the labels have another shape.
        TypeError: If the labels are no integers.

    Example:
        >>> import torch
        >>> head = ProjectionHead(16, num_classes=10)
        >>> head(torch.randn(4, 16), torch.tensor([3, 1, 4, 1])).shape
        torch.Size([4])

    Reference:
        Miyato and Koyama, "cGANs with Projection Discriminator", 2018, arXiv:1802.05637, equation 6.
    """

    def __init__(
        self,
        in_features: PositiveInt,
        num_classes: PositiveInt,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_features = in_features
        self.linear = nn.Linear(in_features, 1, device=device, dtype=dtype)
        self.classes = nn.Embedding(num_classes, in_features, device=device, dtype=dtype)
        nn.init.xavier_uniform_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        nn.init.xavier_uniform_(self.classes.weight)

    @explains_failures
    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """Logits."""
        check_tensor("features", features, ("N", self.in_features), of=self)
        vectors = self.classes(checked_labels(labels, len(features), features.device))
        return self.linear(features).squeeze(1) + (vectors * features).sum(1)
