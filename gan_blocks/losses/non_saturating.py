"""The loss that GANs are trained with by default."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan_blocks._logits import combined, discriminator_pairs, generator_logits, two_sided
from gan_blocks._math import softplus
from gan_blocks.spec import block
from gan_blocks.types import (
    ALL_FLOATS,
    Combine,
    Logits,
    PositiveFloat,
    PositiveProbability,
    Probability,
)


@block(double_backward=True, compile=True, autocast=True, distributed=True, dtypes=ALL_FLOATS)
class NonSaturatingLoss(nn.Module):
    r"""The non-saturating GAN loss, with label smoothing.

    For real logits $r$ and fake logits $f$ both sides minimise

    $$L_D = \mathbb{E}[\alpha\,\zeta(-r) + (1-\alpha)\,\zeta(r)]
          + \mathbb{E}[\beta\,\zeta(-f) + (1-\beta)\,\zeta(f)],
      \qquad L_G = -\mathbb{E}\log\sigma(f) = \mathbb{E}\,\zeta(-f),$$

    where $\zeta(x) = \log(1 + e^x)$ is the softplus, and $\alpha$ and $\beta$ are the probabilities
    that real and generated samples are asked to have. The generator's gradient $-(1 - \sigma(f))$ is
    largest when the discriminator wins. The optimum is $D^* = (\alpha p + \beta q)/(p+q)$. With
    $\alpha < 1$ the discriminator is no longer paid for extreme confidence, and the least possible
    loss is the entropy of a coin of bias $\alpha$. With $\beta > 0$ too, two-sided smoothing, $D^*$
    is about $\beta$ wherever $p$ is about 0, and samples there have no reason to move; that is why
    Salimans et al. smooth one side only.

    Args:
        real_target: $\alpha$; 1 is no smoothing, Salimans et al. use 0.9.
        fake_target: $\beta$, less than $\alpha$; 0 is one-sided smoothing.
        discriminator_scale: Factor of $L_D$; pix2pix has 0.5.
        combine: How several sub-discriminators are combined.

    Shape:
        Logits of any shape, or a list of such tensors; the batch sizes of real and fake may differ.
        The result is a scalar of at least float32.

    Raises:
        ValueError: If `fake_target` is not below `real_target`; if logits are empty, or differ in
            more than the batch size.
        TypeError: If logits are not floating point, or are a tuple.

    Warns:
        UserWarning: If gradients are on and no logit that is trained requires one, or if the
            critic ends in a sigmoid.

    Example:
        >>> import torch
        >>> loss = NonSaturatingLoss(real_target=0.9)
        >>> with torch.no_grad():  # the value only
        ...     loss.discriminator(torch.full((8,), 2.0), torch.full((8,), -2.0))
        ...     loss.generator(torch.full((8,), -2.0))
        tensor(0.4539)
        tensor(2.1269)

    Reference:
        Goodfellow et al., "Generative Adversarial Nets", 2014, arXiv:1406.2661, section 3; smoothing:
        Salimans et al., "Improved Techniques for Training GANs", 2016, arXiv:1606.03498, section 3.4.
    """

    def __init__(
        self,
        real_target: PositiveProbability = 1.0,
        fake_target: Probability = 0.0,
        discriminator_scale: PositiveFloat = 1.0,
        combine: Combine = "sum",
    ) -> None:
        super().__init__()
        if fake_target >= real_target:
            raise ValueError(
                f"fake_target {fake_target} should be below real_target {real_target}, or the "
                "discriminator learns nothing or the reverse"
            )
        self.real_target = real_target
        self.fake_target = fake_target
        self.discriminator_scale = discriminator_scale
        self.combine: Combine = combine

    def discriminator(self, real_logits: Logits, fake_logits: Logits) -> Tensor:
        """The discriminator's loss."""
        terms = [
            softplus(-r).mean() + softplus(f).mean() + self._smoothing(r, f)
            for r, f in discriminator_pairs(self, real_logits, fake_logits, unbounded=True)
        ]
        return self.discriminator_scale * combined(terms, self.combine)

    def _smoothing(self, r: Tensor, f: Tensor) -> Tensor | float:
        """What the targets add: softplus(x) = softplus(-x) + x leaves one softplus on each side."""
        added: Tensor | float = 0.0
        if self.real_target < 1:
            added = added + (1 - self.real_target) * r.mean()
        if self.fake_target > 0:
            added = added - self.fake_target * f.mean()
        return added

    def generator(self, fake_logits: Logits, *, real_logits: Logits | None = None) -> Tensor:
        """The generator's loss; real logits are not used."""
        terms = [softplus(-f).mean() for f in generator_logits(self, fake_logits, unbounded=True)]
        return combined(terms, self.combine)

    def optimal_critic(self, log_ratio: Tensor) -> Tensor:
        r"""The logit of $D^* = (\alpha p + \beta q)/(p + q)$.

        Args:
            log_ratio: $\log(p/q)$, of any shape; infinite where one density is 0.
        """
        log_p, log_q = F.logsigmoid(log_ratio), F.logsigmoid(-log_ratio)  # of p/(p+q) and q/(p+q)

        def log_mean(a: float, b: float) -> Tensor:
            return torch.logaddexp(log_p + _log(a), log_q + _log(b))

        return log_mean(self.real_target, self.fake_target) - log_mean(
            1 - self.real_target, 1 - self.fake_target
        )

    forward = two_sided


def _log(x: float) -> float:
    return math.log(x) if x > 0 else -math.inf
