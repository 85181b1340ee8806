"""The exponential moving average of a generator's weights."""

import copy
import weakref
from operator import attrgetter, eq
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gan_blocks._checks import check_module
from gan_blocks.authoring import Clocked
from gan_blocks.authoring.clock import follows
from gan_blocks.constraints.spectral_norm import spectral_norms


class EMA(Clocked):
    r"""A copy of a network whose weights are the exponential moving average (EMA) of its weights.

    After an optimizer step on a batch of $b$ samples the average $\bar\theta$ of weights $\theta$ is

    $$\bar\theta \leftarrow \beta \bar\theta + (1 - \beta)\, \theta, \qquad
      \beta = 2^{-b / \min(h,\; r n)},$$

    with the half-life $h$ in samples, so that one value fits every batch size. At first the half-life is
    a share $r$ of the $n$ samples seen so far, so the average forgets its start. The first update takes
    the weights as they are ($\beta = 0$): weights loaded after the average was made are not mixed with
    those before. Buffers, such as the running statistics of batch norm, are copied. The vectors of
    spectral norm are those of the averaged weights. The average gives better samples than the last
    weights, which oscillate around it.

    The average stays in evaluation mode, whatever its parent does. It is found as `module`, to be saved
    or sampled by itself. It and $n$ are in `state_dict`; to go on from a saved average, load that. If
    only the averaged network was saved, load it into `module` and set `samples` to the number of samples
    seen, or the first update replaces it. All weights are averaged in one operation for many tensors.
    Keep the average in float32 at least, with `ema.float()` where the network itself is in half
    precision: there a change of less than 1/256 is rounded away, and the average stands still.

    Args:
        model: The network. `DistributedDataParallel` and `torch.compile` wrappers are removed.
        half_life: $h$, in samples.
        rampup: $r$; `None` for a constant $\beta$.
        batch_size: $b$, the samples of one optimizer step over all processes, for an average that
            [follows][gan_blocks.follow] the generator's optimizer. `update` takes the number instead.

    Raises:
        ValueError: If `half_life` or `rampup` is not positive, or `update` gets a network with other
            parameters or buffers, or less than one sample. The average is then as it was.
        TypeError: If `model` is not a module.

    Example:
        >>> import torch
        >>> import gan_blocks
        >>> from gan_blocks import EMA, MLPGenerator
        >>> generator = MLPGenerator(2, (2,), width=8)
        >>> optimizer = torch.optim.Adam(generator.parameters())
        >>> ema = EMA(generator, half_life=1000, batch_size=64)
        >>> handle = gan_blocks.follow(optimizer, ema)  # each optimizer.step() updates the average
        >>> images = ema(torch.randn(5, 2))

        By hand, for batches of any size:

        >>> ema = EMA(generator, half_life=1000)
        >>> for _ in range(3):  # after each step of the generator's optimizer
        ...     ema.update(generator, samples=64)

    Reference:
        Karras et al., "Progressive Growing of GANs", 2018, arXiv:1710.10196, section 5; half-life and
        ramp-up are those of StyleGAN2-ADA's code, Karras et al., 2020, arXiv:2006.06676, whose
        values are 10,000 or 20,000 samples, and 0.05.
    """

    # Clocked blocks in the average copy their counts from the network and are not stepped.
    steps_children = False

    def __init__(
        self,
        model: nn.Module,
        half_life: float = 10_000,
        rampup: float | None = 0.05,
        batch_size: int | None = None,
    ) -> None:
        super().__init__()
        check_module("model", model)
        _check_positive("half_life", half_life)
        if rampup is not None:
            _check_positive("rampup", rampup)
        if batch_size is not None:
            _check_samples("batch_size", batch_size)
        while True:
            inside = getattr(model, "_orig_mod", None)  # of a compiled network
            if isinstance(model, DistributedDataParallel | nn.DataParallel):
                inside = model.module
            if inside is None:
                break
            model = inside
        self.module = copy.deepcopy(model).requires_grad_(False)
        self.half_life = half_life
        self.rampup = rampup
        self.batch_size = batch_size
        self.samples = 0
        self._model: Any = weakref.ref(model)  # no submodule, so it is not saved
        self.eval()

    def __getstate__(self) -> dict[str, Any]:
        # A copied or unpickled average is not tied to a network.
        return super().__getstate__() | {"_model": None}

    def train(self, mode: bool = True) -> "EMA":
        """Stay in evaluation mode: the average is never trained."""
        return super().train(False)

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """Run the averaged network."""
        return self.module(*inputs, **options)

    def decay(self, samples: int) -> float:
        r"""Return $\beta$ for the next batch, of `samples` samples."""
        if not self.samples:
            return 0.0
        seen = float("inf") if self.rampup is None else self.rampup * self.samples
        return 0.5 ** (samples / min(self.half_life, seen))

    def update(self, model: nn.Module, samples: int) -> None:
        """Update the average with the weights after an optimizer step.

        Args:
            model: The trained network, with or without wrappers.
            samples: The number of samples in that step, over all processes.

        Raises:
            RuntimeError: If the average follows an optimizer, which updates it.
        """
        if follows(self):
            raise RuntimeError(
                "EMA follows an optimizer, whose step updates it; drop the call of update, or call "
                "remove() on the handle that follow returned"
            )
        check_module("model", model)
        _check_samples("samples", samples)
        self._update(model, samples)

    def check_can_step(self) -> None:
        if self.batch_size is None:
            raise ValueError(
                "to step, EMA needs batch_size, the samples of one optimizer step: pass it when you "
                "make the EMA, or call update(model, samples) after each step"
            )
        if self._model is None or self._model() is None:
            raise ValueError(
                "this EMA is a copy, or its network is gone: call update(model, samples), or make an "
                "EMA of the network that is trained"
            )

    def on_step(self) -> None:
        self.check_can_step()
        self._update(self._model(), self.batch_size)  # type: ignore[arg-type]

    @torch.no_grad()
    def _update(self, model: nn.Module, samples: int) -> None:
        pairs = [_matched(self.module, model, kind) for kind in ("_parameters", "_buffers")]
        (averages, weights), (copies, buffers) = pairs
        norms = list(spectral_norms(self.module))
        # The average keeps its own singular vectors; they start from the network's.
        kept = {id(x) for _, _, norm in norms for x in norm.buffers()} if self.samples else set()
        moved, copied = [], list(zip(copies, buffers, strict=True))
        for x, y in zip(averages, weights, strict=True):
            # Integers, such as quantized weights, cannot be averaged.
            averaged = self.samples and (x.is_floating_point() or x.is_complex())
            (moved if averaged else copied).append((x, y))
        if moved:
            torch._foreach_lerp_(*map(list, zip(*moved, strict=True)), 1 - self.decay(samples))  # type: ignore
        copied = [(x, y) for x, y in copied if id(x) not in kept]
        if copied:
            torch._foreach_copy_(*map(list, zip(*copied, strict=True)))  # type: ignore
        for layer, name, norm in norms:
            norm.train()
            getattr(layer, name)  # one power iteration
            norm.eval()
        self.samples += samples

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.samples)

    def set_extra_state(self, state: Tensor) -> None:
        self.samples = int(state)


def _check_positive(name: str, value: Any) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 < value < float("inf"):
        raise ValueError(f"{name} should be a finite number greater than 0, got {value!r}")


def _check_samples(name: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} should be an integer of at least 1, got {value!r}")


def _matched(ours: nn.Module, theirs: nn.Module, kind: str) -> tuple[list[Tensor], list[Tensor]]:
    """Match parameters or buffers of two networks by name, each once, theirs in the dtype of ours.

    This is several times faster than `named_parameters`. Wrappers add no names of their own.
    """
    owned = [[getattr(m, kind) for m in n.modules() if getattr(m, kind)] for n in (ours, theirs)]
    same = [a.keys() for a in owned[0]] == [b.keys() for b in owned[1]]
    pairs = list(zip(*owned, strict=True)) if same else []
    mine = [x for a, _ in pairs for x in a.values() if x is not None]
    other = [b[name] for a, b in pairs for name in a if b[name] is not None]
    if not same or len(mine) != len(other) or not all(map(Tensor.is_same_size, mine, other)):
        raise ValueError(
            f"model should be the network that the average is of, got one with other {kind[1:]}"
        )
    if not all(x.is_complex() == y.is_complex() for x, y in zip(mine, other, strict=True)):
        raise TypeError(f"model should have {kind[1:]} as the average has, real or complex numbers")
    if len(set(map(id, mine))) < len(mine):  # shared ones
        unique = {id(x): (x, y) for x, y in zip(mine, other, strict=True)}.values()
        if len({(id(x), id(y)) for x, y in zip(mine, other, strict=True)}) > len(unique):
            raise ValueError(
                f"model should share the {kind[1:]} that the average shares, got one where they are "
                "several: make a new EMA of it"
            )
        mine, other = [x for x, _ in unique], [y for _, y in unique]
    for what in (attrgetter("dtype"), Tensor.get_device):
        if not all(map(eq, map(what, mine), map(what, other))):
            return mine, [y.to(x) for x, y in zip(mine, other, strict=True)]
    return mine, other
