r"""Sums and batches over all processes, differentiable as mathematics says.

Each process of a data-parallel run holds a part of the batch. Where a block looks at the whole batch,
as minibatch discrimination does, it has to see the other parts, and its gradient has to reach them:
with $L_r$ the loss of process $r$, the functions here give $\partial \sum_r L_r / \partial x$, of which
`DistributedDataParallel` makes the mean that one process would compute on the whole batch. (A gather
whose backward keeps its own slice of its own gradient loses all other terms.)

On one process each function returns its input. The processes are those of the default group;
[`process_group`][gan_blocks.distributed.process_group] names others, for instance the data-parallel
dimension of a device mesh, and [`local`][gan_blocks.distributed.local] leaves the others out, for
instance to evaluate on one process only. Blocks of this library call these functions by themselves
wherever their page says that they see the batch of all processes.

The parts may differ in size, except in a compiled graph, which takes them to be equal.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gan_blocks._checks import check_count, check_generator, check_tensor, type_name
from gan_blocks.precision import at_least_float32

_group: ContextVar[Any] = ContextVar("process group", default=None)
"""A process group, None for the default one, or "local"."""
Draw = Callable[[Callable[..., Tensor], Sequence[int], dict[str, Any]], Tensor]

_source: ContextVar[Draw | None] = ContextVar("source of random numbers", default=None)
"""Draws in the place of torch, for tests: `source(distribution, shape, options)`."""


@contextmanager
def process_group(group: "dist.ProcessGroup | Literal['local'] | None") -> Iterator[None]:
    """Within it, blocks see the batch of the processes of this group.

    Args:
        group: The group; `None` for the default one, `"local"` for this process alone.

    Example:
        ```python
        mesh = init_device_mesh("cuda", (2, 4), mesh_dim_names=("data", "tensor"))
        with gan_blocks.distributed.process_group(mesh["data"].get_group()):
            loss = adversarial.discriminator(critic(real), critic(fake))
        ```

    Raises:
        ValueError: If this process does not belong to the group.
    """
    if dist.is_available() and group is dist.GroupMember.NON_GROUP_MEMBER:
        raise ValueError("this process does not belong to the group; leave it out, or use local()")
    if group not in (None, "local") and not callable(getattr(group, "rank", None)):
        raise ValueError(f'the group should be a process group, None or "local", got {group!r}')
    token = _group.set(group)
    try:
        yield
    finally:
        _group.reset(token)


@contextmanager
def local() -> Iterator[None]:
    """Within it, blocks see the batch of this process only, and wait for no other.

    Example:
        >>> import torch
        >>> from gan_blocks import MinibatchDiscrimination, distributed
        >>> with distributed.local():
        ...     MinibatchDiscrimination(4)(torch.randn(2, 4)).shape
        torch.Size([2, 104])
    """
    with process_group("local"):
        yield


def process_count() -> int:
    """How many processes share the batch; 1 without `torch.distributed`."""
    group = _group.get()
    if group == "local" or not dist.is_available():
        return 1
    if group is None and not dist.is_initialized():
        return 1
    return dist.get_world_size(group)


def all_reduce(x: Tensor) -> Tensor:
    r"""The sum of a tensor over all processes, the same on each.

    The gradient of $y = \sum_r x_r$ by every $x_r$ is the sum of the gradients that $y$ gets on all
    processes; it can be differentiated again.

    Args:
        x: Of one shape on all processes.

    Shape:
        Any, to the same.
    """
    check_tensor("x", x, floating=False)
    return x if process_count() == 1 else _AllReduce.apply(x, _group.get())  # type: ignore[return-value]


def all_gather(x: Tensor) -> Tensor:
    """The batches of all processes, one after the other in the order of their ranks.

    Each process gets for its own part the sum of the gradients that this part gets on all processes.

    Args:
        x: The part of this process.

    Shape:
        `(n, ...)` on each process, to `(N, ...)` with `N` the sum of all `n`.
    """
    check_tensor("x", x, ("N", ...), floating=False)
    if process_count() == 1:
        return x
    start, total = place_in_batch(x)
    # Each row is 0 on all processes but one.
    before, after = (
        x.new_zeros(start, *x.shape[1:]),
        x.new_zeros(total - start - len(x), *x.shape[1:]),
    )
    return all_reduce(torch.cat([before, x, after]))


def place_in_batch(x: Tensor) -> tuple[int, int]:
    """Where this process's part of the batch begins, and the size of the whole batch."""
    check_tensor("x", x, ("N", ...), floating=False)
    if process_count() == 1:
        return 0, len(x)
    group, rank = _group.get(), _rank()
    if torch.compiler.is_compiling():
        # A graph has no room for sizes that are not known before it runs.
        return rank * len(x), process_count() * len(x)
    sizes = torch.zeros(process_count(), dtype=torch.int64, device=x.device)
    sizes[rank] = len(x)
    sizes = _summed(sizes, group).tolist()
    return sum(sizes[:rank]), sum(sizes)


def draw(
    distribution: Callable[..., Tensor],
    shape: Sequence[int],
    device: torch.device,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Random numbers for this process's part of the batch.

    They are drawn for the whole batch, and this process keeps its part: processes that were seeded alike
    draw what one process would, each a different part of it, and processes that were seeded differently
    draw independently. No process waits for another, so the parts are taken to be equal in size.

    In float32 whatever the samples are, so that every precision sees the same numbers.

    Args:
        distribution: `torch.rand` or `torch.randn`.
        shape: Of the part; the batch is its first dimension.
        device: Where the numbers are drawn.
        generator: Draws them; torch's own for the device if left out.
        dtype: Of the numbers.

    Raises:
        ValueError: If the shape has no dimension.
        TypeError: If `generator` is not a `torch.Generator`.

    Example:
        >>> import torch
        >>> x = torch.zeros(4, 3)
        >>> noise = draw(torch.randn, x.shape, x.device, torch.Generator().manual_seed(0))
    """
    if not isinstance(shape, list | tuple) or not shape:
        raise ValueError(
            f"shape should begin with the size of the part, such as (4, 3), got {shape!r}"
        )
    for size in shape:
        check_count("shape", size, least=0)
    if not callable(distribution) or isinstance(distribution, type | nn.Module):
        raise TypeError(
            f"distribution should be torch.rand or torch.randn, got {type_name(distribution)}"
        )
    if not isinstance(device, torch.device):
        raise TypeError(
            f"device should be a torch.device, such as x.device, got {type_name(device)}"
        )
    if not isinstance(dtype, torch.dtype):
        raise TypeError(
            f"dtype should be a torch.dtype such as torch.float32, got {type_name(dtype)}"
        )
    check_generator(generator)
    # With sizes that change the compiler takes no generator, not even None.
    options: dict[str, Any] = {"device": device, "dtype": dtype}
    options |= {} if generator is None else {"generator": generator}
    source = _source.get() or _from_torch
    count, (n, *rest) = process_count(), shape
    if count == 1:
        return source(distribution, shape, options)
    return source(distribution, (count * n, *rest), options)[_rank() * n :][:n]


def _from_torch(
    distribution: Callable[..., Tensor], shape: Sequence[int], options: dict[str, Any]
) -> Tensor:
    return distribution(shape, **options)


def mean(x: Tensor, dim: int | None = None) -> Tensor:
    """Return the mean over the batch of all processes.

    Args:
        x: The part of this process.
        dim: The dimension of the batch; all of them if left out.
    """
    return mean_and_count(x, dim)[0]


def mean_and_count(x: Tensor, dim: int | None = None) -> tuple[Tensor, Tensor]:
    """Return the mean over the batch of all processes, and over how many numbers it is.

    Args:
        x: The part of this process.
        dim: The dimension of the batch; all of them if left out.
    """
    check_tensor("x", x)
    if dim is not None and (isinstance(dim, bool) or not isinstance(dim, int)):
        raise TypeError(f"dim should be an integer or None, got {dim!r}")
    if dim is not None and not -max(x.dim(), 1) <= dim < max(x.dim(), 1):
        raise ValueError(f"dim should be a dimension of x, which has {x.dim()}, got {dim}")
    if process_count() == 1:
        average = x.mean() if dim is None else x.mean(dim)
        return average, average.new_full((), x.numel() / max(average.numel(), 1))
    wide = at_least_float32(x)
    total = wide.sum() if dim is None else wide.sum(dim)
    count = total.new_full((1,), x.numel() / max(total.numel(), 1))
    sums = all_reduce(torch.cat([total.flatten(), count]))
    return (sums[:-1].view_as(total) / sums[-1]).to(x.dtype), sums[-1]


def _rank() -> int:
    group = _group.get()
    return dist.get_rank() if group is None else group.rank()


def _summed(x: Tensor, group: Any) -> Tensor:
    y = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(y, group=group)
    return y


class _AllReduce(torch.autograd.Function):
    """The sum over processes is its own adjoint."""

    @staticmethod
    def forward(x: Tensor, group: Any) -> Tensor:
        return _summed(x, group)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Any], output: Tensor) -> None:
        ctx.group = inputs[1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, None]:  # type: ignore[override]
        return _AllReduce.apply(gradient, ctx.group), None
