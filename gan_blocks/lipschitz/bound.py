r"""An upper bound on a network's Lipschitz constant that is certain.

The bound of a composition is the product of the bounds of its parts. A part has a rule or it is
refused; nothing is estimated from below.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

Rule = Callable[[Any, tuple[int, ...]], float]

_rules: dict[type, Rule] = {}


def lipschitz_rule(*classes: type[nn.Module]) -> Callable[[Rule], Rule]:
    """Add the rule of one or more module classes to [`lipschitz_bound`][gan_blocks.lipschitz_bound].

    The rule takes the module and the shape of one input sample, and returns a number that the
    Lipschitz constant between Euclidean norms never exceeds. It holds for the classes and for
    subclasses that keep their `forward`; a subclass with its own is refused until it has a rule.

    Args:
        *classes: The module classes.

    Example:
        >>> from torch import nn
        >>> from gan_blocks import lipschitz_bound, lipschitz_rule
        >>> class Half(nn.Module):
        ...     def forward(self, x):
        ...         return x / 2
        >>> @lipschitz_rule(Half)
        ... def half(module, input_shape):
        ...     return 0.5
        >>> lipschitz_bound(nn.Sequential(Half(), nn.Tanh(), Half()), (3,))
        0.25
    """

    def add(rule: Rule) -> Rule:
        for cls in classes:
            _rules[cls] = rule
        return rule

    return add


def lipschitz_bound(module: nn.Module, input_shape: tuple[int, ...]) -> float:
    r"""An upper bound on the Lipschitz constant of a module, between Euclidean norms.

    $$\|M(x) - M(y)\|_2 \le K\,\|x - y\|_2 \qquad\text{for all } x, y$$

    For layers in turn $K$ is the product of their constants, and for a sum of branches the sum. The
    constant of a linear layer is its largest singular value, that of a convolution the operator norm
    at the given size with its padding and stride: exact in float64 for small maps, from above for
    larger ones, where it is the largest norm of the kernel's Fourier transform on a torus. Overlapping
    means of large maps are bounded by Schur's test, activations by their largest slope: 1 for ReLU,
    leaky ReLU, tanh and softplus, 1/4 for the sigmoid, and so on. Batch norm has a constant in
    evaluation mode. The bound is on the function of real numbers; float32 rounding comes on top of it.
    Modules without a rule are refused, as are other normalisation layers, dropout in training mode and
    modules with forward hooks: no honest bound is known for them.

    Args:
        module: A linear layer, convolution, pooling, usual activation, an `nn.Sequential` of such, a
            network of this library, or a module with a [rule][gan_blocks.lipschitz_rule] of its own.
        input_shape: Shape of one sample, without the batch dimension.

    Raises:
        TypeError: If a part has no rule, naming it.
        ValueError: If the input shape does not fit, or a weight is not finite.

    Example:
        >>> from torch import nn
        >>> from gan_blocks import MLPDiscriminator, WeightClipper, lipschitz_bound
        >>> critic = MLPDiscriminator((2,), width=16, depth=2)
        >>> WeightClipper(0.01)(critic)
        >>> lipschitz_bound(critic, (2,)) <= (0.01 * 32**0.5) * (0.01 * 16) * (0.01 * 16**0.5)
        True
        >>> mean = nn.Conv2d(1, 1, 3, padding=1)
        >>> _ = nn.init.constant_(mean.weight, 1 / 9)
        >>> round(lipschitz_bound(nn.Sequential(mean, nn.ReLU(), nn.AvgPool2d(2)), (1, 16, 16)), 4)
        0.4887

    Reference:
        Gouk et al., "Regularisation of Neural Networks by Enforcing Lipschitz Continuity", 2021,
        arXiv:1804.04368, section 3; convolutions on a torus: Sedghi, Gupta and Long, "The Singular
        Values of Convolutional Layers", 2019, arXiv:1805.10408, section 2.
    """
    for cls in type(module).__mro__:
        if cls in _rules and type(module).forward is cls.forward:
            if module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module):
                break
            return _rules[cls](module, tuple(input_shape))
    raise TypeError(
        f"no Lipschitz bound is known for {type(module).__name__}"
        f"{' in this state' if type(module) in _rules else ''}; bounded are "
        f"{', '.join(sorted(c.__name__ for c in _rules))}; add a rule with lipschitz_rule"
    )


def output_shape(module: nn.Module, input_shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that one sample leaves with, without computing anything."""
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    dtype = next((t.dtype for t in state.values() if t.is_floating_point()), torch.float32)
    meta = {name: tensor.detach().to("meta") for name, tensor in state.items()}
    sample = torch.empty(2, *input_shape, device="meta", dtype=dtype)
    try:
        return tuple(functional_call(module, meta, sample).shape[1:])
    except RuntimeError as error:
        raise ValueError(
            f"{type(module).__name__} does not take samples of shape {input_shape}: {error}"
        ) from error


@lipschitz_rule(nn.Sequential)
def _composition(module: nn.Sequential, input_shape: tuple[int, ...]) -> float:
    bound = 1.0
    for layer in module:
        bound *= lipschitz_bound(layer, input_shape)
        input_shape = output_shape(layer, input_shape)
    return bound
