"""The DRAGAN penalty: gradients around real samples."""

from typing import Literal

import torch
from torch import Tensor, nn

from gan_blocks._input_gradient import check_samples, input_gradients
from gan_blocks._logits import combined
from gan_blocks.distributed import draw, mean
from gan_blocks.precision import at_least_float32
from gan_blocks.spec import block
from gan_blocks.types import Combine, Critic, NonNegativeFloat


@block(
    double_backward=True,
    compile=True,
    autocast=True,
    distributed=True,
    batch_dependent="the noise is as large as the standard deviation of the batch",
    dtypes=("bfloat16", "float32", "float64"),
)
class DraganPenalty(nn.Module):
    r"""The DRAGAN penalty: gradient norms near a target around the real samples.

    At a point $\hat x_i$ near each real sample $x_i$ the norm of the critic's gradient is held to $k$,

    $$\lambda\, \frac1n \sum_i \left(\|\nabla D(\hat x_i)\|_2 - k\right)^2.$$

    The authors' code and their paper draw the point in two ways:

    - `uniform`, the code's: $\hat x_i = x_i + \alpha_i\, c\, s\, u_i$ with $u_i \sim U[0, 1)^d$, one
      $\alpha_i \sim U[0, 1)$ per sample, and $s$ the standard deviation of all numbers of the batch;
    - `gaussian`, the paper's: $\hat x_i = x_i + c\, \varepsilon_i$ with $\varepsilon_i \sim N(0, I)$.

    There is one norm per sample, over all its dimensions. Generated samples take no part.

    Args:
        weight: $\lambda$.
        target: $k$.
        noise: Which of the two.
        scale: $c$; 0.5 in the code. For `gaussian` it is in the unit of the samples.
        combine: How the penalties of several sub-discriminators are combined.

    Shape:
        Real samples of shape `(N, ...)`; the critic maps them to logits `(N, ...)`, of which those of
        one sample are summed, or to a list of such tensors, one for each sub-discriminator. The
        result is a scalar of at least float32.

    Raises:
        ValueError: If the samples are empty, or float16 without autocast; or if the critic's output does
            not depend on its input, or is not logits of each sample.
        TypeError: If the samples are not floating point, the critic returns a tuple, or `generator` is
            not a `torch.Generator`.

    Warns:
        UserWarning: If the critic has batch norm in training mode, which mixes the samples.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> penalty = DraganPenalty()
        >>> critic = nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
        >>> value = penalty(critic, torch.rand(16, 1, 8, 8))
        >>> torch.testing.assert_close(value, 10 * (critic[1].weight.norm() - 1) ** 2)

    Reference:
        Kodali et al., "On Convergence and Stability of GANs", 2017, arXiv:1705.07215, section 2.4.
    """

    def __init__(
        self,
        weight: NonNegativeFloat = 10.0,
        target: NonNegativeFloat = 1.0,
        noise: Literal["uniform", "gaussian"] = "uniform",
        scale: NonNegativeFloat = 0.5,
        combine: Combine = "sum",
    ) -> None:
        super().__init__()
        self.weight = weight
        self.target = target
        self.noise = noise
        self.scale = scale
        self.combine: Combine = combine

    def forward(
        self,
        critic: Critic,
        real: Tensor,
        fake: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The penalty, weight included.

        Args:
            critic: The critic, or any function of a batch.
            real: Real samples.
            fake: Not used.
            generator: Draws the points; torch's global one if left out.
        """
        check_samples(real)
        wide = at_least_float32(real.detach())
        if self.noise == "uniform":
            u = draw(torch.rand, real.shape, real.device, generator)
            one_each = (len(real), *[1] * (real.dim() - 1))
            alpha = draw(torch.rand, one_each, real.device, generator)
            std = mean((wide - mean(wide)).square()).sqrt()
            step = alpha.to(wide.dtype) * std * u
        else:
            step = draw(torch.randn, real.shape, real.device, generator).to(wide.dtype)
        gradients = input_gradients(critic, real + (self.scale * step).to(real.dtype))
        # The norm's own derivative at 0 is 0 in torch; a root of a sum of squares gives NaN there.
        distances = [torch.linalg.vector_norm(g, dim=1) - self.target for g in gradients]
        return self.weight * combined([d.square().mean() for d in distances], self.combine)
