"""TOML, JSON and YAML files with the line and column of everything in them."""

import bisect
import json
import re
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

Key = tuple[str | int, ...]
"""Names and indices that lead to a value, outermost first."""


class Place(NamedTuple):
    """Line and column, both from 1."""

    line: int
    column: int


class Finding(NamedTuple):
    """Something wrong with a file."""

    place: Place
    path: Key
    message: str


@dataclass
class Document:
    """What a file holds.

    Args:
        value: Its content as dicts and lists.
        place: Where a key stands; that of its nearest parent if it stands nowhere.
        findings: Keys that are written twice.
    """

    value: Any
    place: Callable[[Key], Place]
    findings: list[Finding]


class Unreadable(Exception):
    """The file is no TOML, JSON or YAML.

    Args:
        message: Why.
        place: Where the reader gave up.
    """

    def __init__(self, message: str, place: Place = Place(1, 1)) -> None:  # noqa: B008
        self.place = place
        super().__init__(message)


class NoReader(Exception):
    """There is nothing to read such files with."""


def read(path: Path) -> Document:
    """Read a file by its suffix.

    Raises:
        NoReader: For another suffix, or YAML without PyYAML.
        Unreadable: For a file with an error of syntax.
        OSError: If it cannot be opened.
    """
    readers = {".toml": _toml, ".json": _json, ".yaml": _yaml, ".yml": _yaml}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise NoReader(f"{path}: the suffix should be .toml, .json, .yaml or .yml")
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        place = Place(before.count(b"\n") + 1, error.start - before.rfind(b"\n"))
        raise Unreadable("is not UTF-8 text", place) from None
    try:
        return reader(text)
    except RecursionError:
        raise Unreadable("is nested too deeply") from None


def _toml(text: str) -> Document:
    try:
        value = tomllib.loads(text)
    except ValueError as error:
        reason, _, where = str(error).rpartition(" (at ")
        numbers = [int(number) for number in re.findall(r"\d+", where)]
        end = Place(text.count("\n") + 1, len(text) - text.rfind("\n"))
        place = Place(*numbers) if len(numbers) == 2 else end
        raise Unreadable(reason or str(error), place) from None
    scanner = _Scanner(text, "=", tomllib_string)
    scanner.document()
    return Document(value, scanner.place_of, [])


def _json(text: str) -> Document:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise Unreadable(error.msg, Place(error.lineno, error.colno)) from None
    except ValueError as error:  # an integer of thousands of digits
        raise Unreadable(str(error)) from None
    scanner = _Scanner(text, ":", json.loads)
    scanner.skip()
    scanner.value(())
    return Document(value, scanner.place_of, scanner.twice)


def tomllib_string(written: str) -> str:
    return tomllib.loads(f"key = {written}")["key"]


class _Scanner:
    """Finds where the keys of a valid TOML or JSON text stand.

    Neither of Python's readers tells. The text has been read already, so nothing is checked here:
    only strings, brackets, braces and separators are told apart.
    """

    def __init__(self, text: str, separator: str, string: Callable[[str], str]) -> None:
        self.text = text
        self.separator = separator
        self.string_value = string
        self.blank = re.compile(r"(?:\s|#[^\n]*)*" if separator == "=" else r"\s*")
        self.at = 0
        self.lines = [0, *(match.end() for match in re.finditer("\n", text))]
        self.places: dict[Key, Place] = {(): Place(1, 1)}
        self.twice: list[Finding] = []
        self.tables: dict[Key, int] = {}  # how many tables an array of tables has so far

    def place_of(self, path: Key) -> Place:
        while path not in self.places:
            path = path[:-1]
        return self.places[path]

    def here(self) -> Place:
        line = bisect.bisect_right(self.lines, self.at)
        return Place(line, self.at - self.lines[line - 1] + 1)

    def skip(self) -> None:
        match = self.blank.match(self.text, self.at)
        self.at = match.end() if match else self.at

    def starts(self, word: str) -> bool:
        return self.text.startswith(word, self.at)

    def document(self) -> None:
        """A TOML file: pairs, and headers that say where the following pairs belong."""
        table: Key = ()
        self.skip()
        while self.at < len(self.text):
            if self.starts("["):
                place, brackets = self.here(), 2 if self.starts("[[") else 1
                self.at += brackets
                names = self.names()
                self.at += brackets
                table = self.table(names, place, repeated=brackets == 2)
            else:
                self.pair(table)
            self.skip()

    def table(self, names: list[str], place: Place, repeated: bool) -> Key:
        """The path of a header; a name of an array of tables means its last table."""
        path: Key = ()
        for i, name in enumerate(names):
            path = (*path, name)
            self.places.setdefault(path, place)
            if repeated and i == len(names) - 1:
                self.tables[path] = self.tables.get(path, 0) + 1
            if path in self.tables:
                path = (*path, self.tables[path] - 1)
                self.places.setdefault(path, place)
        # A header that comes after a subtable of its own is the better place.
        self.places[path] = place
        return path

    def names(self) -> list[str]:
        """A key, dotted or not, up to the separator or bracket after it."""
        found = []
        while True:
            self.skip()
            start = self.at
            if self.starts('"') or self.starts("'"):
                self.string()
                found.append(self.string_value(self.text[start : self.at]))
            else:
                while self.text[self.at].isalnum() or self.text[self.at] in "_-":
                    self.at += 1
                found.append(self.text[start : self.at])
            self.skip()
            if not self.starts("."):
                return found
            self.at += 1

    def pair(self, table: Key) -> None:
        self.skip()
        place, path = self.here(), table
        for name in self.names():
            path = (*path, name)
            if path in self.places and self.separator == ":":
                self.twice.append(Finding(place, path, "is written twice; the last one counts"))
                self.places[path] = place
            self.places.setdefault(path, place)
        self.at += 1  # the separator
        self.skip()
        self.value(path)

    def value(self, path: Key) -> None:
        if self.starts("{"):
            for _ in self.items("}"):
                self.pair(path)
        elif self.starts("["):
            for i in self.items("]"):
                self.places[(*path, i)] = self.here()
                self.value((*path, i))
        elif self.starts('"') or self.starts("'"):
            self.string()
        else:
            # A number, a date or a word: it ends where something else begins.
            match = re.compile(r"[^,\]}\n#]*").match(self.text, self.at)
            self.at = match.end() if match else self.at

    def items(self, closing: str) -> Iterator[int]:
        self.at += 1
        self.skip()
        count = 0
        while not self.starts(closing):
            yield count
            count += 1
            self.skip()
            if self.starts(","):
                self.at += 1
                self.skip()
        self.at += 1

    def string(self) -> None:
        quote = self.text[self.at]
        mark = 3 * quote if self.separator == "=" and self.starts(3 * quote) else quote
        self.at += len(mark)
        while not self.starts(mark):
            self.at += 2 if quote == '"' and self.starts("\\") else 1
        self.at += len(mark)
        while len(mark) == 3 and self.starts(quote):  # quotes that belong to the text
            self.at += 1


def _yaml(text: str) -> Document:
    try:
        import yaml
    except ImportError:
        raise NoReader("YAML files need PyYAML: pip install pyyaml") from None
    loader = yaml.SafeLoader(text)
    try:
        root = loader.get_single_node()
        value = None if root is None else loader.construct_document(root)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(mark.line + 1, mark.column + 1) if mark else Place(1, 1)
        raise Unreadable(error.problem or str(error), place) from None
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise Unreadable(" ".join(str(error).split())) from None

    def place_of(path: Key) -> Place:
        node, place = root, Place(1, 1)
        for part in path:
            for key, child in _children(node):
                if key == part:
                    node, place = child
                    break
            else:
                break
        return place

    return Document(value, place_of, _written_twice(root))


def _children(node: Any) -> list[tuple[str | int, tuple[Any, Place]]]:
    """Keys or indices of a YAML node, each with its value and place."""
    if not hasattr(node, "value") or isinstance(node.value, str):
        return []
    if node.id == "mapping":
        pairs = [(key.value, key, value) for key, value in node.value]
    else:
        pairs = [(i, value, value) for i, value in enumerate(node.value)]
    return [
        (name, (value, Place(key.start_mark.line + 1, key.start_mark.column + 1)))
        for name, key, value in pairs
        if isinstance(name, str | int)
    ]


def _written_twice(root: Any) -> list[Finding]:
    found: list[Finding] = []
    seen: set[int] = set()  # an alias leads to its anchor again
    pending: list[tuple[Any, Key]] = [(root, ())]
    while pending:
        node, path = pending.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        names: set[str | int] = set()
        for name, (child, place) in _children(node):
            if name in names and name != "<<":
                message = "is written twice; the last one counts"
                found.append(Finding(place, (*path, name), message))
            names.add(name)
            pending.append((child, (*path, name)))
    return found
