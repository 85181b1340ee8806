"""The moving average of a generator's weights."""

import copy
from operator import attrgetter, eq
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


class EMA(nn.Module):
    r"""A copy of a network whose weights are the exponential moving average of its weights.

    Of weights $\theta$ the average $\bar\theta$ follows, after a step on a batch of $b$ samples,

    $$\bar\theta \leftarrow \beta \bar\theta + (1 - \beta)\, \theta, \qquad
      \beta = 2^{-b / \min(h,\; r n)},$$

    with the half-life $h$ in samples, so that it holds for every batch size, and in the beginning a
    share $r$ of the $n$ samples seen so far: the average forgets its start. Buffers, such as the running
    statistics of batch norm, are copied. A generator sampled by its average makes better images than
    the last one of training, which circles around it.

    The average starts as the network itself, in evaluation mode, and is found as `module`, to be saved
    or sampled by itself. It and $n$ lie in `state_dict`. All
    weights are averaged in one operation for many tensors. Keep the average in float32 at least, with
    `ema.float()` where the network itself is in half precision: there a change of less than 1/256 is
    rounded away, and the average stands still.

    Args:
        model: The network; one wrapped in `DistributedDataParallel` or compiled is unwrapped.
        half_life: $h$, in samples.
        rampup: $r$; `None` for a constant $\beta$.

    Raises:
        ValueError: If `half_life` or `rampup` is not positive, or `update` gets a network with other
            parameters or buffers, or less than one sample. The average is then as it was.

    Example:
        >>> import torch
        >>> from gan_blocks import MLPGenerator
        >>> generator = MLPGenerator(2, (2,), width=8)
        >>> ema = EMA(generator, half_life=1000)
        >>> for _ in range(3):  # after each step of the generator's optimiser
        ...     ema.update(generator, samples=64)
        >>> images = ema(torch.randn(5, 2))

    Reference:
        Karras et al., "Progressive Growing of GANs", 2018, arXiv:1710.10196, section 5; half-life and
        ramp-up are those of StyleGAN2-ADA's code, Karras et al., 2020, arXiv:2006.06676, whose
        values are 10,000 or 20,000 samples, and 0.05.
    """

    def __init__(
        self, model: nn.Module, half_life: float = 10_000, rampup: float | None = 0.05
    ) -> None:
        super().__init__()
        if not half_life > 0 or (rampup is not None and not rampup > 0):
            raise ValueError(
                f"half_life and rampup should be greater than 0, got {half_life} and {rampup}"
            )
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
        self.samples = 0
        self.eval()

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """What the averaged network gives."""
        return self.module(*inputs, **options)

    def decay(self, samples: int) -> float:
        r"""$\beta$ for the next batch of so many samples."""
        seen = float("inf") if self.rampup is None else self.rampup * self.samples
        half_life = min(self.half_life, seen)
        return 0.5 ** (samples / half_life) if half_life else 0.0

    @torch.no_grad()
    def update(self, model: nn.Module, samples: int) -> None:
        """Take in the weights as they are after a step.

        Args:
            model: The network that is trained, wrapped or not.
            samples: Samples of that step, over all processes.
        """
        if not isinstance(samples, int) or samples < 1:
            raise ValueError(f"samples should be an integer of 1 at least, got {samples!r}")
        pairs = [_matched(self.module, model, kind) for kind in ("_parameters", "_buffers")]
        (averages, weights), (copies, buffers) = pairs
        if averages:
            torch._foreach_lerp_(averages, weights, 1 - self.decay(samples))  # type: ignore[attr-defined]
        if copies:
            torch._foreach_copy_(copies, buffers)  # type: ignore[attr-defined]
        self.samples += samples

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.samples)

    def set_extra_state(self, state: Tensor) -> None:
        self.samples = int(state)


def _matched(ours: nn.Module, theirs: nn.Module, kind: str) -> tuple[list[Tensor], list[Tensor]]:
    """Parameters or buffers of two networks by name, each once, theirs in the dtype of ours.

    Several times faster than `named_parameters`. Wrappers have none of their own.
    """
    owned = [[getattr(m, kind) for m in n.modules() if getattr(m, kind)] for n in (ours, theirs)]
    same = [a.keys() for a in owned[0]] == [b.keys() for b in owned[1]]
    pairs = list(zip(*owned, strict=True)) if same else []
    mine = [x for a, _ in pairs for x in a.values() if x is not None]
    other = [b[name] for a, b in pairs for name in a if b[name] is not None]
    if not same or len(mine) != len(other) or not all(map(Tensor.is_same_size, mine, other)):
        raise ValueError(f"the model has other {kind[1:]} than the one that the average is of")
    if len(set(map(id, mine))) < len(mine):  # shared ones
        unique = {id(x): (x, y) for x, y in zip(mine, other, strict=True)}.values()
        mine, other = [x for x, _ in unique], [y for _, y in unique]
    for what in (attrgetter("dtype"), Tensor.get_device):
        if not all(map(eq, map(what, mine), map(what, other))):
            return mine, [y.to(x) for x, y in zip(mine, other, strict=True)]
    return mine, other
