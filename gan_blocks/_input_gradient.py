"""The critic's gradient with respect to its input, which penalties are made of."""

import functools
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode, handle_torch_function, has_torch_function

from gan_blocks._checks import check_tensor, type_name, warn_caller
from gan_blocks._logits import sub_critics
from gan_blocks.precision import at_least_float32
from gan_blocks.types import Critic, Logits

_NAME = "the critic's output"


def check_critic(critic: Any) -> None:
    """Raise an error unless `critic` can be called on samples."""
    if not callable(critic) or isinstance(critic, type):
        raise TypeError(
            "critic should be a module or a function that maps samples to logits, got "
            f"{type_name(critic)}"
        )


def check_samples(name: str, x: Tensor) -> None:
    """Refuse what no gradient can be taken at, before anything is computed."""
    check_tensor(name, x, ("N", ...), empty=False)
    if x.dtype == torch.float16 and _autocast(x) is None:
        raise ValueError(
            f"{name} should not be float16 without autocast, since the gradient of a float16 critic "
            "vanishes: keep weights and samples in float32 under autocast, or use bfloat16"
        )


def logits_of_each(logits: Logits, samples: Tensor) -> list[Tensor]:
    """Return the logits of each sub-critic. Raise an error unless there are some for each sample."""
    outputs = sub_critics(_NAME, logits)
    for y in outputs:
        _check_rows(y, samples)
    return outputs


def input_gradients(critic: Critic, points: Tensor, name: str) -> list[Tensor]:
    """Return the gradient of each sub-critic at each point, `(N, d)`, with a graph.

    Args:
        critic: The critic.
        points: The points at which to take the gradient.
        name: The name of `points` in messages.
    """
    check_critic(critic)
    check_samples(name, points)
    precision = _float32_for_float16(points)
    points = points.detach()
    points = points.float() if points.dtype == torch.float16 else points
    if torch.compiler.is_compiling():
        try:
            with precision:
                return by_torch_func(critic, points)
        except RuntimeError as error:
            raise ValueError(
                "the critic fails in a compiled penalty. Does it run without torch.compile? "
                "If it changes its own buffers, as a batch norm in training mode does, use layer, group "
                f"or spectral normalization, or leave the penalty out of the compiled step ({error})"
            ) from error
    if torch.is_inference_mode_enabled():
        raise ValueError(
            f"{name} should be given outside of torch.inference_mode, which forbids the gradient of the "
            "critic; use torch.no_grad"
        )
    with torch.enable_grad(), precision:
        gradients, channels = _as_written(_by_autograd)(critic, points)
    if channels is not None:
        warn_caller(
            f"a batch norm of {channels} channels in the critic used the statistics of the "
            "batch (training mode, or no running statistics), which mixes the samples, so the "
            "gradient is not each sample's own and the penalty is not what its paper defines; use "
            "layer, group or spectral normalization in the critic"
        )
    return gradients


def _by_autograd(critic: Critic, points: Tensor) -> tuple[list[Tensor], int | None]:
    """Return the gradients, and the number of channels if a batch norm mixed the samples."""
    # An inference tensor cannot require a gradient, but a copy of it can.
    points = (points.clone() if points.is_inference() else points).requires_grad_()
    # Pass a copy, since a layer may modify its input in place.
    copied = points.clone()
    with _WatchesBatchNorm() as watch:
        logits = critic(copied)
    return gradients_of_logits(logits, points, _NAME), watch.channels


class _WatchesBatchNorm(TorchFunctionMode):
    """Records the number of channels of a batch norm that uses batch statistics.

    It intercepts function calls in this thread, so the critic may be any function. Batch norm in other
    networks and other threads is not recorded.
    """

    channels: int | None = None

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is statistics_of_the_batch:
            self.channels = args[0].shape[1]
        is_batch_norm = func is F.batch_norm or func is torch.batch_norm
        if is_batch_norm and kwargs.get("training", args[5] if len(args) > 5 else False):
            self.channels = (args[0] if args else kwargs["input"]).shape[1]
        return func(*args, **kwargs)


def statistics_of_the_batch(x: Tensor) -> None:
    """Report to `_WatchesBatchNorm` a batch norm that does not call torch's own."""
    if not torch.compiler.is_compiling() and has_torch_function((x,)):
        handle_torch_function(statistics_of_the_batch, (x,), x)


# --- compiled critics ----------------------------------------------------------------------------

_stance = ExitStack()
_lock, _users = threading.Lock(), [0]


def _as_written(function: Callable[..., Any]) -> Callable[..., Any]:
    """Run compiled code inside the function eagerly: compiled graphs do not support double backward."""
    # If dynamo has not been imported, nothing is compiled. Importing it takes seconds.
    return _eager(function) if "torch._dynamo" in sys.modules else function


@functools.cache
def _eager(function: Callable[..., Any]) -> Callable[..., Any]:
    # After a graph break in a compiled step, the stance can be set only in a function that the
    # compiler skips.
    @torch.compiler.disable
    def run(*args: Any) -> Any:
        with _eager_stance():
            return function(*args)

    return run


@contextmanager
def _eager_stance() -> Iterator[None]:
    """Force eager execution. The stance is global, so the last thread to leave resets it."""
    with _lock:
        if not _users[0]:
            _stance.enter_context(torch.compiler.set_stance("force_eager"))
        _users[0] += 1
    try:
        yield
    finally:
        with _lock:
            _users[0] -= 1
            if not _users[0]:
                _stance.close()


def by_torch_func(critic: Critic, points: Tensor) -> list[Tensor]:
    """The same by `torch.func`, which the compiler can differentiate twice."""

    def sums(x: Tensor) -> tuple[Tensor, ...]:
        return tuple(each.sum() for each in logits_of_each(critic(x.clone()), x))

    totals, pull_back = torch.func.vjp(sums, points)[:2]
    return [
        at_least_float32(_pulled(pull_back, totals, i)).reshape(len(points), -1)
        for i in range(len(totals))
    ]


def _pulled(pull_back: Any, totals: tuple[Tensor, ...], i: int) -> Tensor:
    seeds = tuple(torch.full_like(t, float(i == j)) for j, t in enumerate(totals))
    return pull_back(seeds)[0]


# --- gradients of given logits -------------------------------------------------------------------


def gradients_of_logits(
    logits: Logits, inputs: Tensor | Sequence[Tensor], name: str = "logits"
) -> list[Tensor]:
    """Return the gradient of each sample's logits with respect to that sample, flattened to `(N, d)`.

    The list has one gradient for each sub-critic. `inputs` is one tensor for all of them, or a list
    with one tensor for each.
    """
    outputs = sub_critics(name, logits)
    points: list[Any] = inputs if isinstance(inputs, list) else [inputs] * len(outputs)
    if len(points) != len(outputs):
        raise ValueError(
            f"inputs should be a tensor, or one for each of {len(outputs)} sub-discriminators, got "
            f"{len(points)}"
        )
    for x in points:
        check_tensor("inputs", x, ("N", ...), empty=False)
    return [_gradient(name, y, x) for y, x in zip(outputs, points, strict=True)]


def refuse_float16(logits: Logits, inputs: Tensor | Sequence[Tensor]) -> None:
    """Logits of which the gradient would underflow: nothing can be made of them any more."""
    for group in (logits, inputs):
        for x in group if isinstance(group, list | tuple) else [group]:
            if isinstance(x, Tensor) and (
                x.dtype == torch.float16 or _autocast(x) == torch.float16
            ):
                raise ValueError(
                    "logits and inputs should not be float16, which holds no gradient below 6e-8, so "
                    "that the penalty may vanish: call penalty(critic, ...), which computes in float32, "
                    "or use bfloat16"
                )


def _gradient(name: str, logits: Tensor, points: Tensor) -> Tensor:
    _check_rows(logits, points)
    if not points.requires_grad:
        raise ValueError(
            "inputs should require a gradient: call inputs.requires_grad_() before the critic sees them"
        )
    gradient = None
    if logits.requires_grad:
        # Samples do not mix, so the gradient of the sum holds each sample's own. Where a layer
        # mixes them on purpose this is the gradient of the batch's sum, as in StyleGAN2.
        (gradient,) = torch.autograd.grad(
            logits.sum(), points, create_graph=True, allow_unused=True
        )
    if gradient is None:
        raise ValueError(
            f"{name} should depend on inputs, the critic's input, and does not: is something detached, "
            "or computed under no_grad, inside the critic?"
        )
    return at_least_float32(gradient).reshape(len(points), -1)


def _check_rows(logits: Tensor, samples: Tensor) -> None:
    """Accept a multiple of the batch size, since patches may be folded into the batch dimension."""
    count = len(logits) if logits.dim() else 1
    if count % len(samples):
        raise ValueError(
            f"the critic should return logits of each of {len(samples)} samples, got shape "
            f"{tuple(logits.shape)} for samples of shape {tuple(samples.shape)}. If it takes their "
            "sum or mean, leave that to the penalty. If it packs m samples, pack before the critic: "
            "pack(x, m)"
        )


# --- precision -----------------------------------------------------------------------------------


def _autocast(x: Tensor) -> torch.dtype | None:
    """The dtype that autocast uses on the device of x, if it is on."""
    device = x.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return None


def _float32_for_float16(points: Tensor) -> AbstractContextManager[Any]:
    """Under float16 autocast the critic runs in float32: the gradient would underflow."""
    if _autocast(points) == torch.float16:
        return torch.autocast(points.device.type, enabled=False)
    return nullcontext()
