"""The relativistic pairing loss."""

from torch import Tensor, nn

from gan_blocks._logits import (
    COMPARISONS,
    combined,
    discriminator_pairs,
    generator_pairs,
    two_sided,
)
from gan_blocks.spec import block
from gan_blocks.types import ALL_FLOATS, Combine, Comparison, Logits


@block(double_backward=True, compile=True, autocast=True, distributed=True, dtypes=ALL_FLOATS)
class RelativisticLoss(nn.Module):
    r"""The relativistic pairing loss (RpGAN), which R3GAN trains with.

    Each real sample is compared with one generated sample. For real logits $r_i$ and fake logits
    $f_i$ both sides minimise

    $$L_D = \tfrac1n \sum_i \phi(r_i - f_i), \qquad L_G = \tfrac1n \sum_i \phi(f_i - r_i),$$

    $$\phi(d) = \log(1 + e^{-d}) \text{ (softplus)}, \quad (d - 1)^2 \text{ (least squares)}, \quad
      \max(0, 1 - d) \text{ (hinge)}.$$

    A decision boundary has to lie beside each real sample, so dropping a mode costs. Adding a constant
    to the critic changes nothing. This is the non-saturating form that R3GAN's code trains with; its
    paper prints the zero-sum one.

    In the generator's step pass the logits of real samples too.

    Args:
        comparison: $\phi$.
        combine: How several sub-discriminators are combined.

    Shape:
        Real and fake logits of one shape, any; or lists of such tensors. The result is a scalar of
        at least float32.

    Raises:
        ValueError: If the shapes differ, logits are empty, or the generator's side gets no real
            logits.
        TypeError: If logits are not floating point, or are a tuple.

    Warns:
        UserWarning: If gradients are on and no logit that is trained requires one; or, with softplus,
            if the critic ends in a sigmoid.

    Example:
        >>> import torch
        >>> loss = RelativisticLoss()
        >>> real, fake = torch.tensor([2.0, 5.0]), torch.tensor([0.0, 3.0])
        >>> with torch.no_grad():  # the value only
        ...     loss.discriminator(real, fake)
        ...     loss.generator(fake, real_logits=real)
        tensor(0.1269)
        tensor(2.1269)

    Reference:
        Jolicoeur-Martineau, "The relativistic discriminator", 2018, arXiv:1807.00734, section 4;
        Huang et al., "The GAN is dead; long live the GAN! A Modern GAN Baseline", 2024,
        arXiv:2501.05441, section 2.1.
    """

    def __init__(self, comparison: Comparison = "softplus", combine: Combine = "sum") -> None:
        super().__init__()
        self.comparison: Comparison = comparison
        self.combine: Combine = combine

    def discriminator(self, real_logits: Logits, fake_logits: Logits) -> Tensor:
        """The discriminator's loss."""
        pairs = discriminator_pairs(
            self, real_logits, fake_logits, paired=True, unbounded=self.comparison == "softplus"
        )
        phi = COMPARISONS[self.comparison]
        return combined([phi(r - f) for r, f in pairs], self.combine)

    def generator(self, fake_logits: Logits, *, real_logits: Logits) -> Tensor:
        """The generator's loss; needs the real logits."""
        pairs = generator_pairs(
            self, fake_logits, real_logits, paired=True, unbounded=self.comparison == "softplus"
        )
        phi = COMPARISONS[self.comparison]
        return combined([phi(f - r) for f, r in pairs], self.combine)

    def optimal_critic(self, log_ratio: Tensor) -> Tensor:
        r"""$\log(p/q)$, up to a constant, at which the loss is $\log 2 - \mathrm{JSD}(pq, qp)$.

        $pq$ and $qp$ are the distributions of a real beside a generated sample, in the two orders.

        Args:
            log_ratio: $\log(p/q)$, of any shape; infinite where one density is 0.

        Raises:
            NotImplementedError: With another comparison than softplus the optimum depends on more
                than the ratio at each point.
        """
        if self.comparison != "softplus":
            raise NotImplementedError(
                f"with {self.comparison} the optimum at a point depends on the whole distributions"
            )
        return log_ratio

    forward = two_sided
