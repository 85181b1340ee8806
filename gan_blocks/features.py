"""Intermediate features of any network, by layer name."""

import difflib
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from gan_blocks.layers.virtual_batch_norm import WithReference


class _AllSeen(Exception):
    """The last layer that was asked for has run."""


class FeatureExtractor(nn.Module):
    """Returns what named layers of a network put out, and stops after the last of them.

    Of a layer that runs more than once in a forward it is the first output. Where the network has
    in-place layers, such as `LeakyReLU(inplace=True)`, the outputs are copies.

    Args:
        network: Any module; its own code is not changed.
        layers: Names as in `network.named_modules()`, for instance `layers.4`. The empty name is the
            network itself: its output comes from the same forward.

    Raises:
        ValueError: If a name is unknown, naming those that exist, or none is given.
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
        known = dict(network.named_modules())
        unknown = [name for name in layers if name not in known]
        if isinstance(layers, str) or not layers or unknown:
            names = [name for name in known if name]
            what = f"layers should be a list of layer names, got {layers!r}"
            if unknown and not isinstance(layers, str):
                near = difflib.get_close_matches(unknown[0], names, 1)
                hint = f", did you mean {near[0]!r}" if near else ""
                what = f"the network has no layer {unknown[0]!r}{hint}"
            raise ValueError(f"{what}; there are {', '.join(names)}")
        self.network = network
        self.layers = tuple(layers)
        self.copies = any(getattr(module, "inplace", False) for module in network.modules())

    def forward(self, *inputs: Any, **options: Any) -> dict[str, Tensor]:
        """The output of each named layer, by name and in the order of the names."""
        seen: dict[str, Tensor] = {}
        versions: dict[str, int] = {}
        modules = dict(self.network.named_modules())

        def keep(name: str) -> Any:
            wrappers = [
                m
                for m in modules.values()
                if isinstance(m, WithReference) and modules[name] in m.network.modules()
            ]

            def hook(module: nn.Module, arguments: Any, output: Tensor) -> None:
                if name not in seen and not any(wrapper._on_reference for wrapper in wrappers):
                    seen[name] = output.clone() if self.copies else output
                    versions[name] = seen[name]._version
                if len(seen) == len(self.layers):
                    raise _AllSeen

            return hook

        handles = [modules[name].register_forward_hook(keep(name)) for name in self.layers]
        try:
            self.network(*inputs, **options)
        except _AllSeen:
            pass
        finally:
            for handle in handles:
                handle.remove()
        missing = [name for name in self.layers if name not in seen]
        if missing:
            raise RuntimeError(f"the network did not run {', '.join(missing)}")
        overwritten = [name for name in self.layers if seen[name]._version != versions[name]]
        if overwritten:
            raise RuntimeError(
                f"what {', '.join(overwritten)} put out was overwritten by an in-place operation after "
                "it; use the out-of-place one, or ask for the layer that follows"
            )
        return {name: seen[name] for name in self.layers}
