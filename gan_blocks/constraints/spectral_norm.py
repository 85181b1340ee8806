"""Spectral normalisation of a whole network."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from gan_blocks.constraints._maps import is_convolution, linear_maps
from gan_blocks.constraints._operator_norm import OperatorNorm
from gan_blocks.lipschitz.bound import computes_as, on_meta, samples_on_meta
from gan_blocks.spec import block
from gan_blocks.types import PositiveFloat, PositiveInt, Shape


@block(
    moves_in_forward=True,
)
class SpectralNorm:
    r"""Divides each weight of a module by its largest singular value, whenever it is used.

    $$W \mapsto W / \sigma(W), \qquad \sigma(W) = \max_h \|W h\|_2 / \|h\|_2,$$

    for linear layers, convolutions and embeddings. The norm is found by power iteration, one step at
    each forward in training. It comes from below, so the constant of a layer lies a little above 1
    until the iteration has settled.

    Normalisation layers and learned tensors that are not named as a weight are left alone. Any other
    layer with a weight of two or more dimensions is refused by name: attention's joint projection,
    recurrent layers, and layers with an equalised learning rate, whose scale would undo the norm.

    **By default a convolution's weight is reshaped to a matrix with one row for each output channel.**
    That is SNGAN's and `torch.nn.utils.parametrizations.spectral_norm`, which is used. The convolution
    itself can then still stretch an image, by up to the root of the kernel's area. With `input_shape`
    each convolution is divided by its true norm on the maps that it sees, with padding, stride,
    dilation and groups. That is another constraint than SNGAN's, and a stronger one unless the maps are
    about as small as the kernel; it costs three convolutions of one sample at each forward in training.

    Call it once when the network is made, before `torch.compile`, `DistributedDataParallel` and
    loading a checkpoint. Further calls do nothing, so it may also come after every step as other
    constraints do; a convolution that has the other norm already is refused. The parameters stay the
    same objects and an optimiser made before goes on to work; their names in the `state_dict` become
    those of `torch.nn.utils.parametrize`.

    Args:
        n_power_iterations: Steps of power iteration at each forward in training.
        eps: Smallest norm that the iteration divides by; with `input_shape`, of the convolution whose
            largest weight is 1.
        input_shape: Shape of one sample of the network's input, for the norms of convolutions on
            images; None for SNGAN's.

    Raises:
        ValueError: If the module has no such layer or one that is not known, a weight is all zeros, not
            finite, computed by a hook, or too small or large for the iteration, or, with `input_shape`,
            the module does not run on such a batch, a convolution sees maps of several sizes or none,
            or a subclass computes something else with its weight.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> critic = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 1))
        >>> SpectralNorm()(critic)
        >>> norm = torch.linalg.matrix_norm(critic[0].weight, 2)
        >>> bool((norm - 1).abs() < 0.01)
        True

    Reference:
        Miyato et al., "Spectral Normalization for Generative Adversarial Networks", 2018,
        arXiv:1802.05957, section 2.1 and appendix A; the norm of the convolution: Gouk et al.,
        "Regularisation of Neural Networks by Enforcing Lipschitz Continuity", 2021, arXiv:1804.04368,
        section 3.2, and Farnia, Zhang and Tse, "Generalizable Adversarial Training via Spectral
        Normalization", 2019, arXiv:1811.07457.
    """

    def __init__(
        self,
        n_power_iterations: PositiveInt = 1,
        eps: PositiveFloat = 1e-12,
        input_shape: Shape | None = None,
    ) -> None:
        self.n_power_iterations = n_power_iterations
        self.eps = eps
        self.input_shape = input_shape

    def __call__(self, module: nn.Module) -> None:
        """Normalise the weights from now on.

        Args:
            module: The critic.
        """
        layers = {
            name: layer
            for name, layer in linear_maps("SpectralNorm", module, nn.Embedding).items()
            if not self._has_normalised(name, layer)
        }
        exact: dict[str, nn.Module] = {}
        if self.input_shape is not None:
            exact = {name: layer for name, layer in layers.items() if is_convolution(layer)}
        for name, layer in layers.items():
            shown = name or type(layer).__name__
            _check(shown, layer)
            if name in exact:
                _check_that_it_convolves(shown, layer)
            else:
                _check_size(shown, layer, self.eps)
        shapes = {}
        if self.input_shape is not None and exact:
            shapes = _shapes_seen(module, exact, self.input_shape)
        for name, layer in layers.items():
            if name in shapes:
                norm = OperatorNorm(layer, shapes[name], self.n_power_iterations, self.eps)
                parametrize.register_parametrization(layer, "weight", norm)
            else:
                parametrizations.spectral_norm(
                    layer, "weight", self.n_power_iterations, eps=self.eps
                )
            layer.parametrizations.train(layer.training)  # type: ignore[union-attr]

    def _has_normalised(self, name: str, layer: Any) -> bool:
        """Whether it is done already; a convolution by its other norm is an error."""
        found = (
            layer.parametrizations.weight if parametrize.is_parametrized(layer, "weight") else ()
        )
        if is_convolution(layer):
            other = parametrizations._SpectralNorm if self.input_shape else OperatorNorm
            if any(isinstance(each, other) for each in found):
                raise ValueError(
                    f"the convolution {name} is normalised already, by "
                    f"{'the norm of its reshaped weight' if self.input_shape else 'its true norm'}; "
                    "remove that first, with torch.nn.utils.parametrize.remove_parametrizations"
                )
        return any(
            isinstance(each, OperatorNorm | parametrizations._SpectralNorm) for each in found
        )


def spectral_norms(module: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """Yield layer, name and parametrization of each spectrally normalized tensor of a module."""
    for layer in module.modules():
        if not parametrize.is_parametrized(layer):
            continue
        for name, chain in layer.parametrizations.items():  # type: ignore[union-attr]
            for each in chain:
                if isinstance(each, OperatorNorm | parametrizations._SpectralNorm):
                    yield layer, name, each


def _check(name: str, layer: Any) -> None:
    weight: Tensor = layer.weight.detach()
    if weight.is_meta:
        return
    if not bool(weight.isfinite().all()):
        raise ValueError(f"SpectralNorm: the weight of {name} should be finite")
    if not bool((weight != 0).any()):
        raise ValueError(
            f"SpectralNorm: the weight of {name} should have a direction, but it is all zeros; draw it "
            "first"
        )


def _check_size(name: str, layer: Any, eps: float) -> None:
    """Torch's iteration divides by norms of the weight as it is, where the exact form scales it."""
    weight: Tensor = layer.weight.detach()
    if weight.is_meta:
        return
    largest = float(weight.abs().max())
    if largest < eps or not bool(torch.linalg.vector_norm(weight).isfinite()):
        raise ValueError(
            f"the weight of {name} has entries up to {largest:.0e}: power iteration takes norms below "
            f"eps={eps} for 0 and overflows {weight.dtype}; draw it at a usual size"
        )


def _check_that_it_convolves(name: str, layer: nn.Module) -> None:
    torchs = next(cls for cls in type(layer).__mro__ if cls.__module__ == nn.Conv2d.__module__)
    if not computes_as(layer, torchs):
        raise ValueError(
            f"{name} changes what {torchs.__name__} computes with its weight, so the norm of the "
            "convolution is not known; leave input_shape out"
        )


def _shapes_seen(
    module: nn.Module, layers: dict[str, nn.Module], input_shape: tuple[int, ...]
) -> dict[str, tuple[int, ...]]:
    """The shape of one sample at each layer, by a forward that computes nothing and changes nothing."""
    seen: dict[str, set[tuple[int, ...]]] = {name: set() for name in layers}

    def watch(name: str, layer: nn.Module) -> Any:
        def note(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            seen[name].add(tuple(inputs[0].shape[1:]))

        return layer.register_forward_pre_hook(note)

    hooks = [watch(name, layer) for name, layer in layers.items()]
    try:
        with torch.no_grad(), on_meta(module):
            module(samples_on_meta(module, input_shape, 2))
    except Exception as error:
        raise ValueError(
            f"{type(module).__name__} does not run on a batch of samples of shape {input_shape} "
            f"alone on the meta device, so the maps that its convolutions see are not known: {error}"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    for name, shapes in seen.items():
        if len(shapes) != 1:
            what = " and ".join(map(str, sorted(shapes))) or "no map at all"
            raise ValueError(
                f"the convolution {name} sees {what}, and its norm depends on the size; leave "
                "input_shape out"
            )
    return {name: shapes.pop() for name, shapes in seen.items()}
