"""What the recipes share: the digits, a judge of images, and the report at the end."""

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))  # the modules of the examples

import data
import evaluate
import plots
import show
from distances import frechet_distance


def digits() -> tuple[Tensor, Tensor, Tensor]:
    """Images of digits in [-1, 1] to train on, their labels, and other images."""
    dataset: Any = data.load(data.DataConfig(name="digits"), Path(), 0)
    images, labels = dataset.tensors
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    train, held_out = order.tensor_split([1200])
    return images[train], labels[train], images[held_out]


class Judge:
    """The Fréchet distance from held-out images, in the features of a classifier.

    Args:
        images: What the classifier is trained on.
        labels: Their classes.
        held_out: What others are compared with.
        steps: Training steps of the classifier.
    """

    def __init__(self, images: Tensor, labels: Tensor, held_out: Tensor, steps: int = 800) -> None:
        self.classifier, _ = evaluate.train_classifier(images, labels, steps)
        self.real = self.features(held_out)

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        """What the classifier sees."""
        return self.classifier.features(x)

    def __call__(self, x: Tensor) -> float:
        """The distance of some images."""
        return frechet_distance(self.features(x), self.real)


def options(description: str, steps: int, arguments: list[str] | None) -> Any:
    """The command line of a recipe."""
    parser = argparse.ArgumentParser(description=description.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=steps, help="of training (%(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("runs/recipes"), help="(%(default)s)")
    parser.add_argument("--docs", type=Path, help="also copy table and picture there")
    chosen = parser.parse_args(arguments)
    for name, least in (("steps", 2), ("seeds", 1)):
        if getattr(chosen, name) < least:
            parser.error(f"--{name} should be at least {least}, got {getattr(chosen, name)}")
    torch.set_num_threads(1)  # more only wait for each other in networks this small
    return chosen


def report(
    name: str,
    columns: dict[str, str],
    results: dict[str, list[tuple[float, ...]]],
    groups: dict[str, Tensor],
    chosen: Any,
) -> None:
    """Print a table of means over the seeds, and keep it with a picture.

    Args:
        name: Of the files.
        columns: Titles, and the formats of the values below.
        results: For each row a tuple of values for each seed.
        groups: Images, of which sixteen are drawn.
        chosen: What `options` gave.
    """
    rows = []
    for row, found in results.items():
        cells = zip(columns.values(), zip(*found, strict=True), strict=True)
        rows.append([row, *(show.mean_and_error(list(values), form) for form, values in cells)])
    table = show.Table(["", *columns], rows)
    print(table)
    figure = plots.figure_of_samples({key: x[:16] for key, x in groups.items()}, rows=4)
    show.keep(name, table, figure, chosen.out, chosen.docs)
    print(f"\nThe table and the picture are in {chosen.out}.")
