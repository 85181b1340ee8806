"""R1 and R2 without a second derivative."""

import torch
from torch import Tensor, nn

from gan_blocks._checks import check_generator, check_tensor, warn_caller
from gan_blocks._input_gradient import check_critic, check_samples, logits_of_each
from gan_blocks._logits import combined, squared_differences, sub_critics
from gan_blocks.distributed import draw
from gan_blocks.precision import at_least_float32, without_autocast
from gan_blocks.spec import block
from gan_blocks.types import Combine, Critic, Logits, NonNegativeFloat, PositiveFloat

_COARSE = 0.05
"""Some steps of bfloat16 between 1 and 2, which are 0.008 apart."""


class _Approximation(nn.Module):
    def __init__(self, weight: float, sigma: float, combine: Combine) -> None:
        super().__init__()
        self.weight = weight
        self.sigma = sigma
        self.combine: Combine = combine

    def perturbed(self, x: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        r"""Return $x + \sigma\varepsilon$, to be judged beside $x$; `generator` draws the noise."""
        check_tensor("x", x, ("N", ...), empty=False)
        noise = draw(torch.randn, x.shape, x.device, generator)
        wide = noise.to(at_least_float32(x).dtype)
        return x.detach() + (self.sigma * wide).to(x.dtype)

    def from_logits(self, logits: Logits, perturbed_logits: Logits) -> Tensor:
        """The penalty from logits that the loss has already computed, which saves a forward.

        Args:
            logits: The critic's output on the samples, with gradient.
            perturbed_logits: Its output on the perturbed ones, with gradient too.

        Raises:
            ValueError: If the shapes differ, or, with gradients enabled, one of them requires none.
        """
        _check_gradients(logits, perturbed_logits)
        terms = squared_differences("logits", logits, "perturbed_logits", perturbed_logits)
        return self.weight * combined(terms, self.combine)

    def _penalty(
        self, critic: Critic, name: str, x: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        check_critic(critic)
        check_samples(name, x)
        check_generator(generator)
        if x.dtype == torch.bfloat16 and self.sigma < _COARSE and not torch.compiler.is_compiling():
            warn_caller(
                f"{name} is bfloat16, in which noise of sigma={self.sigma} drowns in the rounding of "
                f"the samples and the logits: use float32 samples, or a sigma of {_COARSE} or more"
            )
        # The difference of two logits is small, so the critic runs in float32.
        with without_autocast(x):
            x = x.detach().float() if x.dtype == torch.float16 else x.detach()
            # The critic gets a copy, since a layer may work in place on it.
            logits = logits_of_each(critic(x.clone()), x)
            perturbed_logits = logits_of_each(critic(self.perturbed(x, generator=generator)), x)
        return self.from_logits(logits, perturbed_logits)


def _check_gradients(*sides: Logits) -> None:
    """A side without gradient turns the direction of the other, and two of them train nothing."""
    if torch.is_grad_enabled():
        for name, logits in zip(("logits", "perturbed_logits"), sides, strict=True):
            if not any(x.requires_grad for x in sub_critics(name, logits)):
                raise ValueError(
                    f"the critic's output, {name}, should carry a gradient, or the penalty does "
                    "not train the critic: is something detached, or computed under no_grad, inside the "
                    "critic, or is the critic frozen? Use torch.no_grad to look at the value only"
                )


@block(
    double_backward=True,
    compile=True,
    autocast=True,
    distributed=True,
    dtypes=("bfloat16", "float32", "float64"),
)
class ApproximateR1Penalty(_Approximation):
    r"""R1 by finite differences, for critics that cannot be differentiated twice.

    $$\lambda\, \mathbb{E}_{x \sim p,\, \varepsilon \sim N(0, I)}
      \left(D(x) - D(x + \sigma\varepsilon)\right)^2.$$

    For a critic with one logit it is on average, at small $\sigma$, the
    [`R1Penalty`][gan_blocks.R1Penalty] with $\gamma = 2\lambda\sigma^2$, and exactly so if the critic
    is linear. (Of several logits this one is the mean, where R1 differentiates their sum.) It needs
    first derivatives only: fused attention and sharded or compiled critics work. **Both** logits carry
    the gradient; without it on one of them the direction is wrong. Under autocast
    the critic runs in float32, since half precision loses the difference in the rounding of the logits.
    For the same reason float16 samples are refused without autocast, and bfloat16 ones draw a warning if
    $\sigma$ is small. Dropout in the critic draws anew and drowns the difference.

    Args:
        weight: $\lambda$.
        sigma: $\sigma$, in the unit of the samples; the paper has 0.01 for images and 0.1 for video.
        combine: How the penalties of several sub-discriminators are combined.

    Shape:
        Samples of shape `(N, ...)`; the critic maps them to logits of any shape, over which the mean
        is taken, or to a list of such tensors, one for each sub-discriminator. The result is a scalar
        of at least float32.

    Raises:
        ValueError: If the samples are empty; if the critic's output is not logits of each sample, or,
            with gradients enabled, requires no gradient; or if the shapes of the logits differ.
        TypeError: If the samples are not floating point, the critic returns a tuple, or `generator` is
            not a `torch.Generator`.

    Example:
        >>> import torch
        >>> from gan_blocks import MLPDiscriminator
        >>> critic, penalty = MLPDiscriminator((2,)), ApproximateR1Penalty()
        >>> real = torch.randn(8, 2)
        >>> value = penalty(critic, real)

        Without a second forward on the samples, inside a training step:

        >>> logits = critic(real)
        >>> value = penalty.from_logits(logits, critic(penalty.perturbed(real)))

    Reference:
        Lin et al., "Diffusion Adversarial Post-Training for One-Step Video Generation" (APT), 2025,
        arXiv:2501.08316, section 3.4.
    """

    def __init__(
        self,
        weight: NonNegativeFloat = 100.0,
        sigma: PositiveFloat = 0.01,
        combine: Combine = "sum",
    ) -> None:
        super().__init__(weight, sigma, combine)

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
            generator: Draws the noise; torch's global one if left out.
        """
        return self._penalty(critic, "real", real, generator)


@block(
    double_backward=True,
    compile=True,
    autocast=True,
    distributed=True,
    dtypes=("bfloat16", "float32", "float64"),
)
class ApproximateR2Penalty(_Approximation):
    r"""R2 by finite differences, for critics that cannot be differentiated twice.

    $$\lambda\, \mathbb{E}_{z,\, \varepsilon \sim N(0, I)}
      \left(D(G(z)) - D(G(z) + \sigma\varepsilon)\right)^2.$$

    As [`ApproximateR1Penalty`][gan_blocks.ApproximateR1Penalty], at generated samples; they are
    detached, so it trains the critic only.

    Args:
        weight: $\lambda$.
        sigma: $\sigma$, in the unit of the samples.
        combine: How the penalties of several sub-discriminators are combined.

    Shape:
        Samples of shape `(N, ...)`; the critic maps them to logits of any shape, over which the mean
        is taken, or to a list of such tensors, one for each sub-discriminator. The result is a scalar
        of at least float32.

    Raises:
        ValueError: If the samples are empty; if the critic's output is not logits of each sample, or,
            with gradients enabled, requires no gradient; or if the shapes of the logits differ.
        TypeError: If the samples are not floating point, the critic returns a tuple, or `generator` is
            not a `torch.Generator`.

    Example:
        >>> import torch
        >>> from gan_blocks import MLPDiscriminator
        >>> critic, penalty = MLPDiscriminator((2,)), ApproximateR2Penalty()
        >>> value = penalty(critic, None, torch.randn(8, 2))

    Reference:
        Lin et al., "Diffusion Adversarial Post-Training for One-Step Video Generation" (APT), 2025,
        arXiv:2501.08316, section 3.4, at the generated samples.
    """

    def __init__(
        self,
        weight: NonNegativeFloat = 100.0,
        sigma: PositiveFloat = 0.01,
        combine: Combine = "sum",
    ) -> None:
        super().__init__(weight, sigma, combine)

    def forward(
        self,
        critic: Critic,
        real: Tensor | None,
        fake: Tensor,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The penalty, weight included.

        Args:
            critic: The critic, or any function of a batch.
            real: Not used.
            fake: Generated samples.
            generator: Draws the noise; torch's global one if left out.
        """
        return self._penalty(critic, "fake", fake, generator)
