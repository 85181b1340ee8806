"""One row of a table of cases."""

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from gan_blocks._arguments import shown
from gan_blocks.authoring.clock import step
from gan_blocks.registry import Entry, registry

Make = Callable[..., Tensor]

SEED = 2
"""Of what a block draws."""


def _call(block: Any, *inputs: Tensor) -> Tensor:
    return block(*inputs)


MOST = 1000
"""No more numbers are shown in a message."""


def _draw(shape: tuple[int, ...]) -> str:
    return f"make({', '.join(map(str, shape))})"


def _as_code(x: Tensor) -> str:
    shape = tuple(x.shape)
    if x.numel() > MOST:
        return f"{_draw(shape)}.to({x.dtype})"
    if not x.numel():
        return f"torch.empty({shape}, dtype={x.dtype})"
    numbers = re.sub(r"\b(inf|nan)\b", r"float('\1')", str(x.tolist()))
    return f"torch.tensor({numbers}, dtype={x.dtype})"


def one_tensor(result: Any, what: str) -> Tensor:
    """The result, if it is a tensor; a check has nothing to compare otherwise."""
    if isinstance(result, Tensor):
        return result
    raise TypeError(
        f"{what} of a case should return a tensor, got {shown(result)}; of several, return one, "
        "or their concatenation"
    )


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
        steps: How many optimizer steps a clocked block has seen before anything is checked.
        without: Names of checks to leave out, each with the reason, for instance finite differences of
            a function with kinks.

    Attributes:
        where: The file and line where the case is written.

    Raises:
        TypeError: If one of these is something else, such as inputs that are no function.

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
    steps: int = 0
    where: str = field(init=False, default="", compare=False)

    def __post_init__(self) -> None:
        wrong = None
        if not isinstance(self.spec, Mapping) or not isinstance(self.spec.get("block"), str):
            wrong = f'spec should be a table such as {{"block": NAME}}, got {shown(self.spec)}'
        if not isinstance(self.steps, int) or isinstance(self.steps, bool) or self.steps < 0:
            wrong = f"steps should be an integer of at least 0, got {shown(self.steps)}"
        for name in ("inputs", "reference", "call"):
            if not callable(value := getattr(self, name)):
                wrong = f"{name} should be a function, got {shown(value)}"
        if not isinstance(self.detached, tuple):
            wrong = (
                f"detached should be a tuple of places, such as (1,), got {shown(self.detached)}"
            )
        for name in ("expected_failures", "without"):
            if not isinstance(value := getattr(self, name), Mapping) or not all(value.values()):
                wrong = f"{name} should give each name of a check its reason, got {shown(value)}"
        if wrong:
            raise TypeError(f"a case cannot be made: {wrong}")
        frame = sys._getframe(1)
        # Behind the constructor that dataclass made, and behind dataclasses.replace.
        while frame.f_back and frame.f_globals.get("__name__") in ("dataclasses", __name__):
            frame = frame.f_back
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
                number = weight.is_floating_point() or weight.is_complex()
                if not number or weight.is_meta or not weight.numel():
                    continue
                if bool((weight == weight.flatten()[:1]).all()):
                    weight.data = torch.randn(weight.shape, dtype=torch.float64).to(weight) / 2
        for _ in range(self.steps):
            step(block)
        return block

    def tensors(
        self, dtype: torch.dtype = torch.float64, device: str = "cpu"
    ) -> tuple[Tensor, ...]:
        """The inputs, always the same numbers.

        Each is a tensor of its own, whatever `inputs` made it of.

        Raises:
            TypeError: If `inputs` returns something else than a tuple of tensors.
            ValueError: If it fails.
        """
        generator = torch.Generator().manual_seed(1)

        def make(*shape: int) -> Tensor:
            x = torch.randn(shape, generator=generator, dtype=torch.float64)
            return x.to(dtype).to(device)

        return tuple(x.detach().clone().to(device) for x in self._made(make))

    def _made(self, make: Make) -> tuple[Tensor, ...]:
        try:
            inputs = self.inputs(make)
        except Exception as error:
            raise ValueError(
                f"{self.name}: its inputs cannot be made: {type(error).__name__}: {error}"
            ) from error
        several = isinstance(inputs, tuple | list)
        if not several or not all(isinstance(x, Tensor) for x in inputs):
            what = ", ".join(type(x).__name__ for x in (inputs if several else [inputs]))
            hint = "; a comma is missing" if isinstance(inputs, Tensor) else ""
            raise TypeError(
                f"{self.name}: inputs should return a tuple of tensors, got {what}{hint}"
            )
        if not all(i in range(len(inputs)) for i in self.detached):
            raise ValueError(f"{self.name}: detached is {self.detached}, of {len(inputs)} inputs")
        return tuple(inputs)

    def snippet(self) -> str:
        """Lines of code that make the block and the inputs, as `block` and `inputs`."""
        drawn: list[tuple[tuple[int, ...], Tensor]] = []
        generator = torch.Generator().manual_seed(1)

        def make(*shape: int) -> Tensor:
            x = torch.randn(shape, generator=generator, dtype=torch.float64)
            drawn.append((shape, x))
            return x

        given = self._made(make)
        places = [i for x in given for i, (_, y) in enumerate(drawn) if x is y]
        # If something is made of a draw, the numbers themselves are shown.
        plain = places == list(range(len(drawn)))
        shapes = {id(x): shape for shape, x in drawn} if plain else {}
        lines = [_draw(shapes[id(x)]) if id(x) in shapes else _as_code(x) for x in given]
        if any(x.numel() > MOST and id(x) not in shapes for x in given):
            note = f"# What has more than {MOST} numbers is another draw here, of the same shape.\n"
        else:
            note = ""
        spec = {
            key: registry.to_spec(value) if hasattr(value, "_block_arguments") else value
            for key, value in self.spec.items()
        }
        return (
            "import torch\n"
            "from gan_blocks.testing import Case\n"
            f"{note}case = Case({spec!r},\n"
            f"    inputs=lambda make: ({''.join(f'{line}, ' for line in lines).rstrip()}),\n"
            "    reference=lambda block, *inputs: block(*inputs))\n"
            "block, inputs = case.block(dtype=torch.float64), case.tensors()\n"
        )

    def run(self, block: Any, *inputs: Tensor) -> Tensor:
        """Return the block's result, always from the same state and the same random numbers.

        Buffers that change in the call, such as running statistics, are put back after it.
        """
        return self._seeded(self.call, "call", block, *inputs)

    def run_reference(self, block: Any, *inputs: Tensor) -> Tensor:
        """The reference's result, from the same random numbers."""
        return self._seeded(self.reference, "reference", block, *inputs)

    def _seeded(
        self, function: Callable[..., Tensor], what: str, block: Any, *inputs: Tensor
    ) -> Tensor:
        with torch.random.fork_rng(devices=[]), state_kept(block), self._gradients(inputs):
            torch.manual_seed(SEED)
            return one_tensor(function(block, *inputs), what)

    def _gradients(self, inputs: tuple[Tensor, ...]) -> AbstractContextManager[Any]:
        """Turn gradients off for inputs that need none: a loss would warn that it trains nothing."""
        plain = not any(x.requires_grad for x in inputs)
        return (
            torch.no_grad() if plain and self.entry.kind in ("loss", "penalty") else nullcontext()
        )


@contextmanager
def state_kept(block: Any) -> Iterator[None]:
    """Put a block's buffers back at the end."""
    modules = list(block.modules()) if isinstance(block, nn.Module) else []
    before = [(module, dict(module._buffers)) for module in modules]
    for module, buffers in before:
        for name, buffer in buffers.items():
            module._buffers[name] = None if buffer is None else buffer.clone()
    try:
        yield
    finally:
        for module, buffers in before:
            for name, buffer in buffers.items():
                module._buffers[name] = buffer
