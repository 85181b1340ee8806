"""Where the time of an iteration goes: the plain loop of bench_training.py beside the trainer.

    python tests/benchmarks/profile_training.py TABLE.md

Shares of the processor time on one thread, by torch's profiler; a share hardly moves where other
programs run, a time does.
"""

import re
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from bench_training import BATCH, plain_loop
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import TensorDataset

EXAMPLES = Path(__file__).parents[2] / "examples"
SIDES = {
    "plain loop": None,
    "trainer": ("reuse_fakes=true", "precision=float32"),
    "trainer, bfloat16": ("reuse_fakes=true", "precision=bfloat16"),
}
PARTS = {
    "convolutions": r"aten::.*convolution.*",
    "activations": r"aten::(leaky_relu|threshold|relu|tanh|sigmoid|clamp).*",
    "batch norm": r"aten::.*batch_norm.*",
    "copies and conversions": r"aten::(copy_|clone|contiguous|_to_copy|to|fill_|zero_)",
    "the rest: optimisers, losses, drawing": r".*",
}


def trainer_step(images: torch.Tensor, settings: tuple[str, ...]) -> Callable[[], object]:
    """A step of the trainer on these images."""
    sys.path.insert(0, str(EXAMPLES))
    import data
    import reading
    from config import Config
    from train import Trainer

    data.load = lambda *_: TensorDataset(images)
    file = EXAMPLES / "configs" / "mnist_dcgan.toml"
    config = reading.read_config(Config, file, settings)
    trainer = Trainer(config, file.parent, torch.device("cpu"))
    return lambda: trainer.train_step([(images,)])


def shares(step: Callable[[], object]) -> Counter[str]:
    """The share of each part in the processor time of some steps."""
    for _ in range(2):
        step()
    with profile(activities=[ProfilerActivity.CPU]) as report:
        for _ in range(5):
            step()
    times = Counter[str]()
    for event in report.key_averages():
        part = next(part for part, names in PARTS.items() if re.fullmatch(names, event.key))
        times[part] += event.self_cpu_time_total
    return Counter({part: time / times.total() for part, time in times.items()})


def main(target: Path) -> None:
    """Write the table."""
    torch.set_num_threads(1)
    images = torch.rand(BATCH, 1, 64, 64) * 2 - 1
    columns = [
        shares(plain_loop(images) if settings is None else trainer_step(images, settings))
        for settings in SIDES.values()
    ]
    lines = [" | ".join(["| Part", *SIDES, ""]).rstrip(), "|---" + "|--:" * len(SIDES) + "|"]
    for part in PARTS:
        lines.append(" | ".join([f"| {part}", *(f"{c[part]:.0%}" for c in columns), ""]).rstrip())
    target.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
