"""Train a GAN that a TOML file describes, out of blocks of this library.

    python examples/train.py examples/configs/digits.toml
    python examples/train.py examples/configs/digits.toml --resume

Read `Config` for what a file may hold, `Trainer` for how a GAN is trained, and `run` for what is
written around it. A run lies in one folder: `checkpoint.pt`, `log.jsonl`, `tensorboard/`,
`samples/`, `curves.png` and `metrics.json`.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, field_validator
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

import checkpoint
import data
import gan_blocks
import plots
import reading
from data import DataConfig, UsageError
from evaluate import evaluate_run, evaluation_mode
from gan_blocks import AuxiliarySpec, ConstraintSpec, LossSpec, NetworkSpec, PenaltySpec
from gan_blocks.types import Logits, NonNegativeInt, PositiveInt, Probability
from reading import OptimizerSpec, make_optimizer


class Auxiliary(BaseModel, extra="forbid", strict=True):
    """A term `term(real_logits, fake_logits)` of the generator's loss, and its weight."""

    term: AuxiliarySpec
    weight: float = 1.0


class Config(BaseModel):
    """What a config file may hold. A block is a table such as `{block = "HingeLoss"}`.

    Args:
        plugins: Python files with blocks of one's own, relative to the config file. The classes of
            `my_blocks.py` are then named `my_blocks/Class`.
        critic_steps: Steps of the discriminator for each one of the generator.
        ema: Decay of the average of the generator's weights that samples are drawn with.
        log_every: Steps between two lines of the log; likewise for samples and checkpoints.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    data: DataConfig
    generator: NetworkSpec
    discriminator: NetworkSpec
    loss: LossSpec
    generator_optimizer: OptimizerSpec
    discriminator_optimizer: OptimizerSpec
    penalties: list[PenaltySpec] = []
    constraint: ConstraintSpec | None = None
    auxiliary: list[Auxiliary] = []
    plugins: list[str] = []
    steps: PositiveInt
    batch_size: PositiveInt = 128
    critic_steps: PositiveInt = 1
    ema: Probability = 0.0
    seed: NonNegativeInt = 0
    log_every: PositiveInt = 50
    sample_every: PositiveInt = 1000
    checkpoint_every: PositiveInt = 1000

    @field_validator("generator")
    @classmethod
    def _takes_latent_vectors(cls, spec: dict[str, Any]) -> dict[str, Any]:
        if "latent_dim" not in spec:
            raise ValueError("needs an argument latent_dim, the length of its latent vectors")
        return spec


def realness(logits: Logits) -> float:
    """The mean probability of being real."""
    parts = [logits] if isinstance(logits, Tensor) else logits
    return torch.cat([part.detach().flatten() for part in parts]).sigmoid().mean().item()


class Trainer:
    """The networks, the loss and the optimisers of a run, and its two alternating steps."""

    def __init__(self, config: Config, folder: Path, device: torch.device) -> None:
        self.config, self.folder, self.device, self.step = config, folder, device, 0
        self.random = checkpoint.RandomNumbers(config.seed, device)
        build = gan_blocks.build
        self.generator: nn.Module = build(config.generator, device=device)
        self.critic: nn.Module = build(config.discriminator, device=device)
        self.loss = build(config.loss, device=device)
        self.penalties = [build(spec, device=device) for spec in config.penalties]
        self.auxiliary = [build(item.term, device=device) for item in config.auxiliary]
        self.constraint = build(config.constraint) if config.constraint else None
        average = get_ema_multi_avg_fn(config.ema)
        self.ema = AveragedModel(self.generator, multi_avg_fn=average, use_buffers=True)
        self.g_optimizer = make_optimizer(config.generator_optimizer, self.generator.parameters())
        self.d_optimizer = make_optimizer(config.discriminator_optimizer, self.critic.parameters())
        # What the network itself has frozen stays frozen.
        self.critic_weights = [p for p in self.critic.parameters() if p.requires_grad]

    def latents(self, n: int, seed: int | None = None) -> Tensor:
        """Latent vectors: the next ones, or those of a seed, which leave the others as they are."""
        draws = self.random.draws
        if seed is not None:
            draws = torch.Generator(self.device).manual_seed(seed)
        shape = (n, self.config.generator["latent_dim"])
        return torch.randn(shape, generator=draws, device=self.device)

    def sample(self, n: int, seed: int) -> Tensor:
        """Samples of the averaged generator, always the same for a seed."""
        with evaluation_mode(self.ema):
            return torch.cat([self.ema(z) for z in self.latents(n, seed).split(500)])

    @torch.no_grad()
    def judge(self, z: Tensor) -> float:
        """D(G(z)) as the networks are now."""
        return realness(self.critic(self.generator(z)))

    def check(self, real: Tensor) -> None:
        """Refuse networks that do not fit together or do not fit the data."""
        try:
            fake = self.sample(2, seed=0)
            with evaluation_mode(self.critic):
                self.critic(real[:2])
                self.critic(fake)
        except (ValueError, RuntimeError, TypeError, AttributeError) as error:
            raise UsageError(f"generator, discriminator and data do not fit: {error}") from error
        if fake.shape[1:] != real.shape[1:]:
            shapes = f"{tuple(fake.shape[1:])} and the data is {tuple(real.shape[1:])}"
            raise UsageError(f"generator: it makes samples of shape {shapes}; make them one shape")

    def total(self, terms: dict[str, Tensor]) -> Tensor:
        """The sum of the terms, each of which has to be finite."""
        for name, term in terms.items():
            if not torch.isfinite(term):
                raise FloatingPointError(
                    f"step {self.step + 1}: {name} is {term.item()}; the last checkpoint is kept. "
                    "Try a lower learning rate, a penalty on the discriminator, or another loss"
                )
        return torch.stack(list(terms.values())).sum()

    def critic_step(self, real: Tensor) -> dict[str, float]:
        """One step of the critic: its loss and all penalties, in one backward pass."""
        with torch.no_grad():  # the critic's loss is none of the generator's business
            fake = self.generator(self.latents(len(real)))
        real_logits, fake_logits = self.critic(real), self.critic(fake)
        terms = {"the discriminator's loss": self.loss.discriminator(real_logits, fake_logits)}
        for penalty in self.penalties:
            terms[f"the penalty {penalty}"] = penalty(
                self.critic, real, fake, generator=self.random.draws
            )
        total = self.total(terms)
        self.d_optimizer.zero_grad()
        total.backward()
        self.d_optimizer.step()
        if self.constraint:
            self.constraint(self.critic)  # after the step, or the step would break it
        return {"d_loss": total.item(), "d_real": realness(real_logits)}

    def generator_step(self, real: Tensor, z: Tensor) -> dict[str, float]:
        """One step of the generator. The gradient goes through the critic, not into it."""
        for weight in self.critic_weights:
            weight.requires_grad_(False)
        fake_logits = self.critic(self.generator(z))
        with torch.no_grad():  # what relativistic losses compare with
            real_logits = self.critic(real)
        terms = {"the generator's loss": self.loss.generator(fake_logits, real_logits)}
        for term, item in zip(self.auxiliary, self.config.auxiliary, strict=True):
            terms[f"the term {term}"] = item.weight * term(real_logits, fake_logits)
        total = self.total(terms)
        self.g_optimizer.zero_grad()
        total.backward()
        self.g_optimizer.step()
        self.ema.update_parameters(self.generator)
        for weight in self.critic_weights:
            weight.requires_grad_(True)
        return {"g_loss": total.item(), "d_fake_before": realness(fake_logits)}

    def parts(self) -> dict[str, Any]:
        """Everything that has a state, by name."""
        names = ("generator", "critic", "ema", "g_optimizer", "d_optimizer", "loss", "random")
        parts = {name: getattr(self, name) for name in names}
        for name in ("penalties", "auxiliary"):
            parts |= {f"{name}.{i}": part for i, part in enumerate(getattr(self, name))}
        return {name: part for name, part in parts.items() if hasattr(part, "state_dict")}

    def state_dict(self) -> dict[str, Any]:
        """All that a run needs to go on. The position in the data follows from the step."""
        return {
            "step": self.step,
            "config": self.config.model_dump(),
            "folder": str(self.folder.resolve()),
            "device": self.device.type,
            "versions": {"gan_blocks": gan_blocks.__version__, "torch": str(torch.__version__)},
            "parts": {name: part.state_dict() for name, part in self.parts().items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from this state."""
        for name, part in self.parts().items():
            part.load_state_dict(state["parts"][name])
        self.step = state["step"]


def restore(
    out: Path, device: torch.device, config: Config | None = None, folder: Path | None = None
) -> Trainer:
    """The trainer of the run in a folder, with this config or with the run's own."""
    path = out / "checkpoint.pt"
    state = checkpoint.load(path, device)
    try:
        folder = folder or Path(state["folder"])
        if config is None:
            reading.register_plugins(state["config"]["plugins"], folder)
            config = reading.validate(Config, state["config"], str(path))
        checkpoint.compare(state["config"], config.model_dump(), out)
        trainer = Trainer(config, folder, device)
        trainer.load_state_dict(state)
    except checkpoint.UNREADABLE as error:
        raise checkpoint.damaged(path, error) from error
    return trainer


def run(config: Config, folder: Path, out: Path, device: torch.device, resume: bool) -> Trainer:
    """Train from the start or from the last checkpoint."""
    if not resume and out.exists() and any(out.iterdir()):
        raise UsageError(f"{out} already holds a run: add --resume, or choose another --out")
    dataset = data.load(config.data, folder, config.seed)
    trainer = restore(out, device, config, folder) if resume else Trainer(config, folder, device)
    start = trainer.step
    batches = data.batches(dataset, config.batch_size, config.seed, start * config.critic_steps)
    if not resume:
        trainer.check(next(data.batches(dataset, config.batch_size, config.seed)).to(device))
        (out / "samples").mkdir(parents=True, exist_ok=True)
        checkpoint.save(trainer.state_dict(), out / "checkpoint.pt")
    checkpoint.cut_log(out / "log.jsonl", start)
    with (
        (out / "log.jsonl").open("a", encoding="utf-8") as log,
        SummaryWriter(out / "tensorboard", purge_step=start + 1 if resume else None) as board,
        tqdm(total=config.steps, initial=start, unit="step", disable=None) as bar,
    ):
        while trainer.step < config.steps:
            reals = [next(batches).to(device) for _ in range(config.critic_steps)]
            values = [trainer.critic_step(real) for real in reals][-1]
            z = trainer.latents(config.batch_size)
            values |= trainer.generator_step(reals[-1], z)
            trainer.step += 1
            bar.update()
            step, last = trainer.step, trainer.step == config.steps
            if step % config.log_every == 0:
                values["d_fake_after"] = trainer.judge(z)
                log.write(json.dumps({"step": step} | values) + "\n")
                for name, value in values.items():
                    board.add_scalar(name, value, step)
                bar.set_postfix({name: f"{value:.3f}" for name, value in values.items()})
            if step % config.sample_every == 0 or last:
                log.flush()
                shown = trainer.sample(plots.COUNT, seed=config.seed)
                plots.samples(shown, out / "samples" / f"{step:07}.png")
                plots.curves(checkpoint.read_log(out / "log.jsonl"), out / "curves.png")
            if step % config.checkpoint_every == 0 or last:
                log.flush()  # first, so that the log is never behind the checkpoint
                checkpoint.save(trainer.state_dict(), out / "checkpoint.pt")
    return trainer


def main(arguments: list[str] | None = None) -> int:
    """Train from the command line."""
    parser = argparse.ArgumentParser(description="Train the GAN that a TOML file describes.")
    parser.add_argument("config", type=Path, help="such as examples/configs/digits.toml")
    parser.add_argument("--out", type=Path, help="folder of the run; runs/NAME if left out")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    parser.add_argument("--device", help="such as cpu or cuda:1; the accelerator if left out")
    parser.add_argument("--steps", type=int, help="train for so many steps instead of the file's")
    options = parser.parse_args(arguments)
    out = options.out or Path("runs") / options.config.stem

    def train() -> None:
        changes = {} if options.steps is None else {"steps": options.steps}
        config = reading.read_config(Config, options.config, changes)
        device = reading.choose_device(options.device)
        trainer = run(config, options.config.parent, out, device, options.resume)
        print(json.dumps(evaluate_run(trainer, out), indent=2))
        print(f"The samples are in {out / 'samples'}, the loss curves in {out / 'curves.png'}.")

    return reading.exit_status("train.py", train)


if __name__ == "__main__":
    sys.exit(main())
