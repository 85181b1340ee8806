"""The bounds of activations, which are their largest slopes, and of modules that move entries only."""

from torch import nn

from gan_blocks.lipschitz.bound import lipschitz_rule
from gan_blocks.lipschitz.linear import finite


@lipschitz_rule(nn.Identity, nn.Flatten, nn.Unflatten)
@lipschitz_rule(nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle)
@lipschitz_rule(nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d)
@lipschitz_rule(nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d)
@lipschitz_rule(nn.ReLU, nn.Tanh, nn.LogSigmoid, nn.Hardtanh, nn.Softsign)
def _at_most_one(module: nn.Module, input_shape: tuple[int, ...]) -> float:
    return 1.0


@lipschitz_rule(nn.Softplus)
def _softplus(module: nn.Softplus, input_shape: tuple[int, ...]) -> float:
    if not module.threshold >= 20:
        raise TypeError(f"{module} jumps at its threshold; give it the default of 20 or more")
    return 1.0


@lipschitz_rule(nn.Sigmoid)
def _sigmoid(module: nn.Sigmoid, input_shape: tuple[int, ...]) -> float:
    return 0.25


@lipschitz_rule(nn.LeakyReLU)
def _leaky_relu(module: nn.LeakyReLU, input_shape: tuple[int, ...]) -> float:
    return max(abs(module.negative_slope), 1.0)  # in this order NaN stays NaN


@lipschitz_rule(nn.PReLU)
def _prelu(module: nn.PReLU, input_shape: tuple[int, ...]) -> float:
    return max(1.0, float(finite(module.weight, module).abs().max()))


@lipschitz_rule(nn.CELU)
def _celu(module: nn.CELU, input_shape: tuple[int, ...]) -> float:
    if not module.alpha > 0:
        raise TypeError(f"{module} has slopes without a bound; alpha should be greater than 0")
    return 1.0  # exp(x/alpha) below 0


@lipschitz_rule(nn.ELU)
def _elu(module: nn.ELU, input_shape: tuple[int, ...]) -> float:
    return max(abs(module.alpha), 1.0)


@lipschitz_rule(nn.SELU)
def _selu(module: nn.SELU, input_shape: tuple[int, ...]) -> float:
    return 1.7580993408473769  # alpha times scale: the slope just below 0


@lipschitz_rule(nn.SiLU)
def _silu(module: nn.SiLU, input_shape: tuple[int, ...]) -> float:
    return 1.0998393201288672  # sigma(x)(1 + x(1 - sigma(x))) at x = 2.39936


@lipschitz_rule(nn.GELU)
def _gelu(module: nn.GELU, input_shape: tuple[int, ...]) -> float:
    if module.approximate != "none":
        raise TypeError("the tanh approximation of GELU has no rule; use nn.GELU()")
    return 1.1289041451851552  # Phi(x) + x phi(x) at x = sqrt(2)


@lipschitz_rule(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
def _dropout(module: nn.Dropout, input_shape: tuple[int, ...]) -> float:
    if module.training and module.p:
        raise TypeError("dropout in training mode is random: call eval() for a bound")
    return 1.0
