"""How good the samples of a trained generator are.

    python examples/evaluate.py runs/digits

For digits a classifier is trained on the real images, on the spot, and looks at generated ones:
are all ten classes there, is it sure of them, and how far are its features from those of real
images? For `ring` and `grid` the modes are known and counted, and for `StackedMNIST` they are read by a
classifier. `--inception 10000` adds the scores of publications to any data set of images.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import checkpoint
import data
import stacked_mnist
from distances import frechet_distance, kernel_distance

IMAGES, POINTS = 2_000, 2_500
"""How many samples are drawn of images and of points."""

Sampler = Callable[[int], Tensor]
"""Gives so many samples."""


class Classifier(nn.Module):
    """A small convolutional network for grey images of ten classes, of any size."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Linear(64 * 4 * 4, 64),
            nn.ReLU(),
        )
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the classes."""
        return self.head(self.features(x))


def train_classifier(images: Tensor, labels: Tensor, steps: int = 800) -> tuple[Classifier, float]:
    """A classifier trained on four fifths of the images, and its accuracy on the others."""
    # The random numbers of whoever calls stay as they are.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        order = torch.randperm(len(images))
        held_out, train = order.tensor_split([len(images) // 5])
        classifier = Classifier()
        optimizer = torch.optim.Adam(classifier.parameters())
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
        for _ in range(steps):
            batch = train[torch.randint(len(train), (64,))]
            optimizer.zero_grad()
            F.cross_entropy(classifier(images[batch]), labels[batch]).backward()
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        correct = classifier(images[held_out]).argmax(1) == labels[held_out]
    return classifier, correct.float().mean().item()


@torch.no_grad()
def class_metrics(classifier: Classifier, real: Tensor, generated: Tensor) -> dict[str, Any]:
    """What a classifier sees in generated images, beside what it sees in real ones.

    The distances between two halves of the real images are what a perfect generator reaches.
    """
    real_features, features = (
        torch.cat([classifier.features(part) for part in images.split(500)])
        for images in (real, generated)
    )
    half = torch.randperm(len(real), generator=torch.Generator().manual_seed(1)) < len(real) // 2
    halves = real_features[half], real_features[~half]
    shares, confidence = _classes(classifier, features)
    real_shares, real_confidence = _classes(classifier, real_features)
    # The kernel adds 1 to a mean product, so it wants features of about that size.
    unit = real_features.square().mean().sqrt()
    kernel, error = kernel_distance(features / unit, real_features / unit)
    kernel_of_halves, error_of_halves = kernel_distance(*(part / unit for part in halves))
    return {
        "classes": sum(share > 0 for share in shares),
        "rarest_class": min(shares),
        "class_shares": shares,
        "real_class_shares": real_shares,
        "confidence": confidence,
        "real_confidence": real_confidence,
        "frechet_distance": frechet_distance(features, real_features),
        "frechet_distance_of_real_halves": frechet_distance(*halves),
        "kernel_distance": kernel,
        "kernel_distance_error": error,
        "kernel_distance_of_real_halves": kernel_of_halves,
        "kernel_distance_error_of_real_halves": error_of_halves,
    }


def _classes(classifier: Classifier, features: Tensor) -> tuple[list[float], float]:
    """The share of each class, and how sure the classifier is of its choices on average."""
    confidence, label = classifier.head(features).softmax(1).max(1)
    shares = torch.bincount(label, minlength=10).double() / len(label)
    return shares.tolist(), confidence.mean().item()


def mode_metrics(name: str, samples: Tensor) -> dict[str, Any]:
    """Modes found, share of samples of high quality, and how evenly those spread over the modes.

    A sample is of high quality within 3 standard deviations of a mode. The reverse KL divergence is
    that of their histogram over the modes from the uniform one; without any such sample there is
    none.
    """
    means, std = data.modes(name)
    distance, nearest = torch.cdist(samples, means).min(1)
    good = nearest[distance <= 3 * std]
    share = torch.bincount(good, minlength=len(means)) / max(len(good), 1)
    return {
        "modes": int((share > 0).sum()),
        "high_quality": len(good) / len(samples),
        "reverse_kl": torch.xlogy(share, share * len(means)).sum().item() if len(good) else None,
    }


def evaluate(name: str, dataset: Any, sampler: Sampler) -> dict[str, Any]:
    """Metrics of a generator; none for data sets that have no evaluation here.

    Args:
        name: The data set's name.
        dataset: The real data.
        sampler: Gives samples.
    """
    if name in ("ring", "grid"):
        return mode_metrics(name, sampler(POINTS))
    if name == "StackedMNIST":
        return stacked_mnist.metrics(dataset, sampler(stacked_mnist.SAMPLES))
    if name not in ("digits", "MNIST"):
        return {}
    chosen = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))[:10_000]
    images, labels = dataset[chosen]
    classifier, accuracy = train_classifier(images, labels)
    return {"classifier_accuracy": accuracy} | class_metrics(classifier, images, sampler(IMAGES))


@contextmanager
def without_training(*networks: nn.Module, evaluation: bool = True) -> Iterator[None]:
    """Run networks without side effects on gradients, modes, buffers and random numbers.

    Args:
        networks: The networks that run inside the context.
        evaluation: Whether to switch them to evaluation mode. Otherwise their modes stay as they are.
    """
    modules = [module for network in networks for module in network.modules()]
    modes = [(module, module.training) for module in modules]
    # Batch norm and spectral norm update buffers in training mode; custom layers may always do so.
    buffers = [(m, k, x, x.clone()) for m in modules for k, x in m.named_buffers(recurse=False)]
    weights = (weight for network in networks for weight in network.parameters())
    device = next((weight.device for weight in weights), torch.device("cpu"))
    numbers = checkpoint.random_state(device)
    try:
        for network in networks if evaluation else ():
            network.eval()
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training
        with torch.no_grad():
            for module, name, buffer, value in buffers:
                setattr(module, name, buffer.copy_(value))
        checkpoint.set_random_state(numbers, device)


def evaluate_run(trainer: Any, out: Path, inception: int = 0) -> dict[str, Any]:
    """Evaluate the samples of a trainer of `train.py` and write `metrics.json`.

    Nothing is written where there is nothing to say: no evaluation of this data set, and no scores
    asked for.

    Args:
        trainer: The trainer.
        out: The folder of its run.
        inception: How many images the scores of `inception.py` are computed of; 0 leaves them out.
    """
    name, dataset = trainer.config.data.name, trainer.dataset

    def sampler(n: int) -> Tensor:
        return trainer.sample(n, seed=1).cpu()

    scores = {}
    if inception:
        from inception import inception_metrics  # here, since few who train need torch-fidelity

        scores = inception_metrics(sampler(inception), dataset)
    metrics = evaluate(name, dataset, sampler) | scores
    if metrics:
        metrics = {"step": trainer.step} | metrics
        (out / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    return metrics


def main(arguments: list[str] | None = None) -> int:
    """Evaluate a run from the command line."""
    import reading
    import train  # not above, since it imports this module

    parser = argparse.ArgumentParser(description="Evaluate a run of train.py.")
    parser.add_argument("run", type=Path, help="folder of the run, such as runs/digits")
    parser.add_argument("--device", help="where to draw the samples; chosen if left out")
    parser.add_argument(
        "--inception", type=int, default=0, metavar="N",
        help="also FID, KID, Inception score, precision and recall of so many images",
    )  # fmt: skip
    options = parser.parse_args(arguments)

    def evaluate_it() -> None:
        if options.inception < 0:
            raise data.UsageError(f"--inception: should be 0 or more, got {options.inception}")
        trainer = train.restore(options.run, reading.choose_device(options.device))
        metrics = evaluate_run(trainer, options.run, options.inception)
        if not metrics:
            name = trainer.config.data.name
            raise data.UsageError(f"{name} has no metrics of its own; add --inception 10000")
        print(json.dumps(metrics, indent=2))

    return reading.exit_status("evaluate.py", evaluate_it)


if __name__ == "__main__":
    sys.exit(main())
