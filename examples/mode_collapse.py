"""Mode collapse, and the remedies of "Improved Techniques for Training GANs", alone and together.

    python examples/mode_collapse.py
    python examples/mode_collapse.py --seeds 2 --steps 500

Every variant trains the same networks on the same batches for as many steps; `VARIANTS` has all
that they differ in. Each finished run is a row of `mode_collapse.csv`, so a study that was stopped
goes on where it was. At the end there are a table for each data set and one picture.
"""

import argparse
import csv
import hashlib
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

import data
import evaluate
import plots
import reading
from config import Config
from show import mean_and_error
from train import Trainer

CONFIGS = Path(__file__).parent / "configs"

# --8<-- [start:variants]
MATCHING = 'auxiliary=[{term={block="FeatureMatchingLoss"}, layers=["layers.4"]}]'
MINIBATCH = "discriminator.minibatch_kernels=16"
SMOOTHING = "loss.real_target=0.9"
VIRTUAL = "generator.norm=virtual"

VARIANTS = {
    "plain": [],
    "feature matching": [MATCHING, "adversarial_weight=0"],
    "minibatch discrimination": [MINIBATCH],
    "label smoothing": [SMOOTHING],
    "virtual batch norm": [VIRTUAL],
    "all together": [MATCHING, MINIBATCH, SMOOTHING, VIRTUAL],
}
# --8<-- [end:variants]
"""The settings in which each variant differs from the config of its data set."""

COLUMNS = {
    "ring": {
        "modes": ("modes of 8", ".1f"),
        "high_quality": ("high quality", ".3f"),
        "reverse_kl": ("reverse KL", ".3f"),
    },
    "digits": {
        "classes": ("classes of 10", ".1f"),
        "rarest_class": ("rarest class", ".3f"),
        "confidence": ("confidence", ".3f"),
        "frechet_distance": ("Fréchet distance", ".0f"),
    },
}
"""For each data set the metrics of its table, with their titles and formats."""

FIELDS = ["data", "variant", "seed", "config", "cpu_ms_per_step"]
FIELDS += [metric for columns in COLUMNS.values() for metric in columns]

Row = dict[str, str]
"""A line of the CSV file."""


def config_of(name: str, variant: str, seed: int, steps: int | None) -> Config:
    """The config of one run."""
    settings = [*VARIANTS[variant], f"seed={seed}"]
    if steps:
        settings.append(f"steps={steps}")
    return reading.read_config(Config, CONFIGS / f"collapse_{name}.toml", settings)


def digest(config: Config) -> str:
    """A short name of a config and all that it holds, by which finished runs are known."""
    return hashlib.sha256(config.model_dump_json().encode()).hexdigest()[:12]


def train(config: Config) -> tuple[Trainer, float]:
    """The trainer after its last step, and the milliseconds of processor time that a step took."""
    trainer = Trainer(config, CONFIGS, torch.device("cpu"))
    trainer.check()
    batches = trainer.batches()
    start = time.process_time()  # not that of the clock, which other programs stretch
    while trainer.step < config.steps:
        trainer.train_step([next(batches)])
    return trainer, 1000 * (time.process_time() - start) / config.steps


@cache
def metrics_of(name: str) -> tuple[Callable[[Tensor], dict[str, Any]], dict[str, Any]]:
    """What judges samples of a data set, and what it says of real ones."""
    if name == "ring":
        real = data.mixture(name, evaluate.POINTS, torch.Generator().manual_seed(1))
        return lambda x: evaluate.mode_metrics(name, x), evaluate.mode_metrics(name, real)
    dataset: Any = data.load(data.DataConfig(name="digits"), CONFIGS, 0)
    images, labels = dataset.tensors
    classifier, _ = evaluate.train_classifier(images, labels)  # once for all runs
    real = evaluate.class_metrics(classifier, images, images)
    real["frechet_distance"] = real["frechet_distance_of_real_halves"]
    return lambda x: evaluate.class_metrics(classifier, images, x), real


def samples_of(out: Path, config: Config) -> Path:
    """The file with the samples of a run that the picture shows."""
    return out / "samples" / f"{digest(config)}.pt"


def read_rows(path: Path) -> list[Row]:
    """The runs that have finished."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write_rows(rows: list[Row], path: Path, fields: Sequence[str]) -> None:
    """All rows, or the old file if this is interrupted."""
    part = path.with_suffix(".part")
    with part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fields, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    os.replace(part, path)


def study(out: Path, seeds: int, steps: int | None) -> list[Row]:
    """Every run that is not in the CSV file yet, and the rows of all."""
    (out / "samples").mkdir(parents=True, exist_ok=True)
    path, done = out / "mode_collapse.csv", list[Row]()
    runs = [
        (seed, name, variant) for seed in range(seeds) for name in COLUMNS for variant in VARIANTS
    ]
    rows = read_rows(path)
    for seed, name, variant in runs:
        config = config_of(name, variant, seed, steps)
        found = [row for row in rows if row["config"] == digest(config)]
        if not found:
            trainer, cpu = train(config)
            judge, _ = metrics_of(name)
            metrics = judge(trainer.sample(evaluate.POINTS, seed=1))
            if seed == 0:
                torch.save(trainer.sample(1000, seed=1), samples_of(out, config))
            row: dict[str, Any] = {"data": name, "variant": variant, "seed": seed}
            row |= {"config": digest(config), "cpu_ms_per_step": cpu}
            row |= {metric: metrics[metric] for metric in COLUMNS[name]}
            found = [{k: "" if v is None else str(v) for k, v in row.items()}]
            rows += found
            write_rows(rows, path, FIELDS)
            print(*found[0].values(), flush=True)
        done += found
    return done


def table(name: str, rows: list[Row], real: dict[str, Any]) -> str:
    """A markdown table of a data set: a line for each variant, and one for real samples."""
    columns = COLUMNS[name]

    def values(variant: str, metric: str) -> list[float]:
        chosen = [row for row in rows if row["data"] == name and row["variant"] == variant]
        return [float(row[metric]) for row in chosen if row[metric]]

    lines = [" | ".join(["|", *(title for title, _ in columns.values()), "cost of a step |"])]
    lines.append("|---" * (len(columns) + 2) + "|")
    plain = statistics.mean(values("plain", "cpu_ms_per_step"))
    for variant in VARIANTS:
        times = values(variant, "cpu_ms_per_step")
        cells = []
        for metric, (_, form) in columns.items():
            found = values(variant, metric)
            cell = mean_and_error(found, form) if found else "none"
            # Without one sample of high quality there is no divergence, which no mean may hide.
            missing = len(times) - len(found)
            cells.append(f"{cell} ({missing} without)" if found and missing else cell)
        cells.append(format(statistics.mean(times) / plain, ".1f"))
        lines.append(" | ".join([f"| {variant}", *cells]) + " |")
    cells = [format(real[metric], form) for metric, (_, form) in columns.items()]
    lines.append(" | ".join(["| *real samples*", *cells, "|"]))
    return "\n".join(lines) + "\n"


def draw(out: Path, steps: int | None) -> None:
    """The samples of the first seed: a column for each variant, a row for each data set."""
    figure = Figure(figsize=(12, 4.4), layout="constrained")
    grid: Any = figure.subplots(2, len(VARIANTS))
    means, _ = data.modes("ring")
    for points, images, variant in zip(*grid, VARIANTS, strict=True):
        points.set_title(variant, fontsize=10)
        points.scatter(
            *means.T.numpy(), s=90, facecolors="none", edgecolors="tab:red", linewidths=1
        )
        x = torch.load(samples_of(out, config_of("ring", variant, 0, steps)))
        points.scatter(*x.T.numpy(), s=2, alpha=0.4, linewidths=0)
        points.set(xlim=(-1.5, 1.5), ylim=(-1.5, 1.5), aspect="equal", xticks=[], yticks=[])
        x = torch.load(samples_of(out, config_of("digits", variant, 0, steps)))
        images.imshow(plots.grid_of(x[:36], columns=6).numpy(), cmap="gray", vmin=0, vmax=1)
        images.axis("off")
    figure.savefig(out / "mode_collapse.png", dpi=90)


def main(arguments: list[str] | None = None) -> int:
    """Run the study from the command line."""
    parser = argparse.ArgumentParser(description="Show mode collapse and its remedies.")
    parser.add_argument("--out", type=Path, default=Path("runs/mode_collapse"), help="its folder")
    parser.add_argument("--seeds", type=int, default=5, help="runs of each variant")
    parser.add_argument(
        "--steps", type=int, help="steps of a run; those of the configs if left out"
    )
    parser.add_argument("--docs", type=Path, help="copy tables and picture to this documentation")
    options = parser.parse_args(arguments)

    def run() -> None:
        torch.set_num_threads(1)  # more only wait for each other in networks this small
        out = options.out
        rows = study(out, options.seeds, options.steps)
        for name in COLUMNS:
            _, real = metrics_of(name)
            text = table(name, rows, real)
            (out / f"mode_collapse_{name}.md").write_text(text, encoding="utf-8")
            print(f"\n{name}\n\n{text}")
        draw(out, options.steps)
        print(f"Tables, runs and picture are in {out}.")
        if options.docs:
            for file in sorted(out.glob("mode_collapse*.*")):
                to = options.docs / ("images" if file.suffix == ".png" else "results")
                to.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, to)

    return reading.exit_status("mode_collapse.py", run)


if __name__ == "__main__":
    sys.exit(main())
