"""Mode collapse and its remedies, alone and together.

    python examples/mode_collapse.py
    python examples/mode_collapse.py --data grid --seeds 2 --steps 500

Every variant of a data set trains the same networks on the same batches for as many steps; `VARIANTS`
has all that they differ in. Each finished run is a row of `mode_collapse.csv`, so a study that was
stopped goes on where it was. At the end there are a table for each data set, and pictures.
"""

import argparse
import csv
import hashlib
import json
import os
import shutil
import sys
import time
import tomllib
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
from show import mean_and_error, save
from train import Trainer

CONFIGS = Path(__file__).parent / "configs"

# --8<-- [start:variants]
MINIBATCH = "discriminator.minibatch_kernels=16"
SMOOTHING = "loss.real_target=0.9"
VIRTUAL = "generator.norm=virtual"
RELATIVISTIC = "loss.block=RelativisticLoss"
SCHEDULE = 'schedule={block="CosineSchedule", start=0.5, end=0.01, steps=2000}'
R1, R2 = (
    f'{{block="Scheduled", penalty={{block="{name}", gamma=1.0}}, {SCHEDULE}}}'
    for name in ("R1Penalty", "R2Penalty")
)
R1_R2 = f"penalties=[{R1}, {R2}]"


def of_2016(layer: str) -> dict[str, list[str]]:
    """The remedies of Salimans et al. 2016, with features of this layer."""
    matching = f'auxiliary=[{{term={{block="FeatureMatchingLoss"}}, layers=["{layer}"]}}]'
    return {
        "plain": [],
        "feature matching": [matching, "adversarial_weight=0"],
        "minibatch discrimination": [MINIBATCH],
        "label smoothing": [SMOOTHING],
        "virtual batch norm": [VIRTUAL],
        "all together": [matching, MINIBATCH, SMOOTHING, VIRTUAL],
    }


PACKS_OF_2 = ("packing=2", "discriminator.input_shape=[4]")

VARIANTS = {
    "ring": of_2016("layers.4"),
    "digits": of_2016("layers.4"),
    "grid": of_2016("layers.6")
    | {
        "packing of 2": list(PACKS_OF_2),
        "packing of 4": ["packing=4", "discriminator.input_shape=[8]"],
        "R1 and R2": [R1_R2],
        "relativistic, R1, R2": [R1_R2, RELATIVISTIC],
        "... and packing of 2": [R1_R2, RELATIVISTIC, *PACKS_OF_2],
        "... and virtual batch norm": [R1_R2, RELATIVISTIC, VIRTUAL],
    },
}
# --8<-- [end:variants]
"""The settings in which each variant differs from the config of its data set."""

QUALITY = {"high_quality": ("high quality", ".3f"), "reverse_kl": ("reverse KL", ".3f")}
COLUMNS = {
    "ring": {"modes": ("modes of 8", ".1f"), **QUALITY},
    "digits": {
        "classes": ("classes of 10", ".1f"),
        "rarest_class": ("rarest class", ".3f"),
        "confidence": ("confidence", ".3f"),
        "frechet_distance": ("Fréchet distance", ".0f"),
    },
    "grid": {"modes": ("modes of 25", ".1f"), **QUALITY},
}
"""For each data set the metrics of its table, with their titles and formats."""

FIELDS = ["data", "variant", "seed", "config", "cpu_ms_per_step"]
FIELDS += list(dict.fromkeys(metric for columns in COLUMNS.values() for metric in columns))

PICTURES = {"mode_collapse": ("ring", "digits"), "mode_collapse_grid": ("grid",)}
"""What each picture shows."""

Row = dict[str, str]
"""A line of the CSV file."""


def settings_of(name: str, variant: str, seed: int, steps: int | None) -> list[str]:
    """What one run changes in the config of its data set."""
    return [*VARIANTS[name][variant], f"seed={seed}", *([f"steps={steps}"] if steps else [])]


def config_of(name: str, variant: str, seed: int, steps: int | None) -> Config:
    """The config of one run."""
    settings = settings_of(name, variant, seed, steps)
    return reading.read_config(Config, CONFIGS / f"collapse_{name}.toml", settings)


def digest(name: str, variant: str, seed: int, steps: int | None) -> str:
    """A short name of all that a run's config says, by which finished runs are known.

    What it leaves to defaults is not in it, so a new setting of the trainer makes no run another one.
    """
    table = tomllib.loads((CONFIGS / f"collapse_{name}.toml").read_text(encoding="utf-8"))
    said = json.dumps([table, settings_of(name, variant, seed, steps)])
    return hashlib.sha256(said.encode()).hexdigest()[:12]


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
    if name != "digits":
        real = data.mixture(name, evaluate.POINTS, torch.Generator().manual_seed(1))
        return lambda x: evaluate.mode_metrics(name, x), evaluate.mode_metrics(name, real)
    dataset: Any = data.load(data.DataConfig(name="digits"), CONFIGS, 0)
    images, labels = dataset.tensors
    classifier, _ = evaluate.train_classifier(images, labels)  # once for all runs
    real = evaluate.class_metrics(classifier, images, images)
    real["frechet_distance"] = real["frechet_distance_of_real_halves"]
    return lambda x: evaluate.class_metrics(classifier, images, x), real


def samples_of(out: Path, run: str) -> Path:
    """The file with the samples of a run that the picture shows."""
    return out / "samples" / f"{run}.pt"


def check_counts(**counts: int | None) -> None:
    """Refuse options that count something and are below 1."""
    for name, count in counts.items():
        if count is not None and count < 1:
            raise data.UsageError(f"--{name}: should be 1 or more, got {count}")


def read_rows(path: Path, fields: Sequence[str]) -> list[Row]:
    """The runs that have finished, from a file with these columns."""
    if not path.exists():
        return []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            header, *lines = [*csv.reader(file, strict=True)] or [[]]
        if header != list(fields):
            raise ValueError(f"its columns should be {','.join(fields)}, got {','.join(header)}")
        return [dict(zip(fields, line, strict=True)) for line in lines if line]
    except (ValueError, csv.Error) as error:
        raise data.UsageError(
            f"{path} cannot be gone on with ({error}); move it away, or choose another --out"
        ) from error


def write_rows(rows: list[Row], path: Path, fields: Sequence[str]) -> None:
    """All rows, or the old file if this is interrupted."""
    part = path.with_suffix(".part")
    with part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fields, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    os.replace(part, path)


def study(names: Sequence[str], out: Path, seeds: int, steps: int | None) -> list[Row]:
    """Every run that is not in the CSV file yet, and the rows of all."""
    (out / "samples").mkdir(parents=True, exist_ok=True)
    path, done = out / "mode_collapse.csv", list[Row]()
    runs = [
        (seed, name, variant)
        for seed in range(seeds)
        for name in names
        for variant in VARIANTS[name]
    ]
    rows = read_rows(path, FIELDS)
    for seed, name, variant in runs:
        run = digest(name, variant, seed, steps)
        found = [row for row in rows if row["config"] == run]
        if not found:
            trainer, cpu = train(config_of(name, variant, seed, steps))
            judge, _ = metrics_of(name)
            metrics = judge(trainer.sample(evaluate.POINTS, seed=1))
            if seed == 0:
                torch.save(trainer.sample(1000, seed=1), samples_of(out, run))
            row: dict[str, Any] = {"data": name, "variant": variant, "seed": seed}
            row |= {"config": run, "cpu_ms_per_step": cpu}
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
    # The least over the seeds: what else the machine does can only add to it.
    plain = min(values("plain", "cpu_ms_per_step"))
    for variant in VARIANTS[name]:
        times = values(variant, "cpu_ms_per_step")
        cells = []
        for metric, (_, form) in columns.items():
            found = values(variant, metric)
            cell = mean_and_error(found, form) if found else "none"
            # Without one sample of high quality there is no divergence, which no mean may hide.
            missing = len(times) - len(found)
            cells.append(f"{cell} ({missing} without)" if found and missing else cell)
        cells.append(format(min(times) / plain, ".1f"))
        lines.append(" | ".join([f"| {variant}", *cells]) + " |")
    cells = [format(real[metric], form) for metric, (_, form) in columns.items()]
    lines.append(" | ".join(["| *real samples*", *cells, "|"]))
    return "\n".join(lines) + "\n"


def draw(picture: str, out: Path, steps: int | None) -> None:
    """The samples of the first seed of each variant, six in a row."""
    shown = [(name, variant) for name in PICTURES[picture] for variant in VARIANTS[name]]
    figure = Figure(figsize=(10.8, 2 * -(-len(shown) // 6)), layout="constrained")
    panels: Any = figure.subplots(-(-len(shown) // 6), 6)
    for axes, (name, variant) in zip(panels.flat, shown, strict=True):
        axes.set_title(variant, fontsize=10)
        x = torch.load(samples_of(out, digest(name, variant, 0, steps)))
        if name == "digits":
            axes.imshow(plots.grid_of(x[:36], columns=6).numpy(), cmap="gray", vmin=0, vmax=1)
            axes.axis("off")
            continue
        means, _ = data.modes(name)
        side = 1.5 * float(means.max())
        size = 90 if name == "ring" else 40
        axes.scatter(
            *means.T.numpy(), s=size, facecolors="none", edgecolors="tab:red", linewidths=1
        )
        axes.scatter(*x.T.numpy(), s=2, alpha=0.4, linewidths=0)
        axes.set(xlim=(-side, side), ylim=(-side, side), aspect="equal", xticks=[], yticks=[])
    save(figure, out / f"{picture}.png")


def main(arguments: list[str] | None = None) -> int:
    """Run the study from the command line."""
    parser = argparse.ArgumentParser(description="Show mode collapse and its remedies.")
    parser.add_argument("--data", choices=COLUMNS, action="append", help="all if left out")
    parser.add_argument("--out", type=Path, default=Path("runs/mode_collapse"), help="its folder")
    parser.add_argument("--seeds", type=int, default=5, help="runs of each variant")
    parser.add_argument(
        "--steps", type=int, help="steps of a run; those of the configs if left out"
    )
    parser.add_argument("--docs", type=Path, help="copy tables and pictures to this documentation")
    options = parser.parse_args(arguments)

    def run() -> None:
        check_counts(seeds=options.seeds, steps=options.steps)
        torch.set_num_threads(1)  # more only wait for each other in networks this small
        out, names = options.out, options.data or list(COLUMNS)
        rows = study(names, out, options.seeds, options.steps)
        files = ["mode_collapse.csv"]
        for name in names:
            _, real = metrics_of(name)
            text = table(name, rows, real)
            (out / f"mode_collapse_{name}.md").write_text(text, encoding="utf-8")
            print(f"\n{name}\n\n{text}")
            files.append(f"mode_collapse_{name}.md")
        for picture, shown in PICTURES.items():
            if set(shown) <= set(names):
                draw(picture, out, options.steps)
                files.append(f"{picture}.png")
        print(f"Tables, runs and pictures are in {out}.")
        for file in files if options.docs else []:
            to = options.docs / ("images" if file.endswith(".png") else "results")
            to.mkdir(parents=True, exist_ok=True)
            shutil.copy(out / file, to)

    return reading.exit_status("mode_collapse.py", run)


if __name__ == "__main__":
    sys.exit(main())
