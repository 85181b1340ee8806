"""The data sets of the examples.

`digits`, `ring` and `grid` need no download. `MNIST`, `FashionMNIST`, `CIFAR10` and `ImageFolder`
come from torchvision, which is imported only when one of them is asked for; `StackedMNIST` is made of
`MNIST`. All images lie in [-1, 1].
"""

import math
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, model_validator
from sklearn.datasets import load_digits
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, TensorDataset

from gan_blocks.types import PositiveInt

BUNDLED = ("digits", "ring", "grid")
POINTS, STACKS = 100_000, 128_000
"""Samples of `ring` and `grid`, and of `StackedMNIST`."""


class UsageError(Exception):
    """Something that the user can repair. The message says where it is and what to do."""


class DataConfig(BaseModel):
    """Which data to train on.

    Args:
        name: The data set.
        root: The folder of a torchvision data set, relative to the config file.
        image_size: Side of the images, to which torchvision's are resized.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    name: Literal[
        "digits", "ring", "grid", "MNIST", "StackedMNIST", "FashionMNIST", "CIFAR10", "ImageFolder"
    ]
    root: str | None = None
    image_size: PositiveInt | None = None

    @model_validator(mode="after")
    def _fits_the_data_set(self) -> "DataConfig":
        given = [key for key in ("root", "image_size") if getattr(self, key)]
        if self.name in BUNDLED and given:
            raise ValueError(f"{self.name} takes no {', '.join(given)}; remove it")
        if self.name not in BUNDLED and self.root is None:
            raise ValueError(f"{self.name} needs root, the folder where its images lie")
        if self.name == "ImageFolder" and self.image_size is None:
            raise ValueError("ImageFolder needs image_size, since its images may differ in size")
        return self


def modes(name: str) -> tuple[Tensor, float]:
    """Means and standard deviation of the Gaussians of `ring` and `grid`."""
    if name == "ring":
        angle = 2 * math.pi * torch.arange(8) / 8  # linspace(0, 2 pi, 8) would give 7 modes
        return torch.stack([angle.cos(), angle.sin()], dim=1), 0.01
    side = torch.tensor([-4.0, -2.0, 0.0, 2.0, 4.0])
    return torch.cartesian_prod(side, side), 0.05


def mixture(name: str, n: int, generator: torch.Generator) -> Tensor:
    """Points drawn from `ring` or `grid`."""
    means, std = modes(name)
    index = torch.randint(len(means), (n,), generator=generator)
    return means[index] + std * torch.randn(n, 2, generator=generator)


def load(config: DataConfig, folder: Path, seed: int) -> Dataset[Any]:
    """The data set, whose items are tuples that begin with the sample.

    Args:
        config: Which data set.
        folder: Where a relative root starts.
        seed: Draws the points of `ring` and `grid`, and the digits of `StackedMNIST`.
    """
    if config.name == "digits":
        digits: Any = load_digits()
        images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 8 - 1
        return TensorDataset(images, torch.tensor(digits.target))
    if config.name in BUNDLED:
        points = mixture(config.name, POINTS, torch.Generator().manual_seed(seed))
        return TensorDataset(points)
    if config.name == "StackedMNIST":
        return Stacked(load(config.model_copy(update={"name": "MNIST"}), folder, seed), seed)
    return _from_torchvision(config, folder / Path(config.root or "").expanduser())


def _from_torchvision(config: DataConfig, root: Path) -> Dataset[Any]:
    try:
        from torchvision import datasets
        from torchvision.transforms import v2 as transforms
    except ImportError as error:
        raise UsageError(
            f"data.name: {config.name} needs torchvision ({error}); "
            "install it with: pip install 'gan-blocks[examples]'"
        ) from error
    size = config.image_size
    resize = [transforms.Resize(size), transforms.CenterCrop(size)] if size else []
    scale = [transforms.ToDtype(torch.float32, scale=True), transforms.Normalize([0.5], [0.5])]
    # A plain tensor at the end: a checkpoint that holds another class cannot be read without its code.
    steps = [transforms.ToImage(), *resize, *scale, transforms.ToPureTensor()]
    transform = transforms.Compose(steps)
    if config.name == "ImageFolder":
        try:
            return datasets.ImageFolder(root, transform)
        except OSError as error:
            raise UsageError(
                f"data.root: {error}; give a folder that holds one folder of images per class"
            ) from error
    cls = getattr(datasets, config.name)
    try:
        dataset = cls(root, train=True, download=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise UsageError(
            f"data.root: {root} has no readable {config.name}, and it cannot be downloaded "
            f"({error}); connect to the network, or put the files of torchvision's "
            f"{config.name} there"
        ) from error
    pixels = torch.as_tensor(dataset.data)
    pixels = pixels[:, None] if pixels.dim() == 3 else pixels.movedim(3, 1)
    return _Images(pixels, torch.as_tensor(dataset.targets), transform)


class _Images(TensorDataset):
    """Images in memory as bytes, transformed when they are asked for, a whole batch at once."""

    def __init__(self, pixels: Tensor, labels: Tensor, transform: Callable[[Tensor], Tensor]):
        super().__init__(pixels, labels)
        self.transform = transform

    def __getitem__(self, index: Any) -> tuple[Tensor, ...]:
        pixels, labels = super().__getitem__(index)
        return self.transform(pixels), labels


class Stacked(TensorDataset):
    """Images of three grey ones drawn at random, as red, green and blue; the label is 100 a + 10 b + c.

    There are `STACKS` of them, as in the publications. Which grey images make one is drawn once, so a
    stack depends on the seed and its index only.

    Args:
        digits: The grey images, a data set of `load` with labels 0 to 9.
        seed: Draws them.
    """

    def __init__(self, digits: Any, seed: int) -> None:
        draws = torch.Generator().manual_seed(seed)
        threes = torch.randint(len(digits), (STACKS, 3), generator=draws)
        self.digits, (self.pixels, labels) = digits, digits.tensors
        super().__init__(threes, (labels[threes] * torch.tensor([100, 10, 1])).sum(1))

    def __getitem__(self, index: Any) -> tuple[Tensor, ...]:
        threes, labels = super().__getitem__(index)
        return self.digits.transform(self.pixels[threes].squeeze(-3)), labels


class _Order(Sampler[list[int]]):
    """Indices of batch after batch. Batch k depends on the seed and on k only."""

    def __init__(
        self, n: int, batch_size: int, seed: int, start: int, process: tuple[int, int], parts: int
    ) -> None:
        self.n, self.batch_size, self.seed, self.start = n, batch_size, seed, start
        self.process, self.parts = process, parts

    def __iter__(self) -> Iterator[list[int]]:
        per_epoch = self.n // self.batch_size
        rank, count = self.process
        k = self.start
        while True:
            epoch, i = divmod(k, per_epoch)
            order = _permutation(self.n, self.seed, epoch)
            batch = order[i * self.batch_size : (i + 1) * self.batch_size]
            yield batch.view(self.parts, count, -1)[:, rank].flatten().tolist()
            k += 1


@lru_cache(maxsize=1)
def _permutation(n: int, seed: int, epoch: int) -> Tensor:
    # Two seeds that are drawn, not added: seed 0, epoch 1 is not seed 1, epoch 0.
    base = int(torch.randint(2**62, (), generator=torch.Generator().manual_seed(seed)))
    return torch.randperm(n, generator=torch.Generator().manual_seed(base + epoch))


def check_classes(config: DataConfig, dataset: Any, num_classes: int) -> None:
    """Refuse networks whose classes are not those of the data; without classes they fit any data."""
    if isinstance(dataset, TensorDataset):
        count = int(dataset.tensors[1].max()) + 1 if len(dataset.tensors) > 1 else 0
    else:
        count = len(dataset.classes)
    if num_classes not in (0, count):
        what = f"{count} classes" if count else "no labels"
        raise UsageError(
            f"num_classes: the networks have {num_classes} classes and {config.name} has {what}; set "
            f"num_classes = {count} in generator and discriminator"
        )


def batches(dataset: Any, batch_size: int, seed: int, start: int = 0) -> Iterator[Tensor]:
    """The samples of `items`, whole batches of them."""
    for sample, *_ in items(dataset, batch_size, seed, start):
        yield sample


def items(
    dataset: Any,
    batch_size: int,
    seed: int,
    start: int = 0,
    process: tuple[int, int] = (0, 1),
    parts: int = 1,
) -> Iterator[list[Tensor]]:
    """Batches without end of samples and whatever comes with them, each epoch in an order of its own.

    The position in the data is the number of batches drawn, so a run that is resumed passes it as
    `start` and sees what it would have seen.

    Args:
        dataset: What `load` returns.
        batch_size: Samples of a batch; what an epoch leaves over is dropped.
        seed: The order.
        start: How many batches to skip.
        process: The number of this process, and how many share each batch.
        parts: How many parts of a batch follow each other; the processes share each part.
    """
    if len(dataset) < batch_size:
        raise UsageError(
            f"batch_size: {batch_size} is more than the {len(dataset)} samples there are; lower it"
        )
    if batch_size % (process[1] * parts):
        raise UsageError(
            f"batch_size: {batch_size} cannot be shared by {process[1]} processes in {parts} parts; "
            f"make it a multiple of {process[1] * parts}"
        )
    order = _Order(len(dataset), batch_size, seed, start, process, parts)
    # A generator of the loader's own, since creating one draws from torch's global generator.
    own = torch.Generator()
    if isinstance(dataset, TensorDataset):
        loader = DataLoader(dataset, sampler=order, batch_size=None, generator=own)
    else:
        loader = DataLoader(dataset, batch_sampler=order, generator=own)
    yield from loader
