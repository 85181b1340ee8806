"""LSGAN."""

from torch import Tensor, nn

from gan_blocks._logits import (
    combined,
    discriminator_pairs,
    generator_logits,
    squared_error,
    two_sided,
)
from gan_blocks.spec import block
from gan_blocks.types import ALL_FLOATS, Combine, Logits, PositiveFloat


@block(double_backward=True, compile=True, autocast=True, distributed=True, dtypes=ALL_FLOATS)
class LeastSquaresLoss(nn.Module):
    r"""The least-squares GAN loss.

    For real critic values $r$ and fake ones $f$ both sides minimise

    $$L_D = s_D \left[\mathbb{E}(r - b)^2 + \mathbb{E}(f - a)^2\right],
      \qquad L_G = s_G\, \mathbb{E}(f - c)^2,$$

    where $a$, $b$ and $c$ are the fake, real and generator targets. The factors $s_D$ and $s_G$ are
    $\tfrac12$ in the paper, 1 in vocoders such as HiFi-GAN, and $\tfrac12$ and 1 in CycleGAN. The
    optimum is $D^* = (b p + a q)/(p + q)$. If $b - c = 1$ and $b - a = 2$, as with
    $(a, b, c) = (-1, 1, 0)$, and $s_G = \tfrac12$, there
    $L_G + \tfrac12\,\mathbb{E}(r - c)^2 = \tfrac12 \int (p - q)^2/(p + q)$, half the Pearson divergence
    of $2q$ from $p + q$; the added term has no gradient for the generator.

    Args:
        fake_target: $a$.
        real_target: $b$.
        generator_target: $c$.
        discriminator_scale: $s_D$.
        generator_scale: $s_G$.
        combine: How several sub-discriminators are combined.

    Shape:
        Critic values of any shape, or a list of such tensors; the batch sizes of real and fake may
        differ. The result is a scalar of at least float32.

    Raises:
        ValueError: If `fake_target` equals `real_target`; if the values are empty, or differ in more
            than the batch size.
        TypeError: If they are not floating point, or are a tuple.

    Warns:
        UserWarning: If gradients are on and no logit that is trained requires one.

    Example:
        >>> import torch
        >>> loss = LeastSquaresLoss()
        >>> with torch.no_grad():  # the value only
        ...     loss.discriminator(torch.ones(8), torch.full((8,), 0.5))
        ...     loss.generator(torch.full((8,), 0.5))
        tensor(0.1250)
        tensor(0.1250)

    Reference:
        Mao et al., "Least Squares Generative Adversarial Networks", 2017, arXiv:1611.04076,
        equations 2 and 9.
    """

    def __init__(
        self,
        fake_target: float = 0.0,
        real_target: float = 1.0,
        generator_target: float = 1.0,
        discriminator_scale: PositiveFloat = 0.5,
        generator_scale: PositiveFloat = 0.5,
        combine: Combine = "sum",
    ) -> None:
        super().__init__()
        if fake_target == real_target:
            raise ValueError(
                "fake_target and real_target are equal, so there is nothing to tell apart"
            )
        self.fake_target = fake_target
        self.real_target = real_target
        self.generator_target = generator_target
        self.discriminator_scale = discriminator_scale
        self.generator_scale = generator_scale
        self.combine: Combine = combine

    def discriminator(self, real_logits: Logits, fake_logits: Logits) -> Tensor:
        """The discriminator's loss."""
        terms = [
            squared_error(r, self.real_target) + squared_error(f, self.fake_target)
            for r, f in discriminator_pairs(self, real_logits, fake_logits)
        ]
        return self.discriminator_scale * combined(terms, self.combine)

    def generator(self, fake_logits: Logits, *, real_logits: Logits | None = None) -> Tensor:
        """The generator's loss; real logits are not used."""
        terms = [
            squared_error(f, self.generator_target) for f in generator_logits(self, fake_logits)
        ]
        return self.generator_scale * combined(terms, self.combine)

    def optimal_critic(self, log_ratio: Tensor) -> Tensor:
        r"""$D^* = (b p + a q)/(p + q)$.

        Args:
            log_ratio: $\log(p/q)$, of any shape; infinite where one density is 0.
        """
        return self.fake_target + (self.real_target - self.fake_target) * log_ratio.sigmoid()

    forward = two_sided
