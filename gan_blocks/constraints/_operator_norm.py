"""The norm of a convolution as a map of images."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv1d_input, conv2d_input, conv3d_input

from gan_blocks.constraints._maps import is_transposed
from gan_blocks.precision import WideBuffers, at_least_float32, without_autocast

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
_INPUT_GRADIENT: dict[int, Callable[..., Tensor]] = {
    1: conv1d_input,
    2: conv2d_input,
    3: conv3d_input,
}
_START, _VECTORS = 50, 8
"""Iterations before the first use, on so many vectors at once."""


class OperatorNorm(WideBuffers):
    r"""Divides a convolution's weight by the norm of the convolution.

    $A_W$ is the convolution of a map of one size without its offset, with padding, stride, dilation and
    groups. With $u \leftarrow A_W^\top A_W u / \|A_W^\top A_W u\|_2$ on each forward in training,
    $W \mapsto W / \|A_W u\|_2$; $u$ counts as a constant. The weight is first divided by its largest
    entry, so that weights of any size neither overflow nor vanish. A weight of zeros stays, and so
    does $u$.
    """

    u: Tensor

    wide_buffers = ("u",)

    def __init__(
        self, layer: Any, shape: tuple[int, ...], n_power_iterations: int, eps: float
    ) -> None:
        super().__init__()
        self.n_power_iterations = n_power_iterations
        self.eps = eps
        self.dimensions = len(layer.kernel_size)
        self.transposed = is_transposed(layer)
        self.stride, self.dilation, self.groups = layer.stride, layer.dilation, layer.groups
        self.output_padding = layer.output_padding
        # What is padded outside of the convolution, last dimension first.
        self.outer, self.padding = [0, 0] * self.dimensions, layer.padding
        if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
            self.outer = list(layer._reversed_padding_repeated_twice)
            self.padding = (0,) * self.dimensions
        self.zeros = layer.padding_mode == "zeros"
        weight = layer.weight.detach()
        for i, size in enumerate(shape[1:]):
            sides = self.outer[2 * (self.dimensions - 1 - i) :][:2]
            places = _padded_places(size, sides, layer.padding_mode)
            self.register_buffer(f"places_{i}", places.to(weight.device), persistent=False)
        self.register_buffer("u", weight.new_empty(1, *shape, dtype=at_least_float32(weight).dtype))
        self._start(weight)

    def forward(self, weight: Tensor) -> Tensor:
        wide = _of_usual_size(at_least_float32(weight))
        with without_autocast(wide):
            if self.training:
                self._iterate(wide, self.n_power_iterations)
            # A copy: the next forward changes u before this one is differentiated.
            norm = torch.linalg.vector_norm(self.map(self.u.to(wide, copy=True), wide))
            return (wide / norm.clamp(min=self.eps)).to(weight.dtype)

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight

    def map(self, x: Tensor, weight: Tensor) -> Tensor:
        """The convolution."""
        if self.transposed:
            return _TRANSPOSED[self.dimensions](
                x, weight, None, self.stride, self.padding, self.output_padding, self.groups,
                self.dilation,
            )  # fmt: skip
        return self._convolved(self._padded(x), weight)

    def adjoint(self, y: Tensor, weight: Tensor) -> Tensor:
        """The transpose of the convolution."""
        if self.transposed:
            x = self._convolved(y, weight)
            for i, size in enumerate(self.u.shape[2:]):
                x = x.narrow(2 + i, 0, size)  # output padding beyond the stride
            return x
        size = [len(y), self.u.shape[1], *self._padded_size()]
        x = _INPUT_GRADIENT[self.dimensions](
            size, weight, y, self.stride, self.padding, self.dilation, self.groups
        )
        return self._folded(x)

    def _convolved(self, x: Tensor, weight: Tensor) -> Tensor:
        function: Callable[..., Tensor] = _CONV[self.dimensions]
        return function(x, weight, None, self.stride, self.padding, self.dilation, self.groups)

    def _padded_size(self) -> list[int]:
        return [len(getattr(self, f"places_{i}")) for i in range(self.dimensions)]

    def _padded(self, x: Tensor) -> Tensor:
        if not any(self.outer):
            return x
        if self.zeros:
            return F.pad(x, self.outer)
        for i in range(self.dimensions):
            x = x.index_select(2 + i, getattr(self, f"places_{i}"))
        return x

    def _folded(self, x: Tensor) -> Tensor:
        """The transpose of the padding: each value back to the place that it came from."""
        if not any(self.outer):
            return x
        if self.zeros:
            return F.pad(x, [-side for side in self.outer])
        for i in range(self.dimensions):
            shape = list(x.shape)
            shape[2 + i] = self.u.shape[2 + i]
            x = x.new_zeros(shape).index_add(2 + i, getattr(self, f"places_{i}"), x)
        return x

    @torch.no_grad()
    def _iterate(self, weight: Tensor, count: int) -> None:
        for _ in range(count):
            image = self.map(self.u, weight)
            u = self.adjoint(image / torch.linalg.vector_norm(image).clamp(min=self.eps), weight)
            norm = torch.linalg.vector_norm(u)
            # In place so that the compiler sees it; copy_ would be refused within torch.func.grad.
            torch.where(norm > 0, u / norm.clamp(min=self.eps), self.u, out=self.u)

    @torch.no_grad()
    def _start(self, weight: Tensor) -> None:
        """Iteration on a subspace, and the best vector in it: one vector alone would take long."""
        weight, shape = _of_usual_size(at_least_float32(weight)), self.u.shape[1:]
        # The same on every process, and nothing drawn from the global stream.
        draws = torch.Generator().manual_seed(0)
        vectors = torch.randn(min(_VECTORS, shape.numel()), *shape, generator=draws).to(weight)
        with without_autocast(weight):
            for _ in range(_START):
                images = self.adjoint(self.map(vectors, weight), weight).flatten(1)
                vectors = torch.linalg.qr(images.T).Q.T.unflatten(1, shape)
            _, _, vh = torch.linalg.svd(self.map(vectors, weight).flatten(1).T, full_matrices=False)
        self.u.copy_((vh[:1] @ vectors.flatten(1)).view_as(self.u))


def _of_usual_size(weight: Tensor) -> Tensor:
    """Over the largest entry, which counts as a constant."""
    largest = weight.detach().abs().amax()
    return weight / torch.where(largest > 0, largest, 1.0)


def _padded_places(size: int, sides: list[int], mode: str) -> Tensor:
    """For each place of a padded line the place whose value it has, if it has one."""
    line = torch.arange(size, dtype=torch.float64).view(1, 1, -1)
    return F.pad(line, sides, "constant" if mode == "zeros" else mode).flatten().long()
