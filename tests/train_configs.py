"""What the steps of a trainer tell, for configs that are given; alone or as one of several processes.

    python tests/train_configs.py OUT MNIST CONFIG...
    accelerate launch --cpu --num_processes 2 tests/train_configs.py OUT MNIST CONFIG...
"""

import json
import sys
from pathlib import Path

import torch

EXAMPLES = Path(__file__).parents[1] / "examples"
STEPS = 2


def values_of(train, reading, config_class, file, mnist):
    settings = ["batch_size=8", "log_every=1", "critic_steps=2", f"steps={STEPS}"]
    if reading.read_config(config_class, file).data.name == "MNIST":
        settings.append(f"data.root={mnist}")
    config = reading.read_config(config_class, file, settings)
    trainer = train.Trainer(config, file.parent, torch.device("cpu"))
    trainer.check()
    batches = trainer.batches()
    values = [trainer.train_step([next(batches), next(batches)]) for _ in range(STEPS)]
    state = trainer.generator.state_dict()
    sums = {key: x.double().sum().item() for key, x in state.items()}
    return {"values": values, "sums": sums, "draws": trainer.latents(2).tolist()}


def main(out, mnist, *files):
    sys.path.insert(0, str(EXAMPLES))
    import reading
    import train
    from config import Config

    torch.set_num_threads(1)
    results = {file: values_of(train, reading, Config, Path(file), mnist) for file in files}
    rank = train.distributed.dist.get_rank() if train.distributed.process_count() > 1 else 0
    Path(f"{out}.{rank}").write_text(json.dumps(results))


if __name__ == "__main__":
    main(*sys.argv[1:])
