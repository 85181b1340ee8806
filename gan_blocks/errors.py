"""Every error and warning that the library raises about blocks, specs and plugins.

Wrong tensors given to a built block raise the usual ``ValueError`` or ``TypeError``.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple


class Problem(NamedTuple):
    """One thing that is wrong with the arguments of a block.

    Attributes:
        path: Names and indices that lead to the argument, outermost first; empty for the block
            as a whole.
        message: What was expected, what came and what to do.
        value: What came.
    """

    path: tuple[str | int, ...]
    message: str
    value: Any = None

    def __str__(self) -> str:
        place = ".".join(map(str, self.path))
        return f"{place}: {self.message}" if place else self.message


class GanBlocksError(Exception):
    """Base of the library's errors."""


class UnknownBlockError(GanBlocksError, LookupError):
    """No block has this name, or it is of another kind.

    Args:
        message: What came, and the nearest name or the reason.
        name: What came.
    """

    def __init__(self, message: str, name: Any = None) -> None:
        self.name = name
        super().__init__(message)

    def __reduce__(self):
        return type(self), (str(self), self.name)


class UnknownPresetError(GanBlocksError, LookupError):
    """No preset has this name."""


class InvalidArgumentsError(GanBlocksError, ValueError):
    """A block cannot be built from these arguments. The message names all problems at once.

    Args:
        name: Name of the block.
        problems: What is wrong, one entry per argument.
    """

    def __init__(self, name: str, problems: Iterable[Problem]) -> None:
        self.name = name
        self.problems = tuple(problems)
        super().__init__(f"{name} cannot be built: {'; '.join(map(str, self.problems))}")

    def __reduce__(self):
        return type(self), (self.name, self.problems)


class ReadOnlyArgumentError(GanBlocksError, AttributeError):
    """An argument of a built block was assigned to. Build a new block instead."""


class RenamedWarning(FutureWarning):
    """A spec or a call uses a former name of a block or of an argument, which still works."""


class PluginError(GanBlocksError):
    """A plugin cannot be loaded or registered."""
