"""Upper bounds on Lipschitz constants that are certain."""

from gan_blocks.lipschitz import activations, pooling  # with the rules of torch's modules
from gan_blocks.lipschitz.bound import lipschitz_bound, lipschitz_rule, output_shape
from gan_blocks.lipschitz.convolution import convolution_norm, transposed_convolution_norm
from gan_blocks.lipschitz.linear import finite, matrix_norm
from gan_blocks.lipschitz.normalisation import batch_norm_norm

__all__ = [
    "activations",
    "batch_norm_norm",
    "convolution_norm",
    "finite",
    "lipschitz_bound",
    "lipschitz_rule",
    "matrix_norm",
    "output_shape",
    "pooling",
    "transposed_convolution_norm",
]
