"""The adaptive weight of the adversarial loss in an autoencoder."""

import torch
from torch import Tensor, nn

from gan_blocks._checks import check_tensor
from gan_blocks.distributed import all_reduce, process_count
from gan_blocks.precision import at_least_float32
from gan_blocks.spec import block
from gan_blocks.types import ALL_FLOATS, PositiveFloat


@block(
    autocast=True,
    distributed=True,
    batch_dependent="the weight is a ratio of gradient norms of the whole batch",
    side="generator",
    compares="other",
    dtypes=ALL_FLOATS,
)
class AdaptiveWeight(nn.Module):
    r"""The weight at which the adversarial loss pulls as hard as the reconstruction.

    With the weights $L$ of the decoder's last layer,

    $$\lambda = w \cdot \min\left(\frac{\|\nabla_L \ell_{\mathrm{rec}}\|}
      {\|\nabla_L \ell_{\mathrm{adv}}\| + \epsilon}, \lambda_{\max}\right),$$

    detached, so the autoencoder minimises $\ell_{\mathrm{rec}} + \lambda \ell_{\mathrm{adv}}$. It
    costs a backward pass from both losses to the last layer only. Under a gradient scaler pass the
    unscaled losses. In a run of several processes it is the weight of the mean of their losses, the same
    on all.

    Args:
        weight: $w$; VQGAN has 0.8, latent diffusion 0.5.
        maximum: $\lambda_{\max}$.
        eps: $\epsilon$.

    Shape:
        Two scalar losses and the weights of the last layer; the result is a scalar.

    Raises:
        TypeError: If `last_layer` is no tensor.
        ValueError: If a loss is no scalar, or does not depend on the weights.

    Example:
        >>> import torch
        >>> last = torch.nn.Linear(3, 2)
        >>> y = last(torch.ones(4, 3))
        >>> AdaptiveWeight(weight=0.5)(10 * y.mean(), y.mean(), last.weight)
        tensor(4.9996)

    Reference:
        Esser, Rombach and Ommer, "Taming Transformers for High-Resolution Image Synthesis" (VQGAN),
        2021, arXiv:2012.09841, equation 7; the limit is its code's.
    """

    def __init__(
        self, weight: PositiveFloat = 1.0, maximum: PositiveFloat = 1e4, eps: PositiveFloat = 1e-4
    ) -> None:
        super().__init__()
        self.weight = weight
        self.maximum = maximum
        self.eps = eps

    def forward(
        self, reconstruction_loss: Tensor, adversarial_loss: Tensor, last_layer: Tensor
    ) -> Tensor:
        """The weight, without gradient; the graphs of both losses stay for the backward pass."""
        if isinstance(last_layer, nn.Module):
            raise TypeError(
                f"last_layer should be a tensor, the weight of the last layer, got "
                f"{type(last_layer).__name__}: pass layer.weight"
            )
        check_tensor("last_layer", last_layer)
        reconstruction = _norm_by("reconstruction_loss", reconstruction_loss, last_layer)
        adversarial = _norm_by("adversarial_loss", adversarial_loss, last_layer)
        return self.weight * (reconstruction / (adversarial + self.eps)).clamp(max=self.maximum)


def _norm_by(name: str, loss: Tensor, weights: Tensor) -> Tensor:
    check_tensor(name, loss, ())
    if loss.is_meta != weights.is_meta:
        raise ValueError(
            f"{name} should have a value where last_layer has, got one on {loss.device}"
        )
    gradient = None
    if loss.requires_grad and weights.requires_grad:
        (gradient,) = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
    if gradient is None:
        raise ValueError(
            f"{name} does not depend on last_layer: pass the weight of the layer that makes the "
            "reconstruction, and losses that are neither detached nor computed under no_grad"
        )
    # Of the mean of the losses of all processes.
    whole = all_reduce(at_least_float32(gradient)) / process_count()
    return torch.linalg.vector_norm(whole)
