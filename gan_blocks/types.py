"""Limits of constructor arguments, each declared once, and what a block of each kind must offer.

The limits are plain ``Annotated`` types. The spec model, the JSON schema, the docs and the
conformance kit all read them, so a limit stands in no other place.
"""

from collections.abc import Callable
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

Kind = Literal[
    "layer", "loss", "auxiliary", "schedule", "divergence", "penalty", "constraint", "network"
]

Side = Literal["critic", "generator", "both"]
"""The side whose loss an auxiliary term belongs to; `both` may stand in either."""

Compares = Literal[
    "features", "feature_lists", "logits", "augmented_logits", "samples", "module", "other"
]
"""What an auxiliary term is called with:

- `features`: a real and a generated tensor of features, for each layer in turn.
- `feature_lists`: the real and the generated features of all layers, as lists.
- `logits`: the critic's logits of real and of generated samples.
- `augmented_logits`: its logits of some samples and of their augmented copies, in the same order.
- `samples`: real samples and generated ones that belong together.
- `module`: the network of the side.
- `other`: a call of its own, which no general loop can make.
"""


class Normalization(nn.Module):
    """Base of layers that normalize features; their parameters are scales and offsets.

    Constraints leave those alone. Torch's own normalization layers are known without it; derive a layer
    of your own from it.
    """


Logits = Tensor | list[Tensor]
"""One tensor of realness logits, or a list of one for each sub-discriminator.

A tuple is refused: networks that return (logits, features) would be judged by their features.
"""

Critic = Callable[[Tensor], Logits]
"""Anything that maps a batch to realness logits: a module, a function, a lambda."""


Network = Annotated[nn.Module, "a network"]
"""For an argument of a block that holds a whole network, as a spec or built."""


@runtime_checkable
class AdversarialLoss(Protocol):
    """The two sides of the game; both are minimised."""

    def discriminator(self, real_logits: Logits, fake_logits: Logits) -> Tensor: ...

    def generator(self, fake_logits: Logits, *, real_logits: Logits) -> Tensor: ...


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
