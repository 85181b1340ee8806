"""`gan-blocks new-plugin`: a complete package to start from."""

import importlib.resources
import re
import shutil
import tempfile
from collections.abc import Iterator
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated

import typer

from gan_blocks._plugins import BUILTIN
from gan_blocks.cli._app import AsJson, console, print_json, stop
from gan_blocks.registry import registry


def new_plugin(
    name: Annotated[
        str, typer.Argument(help="The prefix of its blocks: lower-case letters, digits, hyphens.")
    ],
    directory: Annotated[
        Path | None,
        typer.Option("--directory", help="Where to write it; gan-blocks-NAME if left out."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a package with one block, its cases and tests, which pass at once."""
    name = name.removeprefix("gan-blocks-")
    if not re.fullmatch(r"[a-z](-?[a-z0-9])*", name):
        stop(f"a plugin's name is a word such as audio or my-losses, got {name!r}")
    if name == BUILTIN:
        stop(f"the name {name!r} is reserved; choose another")
    for plugin in registry.plugins():
        if plugin.name == name:
            stop(f"the name {name!r} belongs to {plugin.distribution}; choose another")
    folder = directory or Path(f"gan-blocks-{name}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        stop(f"{folder} exists and is not empty; choose another --directory")
    try:
        written = _write(folder, name)
    except OSError as error:
        stop(f"{folder} cannot be written: {error.strerror or error}")
    if as_json:
        print_json({"directory": str(folder), "name": name, "files": written})
        return
    out = console()
    for file in written:
        out.print(f"{folder}/{file}", overflow="fold")
    out.print(f"\nNow:\n\n  cd {folder}\n  gan-blocks check .\n  pip install --editable .")
    out.print("\nREADME.md says how to add a block of your own.")


def _write(folder: Path, name: str) -> list[str]:
    """All files or none."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    source = importlib.resources.files("gan_blocks.cli") / "template"
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        whole = Path(temporary) / "package"
        for parts, file in _files(source):
            path = whole / _renamed("/".join(parts), name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(_renamed(file.read_text(encoding="utf-8"), name), encoding="utf-8")
        if folder.exists():
            folder.rmdir()
        shutil.move(whole, folder)
    return sorted(str(p.relative_to(folder).as_posix()) for p in folder.rglob("*") if p.is_file())


def _files(
    folder: Traversable, parts: tuple[str, ...] = ()
) -> Iterator[tuple[list[str], Traversable]]:
    for item in folder.iterdir():
        if item.is_dir() and not item.name.startswith(("__", ".")):
            yield from _files(item, (*parts, item.name))
        elif item.is_file():
            yield [*parts, item.name], item


def _renamed(text: str, name: str) -> str:
    """The name in the place of `template`, the name of the package that is shipped."""
    text = text.replace("gan_blocks_template", f"gan_blocks_{name.replace('-', '_')}")
    return re.sub(r"\btemplate\b", name, text)
