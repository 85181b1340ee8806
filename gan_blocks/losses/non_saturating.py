"""The loss that GANs are trained with by default."""

from torch import Tensor, nn

from gan_blocks._math import combined, pairs_of_critics, softplus, sub_critics, two_sided
from gan_blocks.spec import block
from gan_blocks.types import ALL_FLOATS, Combine, Logits, PositiveProbability


@block(double_backward=True, compile=True, autocast=True, dtypes=ALL_FLOATS)
class NonSaturatingLoss(nn.Module):
    r"""The non-saturating GAN loss, with one-sided label smoothing.

    For real logits $r$ and fake logits $f$ both sides minimise

    $$L_D = \mathbb{E}[\alpha\,\zeta(-r) + (1-\alpha)\,\zeta(r)] + \mathbb{E}\,\zeta(f),
      \qquad L_G = -\mathbb{E}\log\sigma(f) = \mathbb{E}\,\zeta(-f),$$

    where $\zeta(x) = \log(1 + e^x)$ is the softplus and $\alpha$ the probability that real samples
    are asked to have. The generator's gradient $-(1 - \sigma(f))$ is largest when the discriminator
    wins. With $\alpha < 1$ the optimum is $D^* = \alpha p/(p+q)$, the discriminator is no longer paid
    for extreme confidence, and the least possible loss is the entropy of a coin of bias $\alpha$.

    Args:
        real_target: $\alpha$; 1 is no smoothing, Salimans et al. use 0.9.
        combine: How several sub-discriminators are combined.

    Shape:
        Logits of any shape, or a list of such tensors; the batch sizes of real and fake may differ.
        The result is a scalar of at least float32.

    Raises:
        ValueError: If logits are empty, or differ in more than the batch size.
        TypeError: If logits are not floating point.

    Example:
        >>> import torch
        >>> loss = NonSaturatingLoss(real_target=0.9)
        >>> loss.discriminator(torch.full((8,), 2.0), torch.full((8,), -2.0))
        tensor(0.4539)
        >>> loss.generator(torch.full((8,), -2.0))
        tensor(2.1269)

    Reference:
        Goodfellow et al., "Generative Adversarial Nets", 2014, arXiv:1406.2661, section 3; smoothing:
        Salimans et al., "Improved Techniques for Training GANs", 2016, arXiv:1606.03498, section 3.4.
    """

    def __init__(self, real_target: PositiveProbability = 1.0, combine: Combine = "sum") -> None:
        super().__init__()
        self.real_target = real_target
        self.combine: Combine = combine

    def discriminator(self, real_logits: Logits, fake_logits: Logits) -> Tensor:
        """The discriminator's loss."""
        # softplus(r) = softplus(-r) + r turns the real side into one softplus.
        terms = [
            (softplus(-r) + (1 - self.real_target) * r).mean() + softplus(f).mean()
            for r, f in pairs_of_critics(real_logits, fake_logits)
        ]
        return combined(terms, self.combine)

    def generator(self, fake_logits: Logits, real_logits: Logits | None = None) -> Tensor:
        """The generator's loss; real logits are not used."""
        terms = [softplus(-f).mean() for f in sub_critics("fake_logits", fake_logits)]
        return combined(terms, self.combine)

    forward = two_sided
