"""Half precision where it is safe, float32 where it is not: for whoever writes blocks."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from gan_blocks._checks import check_tensor


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision becomes float32; float32 and float64 stay.

    For sums, means, exponentials and norms, which lose all digits in half precision or leave its range.

    Args:
        x: Floating-point numbers.

    Raises:
        TypeError: If they are integers or bools.

    Example:
        >>> import torch
        >>> at_least_float32(torch.ones(2, dtype=torch.bfloat16)).dtype
        torch.float32
    """
    check_tensor("x", x)
    return x.float() if x.dtype.itemsize < 4 else x


def without_autocast(x: Tensor) -> AbstractContextManager[Any]:
    """Within it, operations on the device of x keep the dtypes they are given.

    Under autocast a product of matrices in float32 is computed in half precision all the same.

    Args:
        x: A tensor on the device that is meant.

    Example:
        >>> import torch
        >>> x = torch.ones(2, 2)
        >>> with torch.autocast("cpu", torch.bfloat16):
        ...     with without_autocast(x):
        ...         print((x @ x).dtype)
        torch.float32
    """
    check_tensor("x", x, floating=False)
    device = x.device.type
    on = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return torch.autocast(device, enabled=False) if on else nullcontext()


class WideBuffers(nn.Module):
    """A module whose named buffers stay in float32 when it is cast to half precision.

    Running sums, singular vectors and windows lose their meaning there: 256 + 1 is 256 in bfloat16. A
    subclass names them in `wide_buffers`; they may be None. Everything else is `torch.nn.Module`'s.

    Raises:
        TypeError: When it is cast or moved, if `wide_buffers` names what is no buffer.

    Example:
        >>> import torch
        >>> class Count(WideBuffers):
        ...     wide_buffers = ("count",)
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.register_buffer("count", torch.zeros(()))
        >>> Count().bfloat16().count.dtype
        torch.float32
    """

    wide_buffers: tuple[str, ...] = ()

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Any:
        for name in self.wide_buffers:
            if name not in self._buffers:
                raise TypeError(
                    f"{type(self).__name__}: wide_buffers should be a tuple of names of its buffers, "
                    f"which are {list(self._buffers)}; {name!r} is none"
                )
        before = {name: self._buffers[name] for name in self.wide_buffers}
        super()._apply(fn, recurse)
        for name, old in before.items():
            new = self._buffers[name]
            if old is None or new is None or not new.is_floating_point():
                continue
            if new.dtype.itemsize < 4:
                # The meta device has no numbers to lose.
                self._buffers[name] = (new if old.is_meta else old).to(new.device, torch.float32)
        return self
