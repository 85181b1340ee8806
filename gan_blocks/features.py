"""Intermediate features of any network, by layer name."""

import copy
import dataclasses
import difflib
import threading
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gan_blocks.layers.virtual_batch_norm import reference_passes


class FeatureExtractor(nn.Module):
    """Returns the outputs of named layers of a network, and stops after the last of them.

    A layer that runs more than once in a forward contributes its first output. If the network has
    in-place layers, such as `LeakyReLU(inplace=True)`, the outputs are copies. A layer may return
    anything: an LSTM contributes its tuple.

    Several threads may use one extractor, or several extractors of one network, at the same time.
    For this each named layer gets a forward hook once. The hook stays, and does nothing while no
    extractor runs.

    Args:
        network: Any module. Its own code does not change.
        layers: Names as in `network.named_modules()`, for instance `layers.4`. The empty name is the
            network itself: its output comes from the same forward.

    Raises:
        ValueError: If a name is unknown (the message lists the existing names), or there is none.
        TypeError: If `network` is not a module, `layers` is not a list of strings, or a forward gets
            no input.
        RuntimeError: If a layer did not run in a forward, or its output was overwritten.

    Example:
        >>> import torch
        >>> from gan_blocks import FeatureMatchingLoss, MLPDiscriminator
        >>> discriminator = MLPDiscriminator((2,), width=8)
        >>> features = FeatureExtractor(discriminator, ["layers.2", "layers.4"])
        >>> real, fake = features(torch.randn(5, 2)), features(torch.randn(7, 2))
        >>> {name: tuple(x.shape) for name, x in real.items()}
        {'layers.2': (5, 8), 'layers.4': (5, 8)}
        >>> loss = FeatureMatchingLoss()
        >>> total = sum(loss(real[name], fake[name]) for name in real)
    """

    def __init__(self, network: nn.Module, layers: Sequence[str]) -> None:
        super().__init__()
        if not isinstance(network, nn.Module):
            raise TypeError(f"network should be a torch.nn.Module, got {_kind(network)}")
        known = dict(network.named_modules())
        names = [name for name in known if name]
        if not isinstance(layers, list | tuple) or not all(isinstance(x, str) for x in layers):
            raise TypeError(
                f"layers should be a list of layer names, got {layers!r}; there are {', '.join(names)}"
            )
        if not layers:
            raise ValueError(f"layers should name one layer at least; there are {', '.join(names)}")
        if unknown := [name for name in layers if name not in known]:
            near = difflib.get_close_matches(unknown[0], names, 1)
            hint = f", did you mean {near[0]!r}" if near else ""
            raise ValueError(
                f"layers should name layers of the network, which has no layer {unknown[0]!r}{hint}; "
                f"there are {', '.join(names) or 'none'}"
            )
        self.network = network
        self.layers = tuple(dict.fromkeys(layers))
        self.copies = any(getattr(module, "inplace", False) for module in network.modules())
        self._wanted()

    def _wanted(self) -> dict[nn.Module, str]:
        """Return the layers to hook, by module. The network's own output needs no hook."""
        wanted = {self.network.get_submodule(name): name for name in self.layers if name}
        for module in wanted:
            _listen(module)
        return wanted

    def forward(self, *inputs: Any, **options: Any) -> dict[str, Any]:
        """The output of each named layer, by name and in the order of the names."""
        if not inputs and not options:
            raise TypeError("FeatureExtractor takes the inputs of its network, got none")
        collector = _Collector(self._wanted(), "" not in self.layers, self.copies)
        collectors = _here.collectors
        collectors.append(collector)
        try:
            output = self.network(*inputs, **options)
            if "" in self.layers:
                collector.keep("", output)
        except _AllSeen as stop:
            if stop.collector is not collector:
                raise  # it belongs to an outer extractor
        finally:
            collectors.pop()
        missing = [name for name in self.layers if name not in collector.seen]
        if missing:
            raise RuntimeError(f"the network did not run {', '.join(missing)}")
        if overwritten := collector.overwritten():
            raise RuntimeError(
                f"what {', '.join(overwritten)} put out was overwritten by an in-place operation after "
                "it; use the out-of-place one, or ask for the layer that follows"
            )
        return {name: collector.seen[name] for name in self.layers}


class _Collector:
    """Collects layer outputs during one forward of an extractor."""

    def __init__(self, wanted: dict[nn.Module, str], stops: bool, copies: bool) -> None:
        self.wanted, self.stops, self.copies = wanted, stops, copies
        self.seen: dict[str, Any] = {}
        self.versions: dict[str, list[tuple[Tensor, int]]] = {}
        self.passes = reference_passes()

    def see(self, module: nn.Module, output: Any) -> None:
        """Keep a layer's first output. Skip reference batches that run inside the network."""
        name = self.wanted.get(module)
        if name is not None and name not in self.seen and reference_passes() == self.passes:
            self.keep(name, output)

    def keep(self, name: str, output: Any) -> None:
        """Keep an output and the version counters of its tensors."""
        # A compiled graph has no version counters to detect overwriting, and a copy is cheap there.
        copies = self.copies or torch.compiler.is_compiling()
        self.seen[name] = output = _copied(output) if copies else output
        self.versions[name] = [(x, _version(x)) for x in _tensors(output)]

    @property
    def complete(self) -> bool:
        """Whether the forward can stop because all outputs have been collected."""
        return self.stops and len(self.seen) == len(self.wanted)

    def overwritten(self) -> list[str]:
        """Return the layers whose output was modified in place after it was kept."""
        pairs = self.versions.items()
        return [name for name, kept in pairs if any(_version(x) != v for x, v in kept)]


class _AllSeen(Exception):
    """Raised to stop a forward after the last layer that a collector needs."""

    def __init__(self, collector: _Collector) -> None:
        self.collector = collector


class _Here(threading.local):
    """The collectors of the extractors active in this thread, outermost first."""

    def __init__(self) -> None:
        self.collectors: list[_Collector] = []


_here = _Here()
_lock = threading.Lock()
_MARK = "_gan_blocks_hooked"
"""Marks a hooked layer. Like the hook, it is copied and pickled with the layer."""


def _listen(module: nn.Module) -> None:
    """Hook a layer once. Adding a hook in each forward would affect other threads."""
    if not getattr(module, _MARK, False):
        with _lock:
            if not getattr(module, _MARK, False):
                module.register_forward_hook(_tell)
                setattr(module, _MARK, True)


def _tell(module: nn.Module, arguments: Any, output: Any) -> None:
    """Pass an output to this thread's extractors. A module-level function, so that it pickles."""
    for collector in _here.collectors:
        collector.see(module, output)
    for collector in _here.collectors:
        if collector.complete:
            raise _AllSeen(collector)


def _version(x: Tensor) -> int:
    # Inference tensors have no version counter, and the compiler cannot read it.
    return 0 if torch.compiler.is_compiling() or x.is_inference() else x._version


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in a layer's output."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from _tensors(getattr(value, field.name))


def _copied(value: Any) -> Any:
    """Return the same structure with each tensor cloned."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, tuple) and hasattr(value, "_fields"):  # a named tuple
        return type(value)(*map(_copied, value))
    if isinstance(value, list | tuple):
        return type(value)(map(_copied, value))
    if isinstance(value, MutableMapping):
        result = copy.copy(value)
        for key, item in value.items():
            result[key] = _copied(item)
        return result
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        result = copy.copy(value)
        for field in dataclasses.fields(value):
            object.__setattr__(result, field.name, _copied(getattr(value, field.name)))
        return result
    return value


def _kind(value: Any) -> str:
    name = getattr(value, "__name__", "") if isinstance(value, type) else ""
    return f"the class {name}" if name else type(value).__name__
