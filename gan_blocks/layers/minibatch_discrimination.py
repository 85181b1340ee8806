"""Minibatch discrimination."""

import math

import torch
from torch import Tensor, nn

from gan_blocks._checks import check_tensor, explains_failures
from gan_blocks.distributed import all_gather, local, place_in_batch
from gan_blocks.layers._similarity import similarity_sums
from gan_blocks.precision import at_least_float32
from gan_blocks.spec import block
from gan_blocks.types import PositiveInt


@block(
    double_backward=True,
    compile=True,
    autocast=True,
    distributed=True,
    batch_dependent="each sample is compared with the others of the batch",
)
class MinibatchDiscrimination(nn.Module):
    r"""Tells a discriminator how close each sample is to the others of its batch.

    Each feature vector $x_i$ is projected to $B$ short vectors of length $C$, and the similarities
    to all **other** samples are appended to it:

    $$M_{i,b,c} = \sum_a x_{i,a} T_{a,b,c}, \qquad
      o(x_i)_b = \sum_{j \ne i} e^{-\|M_{i,b} - M_{j,b}\|_1}, \qquad y_i = [x_i, o(x_i) + \beta].$$

    The columns of $T$ are weight-normalised, $T_{\cdot,b,c} = e^{s_{b,c}}\,\theta_{\cdot,b,c} /
    \|\theta_{\cdot,b,c}\|_2$, so that the distances are of order 1 for features of unit variance,
    whatever their number: with unnormalised weights all similarities are 0 from the start, and so
    are all gradients. A collapsed generator shows as similarities near $n - 1$.

    Compute the features of real and of generated batches in separate calls, and put the layer near
    the end of the discriminator. In a run of several processes a sample meets those of all of them.

    It costs $n^2 B C$ operations and little memory: the similarities are made in pieces, in the
    gradient and in the gradient's gradient too, and at most 32 MiB of them are kept between.

    Args:
        in_features: Length of a feature vector.
        num_kernels: $B$, the number of similarities.
        kernel_dim: $C$, the length of each projection.
        bias: Whether to add the learned offset $\beta$; it starts at -1.
        device: Where the weights are made.
        dtype: Their dtype.

    Shape:
        `(N, in_features)` to `(N, in_features + num_kernels)`. In a batch of one the similarities
        are 0.

    Raises:
        ValueError: If the features have another shape; flatten images first.

    Example:
        >>> import torch
        >>> layer = MinibatchDiscrimination(16, num_kernels=4)
        >>> layer(torch.randn(8, 16)).shape
        torch.Size([8, 20])
        >>> layer(torch.ones(8, 16))[0, 16:]
        tensor([7., 7., 7., 7.], grad_fn=<SliceBackward0>)

    Reference:
        Salimans et al., "Improved Techniques for Training GANs", 2016, arXiv:1606.03498, section 3.2;
        the normalised weights are those of the authors' code.
    """

    def __init__(
        self,
        in_features: PositiveInt,
        num_kernels: PositiveInt = 100,
        kernel_dim: PositiveInt = 5,
        bias: bool = False,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_features = in_features
        self.num_kernels = num_kernels
        self.kernel_dim = kernel_dim
        shape = (in_features, num_kernels, kernel_dim)
        self.theta = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.log_scale = nn.Parameter(torch.empty(shape[1:], device=device, dtype=dtype))
        self.bias = (
            nn.Parameter(torch.empty(num_kernels, device=device, dtype=dtype)) if bias else None
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new directions; distances start at about 1 for features of unit variance."""
        nn.init.normal_(self.theta)
        nn.init.constant_(self.log_scale, -math.log(self.kernel_dim))
        if self.bias is not None:
            nn.init.constant_(self.bias, -1.0)

    @explains_failures
    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        r"""Fit the scales to a batch of features, as the authors' code does before training.

        With $d_b$ the mean distance of a sample to its nearest neighbour in kernel $b$,
        $s_{b,c} \leftarrow s_{b,c} - \log(d_b / 2)$; so it becomes 2, whatever the features'
        distribution. $\beta$, where there is one, takes the similarities' mean away. On several
        processes the batch is that of all, and they end with the same scales.

        Args:
            x: Features of a batch, two at least and not in pairs of equal ones.
        """
        check_tensor("x", x, ("N", self.in_features), of=self)
        x = all_gather(x)
        if len(x) < 2:
            raise ValueError(f"x should have two samples at least, got {len(x)}")
        distance = torch.stack([torch.cdist(m, m, p=1) for m in self._projections(x).unbind(1)])
        itself = torch.eye(len(x), dtype=torch.bool, device=x.device)
        nearest = distance.masked_fill(itself, math.inf).amin(2).mean(1)
        if not bool((nearest.isfinite() & (nearest > 0)).all()):
            raise ValueError(
                "x should hold different samples of finite features; in some kernel each sample has an "
                "equal one"
            )
        self.log_scale.sub_((nearest / 2).log()[:, None])
        if self.bias is not None:
            self.bias.zero_()
            with local():
                self.bias.sub_(self(x)[:, self.in_features :].mean(0))

    @explains_failures
    def forward(self, x: Tensor) -> Tensor:
        """The features with the similarities behind them."""
        projections = self._projections(x)
        start, _ = place_in_batch(x)
        everyone = all_gather(projections).roll(-start, 0)  # the own samples first
        similarity = similarity_sums(everyone.permute(2, 1, 0).contiguous(), len(x)).T
        if self.bias is not None:
            similarity = similarity + self.bias
        return torch.cat([x, similarity.to(x.dtype)], dim=1)

    def _projections(self, x: Tensor) -> Tensor:
        """M, of shape (N, B, C)."""
        check_tensor("x", x, ("N", self.in_features), of=self)
        norm = torch.linalg.vector_norm(self.theta, dim=0)
        # A column of zeros, as pruning leaves it, stays one.
        weight = self.theta * (self.log_scale.exp() / torch.where(norm > 0, norm, 1))
        return at_least_float32((x @ weight.flatten(1)).unflatten(1, weight.shape[1:]))
