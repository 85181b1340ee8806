"""Virtual batch normalization, and the wrapper that brings it its reference batch."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from gan_blocks.distributed import local, process_count
from gan_blocks.precision import WideBuffers, at_least_float32
from gan_blocks.spec import block
from gan_blocks.types import Normalization, PositiveFloat, PositiveInt


class _Statistics(NamedTuple):
    """Mean and biased variance of each channel over a reference batch of some size."""

    mean: Tensor
    variance: Tensor
    size: int


class _Task(NamedTuple):
    """What a layer does in a forward, one entry for each of its calls."""

    collects: bool  # the statistics of the reference; otherwise it uses them
    statistics: list[_Statistics]


class _Here(threading.local):
    """State of one thread. It is not stored in the layers, since threads share them."""

    def __init__(self) -> None:
        self.tasks: dict[nn.Module, _Task] = {}
        self.reference_passes = 0


_here = _Here()


def reference_passes() -> int:
    """Return the number of reference passes in progress in this thread."""
    return _here.reference_passes


@contextmanager
def _tasks(
    layers: Sequence[nn.Module], collects: bool, statistics: Sequence[list[_Statistics]]
) -> Iterator[None]:
    """Give each layer its task. Within another wrapper of the same layers the inner one counts."""
    before = [_here.tasks.get(layer) for layer in layers]
    for layer, own in zip(layers, statistics, strict=True):
        _here.tasks[layer] = _Task(collects, own)
    try:
        yield
    finally:
        for layer, task in zip(layers, before, strict=True):
            if task is None:
                del _here.tasks[layer]
            else:
                _here.tasks[layer] = task


@block(
    double_backward=True,
    compile=True,
    autocast=True,
    distributed=True,
    dtypes=("bfloat16", "float32", "float64"),
)
class VirtualBatchNorm(WideBuffers, Normalization):
    r"""Normalises each sample by the statistics of a fixed reference batch united with itself.

    With a reference batch of $n$ samples and $c = 1/(n+1)$, the sample $x$ is normalised per channel by

    $$\mu = c\,\mu_x + (1-c)\,\mu_{\text{ref}}, \qquad
      \sigma^2 = c\,\sigma_x^2 + (1-c)\,\sigma_{\text{ref}}^2
               + c(1-c)(\mu_x - \mu_{\text{ref}})^2,$$

    which are mean and biased variance of the $n + 1$ samples together ($\mu_x$, $\sigma_x^2$ over the
    sample's own positions), and then scaled and shifted by learned $\gamma$ and $\beta$:
    $y = \gamma (x - \mu)/\sqrt{\sigma^2 + \epsilon} + \beta$. A sample's result does not depend on its
    batch mates, and a batch of one works. The reference itself is normalised by its own statistics.

    The layer works inside [`WithReference`][gan_blocks.WithReference], which sends the reference
    through the network on every forward: statistics follow the weights, with gradient.

    Args:
        num_features: Number of channels.
        eps: $\epsilon$, added to the variance.
        device: Where the weights are made.
        dtype: Their dtype.

    Shape:
        `(N, num_features)`, `(N, num_features, L)`, `(N, num_features, H, W)` and so on, to the same
        shape.

    Raises:
        ValueError: If the number of channels differs.
        TypeError: If the input is not a tensor of floating-point numbers.
        RuntimeError: If the layer runs outside `WithReference`.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from gan_blocks import WithReference
        >>> network = nn.Sequential(nn.Linear(3, 8), VirtualBatchNorm(8), nn.ReLU(), nn.Linear(8, 1))
        >>> critic = WithReference(network, torch.randn(64, 3))
        >>> x = torch.randn(5, 3)
        >>> torch.testing.assert_close(critic(x)[:2], critic(x[:2]))

    Reference:
        Salimans et al., "Improved Techniques for Training GANs", 2016, arXiv:1606.03498, section 3.5.
    """

    frozen: Tensor | None
    frozen_sizes: Tensor | None

    wide_buffers = ("frozen",)  # of large features

    def __init__(
        self,
        num_features: PositiveInt,
        eps: PositiveFloat = 1e-5,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(num_features, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(num_features, device=device, dtype=dtype))
        # Frozen means and variances of each call, (calls, 2, C), and sizes of the reference.
        self.register_buffer("frozen", None)
        self.register_buffer("frozen_sizes", None)

    def forward(self, x: Tensor) -> Tensor:
        """The normalised samples."""
        if not isinstance(x, Tensor) or not x.is_floating_point():
            what = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise TypeError(
                f"VirtualBatchNorm: x should be a tensor of floating-point numbers, got {what}"
            )
        if x.dim() < 2 or x.shape[1] != self.num_features:
            raise ValueError(
                f"VirtualBatchNorm: x should have shape (N, {self.num_features}, ...), "
                f"got {tuple(x.shape)}"
            )
        wide = at_least_float32(x)
        shape = (-1, self.num_features, *[1] * (x.dim() - 2))
        positions = list(range(2, x.dim()))
        task = _here.tasks.get(self)
        if task is not None and task.collects:
            mean = wide.mean([0, *positions])
            centred = wide - mean.view(shape)
            variance = centred.square().mean([0, *positions])
            task.statistics.append(_Statistics(mean, variance, len(x)))
        elif task is not None and task.statistics:
            reference = task.statistics.pop(0)
            c = 1 / (reference.size + 1)
            mean_x = wide.mean(positions) if positions else wide
            mean = c * mean_x + (1 - c) * reference.mean
            centred = wide - mean.view(shape)
            # About the common mean, so that all terms are positive: E[x^2] - E[x]^2 would lose
            # everything at means of 10^4 in float32.
            of_x = centred.square().mean(positions) if positions else centred.square()
            of_reference = reference.variance + (reference.mean - mean).square()
            variance = c * of_x + (1 - c) * of_reference
        else:
            raise RuntimeError(
                "VirtualBatchNorm has no reference: wrap the network, "
                "WithReference(network, reference), and let each layer run as often as for the reference"
            )
        scale = torch.rsqrt(variance + self.eps) * self.weight
        return torch.addcmul(self.bias.view(shape), centred, scale.view(shape)).to(x.dtype)

    def _freeze(self, collected: list[_Statistics]) -> None:
        self.frozen = torch.stack([torch.stack([s.mean, s.variance]) for s in collected]).detach()
        self.frozen_sizes = torch.tensor([s.size for s in collected], device=self.frozen.device)

    def _unfreeze(self) -> None:
        self.frozen = self.frozen_sizes = None

    def _frozen_statistics(self) -> list[_Statistics]:
        if self.frozen is None or self.frozen_sizes is None:
            return []
        wide, sizes = at_least_float32(self.frozen), self.frozen_sizes.tolist()
        return [
            _Statistics(mean, variance, size)
            for (mean, variance), size in zip(wide, sizes, strict=True)
        ]

    def _load_from_state_dict(  # type: ignore[override]
        self, state_dict: Any, prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        # A state that has this layer says whether it is frozen.
        for name in ("frozen", "frozen_sizes") if prefix + "weight" in state_dict else ():
            saved = state_dict.get(prefix + name)
            here = None if saved is None else torch.empty_like(saved, device=self.weight.device)
            setattr(self, name, here)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class WithReference(nn.Module):
    """Gives the virtual batch norm layers of a network the reference batch that they need.

    Each forward sends the reference through the network first, and then the input. The two never meet
    in one batch, so batch norm or minibatch discrimination in the same network do not see the
    reference as batch mates. Running statistics of batch norm do not learn from it. The reference is
    a buffer: it moves with the module and is in `state_dict`. In a distributed run it has to be the same
    on all processes; `DistributedDataParallel` sends that of rank 0 to the others. Several threads may
    use one network at the same time.

    Args:
        network: Contains `VirtualBatchNorm` layers.
        reference: A fixed batch of inputs, for instance the first batch of real samples, or of latent
            vectors for a generator; a tuple of tensors for a network of several inputs.

    Raises:
        ValueError: If the network has no `VirtualBatchNorm`, the reference is empty, or an input has
            another number of dimensions than its reference.
        TypeError: If `network` is not a module, `reference` is not a tensor or a tuple of tensors, or a
            forward gets no input, one that is not a tensor, or a tensor by name.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from gan_blocks import VirtualBatchNorm
        >>> generator = WithReference(
        ...     nn.Sequential(nn.Linear(4, 8), VirtualBatchNorm(8)), reference=torch.randn(32, 4)
        ... )
        >>> generator(torch.randn(1, 4)).shape
        torch.Size([1, 8])
    """

    def __init__(self, network: nn.Module, reference: Tensor | tuple[Tensor, ...]) -> None:
        super().__init__()
        if not isinstance(network, nn.Module):
            raise TypeError(f"network should be a torch.nn.Module, got {type(network).__name__}")
        references = (reference,) if isinstance(reference, Tensor) else reference
        if not isinstance(references, list | tuple) or not all(
            isinstance(x, Tensor) for x in references
        ):
            raise TypeError(
                "reference should be a tensor, or a tuple of tensors for a network of several inputs, "
                f"got {type(reference).__name__}"
            )
        if not any(isinstance(m, VirtualBatchNorm) for m in network.modules()):
            raise ValueError("the network has no VirtualBatchNorm layer, so it needs no reference")
        if not references or any(x.dim() == 0 or len(x) == 0 for x in references):
            raise ValueError("the reference is empty; give a batch of inputs")
        self.network = network
        self._count = len(references)
        for i, tensor in enumerate(references):
            self.register_buffer(f"reference_{i}", tensor.detach().clone())

    @property
    def reference(self) -> tuple[Tensor, ...]:
        """The reference batch, one tensor for each input of the network."""
        return tuple(self.get_buffer(f"reference_{i}") for i in range(self._count))

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """What the network gives on the inputs; the options go into the reference's pass too."""
        if not inputs:
            raise TypeError("WithReference takes the inputs of its network by position, got none")
        for i, (x, reference) in enumerate(zip(inputs, self.reference, strict=False)):
            if not isinstance(x, Tensor):
                raise TypeError(
                    f"WithReference: input {i} should be a tensor, as its reference is, got "
                    f"{type(x).__name__}"
                )
            if x.dim() != reference.dim():
                raise ValueError(
                    f"WithReference: input {i} should have {reference.dim()} dimensions, as its "
                    f"reference has, got shape {tuple(x.shape)}"
                )
        named = [name for name, value in options.items() if isinstance(value, Tensor)]
        if named:
            raise TypeError(
                f"pass {', '.join(named)} by position, so that the reference has one of its own"
            )
        layers = self._layers()
        if self.frozen:
            statistics = [layer._frozen_statistics() for layer in layers]
        else:
            statistics = self._statistics(**options)
        with _tasks(layers, False, statistics):
            return self.network(*inputs, **options)

    @property
    def frozen(self) -> bool:
        """Whether the statistics are fixed."""
        return all(layer.frozen is not None for layer in self._layers())

    @torch.no_grad()
    def freeze(self, **options: Any) -> None:
        """Fix the statistics as they are with the present weights, for inference.

        The options are the network's, as in a forward.

        They lie in `state_dict` from then on, and a network that loads it is frozen too.
        """
        for layer, collected in zip(self._layers(), self._statistics(**options), strict=True):
            layer._freeze(collected)

    def unfreeze(self) -> None:
        """Let the statistics follow the weights again."""
        for layer in self._layers():
            layer._unfreeze()

    def _layers(self) -> list[VirtualBatchNorm]:
        return [m for m in self.network.modules() if isinstance(m, VirtualBatchNorm)]

    def _statistics(self, **options: Any) -> list[list[_Statistics]]:
        """The statistics of each layer over the reference."""
        layers = self._layers()
        collected: list[list[_Statistics]] = [[] for _ in layers]
        # Every process has the whole reference, so no layer looks for parts of it on the others. The
        # compiler cannot set the variable of `local`, and on one process there is no need to.
        alone = local() if process_count() > 1 else nullcontext()
        _here.reference_passes += 1
        try:
            with _tasks(layers, True, collected), _running_statistics_kept(self.network), alone:
                # A copy: DistributedDataParallel writes to buffers between forward and backward.
                self.network(*(x.clone() for x in self.reference), **options)
        except (TypeError, ValueError) as error:
            if type(error) not in (
                TypeError,
                ValueError,
            ):  # another's class, with a call of its own
                raise
            raise type(error)(f"reference should be a batch of inputs: {error}") from error
        finally:
            _here.reference_passes -= 1
        return collected


_lock = threading.Lock()
_kept: dict[nn.Module, tuple[int, bool, float | None]] = {}
"""Norms whose running statistics are paused: the number of reference passes and the saved settings."""


@contextmanager
def _running_statistics_kept(network: nn.Module) -> Iterator[None]:
    """Pause running statistics while the reference passes through the network.

    The layers normalize as always. Their settings are shared by all threads, so meanwhile they take
    nothing in from other threads either. The last thread restores the settings.
    """
    norms = [m for m in network.modules() if isinstance(m, _NormBase) and m.training]
    if not norms:
        yield
        return
    with _lock if not torch.compiler.is_compiling() else nullcontext():
        for module in norms:
            count, track, momentum = _kept.get(
                module, (0, module.track_running_stats, module.momentum)
            )
            _kept[module] = (count + 1, track, momentum)
            if isinstance(module, _BatchNorm):
                module.track_running_stats = False
            else:
                module.momentum = 0.0
    try:
        yield
    finally:
        with _lock if not torch.compiler.is_compiling() else nullcontext():
            for module in norms:
                count, track, momentum = _kept.pop(module)
                if count > 1:
                    _kept[module] = (count - 1, track, momentum)
                else:
                    module.track_running_stats, module.momentum = track, momentum
