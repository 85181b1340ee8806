"""Train a GAN that a TOML file describes, out of blocks of this library.

    python examples/train.py examples/configs/digits.toml
    python examples/train.py examples/configs/digits.toml --resume

Read `config.py` for what a file may hold, `Trainer` for how a GAN is trained, and `run` for what is
written around it. A run lies in one folder: `checkpoint.pt`, `log.jsonl`, `tensorboard/`,
`samples/`, `curves.png` and `metrics.json`.
"""

import argparse
import copy
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

import checkpoint
import data
import gan_blocks
import plots
import reading
from config import Config
from data import UsageError
from evaluate import evaluate_run, evaluation_mode
from gan_blocks import FeatureExtractor, VirtualBatchNorm, WithReference
from gan_blocks.presets import OptimizerSettings
from gan_blocks.types import Logits
from reading import make_optimizer

Values = dict[str, float]
"""What a step has to tell, by name."""


def realness(logits: Logits) -> float:
    """The mean probability of being real."""
    parts = [logits] if isinstance(logits, Tensor) else logits
    return torch.cat([part.detach().flatten() for part in parts]).sigmoid().mean().item()


def channels_last(network: nn.Module) -> nn.Module:
    """The network with the weights of two-dimensional convolutions in their faster layout."""
    for weight in network.parameters():
        if weight.dim() == 4:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    return network


class Trainer:
    """The networks, the loss and the optimisers of a run, and its two alternating steps."""

    def __init__(self, config: Config, folder: Path, device: torch.device) -> None:
        self.config, self.folder, self.device, self.step = config, folder, device, 0
        self.dataset = data.load(config.data, folder, config.seed)
        self.random = checkpoint.RandomNumbers(config.seed, device)
        build = gan_blocks.build
        self.generator, self.critic = (
            self.with_reference(channels_last(network), inputs)
            for network, inputs in (
                (build(config.generator, device=device), self.latents),
                (build(config.discriminator, device=device), self.first_samples),
            )
        )
        self.loss = build(config.loss, device=device)
        self.penalties = [build(spec, device=device) for spec in config.penalties]
        self.auxiliary = [build(item.term, device=device) for item in config.auxiliary]
        self.constraint = build(config.constraint) if config.constraint else None
        if self.constraint:
            self.constraint(self.critic)
        average = get_ema_multi_avg_fn(config.ema)
        self.ema = AveragedModel(self.generator, multi_avg_fn=average, use_buffers=True)
        self.g_optimizer = make_optimizer(config.generator_optimizer, self.generator.parameters())
        self.d_optimizer = make_optimizer(config.discriminator_optimizer, self.critic.parameters())
        self.settings = (
            (OptimizerSettings(config.generator_optimizer), self.g_optimizer),
            (OptimizerSettings(config.discriminator_optimizer), self.d_optimizer),
        )
        # What the network itself has frozen stays frozen.
        self.critic_weights = [p for p in self.critic.parameters() if p.requires_grad]
        # In one forward the critic's logits, under the empty name, and the features of the terms.
        inside = "network." if isinstance(self.critic, WithReference) else ""
        self.layers = [[name and inside + name for name in x.layers] for x in config.auxiliary]
        try:
            names = {name: None for layers in [[""], *self.layers] for name in layers}
            self.features = FeatureExtractor(self.critic, list(names))
        except ValueError as error:
            raise UsageError(f"auxiliary.layers: {error}") from error
        self.needs_real_logits = self._loss_needs_real_logits()

    def _loss_needs_real_logits(self) -> bool:
        """Whether the generator's side of the loss does not go without them."""
        try:
            copy.deepcopy(self.loss).generator(torch.zeros(2, device=self.device))
        except Exception:  # whatever the loss of a plugin raises
            return True
        return False

    def with_reference(self, network: nn.Module, inputs: Callable[[int], Tensor]) -> nn.Module:
        """The network, with a reference batch if its virtual batch norm needs one."""
        if any(isinstance(module, VirtualBatchNorm) for module in network.modules()):
            return WithReference(network, inputs(self.config.batch_size))
        return network

    def first_samples(self, n: int) -> Tensor:
        """The first batch of the data."""
        return next(data.batches(self.dataset, n, self.config.seed)).to(self.device)

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

    def check(self) -> None:
        """Refuse networks that do not fit together or do not fit the data."""
        real = self.first_samples(self.config.batch_size)[:2]
        try:
            fake = self.sample(len(real), seed=0)
            with evaluation_mode(self.critic):
                of_real, of_fake = self.features(real), self.features(fake)
            # Copies, since a loss or a term may keep a state.
            copy.deepcopy(self.loss).discriminator(of_real[""], of_fake[""])
            for term, names in zip(copy.deepcopy(self.auxiliary), self.layers, strict=True):
                for name in names:
                    term(of_real[name], of_fake[name])
        except (ValueError, RuntimeError, TypeError, AttributeError) as error:
            raise UsageError(
                f"generator, discriminator, loss and data do not fit: {error}"
            ) from error
        if fake.shape[1:] != real.shape[1:]:
            shapes = f"{tuple(fake.shape[1:])} and the data is {tuple(real.shape[1:])}"
            raise UsageError(f"generator: it makes samples of shape {shapes}; make them one shape")

    def autocast(self) -> torch.autocast:
        """The precision of the networks."""
        mixed = self.config.precision == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=mixed)

    def descend(self, optimizer: torch.optim.Optimizer, terms: list[tuple[str, Tensor]]) -> Values:
        """One step down the sum of the terms, all of which have to be finite."""
        total = torch.stack([value for _, value in terms]).sum()
        optimizer.zero_grad()
        total.backward()
        weights = [p for group in optimizer.param_groups for p in group["params"]]
        norm = nn.utils.get_total_norm([p.grad for p in weights if p.grad is not None])
        for name, value in [*terms, ("the gradient's norm", norm)]:
            if not torch.isfinite(value):
                raise FloatingPointError(
                    f"step {self.step + 1}: {name} is {value.item()}; the last checkpoint is kept. "
                    "Try a lower learning rate, a penalty on the discriminator, or another loss"
                )
        if self.config.clip_gradient:
            nn.utils.clip_grads_with_norm_(weights, self.config.clip_gradient, norm)
        optimizer.step()
        return {"loss": total.item(), "gradient": norm.item()}

    def critic_step(self, real: Tensor, z: Tensor) -> tuple[Values, Tensor]:
        """One step of the critic: its loss and all penalties, in one backward pass."""
        with self.autocast():
            with torch.set_grad_enabled(self.config.reuse_fakes):
                fake = self.generator(z)
            # Detached, since the critic's loss is none of the generator's business.
            real_logits, fake_logits = self.critic(real), self.critic(fake.detach())
            loss = self.loss.discriminator(real_logits, fake_logits)
            terms = [("the discriminator's loss", loss)]
            for penalty in self.penalties:
                draws = self.random.draws
                value = penalty(self.critic, real, fake.detach(), generator=draws)
                terms.append((f"the penalty {penalty}", value))
        step = self.descend(self.d_optimizer, terms)
        if self.constraint:
            self.constraint(self.critic)  # after the step, or the step would break it
        return {f"d_{name}": value for name, value in step.items()} | {
            "d_real": realness(real_logits)
        }, fake

    def generator_step(self, real: Tensor, fake: Tensor) -> Values:
        """One step of the generator. The gradient goes through the critic, not into it."""
        for weight in self.critic_weights:
            weight.requires_grad_(False)
        with self.autocast():
            seen, of_real = self.features(fake), dict[str, Tensor]()
            if self.needs_real_logits or self.auxiliary:
                with torch.no_grad():  # what relativistic losses and auxiliary terms compare with
                    of_real = self.features(real)
            real_logits = of_real[""] if self.needs_real_logits else None
            loss = self.loss.generator(seen[""], real_logits)
            terms = [("the generator's loss", self.config.adversarial_weight * loss)]
            for i, item in enumerate(self.config.auxiliary):
                compared = [self.auxiliary[i](of_real[x], seen[x]) for x in self.layers[i]]
                value = item.weight * torch.stack(compared).sum()
                terms.append((f"the term {self.auxiliary[i]}", value))
        step = self.descend(self.g_optimizer, terms)
        self.ema.update_parameters(self.generator)
        for weight in self.critic_weights:
            weight.requires_grad_(True)
        return {f"g_{name}": value for name, value in step.items()} | {
            "d_fake_before": realness(seen[""])
        }

    def train_step(self, reals: list[Tensor]) -> Values:
        """One step of the generator after those of the critic, one for each batch."""
        n = self.config.batch_size
        for settings, optimizer in self.settings:
            settings.update(optimizer, self.step)
        for real in reals[:-1]:
            self.critic_step(real, self.latents(n))
        z = self.latents(n)
        values, fake = self.critic_step(reals[-1], z)
        if not self.config.reuse_fakes:
            z = self.latents(n)
            with self.autocast():
                fake = self.generator(z)
        values |= self.generator_step(reals[-1], fake)
        self.step += 1
        if self.step % self.config.log_every == 0:
            values["d_fake_after"] = self.judge(z)
        return values

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
    trainer = restore(out, device, config, folder) if resume else Trainer(config, folder, device)
    start = trainer.step
    batches = data.batches(
        trainer.dataset, config.batch_size, config.seed, start * config.critic_steps
    )
    if not resume:
        trainer.check()
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
            values = trainer.train_step(reals)
            bar.update()
            step, last = trainer.step, trainer.step == config.steps
            if step % config.log_every == 0:
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
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="settings",
        help="change the config, such as --set steps=100 or --set data.root=~/mnist",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    out = options.out or Path("runs") / options.config.stem

    def train() -> None:
        config = reading.read_config(Config, options.config, options.settings)
        device = reading.choose_device(options.device)
        trainer = run(config, options.config.parent, out, device, options.resume)
        print(json.dumps(evaluate_run(trainer, out), indent=2))
        print(f"The samples are in {out / 'samples'}, the loss curves in {out / 'curves.png'}.")

    return reading.exit_status("train.py", train)


if __name__ == "__main__":
    sys.exit(main())
