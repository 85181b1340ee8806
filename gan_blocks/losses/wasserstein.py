"""The Wasserstein loss."""

from torch import Tensor, nn

from gan_blocks._logits import combined, discriminator_pairs, generator_logits, two_sided
from gan_blocks.spec import block
from gan_blocks.types import ALL_FLOATS, Combine, Logits


@block(double_backward=True, compile=True, autocast=True, distributed=True, dtypes=ALL_FLOATS)
class WassersteinLoss(nn.Module):
    r"""The Wasserstein GAN loss.

    For real critic values $r$ and fake ones $f$ both sides minimise

    $$L_D = \mathbb{E} f - \mathbb{E} r, \qquad L_G = -\mathbb{E} f.$$

    Over all critics that are 1-Lipschitz the least $L_D$ is $-W_1(p, q)$; over $K$-Lipschitz ones it
    is $-K\,W_1$. The loss does not keep the critic Lipschitz: add a
    [`GradientPenalty`][gan_blocks.GradientPenalty], or use a
    [`WeightClipper`][gan_blocks.WeightClipper] after every critic step. Adding a constant to the
    critic changes nothing.

    Args:
        combine: How several sub-discriminators are combined.

    Shape:
        Critic values of any shape, or a list of such tensors; the batch sizes of real and fake may
        differ. The result is a scalar of at least float32.

    Raises:
        ValueError: If the values are empty, or differ in more than the batch size.
        TypeError: If they are not floating point, or are a tuple.

    Warns:
        UserWarning: If gradients are on and no logit that is trained requires one.

    Example:
        >>> import torch
        >>> loss = WassersteinLoss()
        >>> with torch.no_grad():  # the value only
        ...     loss.discriminator(torch.tensor([3.0, 1.0]), torch.tensor([-1.0, 0.0]))
        ...     loss.generator(torch.tensor([-1.0, 0.0]))
        tensor(-2.5000)
        tensor(0.5000)

    Reference:
        Arjovsky, Chintala and Bottou, "Wasserstein GAN", 2017, arXiv:1701.07875, algorithm 1.
    """

    def __init__(self, combine: Combine = "sum") -> None:
        super().__init__()
        self.combine: Combine = combine

    def discriminator(self, real_logits: Logits, fake_logits: Logits) -> Tensor:
        """The critic's loss."""
        terms = [
            f.mean() - r.mean() for r, f in discriminator_pairs(self, real_logits, fake_logits)
        ]
        return combined(terms, self.combine)

    def generator(self, fake_logits: Logits, *, real_logits: Logits | None = None) -> Tensor:
        """The generator's loss; real values are not used."""
        terms = [-f.mean() for f in generator_logits(self, fake_logits)]
        return combined(terms, self.combine)

    forward = two_sided
