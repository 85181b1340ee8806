"""The relativistic average loss."""

from torch import Tensor, nn

from gan_blocks._logits import (
    COMPARISONS,
    combined,
    discriminator_pairs,
    generator_pairs,
    two_sided,
)
from gan_blocks.distributed import mean
from gan_blocks.spec import block
from gan_blocks.types import ALL_FLOATS, Combine, Comparison, Logits, PositiveFloat


@block(
    double_backward=True,
    compile=True,
    autocast=True,
    distributed=True,
    batch_dependent="each logit is compared with the mean logit of the other batch",
    dtypes=ALL_FLOATS,
)
class RelativisticAverageLoss(nn.Module):
    r"""The relativistic average loss (RaGAN), which ESRGAN trains with.

    Each sample is compared with the mean of the other side. For real logits $r$ and fake ones $f$
    both sides minimise

    $$L_D = s_D \left[\mathbb{E}\,\phi(r - \mathbb{E} f) + \mathbb{E}\,\phi(\mathbb{E} r - f)\right],
      \qquad
      L_G = s_G \left[\mathbb{E}\,\phi(f - \mathbb{E} r) + \mathbb{E}\,\phi(\mathbb{E} f - r)\right],$$

    $$\phi(d) = \log(1 + e^{-d}) \text{ (softplus)}, \quad (d - 1)^2 \text{ (least squares)}, \quad
      \max(0, 1 - d) \text{ (hinge)}.$$

    The means are over the whole batch, and their gradient counts: the generator learns from both
    terms. In a run of several processes the batch is that of all of them. Adding a constant to the
    critic changes nothing.

    In the generator's step pass the logits of real samples too.

    Args:
        comparison: $\phi$.
        discriminator_scale: $s_D$; 1 in the paper, 0.5 in its author's code and in ESRGAN's.
        generator_scale: $s_G$; likewise.
        combine: How several sub-discriminators are combined.

    Shape:
        Logits of any shape, or a list of such tensors; the batch sizes of real and fake may differ.
        The result is a scalar of at least float32.

    Raises:
        ValueError: If logits are empty, differ in more than the batch size, or the generator's side
            gets no real logits.
        TypeError: If logits are not floating point, or are a tuple.

    Warns:
        UserWarning: If gradients are on and no logit that is trained requires one; or, with softplus,
            if the critic ends in a sigmoid.

    Example:
        >>> import torch
        >>> loss = RelativisticAverageLoss()
        >>> real, fake = torch.tensor([2.0, 4.0]), torch.tensor([0.0, 2.0])
        >>> with torch.no_grad():  # the value only
        ...     loss.discriminator(real, fake)
        ...     loss.generator(fake, real_logits=real)
        tensor(0.3618)
        tensor(4.3618)

    Reference:
        Jolicoeur-Martineau, "The relativistic discriminator", 2018, arXiv:1807.00734, section 4.2;
        Wang et al., "ESRGAN", 2018, arXiv:1809.00219, section 3.2.
    """

    def __init__(
        self,
        comparison: Comparison = "softplus",
        discriminator_scale: PositiveFloat = 1.0,
        generator_scale: PositiveFloat = 1.0,
        combine: Combine = "sum",
    ) -> None:
        super().__init__()
        self.comparison: Comparison = comparison
        self.discriminator_scale = discriminator_scale
        self.generator_scale = generator_scale
        self.combine: Combine = combine

    def _compared(self, pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
        """The better of each pair should exceed the mean of the worse, and the other way round."""
        phi = COMPARISONS[self.comparison]
        terms = [phi(b - mean(w)) + phi(mean(b) - w) for b, w in pairs]
        return combined(terms, self.combine)

    def discriminator(self, real_logits: Logits, fake_logits: Logits) -> Tensor:
        """The discriminator's loss."""
        pairs = discriminator_pairs(
            self, real_logits, fake_logits, unbounded=self.comparison == "softplus"
        )
        return self.discriminator_scale * self._compared(pairs)

    def generator(self, fake_logits: Logits, *, real_logits: Logits) -> Tensor:
        """The generator's loss; needs the real logits."""
        pairs = generator_pairs(
            self, fake_logits, real_logits, unbounded=self.comparison == "softplus"
        )
        return self.generator_scale * self._compared(pairs)

    forward = two_sided
