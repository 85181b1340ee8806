"""The original game of Goodfellow et al."""

from torch import Tensor, nn

from gan_blocks._logits import combined, discriminator_pairs, generator_logits, two_sided
from gan_blocks._math import softplus
from gan_blocks.spec import block
from gan_blocks.types import ALL_FLOATS, Combine, Logits


@block(double_backward=True, compile=True, autocast=True, distributed=True, dtypes=ALL_FLOATS)
class MinimaxLoss(nn.Module):
    r"""The zero-sum game of the first GAN paper, on logits.

    With $D(x) = \sigma(r)$ on a real sample of logit $r$ and $D(G(z)) = \sigma(f)$ on a generated
    one, both sides minimise

    $$L_D = -\mathbb{E}\log D(x) - \mathbb{E}\log(1 - D(G(z)))
          = \mathbb{E}\,\zeta(-r) + \mathbb{E}\,\zeta(f), \qquad L_G = -\mathbb{E}\,\zeta(f),$$

    where $\zeta(x) = \log(1 + e^x)$ is the softplus. The optimal discriminator is
    $D^* = p/(p+q)$, and its loss there is $2 \log 2 - 2\,\mathrm{JSD}(p, q)$. The generator's
    gradient $-\sigma(f)$ vanishes when the discriminator wins; train with
    [`NonSaturatingLoss`][gan_blocks.NonSaturatingLoss].

    Args:
        combine: How several sub-discriminators are combined.

    Shape:
        Logits of any shape, or a list of such tensors; the batch sizes of real and fake may differ.
        The result is a scalar of at least float32.

    Raises:
        ValueError: If logits are empty, or differ in more than the batch size.
        TypeError: If logits are not floating point, or are a tuple.

    Warns:
        UserWarning: If gradients are on and no logit that is trained requires one, or if the
            critic ends in a sigmoid.

    Example:
        >>> import torch
        >>> loss = MinimaxLoss()
        >>> with torch.no_grad():  # the value only
        ...     loss.discriminator(torch.zeros(8), torch.zeros(8))
        ...     loss.generator(torch.zeros(8))
        tensor(1.3863)
        tensor(-0.6931)

    Reference:
        Goodfellow et al., "Generative Adversarial Nets", 2014, arXiv:1406.2661, equation 1.
    """

    def __init__(self, combine: Combine = "sum") -> None:
        super().__init__()
        self.combine: Combine = combine

    def discriminator(self, real_logits: Logits, fake_logits: Logits) -> Tensor:
        """The discriminator's loss."""
        terms = [
            softplus(-r).mean() + softplus(f).mean()
            for r, f in discriminator_pairs(self, real_logits, fake_logits, unbounded=True)
        ]
        return combined(terms, self.combine)

    def generator(self, fake_logits: Logits, *, real_logits: Logits | None = None) -> Tensor:
        """The generator's loss; real logits are not used."""
        terms = [-softplus(f).mean() for f in generator_logits(self, fake_logits, unbounded=True)]
        return combined(terms, self.combine)

    def optimal_critic(self, log_ratio: Tensor) -> Tensor:
        r"""The logit of $D^* = p/(p+q)$.

        Args:
            log_ratio: $\log(p/q)$, of any shape; infinite where one density is 0.
        """
        return log_ratio

    forward = two_sided
