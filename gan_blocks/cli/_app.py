"""What the commands share: the application, options, and ways to print."""

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from gan_blocks import _plugins
from gan_blocks.registry import registry

NARROW = 80
"""Below so many columns a table becomes a list."""

app = typer.Typer(
    help="GAN building blocks for PyTorch.",
    epilog="Exit codes: 0 fine, 1 something that was looked at is wrong, 2 wrong use.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.callback()
def prepare() -> None:
    """GAN building blocks for PyTorch."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that has no letter for a symbol prints its number.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def kinds_starting_with(incomplete: str) -> list[str]:
    return [kind for kind in _plugins.KINDS if kind.startswith(incomplete)]


def blocks_starting_with(incomplete: str) -> list[str]:
    with quiet():
        names = [entry.name for entry in registry.list()]
    return [name for name in names if name.startswith(incomplete)]


def plugins_starting_with(incomplete: str) -> list[str]:
    names = [plugin.name for plugin in registry.plugins() if plugin.status != "builtin"]
    return [name for name in names if name.startswith(incomplete)]


KindArgument = Annotated[
    str | None,
    typer.Argument(help=f"One of {', '.join(_plugins.KINDS)}.", autocompletion=kinds_starting_with),
]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """What plugins print goes to standard error, so that our output stays readable by programs."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


def print_json(document: Any) -> None:
    print(json.dumps(document, indent=2))


def console() -> Console:
    """Plain text as wide as the terminal; into a pipe, lines of any length."""
    piped = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(highlight=False, markup=False, emoji=False, width=10_000 if piped else None)


def complain(message: object) -> None:
    print(message, file=sys.stderr)


def stop(reason: object) -> NoReturn:
    """The command was used wrongly."""
    complain(reason)
    raise typer.Exit(2)


def tell_failures() -> None:
    """Each failed plugin in one line on standard error."""
    for plugin in registry.plugins():
        if plugin.status == "failed":
            complain(f"plugin {plugin.name}: {plugin.failure}")
