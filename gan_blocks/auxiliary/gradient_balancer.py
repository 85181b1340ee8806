"""The gradient balancer of EnCodec."""

from collections.abc import Mapping

import torch
from torch import Tensor

from gan_blocks._checks import check_tensor, type_name
from gan_blocks.authoring import Averaging
from gan_blocks.distributed import mean_and_count
from gan_blocks.precision import at_least_float32
from gan_blocks.spec import block
from gan_blocks.types import ALL_FLOATS, DecayRate, PositiveFloat


@block(
    autocast=True,
    distributed=True,
    batch_dependent="each gradient is divided by its norm over the batch",
    side="generator",
    compares="other",
    dtypes=ALL_FLOATS,
)
class GradientBalancer(Averaging):
    r"""Gives each loss a fixed share of the gradient that reaches the generator's output.

    With the gradient $g_i = \partial \ell_i / \partial \hat x$ of each loss with respect to the output
    $\hat x$ and a moving average $\langle\|g_i\|\rangle$ of its norm, the output gets

    $$\sum_i R\, \frac{w_i}{\sum_j w_j}\, \frac{g_i}{\langle\|g_i\|\rangle + \epsilon},$$

    so that the weights are shares, whatever the scales of the losses. The result is the scalar
    $\sum_i \lambda_i \ell_i$ with these factors as $\lambda_i$. Its backward pass starts at the
    output: add losses that do not go through the output, such as a commitment loss, and call
    `backward()` once. Parameters between the output and the losses, such as the discriminator's, get no
    gradient. Under DDP the norms are those of the mean of the losses of all processes, so all processes
    have the same factors, and the parameters get the gradient that one process would give them.

    The averages include the batch at hand and advance with the generator's optimizer: call
    [`follow`][gan_blocks.follow]`(optimizer, balancer)` once, or `balancer.step()` after each step. They
    are kept per sample, as the norm of $n g_i$ for a batch of $n$: the losses are taken to be means over
    samples. So their state does not depend on the parts of an accumulated batch. EnCodec averages the
    norm of $g_i$ itself, which is the same as long as the batch size stays the same.

    **With gradient accumulation add up the parts; do not divide by their number.** Each part's gradient
    is normalized already, so that each sample's gradient has the norm that it has in the whole batch.
    (With `per_sample=False` divide the sum of $k$ parts by $\sqrt k$.)

    Args:
        weights: $w_i$ by the name of the loss.
        total_norm: $R$, the norm of the sum if the gradients were parallel.
        decay: Decay of the moving average, which is corrected for its start.
        per_sample: Whether $\|g\|$ is the mean over the batch of each sample's norm, or the norm of
            the whole batch.
        eps: $\epsilon$.

    Shape:
        Scalar losses by name, some or all of those in `weights` (the shares are among those given),
        and the output they were computed from. The result is a scalar of at least float32.

    Raises:
        ValueError: If a loss has no weight, is no scalar, or does not depend on the output.

    Example:
        >>> import torch
        >>> balancer = GradientBalancer(weights={"l1": 1, "adversarial": 3})
        >>> output = torch.zeros(2, 4, requires_grad=True)
        >>> losses = {"l1": 100 * output.sum(), "adversarial": output[:, 0].sum()}
        >>> balancer(losses, output).backward()
        >>> output.grad
        tensor([[0.8750, 0.1250, 0.1250, 0.1250],
                [0.8750, 0.1250, 0.1250, 0.1250]])

    Reference:
        Defossez et al., "High Fidelity Neural Audio Compression" (EnCodec), 2022, arXiv:2210.13438,
        section 3.4.
    """

    sums: Tensor
    counts: Tensor

    wide_buffers = (*Averaging.wide_buffers, "sums", "counts")

    def __init__(
        self,
        weights: dict[str, PositiveFloat],
        total_norm: PositiveFloat = 1.0,
        decay: DecayRate = 0.999,
        per_sample: bool = True,
        eps: PositiveFloat = 1e-12,
    ) -> None:
        super().__init__((len(weights),))
        if not weights:
            raise ValueError("weights should name at least one loss")
        self.weights = weights
        self.total_norm = total_norm
        self.decay = decay
        self.per_sample = per_sample
        self.eps = eps
        self.register_buffer("sums", torch.zeros(len(weights)))
        self.register_buffer("counts", torch.zeros(len(weights)))

    def forward(self, losses: Mapping[str, Tensor], output: Tensor) -> Tensor:
        """Return a scalar whose backward pass gives the output the balanced gradient."""
        self._check(losses, output)
        names = [name for name in self.weights if name in losses]
        gradients = [_gradient(name, losses[name], output) for name in names]
        norms = self._averaged_norms(names, gradients)
        shares = norms.new_tensor([self.weights[name] for name in names])
        factors = self.total_norm * shares / shares.sum() / (norms + self.eps)
        balanced = torch.stack([c * g for c, g in zip(factors, gradients, strict=True)]).sum(0)
        value = torch.stack(
            [c * losses[name] for c, name in zip(factors, names, strict=True)]
        ).sum()
        # Its gradient by the output is `balanced`, without another pass through the losses.
        linear = (at_least_float32(output) * balanced).sum()
        return linear + (value - linear).detach()

    def _check(self, losses: Mapping[str, Tensor], output: Tensor) -> None:
        if not isinstance(losses, Mapping):
            raise TypeError(f"losses should be a dict of losses by name, got {type_name(losses)}")
        unknown = [str(name) for name in losses if name not in self.weights]
        if unknown or not losses:
            raise ValueError(
                f"losses should be some of {', '.join(self.weights)}, which have weights, got "
                f"{', '.join(unknown) or 'none'}"
            )
        check_tensor("output", output, empty=False)
        if not output.requires_grad:
            raise ValueError(
                "output should carry a gradient: pass what the generator returned, not detached and "
                "not under no_grad"
            )

    def _averaged_norms(self, names: list[str], gradients: list[Tensor]) -> Tensor:
        """Return the averages of the norms, this batch included, as norms in a batch of its size."""
        # By sorted name, so that the state does not depend on the order of the weights.
        at = [sorted(self.weights).index(name) for name in names]
        statistics = [self._statistic(gradient) for gradient in gradients]
        values, counts = (torch.stack(each) for each in zip(*statistics, strict=True))
        values = values.to(self.sums)
        sums, weight = self.sums[at], self.counts[at]
        if self.training:
            pooled = torch.full_like(self.sums, torch.nan)
            pooled[at] = values
            self.pool(pooled, counts[0].to(self.sums).expand_as(pooled))
        # The current batch counts in evaluation mode too, but the state does not change.
        sums, weight = self._with(values, sums, weight)
        return self._norm(torch.where(weight > 0, sums / weight, values), counts.to(self.sums))

    def _statistic(self, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Return a mean over samples that does not depend on their number, and this number.

        It is the mean norm of n g for each sample, or the root of its mean square.
        """
        samples = gradient.reshape(len(gradient) if gradient.dim() else 1, -1)
        norms = len(samples) * torch.linalg.vector_norm(samples, dim=1)
        if self.per_sample:
            return mean_and_count(norms)
        square, count = mean_and_count(norms.square())
        return square.sqrt(), count

    def _norm(self, statistic: Tensor, count: Tensor) -> Tensor:
        """Return the norm of g in a batch of this size that has the statistic."""
        return statistic / (count if self.per_sample else count.sqrt())

    def _with(self, values: Tensor, sums: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Return sums and counts after one more step with these values, where they are finite."""
        finite = values.isfinite()
        return (
            torch.where(finite, self.decay * sums + values, sums),
            torch.where(finite, self.decay * counts + 1, counts),
        )

    def get_extra_state(self) -> Tensor:
        # The averages are kept by the order of the names, so other names would take the wrong ones.
        return torch.tensor(list(", ".join(sorted(self.weights)).encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        ours, theirs = (bytes(x.tolist()).decode() for x in (self.get_extra_state(), state))
        if ours != theirs:
            raise ValueError(f"state_dict should be of losses named {ours}, got one of {theirs}")

    def pool(self, value: Tensor, samples: Tensor | float) -> None:
        super().pool(value if self.per_sample else value.square(), samples)

    def commit(self, value: Tensor, seen: Tensor) -> None:
        value = value if self.per_sample else value.sqrt()
        self.sums, self.counts = self._with(
            torch.where(seen, value, torch.nan), self.sums, self.counts
        )


def _gradient(name: str, loss: Tensor, output: Tensor) -> Tensor:
    check_tensor(f"losses[{name!r}]", loss, ())
    gradient = None
    if loss.requires_grad:
        (gradient,) = torch.autograd.grad(loss, output, retain_graph=True, allow_unused=True)
    if gradient is None:
        raise ValueError(
            f"losses[{name!r}] does not depend on output: it must be computed from this very tensor; "
            "add losses that do not go through the output to the result"
        )
    return at_least_float32(gradient)
