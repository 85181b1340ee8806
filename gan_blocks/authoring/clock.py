"""Block state that advances once per optimizer step.

A block that counts (a schedule, a lazy penalty) or averages (LeCam, path length) derives from
[`Clocked`][gan_blocks.authoring.Clocked]. It advances once per optimizer step, no matter how often its
`forward` runs in between, for instance with gradient accumulation, under activation checkpointing or for
logging.
"""

import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gan_blocks._checks import is_batched, warn_caller
from gan_blocks.precision import WideBuffers

FORGOTTEN = 256
"""After this many forwards without a step, assume that the block is never stepped."""

_leaders: "weakref.WeakKeyDictionary[Clocked, weakref.ref[Any]]" = weakref.WeakKeyDictionary()
"""The optimizer that each block follows. Stored outside the block, so that a copy follows none."""

_moving = threading.RLock()
"""Held during state updates, since one thread may step a block while another runs it."""


class Clocked(WideBuffers):
    """A block that advances once per optimizer step.

    `forward` reads the state without changing it. [`on_step`][gan_blocks.authoring.Clocked.on_step]
    updates it. [`follow`][gan_blocks.follow] calls it after each step of an optimizer, and
    [`step`][gan_blocks.authoring.Clocked.step] calls it by hand.

    Args:
        device: Where the buffer is made.

    Attributes:
        step_count: How many optimizer steps the block has seen, an integer in a buffer.

    Example:
        >>> import torch
        >>> from gan_blocks.authoring import Clocked
        >>> class Countdown(Clocked):
        ...     def forward(self):
        ...         return (3 - self.step_count).clamp(min=0)
        >>> countdown = Countdown()
        >>> [int(countdown()), int(countdown())]
        [3, 3]
        >>> countdown.step()
        >>> int(countdown())
        2
    """

    step_count: Tensor

    steps_children = True
    """Whether a step of this block also advances the clocked blocks inside it."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "step" in vars(cls):
            raise TypeError(
                f"{cls.__name__} should override on_step, which every optimizer step calls, not step"
            )

    def __init__(self, *, device: torch.device | str | int | None = None) -> None:
        super().__init__()
        self.register_buffer("step_count", torch.zeros((), dtype=torch.int64, device=device))
        self._forwards_since_step = 0

    def step(self) -> None:
        """Advance by one optimizer step, with the clocked blocks inside this one.

        Raises:
            RuntimeError: If the block follows an optimizer.
        """
        step(self)

    def on_step(self) -> None:
        """Update the state after an optimizer step. Override it; by default it does nothing.

        It runs without gradients, before `step_count` is incremented.
        """

    def check_can_step(self) -> None:
        """Raise `ValueError` if the block is not ready to step. Override it."""

    def note_forward(self, *, required: bool = False) -> None:
        """Detect a block that is never stepped. Call it in a `forward` that relies on steps.

        It counts forwards in training mode with gradients, outside compiled graphs, of a block that does
        not follow an optimizer.

        Args:
            required: Whether to raise an error instead of a warning. Set it if a block that never
                advances would train the wrong objective.

        Raises:
            RuntimeError: At the 256th forward since the last step, if `required`.
        """
        if torch.compiler.is_compiling() or not (self.training and torch.is_grad_enabled()):
            return
        if follows(self):  # many forwards are then micro-batches of one step
            return
        self._forwards_since_step += 1
        if self._forwards_since_step < FORGOTTEN:
            return
        name = type(self).__name__
        message = (
            f"{name} has run {FORGOTTEN} times without an optimizer step: call "
            "gan_blocks.follow(optimizer, block) once before training, or block.step() after each "
            "optimizer.step()"
        )
        if required:
            raise RuntimeError(message)
        if self._forwards_since_step == FORGOTTEN:
            warn_caller(message)

    def refuse_many(self, value: Tensor) -> None:
        """Raise `ValueError` inside `torch.vmap`. Call it before storing a value in the state."""
        if not torch.compiler.is_compiling() and is_batched(value):
            raise ValueError(
                f"{type(self).__name__} averages over steps, so in training mode it takes one batch at "
                "a time, not many inside torch.vmap; call eval() on it, or leave it out of the vmap"
            )

    @torch.no_grad()
    def _advance(self) -> None:
        with nullcontext() if torch.compiler.is_compiling() else _moving:
            self._forwards_since_step = 0
            self.on_step()
            # Rebind, do not add in place: a compiled step may have saved the old tensor for backward.
            self.step_count = self.step_count + 1


class Averaging(Clocked):
    """A clocked block that averages a statistic of the batch over steps.

    `forward` hands the statistic of its batch to [`pool`][gan_blocks.authoring.Averaging.pool]. Each
    step passes the mean over all samples since the last step to
    [`commit`][gan_blocks.authoring.Averaging.commit]. The state is therefore that of the whole batch,
    however many micro-batches it is split into.

    Args:
        shape: The shape of the statistic.
        device: Where the buffers are made.

    Example:
        >>> import torch
        >>> from gan_blocks.authoring import Averaging
        >>> class MeanLogit(Averaging):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.register_buffer("mean", torch.zeros(()))
        ...     def forward(self, logits):
        ...         self.pool(logits.mean(), len(logits))
        ...         return (logits - self.mean).square().mean()
        ...     def commit(self, value, seen):
        ...         self.mean = torch.where(seen, value, self.mean)
        >>> block = MeanLogit()
        >>> _ = block(torch.tensor([1.0, 2.0, 3.0])), block(torch.tensor([6.0]))
        >>> block.step()
        >>> block.mean
        tensor(3.)
    """

    pooled: Tensor
    pooled_samples: Tensor

    wide_buffers = ("pooled", "pooled_samples")  # a mean over many micro-batches

    def __init__(
        self, shape: tuple[int, ...] = (), *, device: torch.device | str | int | None = None
    ) -> None:
        super().__init__(device=device)
        # Not saved: checkpoints are written between steps, when nothing is pooled.
        self.register_buffer("pooled", torch.zeros(shape, device=device), persistent=False)
        self.register_buffer("pooled_samples", torch.zeros(shape, device=device), persistent=False)

    def pool(self, value: Tensor, samples: Tensor | float) -> None:
        """Add the statistic of a batch to the pool of the current step.

        It does nothing in evaluation mode or without gradients. It ignores entries that are not finite,
        so a step that overflows under a gradient scaler does not change the state.

        Args:
            value: The statistic, a mean over samples, in the shape given to the constructor.
            samples: The number of samples in the mean, as a number or a tensor of the same shape.

        Raises:
            ValueError: Inside `torch.vmap`, which computes many statistics at once.
        """
        self.note_forward()
        if not (self.training and torch.is_grad_enabled()):
            return
        self.refuse_many(value)
        with nullcontext() if torch.compiler.is_compiling() else _moving:
            self._pool(value.detach().to(self.pooled), samples)

    @torch.no_grad()
    def _pool(self, value: Tensor, samples: Tensor | float) -> None:
        added = torch.where(value.isfinite(), samples, 0.0).to(self.pooled_samples)
        total = self.pooled_samples + added
        # This form is exact for a single batch, and for the same batch repeated.
        share = added / torch.where(total > 0, total, 1)
        change = torch.where(value.isfinite(), value, 0) - self.pooled
        self.pooled = self.pooled + share * change
        self.pooled_samples = total

    def on_step(self) -> None:
        self.commit(self.pooled, self.pooled_samples > 0)
        self._clear_pool()

    def _clear_pool(self) -> None:
        self.pooled = torch.zeros_like(self.pooled)
        self.pooled_samples = torch.zeros_like(self.pooled_samples)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        # Discard what was pooled before the load, since it belongs to the old state.
        self._clear_pool()

    def commit(self, value: Tensor, seen: Tensor) -> None:
        """Update the state at a step. Override it.

        Args:
            value: The mean of the statistic over all samples since the last step.
            seen: A boolean for each entry, true if it had any samples.
        """
        raise NotImplementedError(
            f"{type(self).__name__} should override commit(value, seen), which takes in what was pooled"
        )


class Following:
    """The handle that [`follow`][gan_blocks.follow] returns."""

    def __init__(self, hook: Any, blocks: list[Clocked], leader: Any) -> None:
        self._hook, self._blocks, self._leader = hook, blocks, leader

    def remove(self) -> None:
        """Stop following. The blocks keep their state and can be stepped by hand."""
        self._hook.remove()
        for block in self._blocks:
            # If the optimizer was deleted, the block may follow another one by now.
            if _leaders.get(block) is self._leader:
                del _leaders[block]
        self._blocks = []


def follow(optimizer: Any, *modules: nn.Module) -> Following:
    """Advance blocks automatically after each step of an optimizer.

    Call it once, before training. A block follows the optimizer of the network whose loss it is in.
    Penalties, LeCam and noise in the critic follow the critic's optimizer. Path length and
    [`EMA`][gan_blocks.EMA] follow the generator's. Steps that a gradient scaler skips do not count.

    Args:
        optimizer: An optimizer derived from `torch.optim.Optimizer`, or the wrapper that Accelerate or
            Lightning put around it.
        modules: Blocks, or networks with blocks inside. Each clocked block follows once, even if it
            occurs several times. Other blocks, such as `R1Penalty`, have no state to advance.

    Returns:
        A handle with `remove()`.

    Raises:
        TypeError: If the optimizer has no step post-hook, or an argument is not a module.
        RuntimeError: If a block already follows an optimizer.
        ValueError: If a block is not ready to step.

    Example:
        >>> import torch
        >>> import gan_blocks
        >>> from gan_blocks import CosineSchedule, MLPDiscriminator, R1Penalty, Scheduled
        >>> critic = MLPDiscriminator((2,))
        >>> penalty = Scheduled(R1Penalty(gamma=1.0), CosineSchedule(1.0, 0.0, steps=2))
        >>> optimizer = torch.optim.Adam(critic.parameters())
        >>> handle = gan_blocks.follow(optimizer, penalty)
        >>> for _ in range(2):
        ...     penalty(critic, torch.randn(8, 2)).backward()
        ...     optimizer.step()
        >>> penalty.schedule()
        tensor(0.)
    """
    optimizer = _inner_optimizer(optimizer)
    blocks = list(_clocked_in(modules))
    for block in blocks:
        if follows(block):
            raise RuntimeError(
                f"{type(block).__name__} follows an optimizer already, so each step would count twice; "
                "call remove() on the handle of the first follow"
            )
        block.check_can_step()

    @torch.compiler.disable  # avoids a recompilation for each set of blocks
    def after_step(optimizer: Any, *_: Any) -> None:
        # Fused optimizers run this hook even for steps that they skip because of an overflow.
        found_inf = getattr(optimizer, "found_inf", None)
        if (found_inf is not None and bool(found_inf)) or _in_a_step_of_its_own(optimizer):
            return
        _advance_all(blocks)

    try:
        hook = optimizer.register_step_post_hook(after_step)
    except AttributeError:
        raise TypeError(
            f"optimizer should be a torch.optim.Optimizer, got {type(optimizer).__name__}, which has no "
            "register_step_post_hook; call gan_blocks.step(*modules) after each of its steps"
        ) from None
    leader = weakref.ref(optimizer)
    for block in blocks:
        _leaders[block] = leader
    return Following(hook, blocks, leader)


def step(*modules: nn.Module) -> None:
    """Advance blocks by one optimizer step, by hand.

    Call it after each optimizer step if [`follow`][gan_blocks.follow] cannot be used.

    Args:
        modules: Blocks, or networks with blocks inside. Each clocked block advances once, even if
            it occurs several times. Other blocks have no state to advance.

    Raises:
        RuntimeError: If a block follows an optimizer.
        TypeError: If an argument is not a module.

    Example:
        >>> import gan_blocks
        >>> from gan_blocks import LinearSchedule
        >>> weight = LinearSchedule(start=0.0, end=1.0, steps=4)
        >>> gan_blocks.step(weight)
        >>> weight()
        tensor(0.2500)
    """
    blocks = list(_clocked_in(modules))
    for block in blocks:
        if follows(block):
            raise RuntimeError(
                f"{type(block).__name__} follows an optimizer, whose step advances it; drop the step by "
                "hand, or call remove() on the handle that follow returned"
            )
    _advance_all(blocks)


def _advance_all(blocks: list[Clocked]) -> None:
    """Advance all blocks, or none if one of them is not ready."""
    for block in blocks:
        block.check_can_step()
    for block in blocks:
        block._advance()


def _in_a_step_of_its_own(optimizer: Any) -> bool:
    """Whether this hook runs after a `super().step()` call inside the optimizer's own step.

    Torch runs the hooks after both steps. Only the outer one ends the optimizer step.
    """
    hooked = getattr(type(optimizer).step, "__code__", None)
    frame, running = sys._getframe(1), 0
    while frame is not None:
        if frame.f_code is hooked and any(x is optimizer for x in frame.f_locals.values()):
            running += 1
        frame = frame.f_back
    return running > 1


def follows(block: Clocked) -> bool:
    """Whether a block advances with an optimizer that still exists."""
    leader = _leaders.get(block)
    return leader is not None and leader() is not None


def _clocked_in(modules: tuple[Any, ...]) -> Iterator[Clocked]:
    """Yield each clocked block once."""
    seen: set[nn.Module] = set()

    def walk(module: nn.Module) -> Iterator[Clocked]:
        if module in seen:
            return
        seen.add(module)
        if isinstance(module, Clocked):
            yield module
        if getattr(module, "steps_children", True):
            for child in module.children():
                yield from walk(child)

    for module in modules:
        if not isinstance(module, nn.Module):
            hint = "; pass its items one by one" if isinstance(module, list | tuple) else ""
            raise TypeError(f"modules should be torch modules, got {type(module).__name__}{hint}")
    for module in modules:
        yield from walk(module)


def _inner_optimizer(optimizer: Any) -> Any:
    """Remove the wrappers that Accelerate or Lightning put around an optimizer."""
    while isinstance(inner := getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = inner
    return optimizer
