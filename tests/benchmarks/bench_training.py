"""One iteration of the 64-pixel DCGAN, batch 32: the trainer beside a plain loop.

The baseline does what tutorials do: a sigmoid and binary cross-entropy, one backward pass for the
real and one for the generated samples, weight gradients of the discriminator in the generator's
step, which are thrown away.

Where the limit lies: a forward through either network costs 6.5 GFLOP for the batch, and a backward
twice that, half of it for the weights. The baseline makes 12 such passes (it uses the generated
samples twice), the trainer 11 with `reuse_fakes` and 12 without. So arithmetic alone allows 0.92 of
the baseline's time in float32 with reused samples; the rest of the gain is layout and overhead.
Going below that takes cheaper arithmetic: `precision = "bfloat16"`, on processors that have it.
"""

import os

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import gan_blocks

BATCH = 32


def plain_loop(real):
    torch.manual_seed(0)
    generator, discriminator = gan_blocks.DCGANGenerator(), gan_blocks.DCGANDiscriminator()
    adam = {"lr": 2e-4, "betas": (0.5, 0.999)}
    g_optimizer = torch.optim.Adam(generator.parameters(), **adam)
    d_optimizer = torch.optim.Adam(discriminator.parameters(), **adam)
    bce, ones, zeros = nn.BCELoss(), torch.ones(BATCH), torch.zeros(BATCH)

    def step():
        discriminator.zero_grad()
        bce(discriminator(real).sigmoid(), ones).backward()
        fake = generator(torch.randn(BATCH, 100))
        bce(discriminator(fake.detach()).sigmoid(), zeros).backward()
        d_optimizer.step()
        generator.zero_grad()
        bce(discriminator(fake).sigmoid(), ones).backward()
        g_optimizer.step()

    return step


@pytest.mark.parametrize(
    "settings",
    [
        None,
        ("reuse_fakes=false", "precision=float32"),
        ("reuse_fakes=true", "precision=float32"),
        ("reuse_fakes=false", "precision=bfloat16"),
        ("reuse_fakes=true", "precision=bfloat16"),
    ],
    ids=lambda settings: ", ".join(settings) if settings else "plain loop",
)
@pytest.mark.benchmark(group="DCGAN at 64 pixels, batch 32, one iteration")
def bench_dcgan_iteration(benchmark, examples, monkeypatch, settings):
    images = torch.rand(BATCH, 1, 64, 64) * 2 - 1
    monkeypatch.setattr(examples.data, "load", lambda *arguments: TensorDataset(images))
    torch.set_num_threads(os.cpu_count() or 1)
    if settings is None:
        step = plain_loop(images)
    else:
        file = examples.folder / "configs" / "mnist_dcgan.toml"
        config = examples.reading.read_config(examples.config.Config, file, settings)
        trainer = examples.train.Trainer(config, file.parent, torch.device("cpu"))
        step = lambda: trainer.train_step([(images,)])  # noqa: E731
    benchmark.pedantic(step, warmup_rounds=2, rounds=15)
