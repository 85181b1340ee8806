"""What two steps of the trainer tell in float64, config by config; alone or as one of several processes.

python tests/train_configs.py OUT MNIST CONFIG...
"""
# The examples are scripts in a folder of their own.
# pyright: reportMissingImports=false

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

import reading
import train
from config import Config

STEPS, CRITIC_STEPS = 2, 2
IN_PARTS = ("digits", "digits_conditional", "digits_dcgan")
"""Configs whose batch goes through the networks in two parts."""


class WideTrainer(train.Trainer):
    """In float64, so that rounding is far from everything else."""

    def latents(self, n, seed=None):
        return super().latents(n, seed).double()

    def _batch(self, item):
        x, *labels = super()._batch(item)
        return (x.double(), *labels)


def values_of(file, mnist):
    """The values of each step, and the sum of each weight and buffer in the end."""
    settings = ["batch_size=8", "log_every=1", f"critic_steps={CRITIC_STEPS}"]
    if file.stem in IN_PARTS:
        settings.append("accumulate=2")
    if reading.read_config(Config, file).data.name.endswith("MNIST"):
        settings += [f"data.root={mnist}", "generator.width=8", "discriminator.width=8"]
    config = reading.read_config(Config, file, settings)
    trainer = WideTrainer(config, file.parent, torch.device("cpu"))
    trainer.check()
    batches = trainer.batches()
    values = [
        trainer.train_step([next(batches) for _ in range(CRITIC_STEPS)]) for _ in range(STEPS)
    ]
    networks = {"generator": trainer.generator, "critic": trainer.critic}
    values += [
        {f"{name}.{key}": x.double().sum().item() for key, x in network.state_dict().items()}
        for name, network in networks.items()
    ]
    return values


def main(out, mnist, *files):
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    results = {file: values_of(Path(file), mnist) for file in files}
    rank = dist.get_rank() if dist.is_initialized() else 0
    Path(f"{out}.{rank}").write_text(json.dumps(results))


if __name__ == "__main__":
    main(*sys.argv[1:])
