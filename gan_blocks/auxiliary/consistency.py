"""Consistency regularisation of the discriminator."""

from torch import Tensor, nn

from gan_blocks._logits import combined, squared_differences
from gan_blocks.spec import block
from gan_blocks.types import ALL_FLOATS, Combine, Logits, NonNegativeFloat


@block(
    double_backward=True,
    compile=True,
    autocast=True,
    distributed=True,
    side="critic",
    compares="augmented_logits",
    dtypes=ALL_FLOATS,
)
class ConsistencyRegularizer(nn.Module):
    r"""Asks the discriminator to judge a sample and its augmented copy alike.

    With an augmentation $T$ that keeps the meaning of a sample,

    $$\lambda\, \mathbb{E}_x \left(D(x) - D(T(x))\right)^2.$$

    Both logits carry the gradient, and it belongs to the discriminator's loss only. Consistency
    regularisation (CR) has the term of the real samples; the balanced one (bCR) adds that of the
    generated samples, in a second call, and so keeps the marks of $T$ out of the samples.

    Args:
        weight: $\lambda$; 10 in both papers, for either side.
        combine: How several sub-discriminators are combined.

    Shape:
        Two tensors of logits of one shape, or two lists of them. The result is a scalar of at least
        float32: the mean over samples, and over patches where there are some.

    Raises:
        ValueError: If the shapes differ, or logits are empty.

    Example:
        >>> import torch
        >>> from gan_blocks import ConsistencyRegularizer, DiffAugment, HingeLoss, PatchDiscriminator
        >>> critic = PatchDiscriminator(channels=1, width=4, depth=1)
        >>> consistency, augment = ConsistencyRegularizer(), DiffAugment()
        >>> real, fake = torch.rand(2, 4, 1, 16, 16)
        >>> real_logits, fake_logits = critic(real), critic(fake)
        >>> total = HingeLoss().discriminator(real_logits, fake_logits)
        >>> total = total + consistency(real_logits, critic(augment(real)))  # CR
        >>> total = total + consistency(fake_logits, critic(augment(fake)))  # bCR

    Reference:
        Zhang et al., "Consistency Regularization for Generative Adversarial Networks", 2020,
        arXiv:1910.12027, section 2.2; balanced: Zhao et al., "Improved Consistency Regularization for
        GANs", 2021, arXiv:2002.04724, section 2.1.
    """

    def __init__(self, weight: NonNegativeFloat = 10.0, combine: Combine = "sum") -> None:
        super().__init__()
        self.weight = weight
        self.combine: Combine = combine

    def forward(self, logits: Logits, augmented_logits: Logits) -> Tensor:
        """The regulariser, weight included.

        Args:
            logits: Of samples, real or generated ones; the latter detached from their generator.
            augmented_logits: Of the augmented copies, in the same order.
        """
        terms = squared_differences("logits", logits, "augmented_logits", augmented_logits)
        return self.weight * combined(terms, self.combine)
