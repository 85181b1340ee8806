r"""An upper bound on a network's Lipschitz constant that is certain.

The bound of a composition is the product of the bounds of its parts. A part has a rule or it is
refused; nothing is estimated from below.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import isfunction
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torchs
from torch.nn.utils.parametrize import ParametrizationList

from gan_blocks._checks import check_count, check_module, type_name

Rule = Callable[[Any, tuple[int, ...]], float]

_rules: dict[type, Rule] = {}

_NOT_IN_FORWARD = {"__init__", "__repr__", "__setstate__", "extra_repr", "reset_parameters"}
"""What a subclass may change and still compute the same."""


def lipschitz_rule(*classes: type[nn.Module]) -> Callable[[Rule], Rule]:
    """Add the rule of one or more module classes to [`lipschitz_bound`][gan_blocks.lipschitz_bound].

    The rule takes the module and the shape of one input sample, and returns a number that the
    Lipschitz constant between Euclidean norms never exceeds. It holds for the classes and for
    subclasses that keep their `forward` and the methods beside it, such as a convolution's
    `_conv_forward`; a subclass with its own is refused until it has a rule. The forward has to run on
    the meta device, by which the shape of what comes next is known.

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

    for cls in classes:
        if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
            raise TypeError(f"classes should be classes of modules, got {cls!r}")

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

    The module stays as it is. A weight that a parametrisation computes is that of evaluation mode, so
    spectral normalisation does not iterate.

    Args:
        module: A linear layer, convolution, pooling, usual activation, an `nn.Sequential` of such, a
            network of this library, or a module with a [rule][gan_blocks.lipschitz_rule] of its own.
        input_shape: Shape of one sample, without the batch dimension.

    Raises:
        TypeError: If a part has no rule, naming it.
        ValueError: If the input shape does not fit, or a weight is not finite, has no entries or lies on
            the meta device.

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
    check_module("module", module)
    if not isinstance(input_shape, list | tuple):
        raise TypeError(
            f"input_shape should be the shape of one sample, such as (3, 32, 32), got "
            f"{type_name(input_shape)}"
        )
    for size in input_shape:
        check_count("input_shape", size)
    return _bound_and_output(module, tuple(input_shape))[0]


def _bound_and_output(module: nn.Module, input_shape: tuple[int, ...]) -> tuple[float, Any]:
    """The bound, and what comes out on the meta device."""
    if torchs._global_forward_hooks or torchs._global_forward_pre_hooks:
        raise TypeError(
            "forward hooks on all modules are set, which may change what any layer computes; remove them"
        )
    cls = next((cls for cls in type(module).__mro__ if cls in _rules), None)
    hooked = bool(module._forward_hooks or module._forward_pre_hooks)
    if cls is None or hooked or not computes_as(module, cls):
        raise TypeError(
            f"no Lipschitz bound is known for {type(module).__name__}"
            f"{' in this state' if type(module) in _rules else ''}"
            f"{', which has forward hooks' if hooked else ''}; bounded are "
            f"{', '.join(sorted({c.__name__ for c in _rules if c.__name__[0] != '_'}))}; add a rule "
            "with lipschitz_rule"
        )
    if cls is nn.Sequential:
        return _composition(module, input_shape)
    with _parametrisations_in_evaluation(module):
        bound = _rules[cls](module, input_shape)
    if math.isnan(bound):
        raise ValueError(
            f"{module} has no Lipschitz bound: a number or variance in it has no meaning"
        )
    return bound, _output(module, input_shape)


def _composition(module: Any, input_shape: tuple[int, ...]) -> tuple[float, Any]:
    bound, output = 1.0, torch.empty(2, *input_shape, device="meta")
    for layer in module:
        factor, output = _bound_and_output(layer, _one_sample(output))
        bound *= factor
    return bound, output


lipschitz_rule(nn.Sequential)(lambda module, input_shape: _composition(module, input_shape)[0])


def computes_as(module: nn.Module, cls: type[nn.Module]) -> bool:
    """Whether a module keeps the forward of a class, and every method that it may call."""
    kinds = cls.__mro__[: cls.__mro__.index(nn.Module)]
    methods = {name for kind in kinds for name, value in vars(kind).items() if isfunction(value)}
    return all(
        getattr(type(module), name) is getattr(cls, name) and name not in vars(module)
        for name in methods - _NOT_IN_FORWARD | {"__call__"}
    )


@contextmanager
def _parametrisations_in_evaluation(module: nn.Module) -> Iterator[None]:
    lists = [part for part in module.modules() if isinstance(part, ParametrizationList)]
    training = [part for each in lists for part in each.modules() if part.training]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True


@contextmanager
def on_meta(module: nn.Module) -> Iterator[None]:
    """Within it the tensors of a module have shapes and no values; after it all is as it was."""
    before: list[tuple[dict[str, Any], dict[str, Any]]] = [
        (table, dict(table))  # type: ignore[arg-type]
        for part in module.modules()
        for table in (vars(part), part._parameters, part._buffers)
    ]
    shared: dict[int, Tensor] = {}
    try:
        for table, entries in before:
            for name, value in entries.items():
                if isinstance(value, Tensor):
                    meta = torch.empty_like(value, device="meta", requires_grad=False)
                    table[name] = shared.setdefault(id(value), meta)
        yield
    finally:
        for table, entries in before:
            for name in table.keys() - entries.keys():
                del table[name]
            table.update(entries)


def samples_on_meta(module: nn.Module, input_shape: tuple[int, ...], count: int = 2) -> Tensor:
    """Samples of the dtype of the module's first weight."""
    state = (*module.parameters(), *module.buffers())
    dtype = next((t.dtype for t in state if t.is_floating_point()), torch.float32)
    return torch.empty(count, *input_shape, device="meta", dtype=dtype)


@torch.no_grad()
def _output(module: nn.Module, input_shape: tuple[int, ...]) -> Any:
    refusal = f"{type(module).__name__} does not take samples of shape {input_shape}"
    try:
        with on_meta(module):
            output = module(samples_on_meta(module, input_shape))
    except Exception as error:
        raise ValueError(f"{refusal}: {error}") from error
    if isinstance(output, Tensor) and output.shape[:1] != (2,):
        raise ValueError(f"{refusal}: of 2 it makes something of shape {tuple(output.shape)}")
    return output


def output_shape(module: nn.Module, input_shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that one sample leaves with; nothing is computed and the module stays as it is."""
    return _one_sample(_output(module, input_shape))


def _one_sample(output: Any) -> tuple[int, ...]:
    if not isinstance(output, Tensor):
        raise TypeError(f"a part returns {type(output).__name__}, and what follows takes a tensor")
    return tuple(output.shape[1:])
