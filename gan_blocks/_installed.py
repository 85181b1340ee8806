"""Which plugins are installed, read from the metadata of packages; nothing is imported."""

import importlib.metadata
import re
from importlib.metadata import Distribution, EntryPoint
from typing import Any, NamedTuple

GROUP = "gan_blocks"


class Origin(NamedTuple):
    """The package that brings a plugin."""

    package: str
    version: str

    def __str__(self) -> str:
        return f"{self.package} {self.version}".strip()


class Installed(NamedTuple):
    """One entry point of the group, and its package."""

    origin: Origin
    point: EntryPoint


class Unreadable(NamedTuple):
    """A package whose entry points cannot be read, and why."""

    origin: Origin
    reason: str


def installed() -> tuple[list[Installed], list[Unreadable]]:
    """All entry points of the group, and the packages that could hide one.

    `importlib.metadata.entry_points` gives none at all when the metadata of one package is
    broken, so each package is read by itself. Of a package that is there twice the first on the
    path counts, as for an import.
    """
    found: list[Installed] = []
    broken: list[Unreadable] = []
    seen: set[str] = set()
    for package in importlib.metadata.distributions():
        try:
            points = list(package.entry_points.select(group=GROUP))
        except Exception as error:
            if _may_be_ours(package):
                broken.append(Unreadable(_origin(package), f"{type(error).__name__}: {error}"))
            continue
        if not points:
            continue
        origin = _origin(package, points[0].value)
        key = re.sub(r"[-_.]+", "-", origin.package).lower()
        if key not in seen:
            found += [Installed(origin, point) for point in points]
        seen.add(key)
    return found, broken


def needs_newer(package: Distribution | None, version: str) -> str:
    """What a package asks for, `>= 99`, if this version of gan_blocks is too old for it.

    Conditions with a marker, such as those of an extra, are not judged.
    """
    try:
        requirements = (package.requires if package else None) or []
    except Exception:
        return ""
    for requirement in requirements:
        named = re.match(r"\s*gan[-_.]+blocks(?![-_.\w])([^;]*)$", requirement, re.IGNORECASE)
        for operator, least in re.findall(
            r"(>=|~=|==|>)\s*(\d+(?:\.\d+)*)", named[1] if named else ""
        ):
            asked, ours = _release(least), _release(version)
            if asked > ours or (operator == ">" and asked == ours):
                return f"{operator} {least}"
    return ""


def _release(version: str) -> tuple[int, ...]:
    """`0.2.0rc1` as (0, 2); a candidate counts as its release, as zeros at the end count nothing."""
    match = re.match(r"\d+(\.\d+)*", version)
    numbers = [int(number) for number in match[0].split(".")] if match else []
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)


def _origin(package: Distribution, value: str = "") -> Origin:
    try:
        metadata: Any = package.metadata
        name, version = metadata.get("Name"), metadata.get("Version")
    except Exception:
        name = version = None
    where = value or str(getattr(package, "_path", "no metadata"))
    return Origin(name or f"an unnamed package ({where})", version or "of unknown version")


def _may_be_ours(package: Distribution) -> bool:
    try:
        return GROUP in (package.read_text("entry_points.txt") or "")
    except Exception:
        return True
