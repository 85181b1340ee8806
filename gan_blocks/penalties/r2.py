"""The R2 penalty: gradients at generated samples."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gan_blocks._checks import check_generator
from gan_blocks._input_gradient import gradients_of_logits, input_gradients, refuse_float16
from gan_blocks._logits import combined
from gan_blocks.spec import block
from gan_blocks.types import Combine, Critic, Logits, NonNegativeFloat


@block(
    double_backward=True,
    compile=True,
    autocast=True,
    distributed=True,
    dtypes=("bfloat16", "float32", "float64"),
)
class R2Penalty(nn.Module):
    r"""The R2 penalty: the squared norm of the critic's gradient at generated samples.

    $$\frac{\gamma}{2}\, \mathbb{E}_{\tilde x \sim q} \|\nabla D(\tilde x)\|_2^2$$

    The squared norm is each sample's, over all its dimensions. The generated samples are detached:
    the penalty trains the critic only. R3GAN uses it together with
    [`R1Penalty`][gan_blocks.R1Penalty].

    Args:
        gamma: $\gamma$.
        combine: How the penalties of several sub-discriminators are combined.

    Shape:
        Samples of shape `(N, ...)`; the critic maps them to logits `(N, ...)`, of which those of one
        sample are summed, or to a list of such tensors, one for each sub-discriminator. The result
        is a scalar of at least float32.

    Raises:
        ValueError: If the samples are empty, or float16 without autocast; or if the critic's output does
            not depend on its input, or is not logits of each sample.
        TypeError: If the samples are not floating point, the critic returns a tuple, or `generator` is
            not a `torch.Generator`.

    Warns:
        UserWarning: If the critic has batch norm in training mode, which mixes the samples.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> penalty = R2Penalty(gamma=1.0)
        >>> critic = nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
        >>> real, fake = torch.rand(16, 1, 8, 8), torch.rand(16, 1, 8, 8)
        >>> value = penalty(critic, real, fake)
        >>> torch.testing.assert_close(value, critic[1].weight.square().sum() / 2)

        Without a second forward, inside a training step:

        >>> _ = fake.requires_grad_()
        >>> logits = critic(fake)
        >>> torch.testing.assert_close(penalty.from_logits(logits, fake), value)

    Reference:
        Mescheder, Geiger and Nowozin, "Which Training Methods for GANs do actually Converge?", 2018,
        arXiv:1801.04406, equation 10.
    """

    def __init__(self, gamma: NonNegativeFloat = 10.0, combine: Combine = "sum") -> None:
        super().__init__()
        self.gamma = gamma
        self.combine: Combine = combine

    def forward(
        self,
        critic: Critic,
        real: Tensor | None,
        fake: Tensor,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The penalty, weight included.

        Args:
            critic: The critic, or any function of a batch.
            real: Not used.
            fake: Generated samples.
            generator: Not used; nothing is drawn.
        """
        check_generator(generator)
        return self._penalty(input_gradients(critic, fake))

    def from_logits(self, logits: Logits, inputs: Tensor | Sequence[Tensor]) -> Tensor:
        """The penalty from logits that the loss has already computed, which saves a forward.

        Args:
            logits: The critic's output, of one sub-discriminator or a list.
            inputs: Generated samples, with `requires_grad_()` set before the critic saw them; what it
                has computed of them, where that is to be smooth: features that enter a head, or
                images before they were augmented. A list has one entry for each
                sub-discriminator.

        Raises:
            ValueError: Under float16, in which the gradient vanishes.
        """
        refuse_float16(logits, inputs)
        return self._penalty(gradients_of_logits(logits, inputs))

    def _penalty(self, gradients: list[Tensor]) -> Tensor:
        terms = [gradient.square().sum(dim=1).mean() for gradient in gradients]
        return self.gamma / 2 * combined(terms, self.combine)
