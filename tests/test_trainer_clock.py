"""What counts or averages advances with the optimizer of the side whose loss it is in."""

import pytest
import torch
from torch import nn
from train_configs import WideTrainer
from trainer_runs import CONFIGS, NO_PENALTY, parts, same

import gan_blocks
from gan_blocks.authoring import Clocked

COSINE = '{ block = "CosineSchedule", start = 1.0, end = 0.1, steps = 40 }'
PENALTIES = (
    NO_PENALTY[0],
    "penalties = [\n"
    f'{{ block = "Scheduled", penalty = {{ block = "R1Penalty" }}, schedule = {COSINE} }},\n'
    '{ block = "Lazy", penalty = { block = "R2Penalty" }, every = 3 },\n]\n'
    "auxiliary = [\n"
    '{ term = { block = "LeCamRegularizer" } },\n'
    '{ term = { block = "HistoricalAveraging" }, side = "critic" },\n'
    '{ term = { block = "HistoricalAveraging" }, side = "generator" },\n]',
)
PLUGIN = '''
import torch
from torch import nn
from gan_blocks import GaussianNoise, block, hookimpl
from gan_blocks.authoring import Clocked

@block
class Growing(Clocked):
    """A loss that grows with the steps."""
    def __init__(self): super().__init__()
    def discriminator(self, real_logits, fake_logits):
        return (1 + self.step_count) * ((real_logits - 1).square().mean() + fake_logits.square().mean())
    def generator(self, fake_logits):
        return (fake_logits - 1).square().mean()

@block
class NoisyGenerator(nn.Module):
    """With noise that goes."""
    def __init__(self, latent_dim: int = 2):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(latent_dim, 2), GaussianNoise(0.1, anneal_steps=50))
    def forward(self, z):
        return self.layers(z)

@block
class NoisyCritic(nn.Module):
    """With noise that goes, which is shared."""
    def __init__(self):
        super().__init__()
        noise = GaussianNoise(0.1, anneal_steps=2)
        self.layers = nn.Sequential(noise, nn.Linear(2, 8), nn.Tanh(), noise, nn.Linear(8, 1))
    def forward(self, x):
        return self.layers(x)[:, 0]

@hookimpl
def gan_blocks_losses(): return [Growing]

@hookimpl
def gan_blocks_networks(): return [NoisyGenerator, NoisyCritic]
'''
NETWORKS = (
    (
        'block = "MLPGenerator"\nlatent_dim = 2\noutput_shape = [2]\nwidth = 8\ndepth = 1',
        'block = "clocked_plugin/NoisyGenerator"',
    ),
    (
        'block = "MLPDiscriminator"\ninput_shape = [2]\nwidth = 8\ndepth = 1',
        'block = "clocked_plugin/NoisyCritic"',
    ),
    ("RelativisticLoss", "clocked_plugin/Growing"),
    ("[data]", 'plugins = ["clocked_plugin.py"]\n\n[data]'),
)


def counts(*modules):
    return [
        int(each.step_count) for m in modules for each in m.modules() if isinstance(each, Clocked)
    ]


@pytest.mark.parametrize("accumulate", [1, 4])
def test_penalties_and_terms_count_the_steps_of_their_side_whatever_the_parts(trainer, accumulate):
    it, batches = trainer(
        PENALTIES, ("steps = 12", f"steps = 12\ncritic_steps = 2\naccumulate = {accumulate}")
    )
    due = []
    for _ in range(4):
        due.append(it.penalties[1].is_due())
        it.train_step([next(batches), next(batches)])
    assert set(counts(*it.penalties, *it.auxiliary[:2])) == {8}
    assert counts(it.auxiliary[2]) == [4]
    assert due == [True, False, False, True]  # steps 0, 2, 4, 6 of the critic
    assert it.penalties[0].schedule() == pytest.approx(it.penalties[0].schedule.at(8))


def test_networks_loss_and_average_are_on_the_clock_of_their_side(
    trainer, tmp_path, registry_as_it_was
):
    (tmp_path / "clocked_plugin.py").write_text(PLUGIN)
    it, batches = trainer(*NETWORKS, ("steps = 12", "steps = 12\ncritic_steps = 3"))
    for _ in range(2):
        it.train_step([next(batches) for _ in range(3)])
    assert counts(it.critic, it.loss) == [6, 6]
    assert counts(it.generator) == [2]
    # The average counts its own updates, and has the count of the network that it is of.
    assert counts(it.ema) == [2, 2]
    assert it.ema.samples == 32
    assert it.critic.layers[0].current_std() == 0


def test_everything_on_the_clock_goes_on_exactly_from_a_checkpoint(
    write, train, tmp_path, registry_as_it_was
):
    (tmp_path / "clocked_plugin.py").write_text(PLUGIN)
    changes = (*NETWORKS[2:], ("ema = 0.9", "ema = { half_life = 50 }"), NETWORKS[0], PENALTIES)
    config = write(*changes, ("checkpoint_every = 5", "checkpoint_every = 4"))
    assert train(config, out="whole")[0] == 0
    assert train(config, "--set", "steps=4", out="parts")[0] == 0
    assert train(config, "--resume", "--set", "steps=8", out="parts")[0] == 0
    assert train(config, "--resume", out="parts")[0] == 0
    whole, resumed = parts(tmp_path / "whole"), parts(tmp_path / "parts")
    assert whole["penalties.0"]["step_count"] == 12
    assert whole["auxiliary.0"]["sums"].abs().sum() > 0
    assert whole["loss"]["step_count"] == 12
    assert same(whole, resumed)


def test_schedules_that_end_before_a_tenth_of_the_run_are_named_at_its_start(
    write, train, tmp_path, registry_as_it_was
):
    (tmp_path / "clocked_plugin.py").write_text(PLUGIN)
    short = '{ block = "LinearSchedule", start = 1e-3, end = 1e-4, steps = 1 }'
    config = write(
        *NETWORKS,
        ("steps = 12", "steps = 12\ncritic_steps = 2"),
        (NO_PENALTY[0], 'penalties = [{ block = "Scheduled", penalty = { block = "R1Penalty" }, '
         'schedule = { block = "CosineSchedule", start = 1.0, end = 0.1, steps = 2 } }]'),
        ('"Adam"\nlr = 1e-3\nbetas', f'"Adam"\nlr = {short}\nbetas'),
    )  # fmt: skip
    status, message = train(config)
    assert status == 0
    assert message == (
        "These schedules end before a tenth of the run: discriminator (GaussianNoise) after 2 of 24 "
        "steps of the discriminator; penalties.0 (CosineSchedule) after 2 of 24 steps of the "
        "discriminator; generator_optimizer.lr (LinearSchedule) after 1 of 12 steps of training.\n"
    )


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_no_schedule_of_a_shipped_config_ends_early(examples, file, few_digits):
    read = examples.reading.read_config
    config = read(examples.config.Config, file)
    if config.data.name.endswith("MNIST"):
        config = read(examples.config.Config, file, [f"data.root={few_digits}"])
    it = examples.train.Trainer(
        config.model_copy(update={"batch_size": 8}), file.parent, torch.device("cpu")
    )
    assert it.early_ends() == []


# --- parts of a batch ------------------------------------------------------------------------------


def depends_on_the_batch(it):
    """Whether a block or layer of a trainer says that it looks at the whole batch.

    A network that may hold such a layer is asked for the layers that it does hold.
    """
    roots = [it.generator, it.critic, it.loss, *it.penalties, *it.auxiliary]
    for part in (each for root in roots for each in root.modules()):
        kind = gan_blocks.registry.kind_of(type(part))
        if kind not in (None, "network"):
            name = gan_blocks.to_spec(part)["block"]
            if gan_blocks.registry.find(name).blueprint.capabilities.batch_dependent:
                return True
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            return True
    return False


def trained(file, mnist, accumulate):
    import config as config_of_trainer
    import reading

    # Parts of 8 samples: torch draws normal numbers by sixteens, so they are those of the whole batch.
    settings = ["batch_size=32", "log_every=1000", "critic_steps=1", f"accumulate={accumulate}"]
    if reading.read_config(config_of_trainer.Config, file).data.name.endswith("MNIST"):
        settings += [f"data.root={mnist}", "generator.width=8", "discriminator.width=8"]
    config = reading.read_config(config_of_trainer.Config, file, settings)
    return WideTrainer(config, file.parent, torch.device("cpu"))


COMPARED = ("collapse_digits", "collapse_grid", "collapse_ring", "digits", "digits_r3gan", "ring")
"""At least these have no such part, so that the next test compares something."""


@pytest.fixture
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_four_parts_of_a_batch_train_a_shipped_config_as_the_whole_does(
    examples, file, few_digits, float64
):
    results = []
    for accumulate in (1, 4):
        it = trained(file, few_digits, accumulate)
        if depends_on_the_batch(it):
            assert file.stem not in COMPARED
            pytest.skip("a block of this config declares that it looks at the whole batch")
        batches = it.batches()
        for _ in range(20):
            it.train_step([next(batches)])
        results.append([dict(x.state_dict()) for x in (it.critic, it.generator, *it.penalties)])
    torch.testing.assert_close(results[1], results[0], rtol=1e-6, atol=1e-6)


def test_four_parts_of_a_batch_train_on_one_clock_as_the_whole_does(examples, write, float64):
    scheduled = PENALTIES[1].replace('{ term = { block = "LeCamRegularizer" } },\n', "")
    inner = f'{{ block = "Scheduled", penalty = {{ block = "R2Penalty" }}, schedule = {COSINE} }}'
    nested = scheduled.replace('{ block = "R2Penalty" }, every = 3', f"{inner}, every = 2")
    assert nested.count("CosineSchedule") == 2
    results = []
    for accumulate in (1, 4):
        file = write((PENALTIES[0], nested))
        it = trained(file, None, accumulate)
        batches = it.batches()
        for _ in range(20):
            it.train_step([next(batches)])
        results.append([dict(x.state_dict()) for x in (it.critic, it.generator, *it.auxiliary)])
    torch.testing.assert_close(results[1], results[0], rtol=1e-6, atol=1e-6)
