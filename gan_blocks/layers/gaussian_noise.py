"""Instance noise."""

import torch
from torch import Tensor, nn

from gan_blocks.distributed import draw
from gan_blocks.lipschitz import lipschitz_rule
from gan_blocks.spec import block
from gan_blocks.types import ALL_FLOATS, NonNegativeFloat, NonNegativeInt


@block(double_backward=True, compile=True, autocast=True, distributed=True, dtypes=ALL_FLOATS)
class GaussianNoise(nn.Module):
    r"""Adds noise to what a discriminator sees, while it trains.

    $$y = x + \sigma_t\, \varepsilon, \qquad \varepsilon \sim N(0, I), \qquad
      \sigma_t = \sigma \max(0, 1 - t/T).$$

    Noise on real and generated samples alike ("instance noise") makes the two distributions overlap,
    so that the optimal discriminator is finite and its gradient useful; with a logistic loss it damps
    the Dirac-GAN. It is lowered to 0 in the course of training: call
    [`step`][gan_blocks.GaussianNoise.step] once for each training step. The number of steps lies in
    `state_dict`.

    Args:
        std: $\sigma$ at the start, in the unit of the samples.
        anneal_steps: $T$, after how many steps the noise is gone; 0 to keep it as it is.
        device: Where the number of steps lies.

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

    steps: Tensor

    def __init__(
        self,
        std: NonNegativeFloat = 0.1,
        anneal_steps: NonNegativeInt = 0,
        *,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.std = std
        self.anneal_steps = anneal_steps
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64, device=device))

    @torch.no_grad()
    def step(self) -> None:
        """Count one training step."""
        # A new tensor: what a compiled step keeps of the old one for its backward pass has to stay.
        self.steps = self.steps + 1

    def current_std(self, dtype: torch.dtype = torch.float32) -> Tensor:
        r"""$\sigma_t$."""
        left = (
            1 - self.steps / self.anneal_steps if self.anneal_steps else torch.ones_like(self.steps)
        )
        return self.std * left.clamp(min=0).to(dtype)

    def forward(self, x: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """The samples with noise; `generator` draws it, torch's own if left out."""
        if not x.is_floating_point():
            raise TypeError(f"GaussianNoise takes floating-point samples, got {x.dtype}")
        if not self.training:
            return x
        noise = draw(torch.randn, x.shape, x.device, generator, x.dtype)
        return x + self.current_std(x.dtype) * noise


@lipschitz_rule(GaussianNoise)
def _without_noise(module: GaussianNoise, input_shape: tuple[int, ...]) -> float:
    if module.training:
        raise TypeError("GaussianNoise in training mode is random: call eval() for a bound")
    return 1.0
