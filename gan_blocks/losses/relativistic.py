"""The relativistic pairing loss."""

from torch import Tensor, nn

from gan_blocks._math import combined, pairs_of_critics, softplus, two_sided
from gan_blocks.spec import block
from gan_blocks.types import ALL_FLOATS, Combine, Logits


@block(double_backward=True, compile=True, autocast=True, dtypes=ALL_FLOATS)
class RelativisticLoss(nn.Module):
    r"""The relativistic pairing loss (RpGAN), which R3GAN trains with.

    Each real sample is compared with one generated sample. For real logits $r_i$ and fake logits
    $f_i$ both sides minimise

    $$L_D = \tfrac1n \sum_i \zeta(-(r_i - f_i)), \qquad L_G = \tfrac1n \sum_i \zeta(-(f_i - r_i)),$$

    where $\zeta(x) = \log(1 + e^x)$ is the softplus. A decision boundary has to lie beside each real
    sample, so dropping a mode costs. Adding a constant to the critic changes nothing. This is the
    non-saturating form that R3GAN's code trains with; its paper prints the zero-sum one.

    In the generator's step pass the logits of real samples too.

    Args:
        combine: How several sub-discriminators are combined.

    Shape:
        Real and fake logits of one shape, any; or lists of such tensors. The result is a scalar of
        at least float32.

    Raises:
        ValueError: If the shapes differ, logits are empty, or the generator's side gets no real
            logits.
        TypeError: If logits are not floating point.

    Example:
        >>> import torch
        >>> loss = RelativisticLoss()
        >>> real, fake = torch.tensor([2.0, 5.0]), torch.tensor([0.0, 3.0])
        >>> loss.discriminator(real, fake)
        tensor(0.1269)
        >>> loss.generator(fake, real)
        tensor(2.1269)

    Reference:
        Jolicoeur-Martineau, "The relativistic discriminator", 2018, arXiv:1807.00734, section 4;
        Huang et al., "The GAN is dead; long live the GAN! A Modern GAN Baseline", 2024,
        arXiv:2501.05441, section 2.1.
    """

    def __init__(self, combine: Combine = "sum") -> None:
        super().__init__()
        self.combine: Combine = combine

    def discriminator(self, real_logits: Logits, fake_logits: Logits) -> Tensor:
        """The discriminator's loss."""
        pairs = pairs_of_critics(real_logits, fake_logits, paired=True)
        return combined([softplus(f - r).mean() for r, f in pairs], self.combine)

    def generator(self, fake_logits: Logits, real_logits: Logits | None = None) -> Tensor:
        """The generator's loss; needs the real logits."""
        pairs = pairs_of_critics(real_logits, fake_logits, paired=True)
        return combined([softplus(r - f).mean() for r, f in pairs], self.combine)

    forward = two_sided
