"""The exponential loss."""

from torch import Tensor, nn

from gan_blocks import block
from gan_blocks.authoring import check_tensor
from gan_blocks.types import PositiveFloat


@block(double_backward=True, compile=True)
class ExponentialLoss(nn.Module):
    r"""The exponential loss of boosting as a GAN loss.

    For real critic values $r$ and fake ones $f$ both sides minimise

    $$L_D = \mathbb{E}\,e^{-r/\tau} + \mathbb{E}\,e^{f/\tau}, \qquad
      L_G = \mathbb{E}\,e^{-f/\tau}.$$

    The optimum is $D^* = \tfrac{\tau}{2} \log(p/q)$, with loss $2 \int \sqrt{pq}$.

    Args:
        temperature: $\tau$, the scale of the critic's values.

    Shape:
        Critic values of any shape; the result is a scalar.

    Raises:
        TypeError: If critic values are not a floating-point tensor.
        ValueError: If there are none.

    Example:
        >>> import torch
        >>> ExponentialLoss().discriminator(torch.ones(8), -torch.ones(8))
        tensor(0.7358)

    Reference:
        Friedman, Hastie and Tibshirani, "Additive logistic regression: a statistical view of
        boosting", 2000, doi:10.1214/aos/1016218223, section 4.
    """

    def __init__(self, temperature: PositiveFloat = 1.0) -> None:
        super().__init__()
        self.temperature = temperature

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """The critic's loss."""
        r, f = self.scaled("real_logits", real_logits), self.scaled("fake_logits", fake_logits)
        return (-r).exp().mean() + f.exp().mean()

    def generator(self, fake_logits: Tensor, *, real_logits: Tensor | None = None) -> Tensor:
        """The generator's loss."""
        return (-self.scaled("fake_logits", fake_logits)).exp().mean()

    def scaled(self, name: str, logits: Tensor) -> Tensor:
        """Refuse what is not a tensor of logits by its name, before anything is computed."""
        check_tensor(name, logits, empty=False)
        return logits / self.temperature
