"""The critic's gradient with respect to its input, which penalties are made of."""

import warnings

import torch
from torch import Tensor, nn

from gan_blocks._math import at_least_float32
from gan_blocks.types import Critic


def check_samples(*samples: Tensor) -> None:
    """Refuse what no gradient can be taken at, before anything is computed."""
    for x in samples:
        if not isinstance(x, Tensor):
            raise TypeError(f"the penalty needs a tensor of samples, got {type(x).__name__}")
        if not x.is_floating_point():
            raise TypeError(f"the penalty needs floating-point samples, got {x.dtype}")


def input_gradient(critic: Critic, points: Tensor) -> Tensor:
    """The critic's gradient at each point, `(N, d)`, to be differentiated by the weights."""
    check_samples(points)
    if torch.is_inference_mode_enabled():
        raise RuntimeError(
            "the penalty takes a gradient, which torch.inference_mode forbids; use torch.no_grad"
        )
    _warn_of_batch_norm(critic)
    points = points.detach().requires_grad_()
    with torch.enable_grad():
        return gradient_of_logits(critic(points), points)


def gradient_of_logits(logits: Tensor, points: Tensor) -> Tensor:
    """The gradient of each sample's logits with respect to that sample, flattened to `(N, d)`."""
    if not isinstance(logits, Tensor):
        raise TypeError(f"the critic should return a tensor of logits, got {type(logits).__name__}")
    if points.dim() < 2 or points.numel() == 0:
        raise ValueError(
            f"the penalty takes samples of shape (N, ...), none of it empty, got {tuple(points.shape)}"
        )
    if not points.requires_grad:
        raise ValueError(
            "the inputs carry no gradient: call inputs.requires_grad_() before the critic sees them"
        )
    gradient = None
    if logits.requires_grad:
        # Samples do not mix, so the gradient of the sum holds each sample's own. Where a layer
        # mixes them on purpose this is the gradient of the batch's sum, as in StyleGAN2.
        (gradient,) = torch.autograd.grad(
            at_least_float32(logits).sum(), points, create_graph=True, allow_unused=True
        )
    if gradient is None:
        raise ValueError(
            "the critic's output does not depend on its input: is something detached, or computed "
            "under no_grad, inside the critic?"
        )
    return at_least_float32(gradient).flatten(1)


def _warn_of_batch_norm(critic: Critic) -> None:
    for name, module in critic.named_modules() if isinstance(critic, nn.Module) else ():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training:
            warnings.warn(
                f"the critic's {name or 'module'} is a {type(module).__name__} in training mode: it "
                "mixes the samples, so the gradient is not each sample's own and the penalty is not "
                "what its paper defines; use layer, group or spectral normalisation in the critic",
                stacklevel=5,
            )
            return
