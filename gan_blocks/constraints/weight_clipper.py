"""Weight clipping of the first WGAN paper."""

import weakref
from fnmatch import fnmatchcase
from itertools import chain
from operator import attrgetter, is_
from typing import Annotated, Any

import torch
from annotated_types import MinLen
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from gan_blocks._checks import check_module
from gan_blocks.constraints._maps import hooked_weights, is_normalization
from gan_blocks.spec import block
from gan_blocks.types import PositiveFloat

# pyright: reportPrivateImportUsage=false

_dtype = attrgetter("dtype")
_HALF = frozenset({torch.float16, torch.bfloat16})


@block()
class WeightClipper:
    r"""Clips the weights and biases of a module to a box, in place.

    Every entry is clipped to $[-c, c]$; in half precision to the largest number that is not above $c$.
    Call it after **every** step of the critic's optimiser. The Lipschitz constant of a multilayer
    perceptron clipped this way has a bound that depends on $c$ and its widths only;
    [`lipschitz_bound`][gan_blocks.lipschitz_bound] gives a number.

    Scales and offsets of normalization layers are left alone: clipped to 0.01 they would switch the
    layer off. Such layers are those of torch and of this library, and classes derived from them or from
    `gan_blocks.types.Normalization`, with the embeddings right inside them, which hold scales of classes.
    Any other layer is clipped, whatever its name; name yours in `exclude`. Parameters that need
    no gradient are clipped as any others, since a critic is often frozen while the generator learns;
    name pretrained parts in `exclude`.

    Args:
        bound: $c$.
        include: Patterns of the names of parameters that are clipped, as in `named_parameters()`;
            `*` stands for any characters, dots too.
        exclude: Patterns of names that are not, even if included.
        normalisation: Whether normalisation layers are clipped too, as the authors' code does.

    Raises:
        ValueError: If a pattern fits no parameter, or nothing is left to clip, with the names that
            there are; or if a weight is computed from other parameters, as
            `torch.nn.utils.parametrizations` and the older `torch.nn.utils.spectral_norm` and
            `weight_norm` do: it would not stay in the box.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> critic = nn.Linear(4, 1)
        >>> clip = WeightClipper(bound=0.01)
        >>> clip(critic)
        >>> bool(critic.weight.abs().max() <= 0.01)
        True

    Reference:
        Arjovsky, Chintala and Bottou, "Wasserstein GAN", 2017, arXiv:1701.07875, algorithm 1, line 7.
    """

    def __init__(
        self,
        bound: PositiveFloat = 0.01,
        include: Annotated[tuple[str, ...], MinLen(1)] = ("*",),
        exclude: tuple[str, ...] = (),
        normalisation: bool = False,
    ) -> None:
        self.bound = bound
        self.include = include
        self.exclude = exclude
        self.normalisation = normalisation
        self._known: _Selection | None = None

    @torch.no_grad()
    def __call__(self, module: nn.Module) -> None:
        """Clip the parameters.

        Args:
            module: The critic.
        """
        # To look for them takes half as long as to clip them.
        if self._known is None or not self._known.holds_for(module):
            self._known = _Selection(module, self._selected(module))
        parameters = self._known.parameters
        dtypes = set(map(_dtype, parameters))
        if dtypes.isdisjoint(_HALF):
            _clip(parameters, self.bound)
            return
        for dtype in dtypes:
            bound = _at_most(self.bound, dtype) if dtype in _HALF else self.bound
            _clip([parameter for parameter in parameters if parameter.dtype == dtype], bound)

    def _selected(self, module: nn.Module) -> list[Tensor]:
        check_module("module", module)
        found: dict[str, Tensor] = {}
        left_alone: set[str] = set()
        computed: set[str] = set()
        todo: list[tuple[str, nn.Module, bool]] = [("", module, False)]
        for prefix, part, of_a_norm in todo:  # which grows
            is_norm = is_normalization(part)
            sources = tuple(f"{name}_" for name in hooked_weights(part))
            for name, parameter in part._parameters.items():
                if parameter is not None:
                    found[prefix + name] = parameter
                    if is_norm or of_a_norm:
                        left_alone.add(prefix + name)
                    if isinstance(part, ParametrizationList) or (
                        sources and name.startswith(sources)
                    ):
                        computed.add(prefix + name)
            for name, child in part._modules.items():
                if child is not None:
                    todo.append(
                        (f"{prefix}{name}.", child, is_norm and isinstance(child, nn.Embedding))
                    )
        if self.normalisation:
            left_alone.clear()
        if self.include != ("*",) or self.exclude:
            left_alone |= self._not_named(found)
        chosen = {n: p for n, p in found.items() if n not in left_alone} if left_alone else found
        if found and not chosen:
            raise ValueError(
                f"WeightClipper has nothing to clip: include={self.include}, "
                f"exclude={self.exclude}, normalisation={self.normalisation} leave none of "
                f"{', '.join(found)}"
            )
        if computed and (refused := computed.intersection(chosen)):
            raise ValueError(
                f"WeightClipper would clip {', '.join(sorted(refused))}, from which a "
                "parametrisation or hook computes a weight that need not stay within the bound; remove "
                "it, or name these in exclude"
            )
        for name, parameter in chosen.items():
            if parameter.is_complex():
                raise TypeError(
                    f"module should have real parameters, got {parameter.dtype} in {name}"
                )
        return list(chosen.values())

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_known": None}  # a copy clips other modules

    def _not_named(self, found: dict[str, Tensor]) -> set[str]:
        fits = {
            pattern: {name for name in found if fnmatchcase(name, pattern)}
            for pattern in (*self.include, *self.exclude)
        }
        if idle := [pattern for pattern, names in fits.items() if not names]:
            raise ValueError(
                f"WeightClipper: no parameter fits {', '.join(map(repr, idle))}; there are "
                f"{', '.join(found) or 'none'}"
            )
        included = set().union(*(fits[pattern] for pattern in self.include))
        excluded = set().union(*(fits[pattern] for pattern in self.exclude))
        return (set(found) - included) | excluded


def _clip(parameters: list[Tensor], bound: float) -> None:
    if parameters:
        torch._foreach_clamp_min_(parameters, -bound)
        torch._foreach_clamp_max_(parameters, bound)


def _at_most(bound: float, dtype: torch.dtype) -> float:
    """The largest number of a half precision that is not above the bound."""
    nearest = torch.tensor(bound, dtype=dtype)
    if nearest.item() > bound:
        nearest = (nearest.view(torch.int16) - 1).view(dtype)  # the next one towards 0
    return nearest.item()


class _Selection:
    """Parameters chosen from a module, for as long as it has the same parameters and parts."""

    def __init__(self, module: nn.Module, parameters: list[Tensor]) -> None:
        self.parameters = parameters
        self.tables: list[dict[str, Any]] = [
            table for part in module.modules() for table in (part._parameters, part._modules)
        ]
        self.members = self._members()
        self.module = weakref.ref(module, self._forget)

    def holds_for(self, module: nn.Module) -> bool:
        """Whether it is this module, unchanged; the values of parameters may change."""
        if self.module() is not module:
            return False
        now = self._members()
        return len(now) == len(self.members) and all(map(is_, now, self.members))

    def _members(self) -> list[Any]:
        return list(chain.from_iterable(map(dict.values, self.tables)))

    def _forget(self, _: Any) -> None:
        for kept in (self.parameters, self.tables, self.members):
            kept.clear()
