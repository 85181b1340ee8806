"""Train a GAN that a TOML file describes, out of blocks of this library.

    python examples/train.py examples/configs/digits.toml
    python examples/train.py examples/configs/digits.toml --resume
    torchrun --nproc_per_node 2 examples/train.py examples/configs/digits.toml

Read `config.py` for what a file may hold, `steps.py` for what each side computes in a step, `Trainer`
for how a GAN is trained, and `record.py` for what a run writes into its folder.
"""

import argparse
import copy
import json
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import checkpoint
import data
import gan_blocks
import plots
import reading
from config import Config
from data import UsageError
from evaluate import evaluate_run, without_training
from gan_blocks import EMA, FeatureExtractor, VirtualBatchNorm, WithReference, distributed, pack
from gan_blocks.authoring import Clocked
from gan_blocks.presets import OptimizerSettings
from reading import make_optimizer, schedules_in
from record import Record, Values
from steps import (
    Batch,
    CriticStep,
    GeneratorStep,
    Term,
    Terms,
    channels_last,
    frozen,
    realness,
)
from stopping import Stop
from watch import Watch, check_finite


class Trainer:
    """The networks, the loss and the optimisers of a run, and its two alternating steps."""

    def __init__(self, config: Config, folder: Path, device: torch.device) -> None:
        self.config, self.folder, self.device, self.step = config, folder, device, 0
        self.accelerator = reading.make_accelerator(device, config.precision)
        self.is_main = self.accelerator.is_main_process
        self.dataset = data.load(config.data, folder, config.seed)
        self._check_packs()
        self.random, self.watch = checkpoint.RandomNumbers(config.seed, device), Watch(config)
        build = gan_blocks.build
        self.generator = channels_last(build(config.generator, device=device))
        self.critic = channels_last(build(config.discriminator, device=device))
        self.generator, self.critic = map(self.with_reference, (self.generator, self.critic))
        self.loss = build(config.loss, device=device)
        self.penalties = [build(spec, device=device) for spec in config.penalties]
        self.auxiliary = [build(item.term, device=device) for item in config.auxiliary]
        self.constraint = build(config.constraint) if config.constraint else None
        if self.constraint:
            self.constraint(self.critic)
        average = config.ema.model_dump() | {"batch_size": config.batch_size} if config.ema else {}
        self.ema = EMA(self.generator, **average) if config.ema else None
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
        self.terms = self._terms(self.auxiliary)
        self._prepare()
        self._follow()
        for network in (self.generator, self.critic) if config.compile else ():
            network.compile()  # last, since the average is a copy

    def _check_packs(self) -> None:
        """Refuse a batch size that each micro-batch cannot divide into whole packs."""
        size, m = self.config.batch_size, self.config.packing
        shares = self.accelerator.num_processes * self.config.accumulate
        if m > 1 and size % (shares * m):
            raise UsageError(
                f"packing: of a batch of {size} a process sees {size // shares} samples at once, which "
                f"make no packs of {m}; make batch_size a multiple of {shares * m}"
            )

    def _terms(self, blocks: list[Any]) -> dict[str, list[Term]]:
        """Pair these blocks with the config's auxiliary terms and group them by side."""
        terms: dict[str, list[Term]] = {"critic": [], "generator": []}
        for i, (item, block) in enumerate(zip(self.config.auxiliary, blocks, strict=True)):
            name = f"auxiliary.{i} ({item.term['block']})"
            term = Term(name, block, item.compares == "module", self.layers[i], item.weight)
            terms[str(item.side)].append(term)
        return terms

    def _follow(self) -> None:
        """Advance schedules and averages with the optimizer of the loss that they belong to."""
        critic, generator = (
            [term.block for term in self.terms[side]] for side in ("critic", "generator")
        )
        for optimizer, blocks in (
            (self.d_optimizer, [*self.penalties, *critic, self.loss, self.critic]),
            (self.g_optimizer, [*generator, self.generator, self.ema]),
        ):
            modules = [block for block in blocks if isinstance(block, nn.Module)]
            gan_blocks.follow(optimizer, *modules)

    def early_ends(self) -> list[str]:
        """List schedules that end in the first tenth of the run, with their paths in the config."""
        config, k = self.config, self.config.critic_steps
        d, g = ("the discriminator", config.steps * k), ("the generator", config.steps)
        clocks = {"loss": (self.loss, d), "discriminator": (self.critic, d)}
        clocks |= {"generator": (self.generator, g)}
        clocks |= {f"penalties.{i}": (block, d) for i, block in enumerate(self.penalties)}
        for i, (item, block) in enumerate(zip(config.auxiliary, self.auxiliary, strict=True)):
            clocks[f"auxiliary.{i}"] = (block, d if item.side == "critic" else g)
        ends = [
            (f"{place} ({type(each).__name__})", end, clock)
            for place, (block, clock) in clocks.items()
            for each in (block.modules() if isinstance(block, nn.Module) else ())
            if isinstance(each, Clocked)
            and (end := getattr(each, "steps", 0) or getattr(each, "anneal_steps", 0))
        ]
        for side in ("generator_optimizer", "discriminator_optimizer"):
            for key, end in schedules_in(getattr(config, side), side):
                ends.append((key, end, ("training", config.steps)))
        return [
            f"{what} after {end} of {steps} steps of {who}"
            for what, end, (who, steps) in ends
            if 10 * end < steps
        ]

    def _prepare(self) -> None:
        """Hand each side's step and optimizer to Accelerate."""
        config, draws = self.config, self.random.draws
        blocks = zip(config.penalties, self.penalties, strict=True)
        # Names are made once, since the repr of a nested block is long.
        penalties = {f"penalties.{i} ({s['block']})": p for i, (s, p) in enumerate(blocks)}
        critic = (self.critic, self.generator, self.loss, penalties, self.terms["critic"])
        generator = (self.generator, self.features, self.loss, config.adversarial_weight)
        with warnings.catch_warnings(action="ignore", category=FutureWarning):
            # Accelerate has no other name yet for the setting that torch calls deprecated.
            prepared = self.accelerator.prepare(
                CriticStep(*critic, draws, config.packing, keeps_graph=config.reuse_fakes),
                GeneratorStep(*generator, self.terms["generator"], config.packing),
                make_optimizer(config.discriminator_optimizer, self.critic.parameters()),
                make_optimizer(config.generator_optimizer, self.generator.parameters()),
            )
        self.d_side, self.g_side, self.d_optimizer, self.g_optimizer = prepared
        self.settings = (
            (OptimizerSettings(config.generator_optimizer), self.g_optimizer),
            (OptimizerSettings(config.discriminator_optimizer), self.d_optimizer),
        )

    def with_reference(self, network: nn.Module) -> nn.Module:
        """The network, with a reference batch if its virtual batch norm needs one."""
        if not any(isinstance(module, VirtualBatchNorm) for module in network.modules()):
            return network
        x, *labels = self.first_samples(self.config.batch_size)
        if network is self.generator:
            with distributed.local():  # the whole batch on every process
                x = self.latents(len(x))
        else:
            x = pack(x, self.config.packing)
        return WithReference(network, (x, *labels))

    def batches(self) -> Iterator[Batch]:
        """This process's part of batch after batch, without end, from the step that the run is at."""
        config, start = self.config, self.step * self.config.critic_steps
        process = (self.accelerator.process_index, self.accelerator.num_processes)
        shares = (process, config.accumulate)
        for item in data.items(self.dataset, config.batch_size, config.seed, start, *shares):
            yield self._batch(item)

    def _batch(self, item: list[Tensor]) -> Batch:
        """What the networks take of an item of the data: labels only if they have classes."""
        return tuple(x.to(self.device) for x in item[: 2 if self.config.num_classes else 1])

    def first_samples(self, n: int) -> Batch:
        """The first batch of the data."""
        return self._batch(next(data.items(self.dataset, n, self.config.seed)))

    def latents(self, n: int, seed: int | None = None) -> Tensor:
        """Latent vectors: the next ones, or those of a seed, which leave the others as they are."""
        draws, parts = self.random.draws, self.config.accumulate
        if seed is not None:
            draws, parts = torch.Generator(self.device).manual_seed(seed), 1
        shape = (n // parts, self.config.generator["latent_dim"])
        drawn = [distributed.draw(torch.randn, shape, self.device, draws) for _ in range(parts)]
        return torch.cat(drawn)

    def sample(self, n: int, seed: int, labels: Tensor | None = None) -> Tensor:
        """Samples of the averaged generator, always the same for a seed; of this process alone.

        Without labels the classes follow each other in rows, as a picture shows them.
        """
        averaged = self.ema.module if self.ema else self.generator
        if self.config.num_classes and labels is None:
            labels = torch.arange(n, device=self.device) // plots.SIDE % self.config.num_classes
        with without_training(averaged), distributed.local():
            torch.manual_seed(seed)  # for a generator that draws its own noise
            inputs = (self.latents(n, seed), *([] if labels is None else [labels]))
            parts = zip(*(x.split(500) for x in inputs), strict=True)
            return torch.cat([averaged(*part) for part in parts])

    def judge(self, z: Tensor, *labels: Tensor) -> float:
        """Return the mean of D(G(z)) for the current networks in their training modes."""
        with without_training(self.critic, self.generator, evaluation=False):
            fake = pack(self.generator(z, *labels), self.config.packing)
            return self._mean(realness(self.critic(fake, *labels))).item()

    def check(self) -> None:
        """Refuse networks that do not fit together or do not fit the data."""
        data.check_classes(self.config.data, self.dataset, self.config.num_classes)
        # As many as a process sees at once: a critic may take no fewer.
        real, *labels = self.parts_of(next(self.batches()))[0][0]
        try:
            fake = self.sample(len(real), 0, *labels)
            with without_training(self.critic, self.generator):
                of_real, of_fake = (
                    self.features(pack(x, self.config.packing), *labels) for x in (real, fake)
                )
                # Use copies, since a loss or a term may keep state.
                copy.deepcopy(self.loss).discriminator(of_real[""], of_fake[""])
                terms = self._terms(copy.deepcopy(self.auxiliary))
                for side, network in (("critic", self.critic), ("generator", self.generator)):
                    for term in terms[side]:
                        term.value(network, of_real, of_fake)
        except (ValueError, RuntimeError, TypeError, AttributeError) as error:
            n, size = len(real), self.config.batch_size
            seen = "" if n == size else f" (of a batch of {size} they see {n} samples at once)"
            raise UsageError(f"networks, loss and data do not fit{seen}: {error}") from error
        if fake.shape[1:] != real.shape[1:]:
            shapes = f"{tuple(fake.shape[1:])} and the data is {tuple(real.shape[1:])}"
            raise UsageError(f"generator: it makes samples of shape {shapes}; make them one shape")

    def descend(
        self, name: str, side: nn.Module, optimizer: Any, parts: list[tuple[Any, ...]]
    ) -> tuple[Values, list[Any]]:
        """One step down the mean over the parts of a side's terms, all of which have to be finite."""
        optimizer.zero_grad()
        told, rest, terms, more = list[Tensor](), [], Terms(), Terms()
        for i, inputs in enumerate(parts):
            # The gradients of the processes meet once, with the last part.
            with self.accelerator.no_sync(side) if i + 1 < len(parts) else nullcontext():
                terms, more, *other = side(*inputs)
                total = torch.stack(list(terms.values())).sum()
                self.accelerator.backward(total / len(parts))
            told.append(torch.stack([*terms.values(), *more.values(), total]).detach())
            rest += other
        weights = [p for group in optimizer.param_groups for p in group["params"]]
        norm = nn.utils.get_total_norm([p.grad for p in weights if p.grad is not None])
        means = self._mean(torch.stack(told).mean(0))
        names = [*terms, *more, f"{name}_loss", "the gradient's norm"]
        values = dict(zip(names, [*means.tolist(), norm.item()], strict=True))
        check_finite(self.step + 1, values, [*terms, "the gradient's norm"])
        if self.config.clip_gradient:
            nn.utils.clip_grads_with_norm_(weights, self.config.clip_gradient, norm)
        optimizer.step()
        values[f"{name}_gradient"] = values.pop("the gradient's norm")
        return {key: values[key] for key in values if key not in terms}, rest

    def _mean(self, x: Tensor) -> Tensor:
        """The mean over all processes."""
        return self.accelerator.reduce(x, "mean")  # type: ignore[return-value]

    def parts_of(self, real: Batch, *others: Tensor) -> list[tuple[Any, ...]]:
        """The batch and what belongs to its samples in the parts that follow each other."""
        k = self.config.accumulate
        reals = zip(*(x.chunk(k) for x in real), strict=True)
        return list(zip(reals, *(x.chunk(k) for x in others), strict=True))

    def critic_step(self, real: Batch, z: Tensor) -> tuple[Values, list[Tensor]]:
        """One step of the critic: its loss and all penalties, in one backward pass for each part.

        What the generator made comes with the values.
        """
        parts = self.parts_of(real, z)
        values, fakes = self.descend("d", self.d_side, self.d_optimizer, parts)
        if self.constraint:
            self.constraint(self.critic)  # after the step, or the step would break it
        return values, fakes

    def generator_step(self, real: Batch, z: Tensor, fakes: list[Tensor] | None = None) -> Values:
        """One step of the generator. The gradient goes through the critic, not into it."""
        parts = self.parts_of(real, z)
        if fakes:
            parts = [(*part, fake) for part, fake in zip(parts, fakes, strict=True)]
        with frozen(self.critic_weights):
            values, _ = self.descend("g", self.g_side, self.g_optimizer, parts)
        return values

    def train_step(self, reals: list[Batch]) -> Values:
        """One step of the generator after those of the critic, one for each batch."""
        n = len(reals[0][0])
        for settings, optimizer in self.settings:
            settings.update(optimizer, self.step)
        for real in reals[:-1]:
            self.critic_step(real, self.latents(n))
        z = self.latents(n)
        values, fakes = self.critic_step(reals[-1], z)
        if not self.config.reuse_fakes:
            z, fakes = self.latents(n), None
        values |= self.generator_step(reals[-1], z, fakes)
        self.step += 1
        self.watch.step(self.step, values)
        if self.step % self.config.log_every == 0:
            values["d_fake_after"] = self.judge(z, *reals[-1][1:])
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
        checkpoint.compare(state["config"], config, out)
        trainer = Trainer(config, folder, device)
        trainer.load_state_dict(state)
    except checkpoint.UNREADABLE as error:
        raise checkpoint.damaged(path, error) from error
    return trainer


def run(
    config: Config,
    folder: Path,
    out: Path,
    device: torch.device,
    resume: bool,
    again: str = "--resume",
) -> Trainer:
    """Train from the start or from the last checkpoint; messages say that `again` does the latter."""
    if not resume:
        checkpoint.check_new(out)
    trainer = restore(out, device, config, folder) if resume else Trainer(config, folder, device)
    if not resume:
        trainer.check()
    if trainer.is_main and (early := trainer.early_ends()):
        print(
            f"These schedules end before a tenth of the run: {'; '.join(early)}.", file=sys.stderr
        )
    batches = trainer.batches()
    recording = Record(trainer, out, again) if trainer.is_main else nullcontext()
    with Stop(trainer.accelerator) as stop, recording as record:
        while trainer.step < config.steps:
            start = time.perf_counter()
            values = trainer.train_step([next(batches) for _ in range(config.critic_steps)])
            seconds, stopped = time.perf_counter() - start, stop.asked()
            if record:
                record.step(values, seconds, bool(stopped))
            if stopped:
                raise stopped(f"after step {trainer.step}")
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
        if trainer.is_main:
            if metrics := evaluate_run(trainer, out):
                print(json.dumps(metrics, indent=2))
            print(f"The samples are in {out / 'samples'}, the loss curves in {out / 'curves.png'}.")
        trainer.accelerator.end_training()

    return reading.exit_status("train.py", train)


if __name__ == "__main__":
    sys.exit(main())
