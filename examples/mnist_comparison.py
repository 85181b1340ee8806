"""MNIST by four methods: DCGAN, WGAN with weight clipping, WGAN-GP and the preset of R3GAN.

    python examples/mnist_comparison.py
    python examples/mnist_comparison.py --part 0.1

All have the same generator, at 28 pixels, batches of 32 and the same average of its weights, and about
as much processor time, fifteen minutes on one core. Each run is one of `train.py`, in a folder of its
own, so a study that was stopped goes on where it was, and one that is asked for a larger part goes on
from the smaller one. At the end there are a table, pictures of samples and of the losses, and one of
DCGAN's log beside that of the tutorial.

MNIST is downloaded to the folder that the configs name, unless `GAN_BLOCKS_MNIST` names another.
"""

import argparse
import csv
import os
import shutil
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

import checkpoint
import data
import evaluate
import mode_collapse
import plots
import reading
import show
import train
from config import Config

CONFIGS = Path(__file__).parent / "configs"
EXAMPLES = 20
"""Samples of each method in the picture."""

# --8<-- [start:methods]
METHODS = {
    "DCGAN": ("mnist_dcgan_small", 48_000),
    "WGAN, clipping": ("mnist_wgan_small", 15_000),
    "WGAN-GP": ("mnist_wgan_gp_small", 8_000),
    "R3GAN": ("mnist_r3gan", 23_000),
}
SIZES = [f"{table}.image_size=28" for table in ("data", "generator", "discriminator")]
SIZES += ["generator.width=16", "discriminator.width=16", "ema={half_life=4400}"]
# --8<-- [end:methods]
"""The config of each method and its steps, and what all have in common."""

METRICS = {
    "classes": ("classes of 10", ".1f"),
    "rarest_class": ("rarest class", ".3f"),
    "confidence": ("confidence", ".3f"),
    "frechet_distance": ("Fréchet distance", ".1f"),
}
"""The metrics of the table, with their titles and formats."""

FIELDS = ["method", "seed", "steps", "images", "ms_per_step", *METRICS]

LOGGED = {
    "D loss": ("d_loss", "d_loss"),
    "G loss": ("g_loss", "g_loss"),
    "D(x)": ("d_real", "d_x"),
    "D(G(z))": ("d_fake_before", "d_g_z_before_generator_step"),
}
"""The names of a value in our log and in the tutorial's."""


def config_of(method: str, seed: int, part: float) -> Config:
    """The config of one run."""
    name, steps = METHODS[method]
    steps = max(1, round(part * steps))
    settings = [*SIZES, "log_every=50", "checkpoint_every=250", f"seed={seed}", f"steps={steps}"]
    if "GAN_BLOCKS_MNIST" in os.environ:
        root = Path(os.environ["GAN_BLOCKS_MNIST"]).expanduser().resolve()
        settings.append(f"data.root={root}")
    return reading.read_config(Config, CONFIGS / f"{name}.toml", settings)


@cache
def real_images() -> tuple[evaluate.Classifier, Tensor]:
    """The classifier that judges, and the images that it has seen; once for all runs."""
    dataset: Any = data.load(config_of("DCGAN", 0, 1).data, CONFIGS, 0)
    chosen = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))[:10_000]
    images, labels = dataset[chosen]
    return evaluate.train_classifier(images, labels)[0], images


def folder_of(out: Path, method: str, seed: int) -> Path:
    """The folder of a run."""
    return out / f"{METHODS[method][0]}-{seed}"


def cost(trainer: train.Trainer, steps: int = 20) -> float:
    """The milliseconds of processor time of a step, measured on some that follow the run."""
    batches = trainer.batches()
    start = time.process_time()  # not that of the clock, which other programs stretch
    for _ in range(steps):
        trainer.train_step([next(batches) for _ in range(trainer.config.critic_steps)])
    return 1000 * (time.process_time() - start) / steps


def run(method: str, seed: int, part: float, out: Path) -> mode_collapse.Row:
    """Train or go on, and judge."""
    config, folder = config_of(method, seed, part), folder_of(out, method, seed)
    resume = checkpoint.exists(folder / "checkpoint.pt")
    again, device = "the same command", torch.device("cpu")
    trainer = train.run(config, CONFIGS, folder, device, resume, again)
    if trainer.step > config.steps:
        raise data.UsageError(
            f"--part: {folder} is at step {trainer.step}, and {part} of the steps is {config.steps}; "
            "ask for a larger part, or choose another --out"
        )
    x = trainer.sample(evaluate.IMAGES, seed=1)
    torch.save(x[:EXAMPLES], folder / "samples.pt")
    classifier, images = real_images()
    metrics = evaluate.class_metrics(classifier, images, x)
    row: dict[str, Any] = {"method": method, "seed": seed, "steps": config.steps}
    row |= {"images": config.steps * config.critic_steps * config.batch_size}
    row |= {"ms_per_step": f"{cost(trainer):.1f}"} | {metric: metrics[metric] for metric in METRICS}
    return {key: str(value) for key, value in row.items()}


def study(out: Path, seeds: int, part: float) -> list[mode_collapse.Row]:
    """The rows of all runs, those that lie in the file already among them."""
    out.mkdir(parents=True, exist_ok=True)
    path, done = out / "mnist.csv", list[mode_collapse.Row]()
    rows = mode_collapse.read_rows(path, FIELDS)
    for seed in range(seeds):
        for method in METHODS:
            key = {"method": method, "seed": str(seed)}
            key["steps"] = str(config_of(method, seed, part).steps)
            found = [row for row in rows if key.items() <= row.items()]
            if not found:
                found = [run(method, seed, part, out)]
                rows += found
                mode_collapse.write_rows(rows, path, FIELDS)
                print(*found[0].values(), flush=True)
            done += found
    return done


def table(rows: list[mode_collapse.Row]) -> show.Table:
    """A line for each method, and one for real images."""
    lines: list[list[Any]] = []
    for method in METHODS:
        mine = [row for row in rows if row["method"] == method]
        cells = [
            show.mean_and_error([float(row[metric]) for row in mine], form)
            for metric, (_, form) in METRICS.items()
        ]
        steps, images = (int(mine[0][key]) for key in ("steps", "images"))
        times = [float(row["ms_per_step"]) for row in mine]
        seconds = sum(times) / len(times) * steps / 1000
        cost = [show.mean_and_error(times, ".0f"), f"{seconds:,.0f}"]
        lines.append([method, *cells, f"{steps:,}", f"{images:,}", *cost])
    classifier, images = real_images()
    real = evaluate.class_metrics(classifier, images, images)
    real["frechet_distance"] = real["frechet_distance_of_real_halves"]
    cells = [format(real[metric], form) for metric, (_, form) in METRICS.items()]
    lines.append(["real images", *cells, "", "", "", ""])
    titles = [title for title, _ in METRICS.values()]
    return show.Table(["", *titles, "steps", "real images seen", "ms of a step", "seconds"], lines)


def losses(out: Path) -> Figure:
    """The losses of the first seed, a panel for each method."""
    figure = Figure(figsize=(10, 2.6), layout="constrained")
    for axes, method in zip(figure.subplots(1, len(METHODS)), METHODS, strict=True):
        log = checkpoint.read_log(folder_of(out, method, 0) / "log.jsonl")
        for name, label in (("d_loss", "D"), ("g_loss", "G")):
            values = [line[name] for line in log]
            axes.plot([line["step"] for line in log], values, linewidth=0.8, label=label)
        axes.set_title(method, fontsize=9)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    return figure


def beside_the_tutorial(out: Path) -> Figure:
    """DCGAN's log and the tutorial's, which it printed every 500 iterations."""
    with Path(__file__).with_name("tutorial_log.csv").open(encoding="utf-8", newline="") as file:
        theirs = list(csv.DictReader(file))
    ours = checkpoint.read_log(folder_of(out, "DCGAN", 0) / "log.jsonl")
    figure = Figure(figsize=(10, 2.6), layout="constrained")
    for axes, (title, names) in zip(figure.subplots(1, 4), LOGGED.items(), strict=True):
        values = [line[names[0]] for line in ours]
        axes.plot([line["step"] for line in ours], values, linewidth=0.8, label="ours")
        # An epoch of the tutorial has 1,875 iterations.
        steps = [1875 * int(line["epoch"]) + int(line["iteration"]) for line in theirs]
        values = [float(line[names[1]]) for line in theirs]
        axes.plot(steps, values, "o-", markersize=3, linewidth=0.5, label="the tutorial's log")
        if "loss" in title:
            axes.set_yscale("log")
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("iteration")
        axes.grid(alpha=0.3)
    figure.axes[0].legend(fontsize=7)
    return figure


def main(arguments: list[str] | None = None) -> int:
    """Run the study from the command line."""
    parser = argparse.ArgumentParser(description="Train four GANs on MNIST and compare them.")
    parser.add_argument("--out", type=Path, default=Path("runs/mnist"), help="its folder")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each method")
    parser.add_argument("--part", type=float, default=1.0, help="of each method's steps, up to 1")
    parser.add_argument("--docs", type=Path, help="copy table and pictures to this documentation")
    options = parser.parse_args(arguments)

    def compare() -> None:
        mode_collapse.check_counts(seeds=options.seeds)
        if not 0 < options.part <= 1:
            raise data.UsageError(f"--part: should be above 0, and 1 at most, got {options.part}")
        torch.set_num_threads(1)  # more only wait for each other in networks this small
        out, docs = options.out, options.docs
        rows = study(out, options.seeds, options.part)
        result = table(rows)
        print(f"\n{result}\n\nThe table, the runs and the pictures are in {out}.")
        samples = {name: torch.load(folder_of(out, name, 0) / "samples.pt") for name in METHODS}
        show.keep("mnist", result, plots.figure_of_samples(samples, rows=5), out, docs)
        show.keep_figure("mnist_losses", losses(out), out, docs)
        show.keep_figure("mnist_tutorial", beside_the_tutorial(out), out, docs)
        if docs:
            shutil.copy(out / "mnist.csv", docs / "results")

    return reading.exit_status("mnist_comparison.py", compare)


if __name__ == "__main__":
    sys.exit(main())
