"""The LeCam regularizer."""

from typing import Literal

import torch
from torch import Tensor

from gan_blocks._logits import combined, pairs_of_critics
from gan_blocks.authoring import Averaging
from gan_blocks.distributed import mean_and_count
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
class LeCamRegularizer(Averaging):
    r"""Keeps a discriminator's logits near their average on the other side, for training on few images.

    With moving averages $\alpha_R$, $\alpha_F$ of the mean logits on real and on generated samples,
    the discriminator's loss gets

    $$\lambda\left[\mathbb{E}\left(D(x) - \alpha_F\right)^2
      + \mathbb{E}\left(D(G(z)) - \alpha_R\right)^2\right] \text{ (paper)}, \qquad
      \lambda\left[\mathbb{E}\max\left(0, D(x) - \alpha_F\right)^2
      + \mathbb{E}\max\left(0, \alpha_R - D(G(z))\right)^2\right] \text{ (code)}.$$

    With the Wasserstein loss its optimum is a weighted LeCam divergence between the two sides. The
    averages include the batch at hand, over all processes, and are corrected for their start. They are
    buffers without gradient.

    They advance with the critic's optimizer: call [`follow`][gan_blocks.follow]`(optimizer,
    regularizer)` once, or `regularizer.step()` after each step. At the step they take in all logits
    since the last one, so the state does not depend on the parts of an accumulated batch. The value
    does: each part is compared with averages that include that part only.

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

    wide_buffers = (*Averaging.wide_buffers, "sums", "count")

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
        super().__init__((discriminators, 2), device=device)
        self.weight = weight
        self.decay = decay
        self.form = form
        self.discriminators = discriminators
        self.combine: Combine = combine
        self.register_buffer("sums", torch.zeros(discriminators, 2, device=device))
        self.register_buffer("count", torch.zeros((), device=device))

    def forward(self, real_logits: Logits, fake_logits: Logits) -> Tensor:
        """Return the regularizer, weight included; it is part of the discriminator's loss."""
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

    def _averages(self, pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Return the averages of real and fake logits, `(discriminators, 2)`, this batch included."""
        statistics = [mean_and_count(x.detach()) for pair in pairs for x in pair]
        means, counts = (torch.stack(each).view(-1, 2) for each in zip(*statistics, strict=True))
        valid = means.isfinite().all()
        sums, count = self.sums, self.count
        if self.training:
            sums, count = self._with(means, valid)
            # If one side overflows, skip both.
            self.pool(torch.where(valid, means, torch.nan), counts)
        averages = sums / torch.where(count > 0, count, 1)
        return torch.where(count > 0, averages.to(means.dtype), means)

    def _with(self, means: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sums and their weight after one more step with these means."""
        sums = self.decay * self.sums + (1 - self.decay) * means.to(self.sums)
        count = self.decay * self.count + (1 - self.decay)
        return torch.where(valid, sums, self.sums), torch.where(valid, count, self.count)

    def commit(self, value: Tensor, seen: Tensor) -> None:
        self.sums, self.count = self._with(value, seen.all())
