"""The gradient balancer of EnCodec."""

from collections.abc import Mapping

import torch
from torch import Tensor

from gan_blocks.distributed import all_reduce, mean, process_count
from gan_blocks.precision import WideBuffers, at_least_float32
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
class GradientBalancer(WideBuffers):
    r"""Gives each loss a fixed share of the gradient that reaches the generator's output.

    With the gradient $g_i = \partial \ell_i / \partial \hat x$ of each loss by the output $\hat x$
    and a moving average $\langle\|g_i\|\rangle$ of its norm, the output gets

    $$\sum_i R\, \frac{w_i}{\sum_j w_j}\, \frac{g_i}{\langle\|g_i\|\rangle + \epsilon},$$

    so that the weights are shares, whatever the scales of the losses. The result is the scalar
    $\sum_i \lambda_i \ell_i$ with these factors as $\lambda_i$. Its backward pass starts at the
    output: add losses that do not go through the output, such as a commitment loss, and call
    `backward()` once. Parameters between the output and the losses, such as the discriminator's,
    get no gradient. In a run of several processes the norms are those of the mean of their losses, so
    that all have the same factors, and the parameters the gradient that one process would give them.

    Args:
        weights: $w_i$ by the name of the loss.
        total_norm: $R$, the norm of the sum if the gradients were parallel.
        decay: Of the moving average, which is corrected for its start.
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

    wide_buffers = ("sums", "counts")  # sums of thousands of steps

    def __init__(
        self,
        weights: dict[str, PositiveFloat],
        total_norm: PositiveFloat = 1.0,
        decay: DecayRate = 0.999,
        per_sample: bool = True,
        eps: PositiveFloat = 1e-12,
    ) -> None:
        super().__init__()
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
        """A scalar whose backward pass gives the output the balanced gradient."""
        self._check(losses, output)
        names = [name for name in self.weights if name in losses]
        gradients = [_gradient(name, losses[name], output) for name in names]
        norms = self._averaged(names, torch.stack([self._norm(g) for g in gradients]))
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
        unknown = [name for name in losses if name not in self.weights]
        if unknown or not losses:
            raise ValueError(
                f"there are weights for {', '.join(self.weights)}, and losses named "
                f"{', '.join(unknown) or 'nothing'}"
            )
        if not output.numel():
            raise ValueError(f"output is empty: shape {tuple(output.shape)}")
        if not output.requires_grad:
            raise ValueError(
                "output has no gradient: pass what the generator returned, not detached and not "
                "under no_grad"
            )

    def _norm(self, gradient: Tensor) -> Tensor:
        # Of the mean of the losses of all processes, each of which depends on its own samples.
        if not self.per_sample or gradient.dim() == 0:
            if process_count() == 1:
                return torch.linalg.vector_norm(gradient)
            return all_reduce(gradient.square().sum()).sqrt() / process_count()
        norms = torch.linalg.vector_norm(gradient.reshape(len(gradient), -1), dim=1)
        return mean(norms) / process_count()

    def _averaged(self, names: list[str], norms: Tensor) -> Tensor:
        """The moving averages of these norms, brought up to date in training mode."""
        # By sorted name, so that the state does not depend on the order of the weights.
        at = [sorted(self.weights).index(name) for name in names]
        norms = norms.to(self.sums.dtype)
        # A step that overflows, as under a gradient scaler, leaves no trace.
        finite = norms.isfinite()
        sums = torch.where(finite, self.decay * self.sums[at] + norms, self.sums[at])
        counts = torch.where(finite, self.decay * self.counts[at] + 1, self.counts[at])
        if self.training:
            self.sums[at], self.counts[at] = sums, counts
        return torch.where(counts > 0, sums / counts, norms)


def _gradient(name: str, loss: Tensor, output: Tensor) -> Tensor:
    if loss.dim() != 0:
        raise ValueError(f"the loss {name} should be a scalar, got shape {tuple(loss.shape)}")
    gradient = None
    if loss.requires_grad:
        (gradient,) = torch.autograd.grad(loss, output, retain_graph=True, allow_unused=True)
    if gradient is None:
        raise ValueError(
            f"the loss {name} does not depend on the output: compute it from this very tensor, and add "
            "losses that do not go through the output to the result"
        )
    return at_least_float32(gradient)
