"""What the commands share: the application, options, and ways to print."""

import contextlib
import functools
import json
import os
import sys
from collections.abc import Callable, Iterator
from typing import Annotated, Any, NoReturn, TextIO, TypeVar

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


_stdout: TextIO | None = None
"""Where the command prints; none outside of commands."""

Command = TypeVar("Command", bound=Callable[..., None])


def keeps_stdout(command: Command) -> Command:
    """Leave standard output to the command alone.

    Plugins print while they are imported and later, from threads and child processes too, and programs
    read our output. So from the command's start all but the command print to standard error. This is
    not undone at its end: a thread may print until the process ends.
    """

    @functools.wraps(command)
    def alone(*arguments: Any, **options: Any) -> None:
        global _stdout
        before = sys.stdout
        _stdout = _taken_from_others()
        try:
            command(*arguments, **options)
        finally:
            mine, _stdout = _stdout, None
            mine.flush()
            if mine is before:  # no file of the process
                sys.stdout = before

    return alone  # type: ignore[return-value]


def _taken_from_others() -> TextIO:
    stdout: TextIO | None = sys.stdout
    sys.stdout = sys.stderr
    if stdout is None:  # the process was started without one
        return open(os.devnull, "w")
    try:
        is_of_process = stdout.fileno() == 1
    except (OSError, ValueError):
        is_of_process = False
    if not is_of_process:
        return stdout
    stdout.flush()
    own = os.dup(1)
    _to_stderr()
    return open(own, "w", encoding=stdout.encoding, errors="backslashreplace")


def _to_stderr() -> None:
    """Send what is written below Python, or by a child process, to standard error."""
    try:
        os.dup2(2, 1)
    except OSError:  # closed
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


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
    """Send what plugins print to standard error for a while."""
    sys.stdout.flush()
    own = os.dup(1)
    _to_stderr()
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(own, 1)
        os.close(own)


def print_json(document: Any) -> None:
    print(json.dumps(document, indent=2), file=_stdout)


def console() -> Console:
    """Plain text as wide as the terminal; into a pipe, lines of any length."""
    out = _stdout or sys.stdout
    piped = not out.isatty() and "COLUMNS" not in os.environ
    width = 10_000 if piped else None
    return Console(file=out, highlight=False, markup=False, emoji=False, width=width)


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
