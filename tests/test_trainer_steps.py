"""The trainer's steps: which weights take which gradient, what is summed, what samples come from."""

import pytest
import torch
from torch import nn
from trainer_runs import same


def test_generator_gets_no_gradient_in_the_critic_s_step(trainer):
    it, batches = trainer()
    it.critic_step(next(batches), it.latents(16))
    assert all(p.grad is None for p in it.generator.parameters())
    assert all(p.grad is not None for p in it.critic.parameters())


def test_critic_gets_no_gradient_and_does_not_move_in_the_generator_s_step(trainer):
    it, batches = trainer()
    before = [p.clone() for p in it.critic.parameters()]
    it.generator_step(next(batches), it.latents(16))
    assert all(p.grad is None for p in it.critic.parameters())
    assert all(map(torch.equal, before, it.critic.parameters()))
    assert all(p.grad is not None for p in it.generator.parameters())


def test_weights_take_gradients_again_after_a_step_that_failed(examples):
    weights = [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
    seen = []

    def fail():
        with examples.steps.frozen(weights):
            seen.extend(weight.requires_grad for weight in weights)
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert seen == [False, False]
    assert all(weight.requires_grad for weight in weights)


def test_weights_that_the_critic_froze_stay_frozen_and_the_others_trainable(trainer):
    it, batches = trainer()
    frozen = it.critic_weights.pop(0).requires_grad_(False)
    it.generator_step(next(batches), it.latents(16))
    assert not frozen.requires_grad
    assert all(p.requires_grad for p in it.critic_weights)


def test_generator_s_gradient_is_that_of_the_formula(trainer):
    it, batches = trainer()
    real, z = next(batches), it.latents(16)
    logits = it.critic(it.generator(z))
    loss = nn.functional.softplus(it.critic(*real).detach() - logits).mean()
    expected = torch.autograd.grad(loss, list(it.generator.parameters()))
    it.generator_step(real, z)
    actual = [p.grad for p in it.generator.parameters()]
    torch.testing.assert_close(actual, list(expected))


def test_loss_and_penalties_are_summed_into_one_backward_pass(trainer, monkeypatch):
    it, batches = trainer()
    calls = []
    backward = torch.Tensor.backward

    def counted(tensor, *args, **kwargs):
        calls.append(tensor.item())
        return backward(tensor, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "backward", counted)
    real = next(batches)
    state = it.random.state_dict()
    values, fake = it.critic_step(real, it.latents(16))
    assert calls == [values["d_loss"]]
    it.generator_step(real, it.latents(16))
    assert len(calls) == 2

    # The sum, written out from the same random numbers and the same weights.
    other, _ = trainer()
    other.random.load_state_dict(state)
    fake = other.generator(other.latents(16)).detach()
    expected = other.loss.discriminator(other.critic(*real), other.critic(fake))
    for penalty in other.penalties:
        expected += penalty(other.critic, *real, fake, generator=other.random.draws)
    assert values["d_loss"] == pytest.approx(expected.item(), rel=1e-6)


def test_constraint_holds_from_the_start_and_after_each_critic_step(trainer):
    free, batches = trainer()
    it, _ = trainer(("[data]", 'constraint = { block = "WeightClipper", bound = 0.01 }\n\n[data]'))

    def largest(trainer):
        return max(p.abs().max() for p in trainer.critic.parameters())

    assert largest(free) > 0.01
    assert largest(it) <= 0.01
    for _ in range(3):
        it.critic_step(next(batches), it.latents(16))
        assert largest(it) <= 0.01


def test_critic_takes_its_number_of_steps_for_one_of_the_generator(examples, write, tmp_path):
    file = write(("steps = 12", "steps = 4\ncritic_steps = 3"))
    config = examples.reading.read_config(examples.config.Config, file)
    it = examples.train.run(config, tmp_path, tmp_path / "out", torch.device("cpu"), False)
    counts = [
        {int(state["step"]) for state in optimizer.state.values()}
        for optimizer in (it.g_optimizer, it.d_optimizer)
    ]
    assert counts == [{4}, {12}]


def test_sampling_leaves_modes_gradients_and_random_numbers_alone(trainer):
    it, _ = trainer(("width = 8\ndepth = 1\n\n[disc", 'width = 8\nnorm = "batch"\n\n[disc'))
    inner = [m for m in it.ema.modules() if isinstance(m, nn.BatchNorm1d)]
    inner[0].eval()  # a module that its owner keeps in evaluation mode
    state = it.random.state_dict()
    buffers = [b.clone() for b in it.ema.buffers()]
    samples = it.sample(32, seed=0)
    assert not samples.requires_grad
    assert torch.equal(samples, it.sample(32, seed=0))
    assert [m.training for m in inner] == [False, False, False]
    assert all(map(torch.equal, buffers, it.ema.buffers()))
    assert same(state, it.random.state_dict())


def test_samples_come_from_the_average_of_the_generator_s_weights(trainer):
    it, batches = trainer()
    expected = 0.0
    for k in range(3):
        it.generator_step(next(batches), it.latents(16))
        decay = 0.9 if k else 0.0  # the first update takes the weights as they are
        expected = decay * expected + (1 - decay) * next(it.generator.parameters()).detach()
    torch.testing.assert_close(next(it.ema.parameters()).data, expected)
    z = it.latents(5, seed=3)
    assert torch.equal(it.sample(5, seed=3), it.ema.module(z))
