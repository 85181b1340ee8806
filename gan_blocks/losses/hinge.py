"""The hinge loss."""

from torch import Tensor, nn

from gan_blocks._logits import combined, discriminator_pairs, generator_logits, two_sided
from gan_blocks.spec import block
from gan_blocks.types import ALL_FLOATS, Combine, Logits, PositiveFloat


@block(double_backward=True, compile=True, autocast=True, distributed=True, dtypes=ALL_FLOATS)
class HingeLoss(nn.Module):
    r"""The hinge GAN loss.

    For real critic values $r$ and fake ones $f$ both sides minimise

    $$L_D = \mathbb{E}\max(0, 1 - r) + \mathbb{E}\max(0, 1 + f), \qquad L_G = -\mathbb{E} f.$$

    A sample on the right side of its margin gives the critic no gradient. The optimum is
    $D^* = \mathrm{sign}(p - q)$ with loss $2 - 2\,\mathrm{TV}(p, q)$.

    Args:
        discriminator_scale: Factor of $L_D$; VQGAN and latent diffusion have 0.5.
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
        >>> loss = HingeLoss()
        >>> with torch.no_grad():  # the value only
        ...     loss.discriminator(torch.tensor([0.5, 3.0]), torch.tensor([-1.0, 0.0]))
        ...     loss.generator(torch.tensor([-1.0, 0.0]))
        tensor(0.7500)
        tensor(0.5000)

    Reference:
        Lim and Ye, "Geometric GAN", 2017, arXiv:1705.02894; Miyato et al., "Spectral Normalization
        for GANs", 2018, arXiv:1802.05957, equations 16 and 17.
    """

    def __init__(self, discriminator_scale: PositiveFloat = 1.0, combine: Combine = "sum") -> None:
        super().__init__()
        self.discriminator_scale = discriminator_scale
        self.combine: Combine = combine

    def discriminator(self, real_logits: Logits, fake_logits: Logits) -> Tensor:
        """The critic's loss."""
        terms = [
            (1 - r).relu().mean() + (1 + f).relu().mean()
            for r, f in discriminator_pairs(self, real_logits, fake_logits)
        ]
        return self.discriminator_scale * combined(terms, self.combine)

    def generator(self, fake_logits: Logits, *, real_logits: Logits | None = None) -> Tensor:
        """The generator's loss; real values are not used."""
        terms = [-f.mean() for f in generator_logits(self, fake_logits)]
        return combined(terms, self.combine)

    def optimal_critic(self, log_ratio: Tensor) -> Tensor:
        r"""$D^* = \mathrm{sign}(p - q)$.

        Args:
            log_ratio: $\log(p/q)$, of any shape; infinite where one density is 0.
        """
        return log_ratio.sign()

    forward = two_sided
