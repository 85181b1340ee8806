"""Path length regularization of a style-based generator."""

import math

import torch
from torch import Tensor

from gan_blocks._checks import check_tensor
from gan_blocks.authoring import Averaging
from gan_blocks.distributed import draw, mean_and_count
from gan_blocks.precision import at_least_float32
from gan_blocks.spec import block
from gan_blocks.types import DecayRate, NonNegativeFloat


@block(
    double_backward=True,
    autocast=True,
    distributed=True,
    batch_dependent="the average path length includes the batch at hand",
    side="generator",
    compares="other",
    dtypes=("bfloat16", "float32", "float64"),
)
class PathLengthPenalty(Averaging):
    r"""Penalizes a generator whose images change at different rates in different style directions.

    With the Jacobian $J_w = \partial G(w) / \partial w$ and random images $y$ whose pixels are
    $N(0, 1/m)$, $m$ the number of pixels of a channel,

    $$\lambda\, \mathbb{E}_{w, y} \left(\|J_w^\top y\|_2 - a\right)^2.$$

    $a$ is the moving average of the lengths $\|J_w^\top y\|_2$. It includes the batch at hand, over all
    processes, starts at 0, and carries no gradient. Where each layer has a style of its own, the length
    is the root of the mean over the layers of the squared lengths.

    The average advances with the generator's optimizer: call [`follow`][gan_blocks.follow]`(optimizer,
    penalty)` once, or `penalty.step()` after each step. At the step it takes in all lengths since the
    last one, so the state does not depend on the parts of an accumulated batch. The value does: each
    part is compared with an average that includes that part only. A step without a forward leaves it
    alone.

    The term belongs to the generator's loss. It costs a backward pass through the generator that is
    differentiated again. StyleGAN2 computes it on every fourth step, times 4, on half of the batch.

    Args:
        weight: $\lambda$.
        decay: Of the moving average.
        device: Where the average lies.

    Shape:
        Images `(N, C, ...)` made from styles `(N, d)`, or `(N, layers, d)`; the result is a scalar of
        at least float32.

    Raises:
        ValueError: If the images do not depend on the styles, or their batches differ.

    Example:
        >>> import torch
        >>> from gan_blocks import PathLengthPenalty
        >>> synthesis = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.Unflatten(1, (1, 8, 8)))
        >>> penalty = PathLengthPenalty()
        >>> w = torch.randn(4, 8).requires_grad_()
        >>> value = penalty(synthesis(w), w)

    Reference:
        Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", 2020,
        arXiv:1912.04958, section 3.2 and appendix B; the mean over layers, the start at 0 and the
        weight 2 are its code's.
    """

    average: Tensor

    wide_buffers = (*Averaging.wide_buffers, "average")

    def __init__(
        self,
        weight: NonNegativeFloat = 2.0,
        decay: DecayRate = 0.99,
        *,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(device=device)
        self.weight = weight
        self.decay = decay
        self.register_buffer("average", torch.zeros((), device=device))

    def forward(
        self, images: Tensor, w: Tensor, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Return the penalty, weight included.

        Args:
            images: What the generator has made of the styles.
            w: The styles, which require a gradient.
            generator: Draws the random images; torch's global one if left out.
        """
        lengths = self._lengths(images, w, generator)
        length, samples = mean_and_count(lengths.detach())
        average = self.average
        if self.training:
            average = self._with(length)
            self.pool(length, samples)
        return self.weight * (lengths - average.to(lengths.dtype)).square().mean()

    def _lengths(self, images: Tensor, w: Tensor, generator: torch.Generator | None) -> Tensor:
        check_tensor("images", images)
        check_tensor("w", w)
        if images.dim() < 2 or w.dim() not in (2, 3) or len(images) != len(w) or not len(w):
            raise ValueError(
                "images should have shape (N, C, ...) and w, the styles, (N, d) or (N, layers, d), got "
                f"{tuple(images.shape)} and {tuple(w.shape)}"
            )
        wide = at_least_float32(images)
        noise = draw(torch.randn, images.shape, images.device, generator).to(wide.dtype)
        y = noise / math.sqrt(images[0, 0].numel())
        gradient = None
        if images.requires_grad and w.requires_grad:
            (gradient,) = torch.autograd.grad(
                (wide * y).sum(), w, create_graph=True, allow_unused=True
            )
        if gradient is None:
            raise ValueError(
                "images do not depend on w: they must be made with gradients enabled, from this very "
                "tensor, after w.requires_grad_() if it is not the result of a mapping network"
            )
        layers = w.shape[1] if w.dim() == 3 else 1
        # The norm's own derivative at 0 is 0 in torch; a root of a sum of squares gives NaN there.
        norms = torch.linalg.vector_norm(at_least_float32(gradient).flatten(1), dim=1)
        return norms / math.sqrt(layers)

    def _with(self, length: Tensor) -> Tensor:
        """Return the moving average after one more step with this mean length."""
        new = torch.lerp(self.average, length.to(self.average), 1 - self.decay)
        return torch.where(new.isfinite(), new, self.average)

    def commit(self, value: Tensor, seen: Tensor) -> None:
        self.average = torch.where(seen, self._with(value), self.average)
