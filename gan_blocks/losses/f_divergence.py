"""f-GAN: a variational bound on any f-divergence as a training loss."""

from typing import Literal

from torch import Tensor, nn

from gan_blocks._logits import combined, discriminator_pairs, generator_logits, two_sided
from gan_blocks.spec import block
from gan_blocks.types import ALL_FLOATS, Combine, Divergence, Logits


@block(double_backward=True, compile=True, autocast=True, distributed=True, dtypes=ALL_FLOATS)
class FDivergenceLoss(nn.Module):
    r"""The f-GAN loss: the critic maximises a lower bound on an f-divergence.

    For critic values $v$ on real samples $x$ and generated samples $\tilde x$, with output activation
    $g$ and conjugate $f^*$ of the divergence $D_f(P \| Q)$,

    $$L_D = -\mathbb{E}\,g(v(x)) + \mathbb{E}\,f^*(g(v(\tilde x))),$$

    and the bound $D_f \ge -L_D$ is tight at $g(v) = f'(p/q)$. The generator minimises

    $$L_G = -\mathbb{E}\,f^*(g(v(\tilde x))) \quad\text{(minimax)} \qquad\text{or}\qquad
      L_G = -\mathbb{E}\,g(v(\tilde x)) \quad\text{(non-saturating)}.$$

    $f^*(g(v))$ is computed in one stable form. Where the exact value exceeds the dtype, as in KL's
    $e^{v-1}$ at $v = 10^4$, the result is infinity of the right sign, never clamped: keep critics of
    such divergences small with gradient clipping.

    Args:
        divergence: Which divergence.
        generator_objective: `minimax` is the paper's algorithm 1, `non_saturating` the heuristic of
            its section 3.2.
        combine: How several sub-discriminators are combined.

    Shape:
        Critic values of any shape, or a list of such tensors; the batch sizes of real and fake may
        differ. The result is a scalar of at least float32.

    Raises:
        ValueError: If the values are empty, or differ in more than the batch size.
        TypeError: If they are not floating point, or are a tuple.

    Warns:
        UserWarning: If gradients are on and no logit that is trained requires one, or if the
            critic ends in a sigmoid.

    Example:
        >>> import torch
        >>> from gan_blocks import JensenShannon
        >>> loss = FDivergenceLoss(JensenShannon(), generator_objective="non_saturating")
        >>> with torch.no_grad():  # the value only
        ...     loss.discriminator(torch.ones(8), -torch.ones(8))
        ...     loss.generator(-torch.ones(8))
        tensor(-0.7598)
        tensor(0.6201)

    Reference:
        Nowozin, Cseke and Tomioka, "f-GAN", 2016, arXiv:1606.00709, equations 6 and 7, algorithm 1
        and section 3.2.
    """

    def __init__(
        self,
        divergence: Divergence,
        generator_objective: Literal["minimax", "non_saturating"] = "minimax",
        combine: Combine = "sum",
    ) -> None:
        super().__init__()
        self.divergence = divergence
        self.generator_objective = generator_objective
        self.combine: Combine = combine

    def discriminator(self, real_logits: Logits, fake_logits: Logits) -> Tensor:
        """The critic's loss; its negative bounds the divergence from below."""
        pairs = discriminator_pairs(self, real_logits, fake_logits, unbounded=True)
        terms = [-self.divergence.bound(r, f) for r, f in pairs]
        return combined(terms, self.combine)

    def generator(self, fake_logits: Logits, *, real_logits: Logits | None = None) -> Tensor:
        """The generator's loss; real values are not used."""
        minimax = self.generator_objective == "minimax"
        gain = self.divergence.conjugate_of_activation if minimax else self.divergence.activation
        terms = [-gain(f).mean() for f in generator_logits(self, fake_logits, unbounded=True)]
        return combined(terms, self.combine)

    def optimal_critic(self, log_ratio: Tensor) -> Tensor:
        r"""The critic value at which the bound is tight, $g(v) = f'(p/q)$.

        Args:
            log_ratio: $\log(p/q)$, of any shape; infinite where one density is 0.
        """
        return self.divergence.optimal_critic(log_ratio)

    forward = two_sided
