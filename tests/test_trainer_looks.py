"""Whatever the trainer looks at and does not train on leaves no trace."""

import random

import numpy as np
import pytest
import torch
from torch import nn
from trainer_runs import CONFIGS, same

ALWAYS = ("log_every=1", "sample_every=1", "checkpoint_every=1")
NEVER = ("log_every=1000", "sample_every=1000", "checkpoint_every=1000")


@pytest.fixture
def state_after(examples, few_digits, tmp_path, monkeypatch):
    """What a run of a shipped config, made small, has in its checkpoint in the end."""
    monkeypatch.setattr(examples.plots, "COUNT", 20)
    for name in ("samples", "curves"):
        monkeypatch.setattr(examples.plots, name, lambda *arguments: None)

    def run(file, *settings, steps=3):
        settings = [f"steps={steps}", "batch_size=8", *settings]
        read = examples.reading.read_config
        if read(examples.config.Config, file).data.name.endswith("MNIST"):
            settings += [f"data.root={few_digits}", "generator.width=8", "discriminator.width=8"]
        out = tmp_path / f"{file.stem}{len(list(tmp_path.iterdir()))}"
        config = read(examples.config.Config, file, settings)
        examples.train.run(config, file.parent, out, torch.device("cpu"), resume=False)
        return torch.load(out / "checkpoint.pt", weights_only=True)["parts"]

    return run


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_logging_sampling_and_checkpoints_change_no_bit_of_a_shipped_config(file, state_after):
    assert same(state_after(file, *NEVER), state_after(file, *ALWAYS))


def test_different_runs_are_told_apart(state_after):
    (file,) = [file for file in CONFIGS if file.stem == "ring"]
    assert not same(state_after(file, *NEVER), state_after(file, *NEVER, "seed=1"))


class Restless(nn.Module):
    """Draws from every generator of random numbers, and moves its buffers in every mode."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.norm = nn.BatchNorm1d(2)
        self.register_buffer("in_place", torch.zeros(()))
        self.register_buffer("rebound", torch.zeros(()))

    def forward(self, x):
        self.in_place += 1
        self.rebound = self.rebound + 1
        noise = torch.rand(()) + random.random() + np.random.rand()  # noqa: NPY002
        return self.norm(x * self.weight) + noise


def random_numbers():
    return random.random(), np.random.rand(), torch.rand(3)  # noqa: NPY002


@pytest.mark.parametrize("evaluation", [True, False])
def test_look_leaves_buffers_random_numbers_and_modes(examples, evaluation):
    network, other = Restless(), Restless().eval()
    network.norm.eval()  # a part that its owner keeps in evaluation mode
    before = {k: v.clone() for k, v in network.state_dict().items()}
    objects = dict(network.named_buffers())
    state = examples.checkpoint.random_state(torch.device("cpu"))
    expected = random_numbers()
    examples.checkpoint.set_random_state(state, torch.device("cpu"))
    with examples.evaluate.without_training(network, other, evaluation=evaluation):
        result = network(torch.randn(5, 2))
        assert not result.requires_grad
        assert network.training is not evaluation
        assert network.in_place == 1
    assert same(before, dict(network.state_dict()))
    assert all(x is objects[name] for name, x in network.named_buffers())
    assert (network.training, network.norm.training, other.training) == (True, False, False)
    assert same(expected, random_numbers())


def test_look_that_fails_leaves_no_trace_either(examples):
    network = Restless()
    before = {k: v.clone() for k, v in network.state_dict().items()}

    def fail():
        with examples.evaluate.without_training(network):
            network(torch.randn(5, 2))
            raise ValueError("in the middle")

    with pytest.raises(ValueError, match="in the middle"):
        fail()
    assert same(before, dict(network.state_dict()))
    assert network.training
    assert torch.is_grad_enabled()


def test_samples_of_a_seed_are_the_same_for_a_generator_that_draws_by_itself(trainer):
    it, _ = trainer()

    class Noisy(nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, z):
            return self.network(z) + torch.randn(())

    it.ema.module = Noisy(it.ema.module)
    samples = it.sample(5, seed=3)
    torch.rand(1)
    assert torch.equal(samples, it.sample(5, seed=3))
    assert not torch.equal(samples, it.sample(5, seed=4))
