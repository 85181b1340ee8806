"""The LeCam regulariser."""

from typing import Literal

import torch
from torch import Tensor

from gan_blocks._logits import combined, pairs_of_critics
from gan_blocks.distributed import mean
from gan_blocks.precision import WideBuffers
from gan_blocks.spec import block
from gan_blocks.types import ALL_FLOATS, Combine, DecayRate, Logits, NonNegativeFloat, PositiveInt


@block(
    double_backward=True,
    compile=True,
    autocast=True,
    distributed=True,
    batch_dependent="the averages of the logits include the batch at hand",
    side="critic",
    compares="logits",
    dtypes=ALL_FLOATS,
)
class LeCamRegularizer(WideBuffers):
    r"""Holds a discriminator's logits near what it said of the other side, for few images.

    With moving averages $\alpha_R$, $\alpha_F$ of the mean logits on real and on generated samples,
    the discriminator's loss gets

    $$\lambda\left[\mathbb{E}\left(D(x) - \alpha_F\right)^2
      + \mathbb{E}\left(D(G(z)) - \alpha_R\right)^2\right] \text{ (paper)}, \qquad
      \lambda\left[\mathbb{E}\max\left(0, D(x) - \alpha_F\right)^2
      + \mathbb{E}\max\left(0, \alpha_R - D(G(z))\right)^2\right] \text{ (code)}.$$

    With the Wasserstein loss its optimum is a weighted LeCam divergence between the two sides. The
    averages take in the batch at hand first, over all processes, and are corrected for their start;
    they lie in buffers, without gradient, and stand still in evaluation mode.

    Args:
        weight: $\lambda$; the authors have 0.3 for BigGAN on CIFAR-10, 1e-6 for StyleGAN2 there and
            3e-7 on FFHQ.
        decay: Of the averages.
        form: Which of the two.
        discriminators: Number of sub-discriminators; each has averages of its own.
        combine: How several sub-discriminators are combined.

    Shape:
        Logits of any shape, or a list of as many such tensors as there are sub-discriminators. The
        result is a scalar of at least float32.

    Raises:
        ValueError: If logits are empty, or there are others than `discriminators`.

    Example:
        >>> import torch
        >>> regularizer = LeCamRegularizer(weight=1.0)
        >>> regularizer(torch.tensor([2.0, 4.0]), torch.tensor([-1.0, 0.0]))
        tensor(25.7500)

    Reference:
        Tseng et al., "Regularizing Generative Adversarial Networks under Limited Data", 2021,
        arXiv:2104.03310, section 3.2 and equation 6; its code has the second form.
    """

    sums: Tensor
    count: Tensor

    wide_buffers = ("sums", "count")  # a moving average stands still in half precision

    def __init__(
        self,
        weight: NonNegativeFloat = 0.3,
        decay: DecayRate = 0.99,
        form: Literal["code", "paper"] = "code",
        discriminators: PositiveInt = 1,
        combine: Combine = "sum",
        *,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.weight = weight
        self.decay = decay
        self.form = form
        self.discriminators = discriminators
        self.combine: Combine = combine
        self.register_buffer("sums", torch.zeros(discriminators, 2, device=device))
        self.register_buffer("count", torch.zeros((), device=device))

    def forward(self, real_logits: Logits, fake_logits: Logits) -> Tensor:
        """The regulariser, weight included; part of the discriminator's loss."""
        pairs = pairs_of_critics(real_logits, fake_logits)
        if len(pairs) != self.discriminators:
            raise ValueError(
                f"LeCamRegularizer keeps averages of {self.discriminators} sub-discriminators, got "
                f"the logits of {len(pairs)}; set discriminators"
            )
        real_means, fake_means = self._averages(pairs).unbind(1)
        terms = []
        for (real, fake), anchor_real, anchor_fake in zip(
            pairs, real_means, fake_means, strict=True
        ):
            above, below = real - anchor_fake, anchor_real - fake
            if self.form == "code":
                above, below = above.relu(), below.relu()
            terms.append(above.square().mean() + below.square().mean())
        return self.weight * combined(terms, self.combine)

    @torch.no_grad()
    def _averages(self, pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Of real and generated logits, `(discriminators, 2)`, brought up to date in training mode."""
        means = torch.stack([torch.stack([mean(r), mean(f)]) for r, f in pairs])
        if self.training:
            # A step that overflows, as under a gradient scaler, leaves no trace.
            finite = means.isfinite().all()
            sums = self.decay * self.sums + (1 - self.decay) * means
            self.sums.copy_(torch.where(finite, sums, self.sums))
            count = self.decay * self.count + (1 - self.decay)
            self.count.copy_(torch.where(finite, count, self.count))
        averages = self.sums / torch.where(self.count > 0, self.count, 1)
        return torch.where(self.count > 0, averages.to(means.dtype), means)
