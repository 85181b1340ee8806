"""Instance noise."""

import torch
from torch import Tensor

from gan_blocks._checks import check_tensor
from gan_blocks.authoring import Clocked
from gan_blocks.distributed import draw
from gan_blocks.lipschitz import lipschitz_rule
from gan_blocks.spec import block
from gan_blocks.types import ALL_FLOATS, NonNegativeFloat, NonNegativeInt


@block(double_backward=True, compile=True, autocast=True, distributed=True, dtypes=ALL_FLOATS)
class GaussianNoise(Clocked):
    r"""Adds Gaussian noise to the discriminator's input during training.

    $$y = x + \sigma_t\, \varepsilon, \qquad \varepsilon \sim N(0, I), \qquad
      \sigma_t = \sigma \max(0, 1 - t/T).$$

    Noise on real and generated samples alike ("instance noise") makes the two distributions overlap, so
    that the optimal discriminator is finite and its gradient useful; with a logistic loss it damps the
    Dirac-GAN. $t$ counts optimizer steps: call [`follow`][gan_blocks.follow]`(optimizer, critic)` once,
    with the critic that holds the layer, or `noise.step()` after each step.

    Args:
        std: $\sigma$ at the start, in the unit of the samples.
        anneal_steps: $T$, the number of steps after which the noise is 0; with 0 it stays at $\sigma$.
        device: Where the buffer is made.

    Shape:
        Any, to the same. In evaluation mode the input itself.

    Raises:
        TypeError: If the samples are not floating point.

    Example:
        >>> import torch
        >>> noise = GaussianNoise(0.5, anneal_steps=100)
        >>> images = torch.zeros(2, 1, 64, 64)
        >>> bool(0.45 < noise(images).std() < 0.55)
        True
        >>> for _ in range(50):
        ...     noise.step()
        >>> bool(0.2 < noise(images).std() < 0.3)
        True

    Reference:
        Sønderby et al., "Amortised MAP Inference for Image Super-resolution", 2017, arXiv:1610.04490,
        section 3.4; Arjovsky and Bottou, "Towards Principled Methods for Training Generative
        Adversarial Networks", 2017, arXiv:1701.04862, section 3; its effect: Mescheder, Geiger and
        Nowozin, 2018, arXiv:1801.04406, section 3.2.
    """

    def __init__(
        self,
        std: NonNegativeFloat = 0.1,
        anneal_steps: NonNegativeInt = 0,
        *,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(device=device)
        self.std = std
        self.anneal_steps = anneal_steps

    def current_std(self, dtype: torch.dtype = torch.float32) -> Tensor:
        r"""Return $\sigma_t$."""
        left = torch.ones_like(self.step_count)
        if self.anneal_steps:
            left = 1 - self.step_count / self.anneal_steps
        return self.std * left.clamp(min=0).to(dtype)

    def forward(self, x: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """The samples with noise; `generator` draws it, torch's own if left out."""
        check_tensor("x", x, of=self)
        if not self.training:
            return x
        if self.anneal_steps:
            self.note_forward()
        noise = draw(torch.randn, x.shape, x.device, generator, x.dtype)
        return x + self.current_std(x.dtype) * noise


@lipschitz_rule(GaussianNoise)
def _without_noise(module: GaussianNoise, input_shape: tuple[int, ...]) -> float:
    if module.training:
        raise TypeError("GaussianNoise in training mode is random: call eval() for a bound")
    return 1.0
