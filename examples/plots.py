"""The pictures of a run: sample grids and loss curves."""

from pathlib import Path
from typing import Any

import torch.nn.functional as F
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.image import imsave
from torch import Tensor

SIDE, COUNT = 10, 1000
"""Images of a grid in each direction, and samples to draw, all of which a plane has room for."""

READABLE = 32
"""Images of fewer pixels are enlarged and smoothed: nobody reads a digit of 8 x 8 squares."""


def grid_of(x: Tensor, columns: int) -> Tensor:
    """Images in [-1, 1] side by side, as many rows as they fill, as one image in [0, 1]."""
    images = (x[: columns * SIDE].cpu().clamp(-1, 1) + 1) / 2
    if images.shape[2] < READABLE:
        size = 2 * READABLE
        images = F.interpolate(images, size=(size, size), mode="bicubic").clamp(0, 1)
    images = F.pad(images, (1, 1, 1, 1), value=1)
    channels, width = images.shape[1], images.shape[3]
    grid = images.unflatten(0, (-1, columns)).permute(0, 3, 1, 4, 2)
    return grid.reshape(-1, columns * width, channels).squeeze(2)


def samples(x: Tensor, path: Path) -> None:
    """Draw points in the plane, or images in [-1, 1] as a grid."""
    x = x.cpu()
    if x.dim() == 2:
        figure = Figure(figsize=(5, 5), layout="constrained")
        figure.subplots().scatter(x[:, 0], x[:, 1], s=4, alpha=0.5)
        figure.savefig(path)
        return
    grid = grid_of(x, SIDE)
    imsave(path, grid.numpy(), cmap=colormaps["gray"], vmin=0, vmax=1)


def curves(log: list[dict[str, Any]], path: Path) -> None:
    """Draw the losses and the mean outputs of a run against its steps."""
    figure = Figure(figsize=(8, 6), layout="constrained")
    losses, outputs = figure.subplots(2, 1, sharex=True)
    steps = [line["step"] for line in log]
    for axes, names in (
        (losses, ["d_loss", "g_loss"]),
        (outputs, ["d_real", "d_fake_before", "d_fake_after"]),
    ):
        for name in names:
            axes.plot(steps, [line[name] for line in log], label=name, linewidth=0.8)
        axes.legend()
        axes.grid(alpha=0.3)
    outputs.set_xlabel("step")
    figure.savefig(path)


def figure_of_samples(groups: dict[str, Tensor], rows: int) -> Figure:
    """Images in [-1, 1] of several generators side by side, under their names."""
    columns = {name: len(x) // rows for name, x in groups.items()}
    side = 7 / sum(columns.values())
    figure = Figure(figsize=(7, side * rows + 0.4), layout="constrained")
    panels = figure.subplots(1, len(groups), width_ratios=list(columns.values()), squeeze=False)
    for axes, (name, x) in zip(panels[0], groups.items(), strict=True):
        axes.imshow(grid_of(x, columns[name]).numpy(), cmap="gray", vmin=0, vmax=1)
        axes.set_title(name, fontsize=10)
        axes.set_axis_off()
    return figure
