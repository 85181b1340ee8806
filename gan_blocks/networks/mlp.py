"""Multilayer perceptrons: the smallest generator and discriminator."""

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gan_blocks._checks import check_tensor, explains_failures
from gan_blocks.layers._batch_norm import BatchNorm1d
from gan_blocks.layers.minibatch_discrimination import MinibatchDiscrimination
from gan_blocks.layers.virtual_batch_norm import VirtualBatchNorm
from gan_blocks.lipschitz import lipschitz_rule
from gan_blocks.networks._lipschitz import in_turn
from gan_blocks.networks._shapes import check_latents
from gan_blocks.spec import block
from gan_blocks.types import Depth, NonNegativeInt, PositiveInt, Shape

Activation = Literal["relu", "leaky_relu", "silu", "tanh", "softplus"]

ACTIVATIONS: dict[str, Any] = {
    "relu": nn.ReLU,
    "leaky_relu": lambda: nn.LeakyReLU(0.2),
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
}
NORMS: dict[str, Any] = {
    "batch": BatchNorm1d,
    "virtual": VirtualBatchNorm,
    "layer": nn.LayerNorm,
}
OUTPUTS: dict[str, Any] = {"none": nn.Identity, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}


def _hidden_layers(
    in_features: int, width: int, depth: int, activation: str, norm: str, options: dict[str, Any]
) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for i in range(depth):
        layers.append(nn.Linear(width if i else in_features, width, **options))
        if norm != "none":
            layers.append(NORMS[norm](width, **options))
        layers.append(ACTIVATIONS[activation]())
    return layers


@block(
    double_backward=True,
    compile=True,
    autocast=True,
    distributed=True,
    batch_dependent="batch norm, where it is chosen, normalizes by the mean and variance of the batch",
    moves_in_forward=True,
)
class MLPGenerator(nn.Module):
    r"""A multilayer perceptron from latent vectors to samples.

    `depth` hidden layers of linear map, normalisation and activation, then a linear map and the
    output activation.

    Args:
        latent_dim: Length of a latent vector $z \sim N(0, I)$.
        output_shape: Shape of one sample, `[2]` for points in the plane or `[1, 8, 8]` for images.
        width: Units of a hidden layer.
        depth: Number of hidden layers.
        activation: After each hidden layer; `leaky_relu` has slope 0.2.
        norm: Normalisation of the hidden layers. With `batch` a sample depends on its batch while
            the network trains; `virtual` needs [`WithReference`][gan_blocks.WithReference].
        output: Activation of the output: `tanh` for data in [-1, 1], `sigmoid` for [0, 1].
        device: Where the weights are made.
        dtype: Their dtype.

    Shape:
        `(N, latent_dim)` to `(N, *output_shape)`.

    Raises:
        ValueError: If the latent vectors have another length.

    Example:
        >>> import torch
        >>> generator = MLPGenerator(16, (1, 8, 8), width=32, output="tanh")
        >>> generator(torch.randn(5, 16)).shape
        torch.Size([5, 1, 8, 8])

    Reference:
        Goodfellow et al., "Generative Adversarial Nets", 2014, arXiv:1406.2661, section 3, whose
        generator is such a network.
    """

    def __init__(
        self,
        latent_dim: PositiveInt,
        output_shape: Shape,
        width: PositiveInt = 256,
        depth: Depth = 3,
        activation: Activation = "relu",
        norm: Literal["none", "batch", "virtual", "layer"] = "none",
        output: Literal["none", "tanh", "sigmoid"] = "none",
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        options = {"device": device, "dtype": dtype}
        self.latent_dim = latent_dim
        self.output_shape = output_shape
        self.layers = nn.Sequential(
            *_hidden_layers(latent_dim, width, depth, activation, norm, options),
            nn.Linear(width if depth else latent_dim, math.prod(output_shape), **options),
            OUTPUTS[output](),
            nn.Unflatten(1, output_shape),
        )

    @explains_failures
    def forward(self, z: Tensor) -> Tensor:
        """Samples from latent vectors."""
        check_latents(self, z)
        return self.layers(z)


@block(
    double_backward=True,
    compile=True,
    autocast=True,
    distributed=True,
    batch_dependent="minibatch discrimination, where it is chosen, mixes the batch",
)
class MLPDiscriminator(nn.Module):
    r"""A multilayer perceptron from samples to logits.

    The sample is flattened; `depth` hidden layers of linear map, normalisation and activation follow,
    then a linear map to one logit. No sigmoid: the losses take logits.

    With `minibatch_kernels` the last features go through
    [`MinibatchDiscrimination`][gan_blocks.MinibatchDiscrimination] before the logit. To
    judge several samples together, [`pack`][gan_blocks.pack] them first: `input_shape` is then that of
    a pack.

    Args:
        input_shape: Shape of one sample, `[2]` for points in the plane or `[1, 8, 8]` for images.
        width: Units of a hidden layer.
        depth: Number of hidden layers.
        activation: After each hidden layer; `leaky_relu` has slope 0.2.
        norm: Normalisation of the hidden layers; `virtual` needs
            [`WithReference`][gan_blocks.WithReference]. There is no batch norm here: it mixes the
            samples, which gradient penalties do not allow.
        minibatch_kernels: Number of similarities of minibatch discrimination; 0 for none.
        device: Where the weights are made.
        dtype: Their dtype.

    Shape:
        `(N, *input_shape)` to `(N,)`.

    Raises:
        ValueError: If the samples have another shape.

    Example:
        >>> import torch
        >>> discriminator = MLPDiscriminator((1, 8, 8), width=32)
        >>> discriminator(torch.rand(5, 1, 8, 8)).shape
        torch.Size([5])

    Reference:
        Goodfellow et al., "Generative Adversarial Nets", 2014, arXiv:1406.2661, section 3, whose
        discriminator is such a network.
    """

    def __init__(
        self,
        input_shape: Shape,
        width: PositiveInt = 256,
        depth: Depth = 3,
        activation: Activation = "leaky_relu",
        norm: Literal["none", "virtual", "layer"] = "none",
        minibatch_kernels: NonNegativeInt = 0,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        in_features = math.prod(input_shape)
        features = width if depth else in_features
        minibatch: list[nn.Module] = []
        if minibatch_kernels:
            minibatch = [MinibatchDiscrimination(features, minibatch_kernels, **options)]
        self.input_shape = input_shape
        self.layers = nn.Sequential(
            nn.Flatten(),
            *_hidden_layers(in_features, width, depth, activation, norm, options),
            *minibatch,
            nn.Linear(features + minibatch_kernels, 1, **options),
            nn.Flatten(0),
        )

    @explains_failures
    def forward(self, x: Tensor) -> Tensor:
        """Logits of samples."""
        check_tensor("x", x, ("N", *self.input_shape), of=self)
        return self.layers(x)


lipschitz_rule(MLPGenerator, MLPDiscriminator)(in_turn("layers"))
