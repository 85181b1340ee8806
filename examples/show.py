"""Tables and pictures that a notebook displays and a script prints or saves."""

import shutil
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

try:
    from IPython.display import display  # prints where there is no notebook
except ImportError:
    display = print


class Table:
    """Rows under a header: a Markdown table, aligned so that it reads well as it is."""

    def __init__(self, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        self.rows = [list(header), *([_text(value) for value in row] for row in rows)]

    def __repr__(self) -> str:
        widths = [max(3, *map(len, column)) for column in zip(*self.rows, strict=True)]
        rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
        lines = [self.rows[0], rule, *self.rows[1:]]
        return "\n".join(
            f"| {row[0]:<{widths[0]}} | "
            + " | ".join(f"{x:>{w}}" for x, w in zip(row[1:], widths[1:], strict=True))
            + " |"
            for row in lines
        )

    def _repr_markdown_(self) -> str:
        return repr(self)


def mean_and_error(values: list[float], form: str) -> str:
    """Mean and standard error, such as `7.0 ± 0.6`; one value has no error."""
    mean = format(statistics.mean(values), form)
    if len(values) == 1:
        return mean
    return f"{mean} ± {format(statistics.stdev(values) / len(values) ** 0.5, form)}"


def keep(name: str, table: Table, figure: Figure, out: Path, docs: Path | None) -> None:
    """Write a study's table and picture into a folder, and copy them to the documentation if asked."""
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.md").write_text(f"{table}\n", encoding="utf-8")
    if docs:
        shutil.copy(out / f"{name}.md", docs / "results")
    keep_figure(name, figure, out, docs)


def keep_figure(name: str, figure: Figure, out: Path, docs: Path | None) -> None:
    """The same of a picture alone."""
    save(figure, out / f"{name}.png")
    if docs:
        shutil.copy(out / f"{name}.png", docs / "images")


def save(figure: Figure, path: Path) -> None:
    """Write a figure as a small PNG file; the same figure is the same file."""
    figure.savefig(path, dpi=100)
    with Image.open(path) as image:  # 64 colours are enough, and a third of the size
        method, dither = Image.Quantize.MAXCOVERAGE, Image.Dither.NONE
        image.convert("RGB").quantize(64, method, dither=dither).save(path, optimize=True)


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


class Picture:
    """A PNG file and what it shows in words."""

    def __init__(self, path: Path, words: str) -> None:
        self.path, self.words = path, words

    def __repr__(self) -> str:
        return self.words

    def _repr_png_(self) -> bytes:
        return self.path.read_bytes()


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Show a table; numbers get four digits."""
    display(Table(header, rows))


def picture(figure: Figure, path: Path, words: str) -> None:
    """Save a figure and show it.

    Args:
        figure: The figure.
        path: Where to save it.
        words: What it shows, for whoever does not see it.
    """
    for axes in figure.axes:
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8)
        if axes.axison:
            axes.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    save(figure, path)
    display(Picture(path, words))
