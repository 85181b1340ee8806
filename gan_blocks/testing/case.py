"""One row of a table of cases."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from gan_blocks.registry import Entry, registry

Make = Callable[..., Tensor]

SEED = 2
"""Of what a block draws."""


def _call(block: Any, *inputs: Tensor) -> Tensor:
    return block(*inputs)


def _as_code(x: Tensor) -> str:
    return f"torch.tensor({x.tolist()}, dtype={x.dtype})"


@dataclass(frozen=True)
class Case:
    """A block, inputs for it, and what it must compute.

    Args:
        spec: The block's spec, `{"block": NAME, ...}`.
        inputs: Makes the input tensors; it is given a function that draws a normal tensor of a
            shape, `lambda make: (make(8, 3), make(5, 3))`.
        reference: The slow literal computation, `reference(block, *inputs)`: a loop over the
            formula, no rearrangement of the block's code.
        call: How the block is called, `call(block, *inputs)`; a plain call if left out.
        batched: How many of the inputs, from the first, have the batch as first dimension; all if
            left out.
        detached: Which inputs get no gradient, on purpose.
        note: Tells the cases of one block apart in the test's name.
        expected_failures: Names of checks that must fail, each with the reason. A check that then
            passes is an error.
        without: Names of checks to leave out, each with the reason, for instance finite differences of
            a function with kinks.

    Attributes:
        where: The file and line where the case is written.

    Example:
        >>> from gan_blocks.testing import Case, check
        >>> case = Case(
        ...     {"block": "WassersteinLoss"},
        ...     inputs=lambda make: (make(8), make(5)),
        ...     call=lambda loss, real, fake: loss.discriminator(real, fake),
        ...     reference=lambda loss, real, fake: fake.sum() / 5 - real.sum() / 8,
        ... )
        >>> check(case, "literal_reference")
    """

    spec: Mapping[str, Any]
    inputs: Callable[[Make], tuple[Tensor, ...]]
    reference: Callable[..., Tensor]
    call: Callable[..., Tensor] = _call
    batched: int | None = None
    detached: tuple[int, ...] = ()
    note: str = ""
    expected_failures: Mapping[str, str] = field(default_factory=dict)
    without: Mapping[str, str] = field(default_factory=dict)
    where: str = field(init=False, default="", compare=False)

    def __post_init__(self) -> None:
        frame = sys._getframe(2)  # behind the constructor that dataclass made
        object.__setattr__(self, "where", f"{frame.f_code.co_filename}:{frame.f_lineno}")

    @property
    def name(self) -> str:
        block = self.spec["block"]
        return f"{block}-{self.note}" if self.note else block

    @property
    def entry(self) -> Entry:
        return registry.find(self.spec["block"])

    def block(self, **options: Any) -> Any:
        """A new block, always with the same weights.

        A parameter that starts as a constant, such as a scale of 1 or an offset of 0, would hide a
        wrong formula; it gets numbers from N(0, 1/4).
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            block = registry.build(self.spec, **options)
            for weight in block.parameters() if isinstance(block, nn.Module) else ():
                if not weight.is_meta and bool((weight == weight.flatten()[:1]).all()):
                    weight.data = torch.randn(weight.shape, dtype=torch.float64).to(weight) / 2
        return block

    def tensors(
        self, dtype: torch.dtype = torch.float64, device: str = "cpu"
    ) -> tuple[Tensor, ...]:
        """The inputs, always the same numbers."""
        generator = torch.Generator().manual_seed(1)

        def make(*shape: int) -> Tensor:
            x = torch.randn(shape, generator=generator, dtype=torch.float64)
            return x.to(dtype).to(device)

        return tuple(x.to(device) for x in self.inputs(make))

    def snippet(self) -> str:
        """Lines of code that make the block and the inputs, as `block` and `inputs`."""
        drawn: list[tuple[tuple[int, ...], Tensor]] = []
        generator = torch.Generator().manual_seed(1)

        def make(*shape: int) -> Tensor:
            x = torch.randn(shape, generator=generator, dtype=torch.float64)
            drawn.append((shape, x))
            return x

        lines = []
        for given in self.inputs(make):
            found = [shape for shape, x in drawn if x is given]
            lines.append(f"make({', '.join(map(str, found[0]))})" if found else _as_code(given))
        if len(drawn) != sum(line.startswith("make(") for line in lines):
            # Something is made of a draw: the numbers themselves.
            lines = [_as_code(x) for x in self.tensors()]
        inputs = "".join(f"{line}, " for line in lines)
        return (
            "import torch\n"
            "from gan_blocks.testing import Case\n"
            f"case = Case({dict(self.spec)!r},\n"
            f"    inputs=lambda make: ({inputs.rstrip()}),\n"
            "    reference=lambda block, *inputs: block(*inputs))\n"
            "block, inputs = case.block(dtype=torch.float64), case.tensors()\n"
        )

    def run(self, block: Any, *inputs: Tensor) -> Tensor:
        """The block's result; blocks that draw random numbers draw the same ones each time."""
        return self._seeded(self.call, block, *inputs)

    def run_reference(self, block: Any, *inputs: Tensor) -> Tensor:
        """The reference's result, from the same random numbers."""
        return self._seeded(self.reference, block, *inputs)

    def _seeded(self, function: Callable[..., Tensor], block: Any, *inputs: Tensor) -> Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            return function(block, *inputs)
