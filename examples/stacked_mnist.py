"""Stacked MNIST: how many of its 1000 modes a generator finds, and how evenly.

    python examples/train.py examples/configs/stacked_mnist.toml
    python examples/stacked_mnist.py runs/stacked_mnist

A sample is three digits, one in each colour, so there are 1000 kinds of samples. A classifier that is
trained on MNIST, on the spot, reads the digit in each colour. The metrics are the number of modes that
occur among 26,000 samples, and the reverse KL divergence: that of their histogram over the modes from
the uniform one. `evaluate.py` computes them for any run on `StackedMNIST`; this adds a table beside the
published numbers, and a picture.
"""

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data import UsageError
from show import Table, keep

SAMPLES, MODES = 26_000, 1000
"""How many samples are drawn, and of how many kinds they are."""

PUBLISHED = {
    "DCGAN": ("78.9 to 99", "3.4 to 4.5"),
    "PacGAN": ("1000", "0.06"),
    "GAN, R1 and R2": ("693", "0.927"),
    "relativistic, R1 and R2": ("1000", "0.0781"),
    "R3GAN, config E": ("1000", "0.029"),
}
"""Modes and reverse KL. The last three rows are R3GAN's (arXiv:2501.05441), the others PacGAN's."""


class DigitClassifier(nn.Sequential):
    """A convolutional network for grey digits of any size."""

    def __init__(self) -> None:
        layers: list[nn.Module] = []
        for before, after, kernel, stride in ((1, 32, 5, 2), (32, 64, 3, 2), (64, 128, 3, 1)):
            layers += [nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False)]
            layers += [nn.BatchNorm2d(after), nn.ReLU()]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128 * 4 * 4, 10))


def moved(images: Tensor) -> Tensor:
    """Each image turned by up to 12 degrees, scaled by up to a tenth and shifted by up to two pixels."""
    n, side = len(images), images.shape[-1]
    angle, scale, *shift = (2 * torch.rand(4, n) - 1).unbind()
    angle, scale = math.radians(12) * angle, 1 + 0.1 * scale
    x, y = (4 / side * s for s in shift)  # affine_grid's coordinates run from -1 to 1
    cos, sin = scale * angle.cos(), scale * angle.sin()
    theta = torch.stack([cos, -sin, x, sin, cos, y], dim=1).view(n, 2, 3)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def train_classifier(
    images: Tensor, labels: Tensor, steps: int = 800
) -> tuple[DigitClassifier, float]:
    """A classifier trained on five sixths of the digits, and its accuracy on the others."""
    # The random numbers of whoever calls stay as they are.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        order = torch.randperm(len(images))
        held_out, train = order.tensor_split([len(images) // 6])
        classifier = DigitClassifier()
        optimizer = torch.optim.Adam(classifier.parameters())
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=steps)
        for _ in range(steps):
            batch = train[torch.randint(len(train), (128,))]
            optimizer.zero_grad()
            F.cross_entropy(classifier(moved(images[batch])), labels[batch]).backward()
            optimizer.step()
            schedule.step()
    classifier.eval()
    label, _ = read(classifier, images[held_out])
    return classifier, (label == labels[held_out]).float().mean().item()


@torch.no_grad()
def read(classifier: nn.Module, x: Tensor) -> tuple[Tensor, float]:
    """The number that each image shows, a digit in each channel, and the mean confidence."""
    digits, confidences = [], []
    for part in x.split(500):
        probabilities = classifier(part.flatten(0, 1)[:, None]).softmax(1)
        confidence, digit = probabilities.max(1)
        digits.append(digit.view(part.shape[:2]))
        confidences.append(confidence)
    places = 10 ** torch.arange(x.shape[1]).flip(0)
    return (torch.cat(digits) * places).sum(1), torch.cat(confidences).mean().item()


def histogram_metrics(labels: Tensor) -> dict[str, Any]:
    """Modes that occur, and the divergence of their histogram from the uniform one.

    $$\\sum_k p_k \\log(1000\\,p_k)$$ with the share $p_k$ of mode k; at most log 1000 = 6.91.
    """
    share = torch.bincount(labels, minlength=MODES).double() / len(labels)
    return {
        "modes": int((share > 0).sum()),
        "reverse_kl": torch.xlogy(share, share * MODES).sum().item(),
    }


def metrics(dataset: Any, generated: Tensor) -> dict[str, Any]:
    """The metrics of generated images, and those of as many real ones, which no generator need beat.

    Args:
        dataset: `StackedMNIST` of `data.load`.
        generated: Samples of a generator.
    """
    classifier, accuracy = train_classifier(*dataset.digits[:])
    result: dict[str, Any] = {"classifier_accuracy": accuracy, "samples": len(generated)}
    real, _ = dataset[: len(generated)]
    for prefix, images in (("", generated), ("real_", real)):
        labels, confidence = read(classifier, images)
        found = histogram_metrics(labels) | {"confidence": confidence}
        result |= {prefix + name: value for name, value in found.items()}
    return result


def table(found: dict[str, Any], batch_size: int) -> Table:
    """A run's metrics, the floor and the published rows."""
    step = found["step"]
    rows = [[f"ours, {step:,} steps of {batch_size}", found["modes"], f"{found['reverse_kl']:.3f}"]]
    rows += [["real images", found["real_modes"], f"{found['real_reverse_kl']:.4f}"]]
    rows += [["even digits, a perfect sampler", MODES, "0.0193"]]
    rows += [["digits as often as in MNIST, a perfect sampler", MODES, "0.0236"]]
    rows += [[f"{name}, published", *values] for name, values in PUBLISHED.items()]
    return Table(["", "modes of 1000", "reverse KL"], rows)


def main(arguments: list[str] | None = None) -> int:
    """The table and the picture of a run, from the command line."""
    import plots
    import reading
    import train  # not above, since evaluate.py imports this module

    parser = argparse.ArgumentParser(description="Show a run on Stacked MNIST beside papers.")
    parser.add_argument("run", type=Path, help="folder of the run, such as runs/stacked_mnist")
    parser.add_argument("--docs", type=Path, help="copy table and picture to this documentation")
    options = parser.parse_args(arguments)

    def show_it() -> None:
        trainer = train.restore(options.run, reading.choose_device(None))
        if (name := trainer.config.data.name) != "StackedMNIST":
            raise UsageError(f"{options.run} is a run on {name}; give one on StackedMNIST")
        path = options.run / "metrics.json"
        if not path.exists():
            raise UsageError(f"{path} is not there; run evaluate.py {options.run} first")
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            result = table(found, trainer.config.batch_size)
        except (ValueError, LookupError, TypeError) as error:
            raise UsageError(
                f"{path} is damaged ({type(error).__name__}: {error}); run evaluate.py {options.run} "
                "again"
            ) from error
        print(result)
        shown = {
            "real images": trainer.dataset[:60][0],
            f"{trainer.step:,} steps": trainer.sample(60, seed=1),
        }
        figure = plots.figure_of_samples(shown, rows=6)
        keep("stacked_mnist", result, figure, options.run, options.docs)

    return reading.exit_status("stacked_mnist.py", show_it)


if __name__ == "__main__":
    sys.exit(main())
