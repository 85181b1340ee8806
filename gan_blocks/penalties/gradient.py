"""The gradient penalty of WGAN-GP."""

import torch
from torch import Tensor, nn

from gan_blocks._input_gradient import check_samples, input_gradients
from gan_blocks._logits import combined
from gan_blocks.distributed import draw
from gan_blocks.spec import block
from gan_blocks.types import Combine, Critic, NonNegativeFloat


@block(
    double_backward=True,
    compile=True,
    autocast=True,
    distributed=True,
    dtypes=("bfloat16", "float32", "float64"),
)
class GradientPenalty(nn.Module):
    r"""The gradient penalty of WGAN-GP, and its one-sided form.

    Between each real sample $x_i$ and generated sample $\tilde x_i$ a point is drawn,
    $\hat x_i = \epsilon_i x_i + (1 - \epsilon_i)\tilde x_i$ with one $\epsilon_i \sim U[0, 1]$ per
    sample, and the norm of the critic's gradient there is held to the target $k$:

    $$\lambda\, \frac1n \sum_i \left(\|\nabla D(\hat x_i)\|_2 - k\right)^2
      \qquad\text{or, one-sided,}\qquad
      \lambda\, \frac1n \sum_i \max\left(0, \|\nabla D(\hat x_i)\|_2 - k\right)^2.$$

    There is one norm per sample, over all its dimensions. With $k = 1$ a critic of unit slope has
    penalty 0 at any batch size and any image size. The real and the generated samples are detached:
    the penalty trains the critic only.

    Args:
        weight: $\lambda$.
        target: $k$, the norm that is asked for.
        one_sided: Whether only norms above the target cost (WGAN-LP).
        combine: How the penalties of several sub-discriminators are combined.

    Shape:
        Real and fake samples of one shape `(N, ...)`; the critic maps them to logits `(N, ...)`, of
        which those of one sample are summed, or to a list of such tensors, one for each
        sub-discriminator. The result is a scalar of at least float32.

    Raises:
        ValueError: If the samples differ in shape, are empty, or float16 without autocast; or if the
            critic's output does not depend on its input, or is not logits of each sample.
        TypeError: If the samples are not floating point, the critic returns a tuple, or `generator` is
            not a `torch.Generator`.

    Warns:
        UserWarning: If the critic has batch norm in training mode, which mixes the samples.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> penalty = GradientPenalty()
        >>> critic = nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
        >>> real, fake = torch.rand(16, 1, 8, 8), torch.rand(16, 1, 8, 8)
        >>> value = penalty(critic, real, fake)
        >>> torch.testing.assert_close(value, 10 * (critic[1].weight.norm() - 1) ** 2)

    Reference:
        Gulrajani et al., "Improved Training of Wasserstein GANs", 2017, arXiv:1704.00028, algorithm
        1; one-sided: Petzka, Fischer and Lukovnikov, "On the regularization of Wasserstein GANs",
        2018, arXiv:1709.08894, section 5.
    """

    def __init__(
        self,
        weight: NonNegativeFloat = 10.0,
        target: NonNegativeFloat = 1.0,
        one_sided: bool = False,
        combine: Combine = "sum",
    ) -> None:
        super().__init__()
        self.weight = weight
        self.target = target
        self.one_sided = one_sided
        self.combine: Combine = combine

    def forward(
        self,
        critic: Critic,
        real: Tensor,
        fake: Tensor,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The penalty, weight included.

        Args:
            critic: The critic, or any function of a batch.
            real: Real samples.
            fake: As many generated samples.
            generator: Draws the points; torch's global one if left out.
        """
        check_samples(real, fake)
        if real.shape != fake.shape:
            raise ValueError(
                f"a point is drawn between each real and each fake sample: real {tuple(real.shape)} "
                f"and fake {tuple(fake.shape)} need one shape"
            )
        shape = (len(real), *[1] * (real.dim() - 1))
        epsilon = draw(torch.rand, shape, real.device, generator).to(real.dtype)
        points = epsilon * real + (1 - epsilon) * fake
        terms = [self._of_one(gradient) for gradient in input_gradients(critic, points)]
        return self.weight * combined(terms, self.combine)

    def _of_one(self, gradient: Tensor) -> Tensor:
        if self.one_sided:
            # Flat below the target, and so are all its derivatives; the norm's second one at 0 is NaN.
            squares = gradient.square().sum(1)
            outside = ~(squares.detach().sqrt() <= self.target)  # NaN is outside
            norm = torch.where(outside, squares, 1).sqrt()
            excess = torch.where(outside, norm - self.target, 0)
        else:
            # The norm's own derivative at 0 is 0 in torch; a root of a sum of squares gives NaN there.
            excess = torch.linalg.vector_norm(gradient, dim=1) - self.target
        return excess.square().mean()
