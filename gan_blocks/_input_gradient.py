"""The critic's gradient with respect to its input, which penalties are made of."""

import functools
import inspect
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from gan_blocks._logits import sub_critics
from gan_blocks.precision import at_least_float32
from gan_blocks.types import Critic, Logits

_NAME = "the critic's output"


def check_samples(*samples: Tensor) -> None:
    """Refuse what no gradient can be taken at, before anything is computed."""
    for x in samples:
        if not isinstance(x, Tensor):
            raise TypeError(f"the penalty needs a tensor of samples, got {type(x).__name__}")
        if not x.is_floating_point():
            raise TypeError(f"the penalty needs floating-point samples, got {x.dtype}")
        if x.dim() == 0 or x.numel() == 0:
            raise ValueError(
                f"the penalty takes samples of shape (N, ...), none of it empty, got {tuple(x.shape)}"
            )


def input_gradients(critic: Critic, points: Tensor) -> list[Tensor]:
    """The gradient of each sub-critic at each point, `(N, d)`, to be differentiated by the weights."""
    check_samples(points)
    precision, points = _float32_for_float16(points), _wide(points.detach())
    mixing, compiled, packing = _examined(critic)
    if torch.compiler.is_compiling():
        if mixing.endswith("mode"):
            raise ValueError(f"{mixing}, and a compiled penalty cannot keep its running statistics")
        with precision:
            return by_torch_func(critic, points, [layer.pack_size for layer in packing])
    if torch.is_inference_mode_enabled():
        raise RuntimeError(
            "the penalty takes a gradient, which torch.inference_mode forbids; use torch.no_grad"
        )
    if mixing:
        warnings.warn(
            f"{mixing}, which mixes the samples, so the gradient is not each sample's own and the "
            "penalty is not what its paper defines; use layer, group or spectral normalisation in the "
            "critic",
            stacklevel=4,
        )
    # What torch has compiled cannot be differentiated twice, so it runs as it was written.
    as_written = _as_written() if compiled else nullcontext()
    with torch.enable_grad(), precision, as_written, _sizes_of_packs(packing) as sizes:
        points = points.requires_grad_()
        return gradients_of_logits(critic(points), points, sizes)


@contextmanager
def _sizes_of_packs(layers: Sequence["JoinsSamples"]) -> Iterator[list[int]]:
    """The sizes of the packs that these layers make within it; a critic may leave some layers out."""
    sizes: list[int] = []

    def note(layer: JoinsSamples, *_: Any) -> None:
        sizes.append(layer.pack_size)

    hooks = [layer.register_forward_hook(note) for layer in layers]
    try:
        yield sizes
    finally:
        for hook in hooks:
            hook.remove()


_stance = ExitStack()
_lock, _users = threading.Lock(), [0]


@contextmanager
def _as_written() -> Iterator[None]:
    """Within it torch runs what it has compiled eagerly; the last of several threads ends it."""
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


def by_torch_func(critic: Critic, points: Tensor, sizes: Sequence[int] = ()) -> list[Tensor]:
    """The same by `torch.func`, which the compiler can differentiate twice."""
    rows: list[int] = []

    def sums(x: Tensor) -> tuple[Tensor, ...]:
        logits = sub_critics(_NAME, critic(x))
        rows[:] = _rows(logits, [x] * len(logits), sizes)
        return tuple(each.sum() for each in logits)

    totals, pull_back = torch.func.vjp(sums, points)[:2]
    return [
        at_least_float32(_pulled(pull_back, totals, i)).reshape(n, -1) for i, n in enumerate(rows)
    ]


def _pulled(pull_back: Any, totals: tuple[Tensor, ...], i: int) -> Tensor:
    seeds = tuple(torch.full_like(t, float(i == j)) for j, t in enumerate(totals))
    return pull_back(seeds)[0]


def gradients_of_logits(
    logits: Logits, inputs: Tensor | Sequence[Tensor], sizes: Sequence[int] = ()
) -> list[Tensor]:
    """The gradient of each sample's logits with respect to that sample, flattened to `(N, d)`.

    One for each sub-critic; `inputs` are those of all of them, or one for each. Of a critic that
    packs samples by one of these sizes it is the gradient by each pack, `(N / m, m d)`.
    """
    outputs = sub_critics(_NAME, logits)
    points: list[Any] = (
        list(inputs) if isinstance(inputs, list | tuple) else [inputs] * len(outputs)
    )
    if len(points) != len(outputs):
        raise ValueError(
            f"the logits come from {len(outputs)} sub-discriminators, but there are {len(points)} inputs"
        )
    check_samples(*points)
    rows = _rows(outputs, points, sizes)
    return [_gradient(y, x, n) for y, x, n in zip(outputs, points, rows, strict=True)]


def refuse_float16(logits: Logits, inputs: Tensor | Sequence[Tensor]) -> None:
    """Logits of which the gradient would underflow: nothing can be made of them any more."""
    for group in (logits, inputs):
        for x in group if isinstance(group, list | tuple) else [group]:
            if isinstance(x, Tensor) and (
                x.dtype == torch.float16 or _autocast(x) == torch.float16
            ):
                raise ValueError(
                    "float16 holds no gradient below 6e-8, so the penalty may vanish: call "
                    "penalty(critic, ...), which computes in float32, or use bfloat16"
                )


def _gradient(logits: Tensor, points: Tensor, rows: int) -> Tensor:
    if not points.requires_grad:
        raise ValueError(
            "the inputs carry no gradient: call inputs.requires_grad_() before the critic sees them"
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
            "the critic's output does not depend on its input: is something detached, or computed "
            "under no_grad, inside the critic?"
        )
    return at_least_float32(gradient).reshape(rows, -1)


def _rows(logits: Sequence[Tensor], inputs: Sequence[Tensor], sizes: Sequence[int]) -> list[int]:
    """How many gradients there are for each sub-critic: as many as samples, or as packs of them."""
    rows = []
    packs_only = len(logits) == 1 and bool(sizes)
    for y, x in zip(logits, inputs, strict=True):
        count = len(y) if y.dim() else 1
        # Logits of several patches may stand in the dimension of the batch.
        of_each = not packs_only and count % len(x) == 0
        of_packs = any(count * size == len(x) for size in sizes)
        if not of_each and not of_packs:
            if packs_only:
                raise ValueError(
                    f"the critic has the layer Packing, so it should return logits of each of "
                    f"{len(x) // sizes[0]} packs, got shape {tuple(y.shape)} for samples of shape "
                    f"{tuple(x.shape)}; keep several logits of a pack in a dimension of their own. If "
                    "these are logits of samples, give the penalty the part that makes them alone"
                )
            raise ValueError(
                f"the critic should return logits of each of {len(x)} samples, got shape "
                f"{tuple(y.shape)} for samples of shape {tuple(x.shape)}; their sum or mean is the "
                "penalty's business. Logits of packs need a critic in which the penalty finds the "
                "layer Packing: a module, or outside a compiled step a function that names it; or, "
                "in from_logits, the packs as inputs"
            )
        rows.append(len(x) if of_each else count)
    return rows


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


def _wide(points: Tensor) -> Tensor:
    if points.dtype == torch.float16 and _autocast(points) is None:
        raise ValueError(
            "the samples are float16 without autocast, and the gradient of a float16 critic vanishes: "
            "keep weights and samples in float32 under autocast, or use bfloat16"
        )
    return points.float() if points.dtype == torch.float16 else points


# --- what the critic is made of ------------------------------------------------------------------


class JoinsSamples(nn.Module):
    """A layer that makes one row of each `pack_size` samples, by which penalties know it."""

    pack_size: int


def _examined(critic: Critic) -> tuple[str, bool, list[JoinsSamples]]:
    """What is said of a batch norm in training mode, if there is one; whether a part is compiled; and
    the layers that join samples."""
    joining: list[JoinsSamples] = []
    mixing, compiled = "", False
    for each in _mentioned(critic):
        compiled |= "_torchdynamo_orig_callable" in vars(each)
        for name, part in each.named_modules() if isinstance(each, nn.Module) else ():
            compiled |= part._compiled_call_impl is not None or "_orig_mod" in part._modules
            if isinstance(part, JoinsSamples) and part.pack_size > 1:
                joining.append(part)
            if isinstance(part, nn.modules.batchnorm._BatchNorm) and not mixing:
                state = "in training mode" if part.training else "without running statistics"
                if part.training or part.running_mean is None:
                    mixing = f"the critic's {name or 'module'} is a {type(part).__name__} {state}"
    return mixing, compiled, joining


def _mentioned(critic: Any) -> Iterator[Any]:
    """The critic, or the modules and functions that the function which stands for it mentions."""
    if isinstance(critic, functools.partial):
        for each in (critic.func, *critic.args, *critic.keywords.values()):
            yield from _mentioned(each)
    elif isinstance(critic, nn.Module):
        yield critic
    elif torch.compiler.is_compiling():
        return  # the compiler cannot look into functions
    elif inspect.ismethod(critic):
        yield from _mentioned(critic.__self__)
    elif inspect.isfunction(critic):
        yield critic
        try:
            mentioned = inspect.getclosurevars(critic)
        except ValueError:  # a name without a value yet
            return
        for value in (*mentioned.nonlocals.values(), *mentioned.globals.values()):
            if isinstance(value, nn.Module) or inspect.isfunction(value):
                yield value
