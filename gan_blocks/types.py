"""Limits of constructor arguments, each declared once, and what a block of each kind must offer.

The limits are plain ``Annotated`` types. The spec model, the JSON schema, the docs and the
conformance kit all read them, so a limit stands in no other place.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Literal, Protocol, runtime_checkable

import torch
from annotated_types import Ge, Gt, Le, Lt, MinLen
from torch import Tensor, nn

# The largest size of a dimension that every backend of torch takes.
PositiveInt = Annotated[int, Gt(0), Lt(2**31)]
NonNegativeInt = Annotated[int, Ge(0), Lt(2**31)]
Depth = Annotated[int, Ge(0), Le(256)]
"""Layers in turn; each is a module, so a slip of the pen must not make millions."""
PositiveDepth = Annotated[int, Gt(0), Le(256)]
Halvings = Annotated[int, Ge(0), Le(24)]
"""How often the side of an image is halved."""
PositiveFloat = Annotated[float, Gt(0)]
NonNegativeFloat = Annotated[float, Ge(0)]
Probability = Annotated[float, Ge(0), Le(1)]
OpenProbability = Annotated[float, Gt(0), Lt(1)]
PositiveProbability = Annotated[float, Gt(0), Le(1)]
DecayRate = Annotated[float, Ge(0), Lt(1)]
"""Of a moving average: 0 keeps the last value only."""
Shape = Annotated[tuple[PositiveInt, ...], MinLen(1)]
"""The shape of one sample, without the batch dimension."""

Combine = Literal["sum", "mean"]
"""How the terms of several sub-discriminators become one number."""

Comparison = Literal["softplus", "least_squares", "hinge"]
"""How a relativistic loss compares real with generated."""

ALL_FLOATS = ("float16", "bfloat16", "float32", "float64")
"""For the capability record of a block that computes half precision in float32."""

Kind = Literal["layer", "loss", "auxiliary", "divergence", "penalty", "constraint", "network"]


class Normalization(nn.Module):
    """Base of layers that normalize features; their parameters are scales and offsets.

    Constraints leave those alone. Torch's own normalization layers are known without it; derive a layer
    of your own from it.
    """


Logits = Tensor | Sequence[Tensor]
"""One tensor of realness logits, or one per sub-discriminator."""

Critic = Callable[[Tensor], Logits]
"""Anything that maps a batch to realness logits: a module, a function, a lambda."""


@runtime_checkable
class AdversarialLoss(Protocol):
    """The two sides of the game; both are minimised."""

    def discriminator(self, real_logits: Logits, fake_logits: Logits) -> Tensor: ...

    def generator(self, fake_logits: Logits, real_logits: Logits | None = None) -> Tensor: ...


@runtime_checkable
class Divergence(Protocol):
    """An f-divergence: its generator function, conjugate and output activation."""

    threshold: float

    def f(self, u: Tensor) -> Tensor: ...

    def derivative(self, u: Tensor) -> Tensor: ...

    def conjugate(self, t: Tensor) -> Tensor: ...

    def activation(self, v: Tensor) -> Tensor: ...

    def conjugate_of_activation(self, v: Tensor) -> Tensor: ...

    def bound(self, real: Tensor, fake: Tensor) -> Tensor: ...

    def optimal_critic(self, log_ratio: Tensor) -> Tensor: ...

    def between(self, p: Tensor, q: Tensor) -> Tensor: ...


@runtime_checkable
class Penalty(Protocol):
    """A term of the critic's loss that looks at the critic's gradient; weight included."""

    def __call__(
        self,
        critic: Critic,
        real: Tensor,
        fake: Tensor,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor: ...


@runtime_checkable
class Schedule(Protocol):
    """A number that changes from step to step."""

    def __call__(self) -> Tensor: ...

    def at(self, step: int) -> float: ...

    def step(self) -> None: ...


@runtime_checkable
class Constraint(Protocol):
    """Changes a module's parameters in place, after an optimiser step."""

    def __call__(self, module: nn.Module) -> None: ...
