"""The trainer's options: reused samples, auxiliary terms, parts of a batch, schedules, precision."""

import math
import re

import pytest
import torch
from torch import nn
from trainer_runs import MATCHING, NO_PENALTY, PLAIN, PLUGIN, parts

import gan_blocks


@pytest.fixture
def forwards(monkeypatch):
    """Counts the forwards of each network class."""
    from gan_blocks import MLPDiscriminator, MLPGenerator

    counts = {"generator": 0, "critic": 0}
    for name, cls in (("generator", MLPGenerator), ("critic", MLPDiscriminator)):

        def counted(self, x, name=name, original=cls.forward):
            counts[name] += 1
            return original(self, x)

        monkeypatch.setattr(cls, "forward", counted)
    return counts


SELDOM = ("log_every = 1", "log_every = 100")


@pytest.mark.parametrize(
    ("loss", "critic_forwards"), [("NonSaturatingLoss", 3), ("RelativisticLoss", 4)]
)
def test_critic_looks_at_real_samples_again_only_where_the_loss_compares_with_them(
    trainer, forwards, loss, critic_forwards
):
    it, batches = trainer(("RelativisticLoss", loss), NO_PENALTY, SELDOM)
    before = dict(forwards)
    it.train_step([next(batches)])
    assert forwards["critic"] - before["critic"] == critic_forwards
    assert forwards["generator"] - before["generator"] == 2


def test_reused_fakes_are_those_of_the_critic_s_last_step_and_carry_the_gradient(trainer, forwards):
    reuse = ("steps = 12", "steps = 12\nreuse_fakes = true\ncritic_steps = 2")
    it, batches = trainer(PLAIN, NO_PENALTY, SELDOM, reuse)
    reals = [next(batches), next(batches)]
    state = it.random.state_dict()
    it.latents(16)
    z = it.latents(16)  # those of the second critic step
    it.random.load_state_dict(state)
    g = [p.clone().requires_grad_() for p in it.generator.parameters()]
    before = dict(forwards)
    it.train_step(reals)
    assert forwards["generator"] - before["generator"] == 2

    names = [name for name, _ in it.generator.named_parameters()]
    fake = torch.func.functional_call(it.generator, dict(zip(names, g, strict=True)), (z,))
    loss = nn.functional.softplus(-it.critic(fake)).mean()
    expected = torch.autograd.grad(loss, g)
    torch.testing.assert_close([p.grad for p in it.generator.parameters()], list(expected))


def test_generator_is_compared_with_the_batch_of_the_critic_s_last_step(trainer, monkeypatch):
    it, batches = trainer(("steps = 12", "steps = 12\ncritic_steps = 2"))
    reals, seen = [next(batches), next(batches)], []
    look = it.features.forward
    monkeypatch.setattr(it.features, "forward", lambda x: (seen.append(x), look(x))[1])
    it.train_step(reals)
    assert [any(torch.equal(x, real) for x in seen) for (real,) in reals] == [False, True]


@pytest.mark.parametrize("weight", [0.0, 2.0])
@pytest.mark.parametrize("norm", ["none", "virtual"])
def test_feature_matching_sums_over_its_layers_and_enters_with_its_weight(trainer, weight, norm):
    it, batches = trainer(
        PLAIN,
        MATCHING,
        ("steps = 12", f"steps = 12\nadversarial_weight = {weight}"),
        ("[discriminator]", f'norm = "{norm}"\n\n[discriminator]'),
        ("[loss]", f'norm = "{norm}"\n\n[loss]'),
    )
    (real,), z = next(batches), it.latents(16)
    fake = it.generator(z).detach()

    def look(x):
        seen, inside = {}, it.critic.network if norm == "virtual" else it.critic
        for i in (0, 2):  # the last forward is the one of x, after the reference's
            inside.layers[i].register_forward_hook(lambda m, a, out, i=i: seen.update({i: out}))
        it.critic(x)
        return list(seen.values())

    terms = [(r.mean(0) - f.mean(0)).square().sum() for r, f in zip(look(real), look(fake))]  # noqa: B905
    adversarial = nn.functional.softplus(-it.critic(fake)).mean()
    expected = weight * adversarial + 0.5 * sum(terms)
    values = it.generator_step((real,), z)
    assert values["g_loss"] == pytest.approx(expected.item(), rel=1e-5)


def test_two_terms_of_one_block_are_both_added(trainer):
    def loss(*weights):
        items = ", ".join(
            f'{{ term = {{ block = "FeatureMatchingLoss" }}, layers = ["layers.{i}"], weight = {w} }}'
            for i, w in zip((0, 2), weights, strict=True)
        )
        it, batches = trainer(PLAIN, ("[data]", f"auxiliary = [{items}]\n\n[data]"))
        return it.generator_step(next(batches), it.latents(16))["g_loss"]

    neither, both = loss(0.0, 0.0), loss(3.0, 5.0)
    assert both - neither == pytest.approx(loss(3.0, 0.0) + loss(0.0, 5.0) - 2 * neither, rel=1e-4)
    assert loss(3.0, 0.0) > neither


def test_batch_of_one_is_checked_and_trains_with_a_loss_that_pairs(trainer):
    it, batches = trainer(("batch_size = 16", "batch_size = 1"))
    it.check()
    assert math.isfinite(it.train_step([next(batches)])["g_loss"])


def test_term_that_does_not_fit_its_features_is_refused_before_the_first_step(
    write, train, tmp_path
):
    status, message = train(
        write(("[data]", MATCHING[1].replace('["layers.0", "layers.2"]', '[""]')))
    )
    assert status == 2
    assert "do not fit: real_features should have shape (N, C, ...)" in message
    assert not (tmp_path / "out").exists()


def test_feature_matching_on_unknown_layers_is_refused(write, train):
    status, message = train(write(("[data]", MATCHING[1].replace("layers.2", "layers.99"))))
    assert status == 2
    assert (
        "auxiliary.layers: layers should name layers of the network, which has no layer 'layers.99'"
        in message
    )
    assert "layers.0" in message


def test_discriminator_that_packs_samples_trains_with_penalties_and_features(
    write, train, tmp_path
):
    status, message = train(write(MATCHING, *packs_of(4)))
    assert (status, message) == (0, "")
    first = next(iter(parts(tmp_path / "out")["critic"].values()))
    assert first.shape[1] == 4 * 2


def packs_of(m, batch="batch_size = 16"):
    return (
        ("batch_size = 16", f"{batch}\npacking = {m}"),
        ("input_shape = [2]", f"input_shape = [{2 * m}]"),
    )


@pytest.mark.parametrize("reuse", ["false", "true"])
def test_both_steps_show_the_critic_packs_of_real_and_of_generated_samples(trainer, reuse):
    it, batches = trainer(
        *packs_of(4), MATCHING, ("steps = 12", f"steps = 12\nreuse_fakes = {reuse}"), SELDOM
    )
    (real,), z = next(batches), it.latents(16)
    fake = it.generator(z)
    packs = [gan_blocks.pack(x, 4).detach() for x in (real, fake)]
    state = it.random.state_dict()
    expected = it.loss.discriminator(*map(it.critic, packs))
    for penalty in it.penalties:
        expected = expected + penalty(it.critic, *packs, generator=it.random.draws)
    of_real, of_fake = map(it.features, packs)
    of_generator = it.loss.generator(of_fake[""], real_logits=of_real[""])
    for name in ("layers.0", "layers.2"):
        of_generator = of_generator + 0.5 * it.auxiliary[0](of_real[name], of_fake[name])
    it.random.load_state_dict(state)
    values = it.generator_step((real,), z)
    assert values["g_loss"] == pytest.approx(of_generator.item(), rel=1e-5)
    other, _ = trainer(*packs_of(4), MATCHING)
    other.random.load_state_dict(state)
    values, _ = other.critic_step((real,), z)
    assert values["d_loss"] == pytest.approx(expected.item(), rel=1e-5)
    it.train_step([next(batches)])


def test_reference_of_a_critic_of_packs_is_packed(trainer, few_digits):
    it, batches = trainer(
        ("batch_size = 16", "batch_size = 16\npacking = 2"),
        ('block = "MLPDiscriminator"\ninput_shape = [2]\nwidth = 8\ndepth = 1',
         'block = "DCGANDiscriminator"\nimage_size = 16\nchannels = 2\nwidth = 4\nnorm = "virtual"'),
        ("output_shape = [2]", "output_shape = [1, 16, 16]"),
        ('name = "ring"', f'name = "MNIST"\nroot = "{few_digits}"\nimage_size = 16'),
    )  # fmt: skip
    first = it.first_samples(16)[0]
    assert torch.equal(it.critic.reference[0], first.reshape(8, 2, 16, 16))
    it.check()
    assert it.train_step([next(batches)])["g_gradient"] > 0


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        ("batch_size = 18", r"of 18 a process sees 18 samples .* no packs of 4; .* multiple of 4"),
        ("batch_size = 16\naccumulate = 8", r"of 16 a process sees 2 samples .* multiple of 32"),
    ],
)  # fmt: skip
def test_batch_that_fills_no_packs_is_refused_before_the_first_step(
    write, train, tmp_path, batch, expected
):
    status, message = train(write(*packs_of(4, batch)))
    assert status == 2
    assert re.search(f"packing: of a batch {expected}", message), message
    assert not (tmp_path / "out").exists()


def test_packs_of_samples_with_labels_are_refused(examples):
    file = examples.folder / "configs" / "digits_conditional.toml"
    with pytest.raises(
        examples.data.UsageError, match="packing joins samples, whose labels differ"
    ):
        examples.reading.read_config(examples.config.Config, file, ["packing=2"])


def test_networks_with_virtual_batch_norm_get_a_reference(trainer, examples):
    from gan_blocks import WithReference

    it, batches = trainer(
        ("[discriminator]", 'norm = "virtual"\n\n[discriminator]'),
        ("[loss]", 'norm = "virtual"\n\n[loss]'),
    )
    assert isinstance(it.critic, WithReference)
    assert torch.equal(it.critic.reference[0], next(batches)[0])
    assert isinstance(it.generator, WithReference)
    assert it.generator.reference[0].shape == (16, 2)
    assert not torch.equal(it.generator.reference[0], it.latents(16, seed=it.config.seed))


def test_gradient_is_clipped_to_its_norm_and_logged_as_it_was(trainer):
    norms, gradients = [], []
    for limit in ("", "\nclip_gradient = 0.01"):
        it, batches = trainer(("steps = 12", "steps = 12" + limit))
        values, _ = it.critic_step(next(batches), it.latents(16))
        norms.append(values["d_gradient"])
        gradients.append(nn.utils.get_total_norm([p.grad for p in it.critic.parameters()]))
    assert norms[1] == norms[0] > 0.01
    assert norms[0] == pytest.approx(gradients[0].item(), rel=1e-6)
    assert gradients[1].item() == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("reuse", ["false", "true"])
def test_parts_of_a_batch_make_the_step_that_the_whole_makes(trainer, reuse):
    alone = (PLAIN, ("GradientPenalty", "R2Penalty"), ("weight = 1.0", "gamma = 1.0"))
    steps = []
    for count in (1, 4):
        it, batches = trainer(
            *alone,
            ("batch_size = 16", f"batch_size = 64\naccumulate = {count}\nreuse_fakes = {reuse}"),
        )
        values = [it.train_step([next(batches)]) for _ in range(2)]
        weights = [p.detach() for n in (it.critic, it.generator) for p in n.parameters()]
        steps.append((values, weights))
    torch.testing.assert_close(steps[0], steps[1], rtol=1e-4, atol=1e-5)


def test_samples_of_a_seed_do_not_depend_on_the_parts_of_a_batch(trainer):
    whole, in_parts = (
        trainer(("batch_size = 16", f"batch_size = 16\naccumulate = {k}"))[0] for k in (1, 4)
    )
    assert torch.equal(whole.latents(10, seed=3), in_parts.latents(10, seed=3))


def test_average_takes_the_whole_batch_for_one_step_whatever_its_parts(trainer):
    it, batches = trainer(
        ("ema = 0.9", "ema = { half_life = 16 }"),
        ("batch_size = 16", "batch_size = 16\naccumulate = 4"),
    )
    it.generator_step(
        next(batches), it.latents(16)
    )  # the first update takes the weights as they are
    before = next(it.generator.parameters()).detach().clone()
    it.generator_step(next(batches), it.latents(16))
    now = next(it.generator.parameters()).detach()
    torch.testing.assert_close(next(it.ema.parameters()).data, (before + now) / 2)
    assert it.ema.samples == 32


def test_schedules_count_steps_of_the_generator_from_0(trainer):
    schedule = '{ block = "LinearSchedule", start = 1.0, end = 3.0, steps = 2 }'
    it, batches = trainer(
        ("lr = 1e-3\nbetas", f"lr = {schedule}\nbetas"),
        ('"Adam"\nlr = 1e-3\n', f'"Adam"\nlr = {schedule}\n'),
        ("steps = 12", "steps = 12\ncritic_steps = 2"),
        NO_PENALTY,
    )
    rates = []
    for _ in range(4):
        it.train_step([next(batches), next(batches)])
        rates.append([x.param_groups[0]["lr"] for x in (it.g_optimizer, it.d_optimizer)])
    assert rates == [[1, 1], [2, 2], [3, 3], [3, 3]]


@pytest.mark.parametrize("parts", [3, 32])
def test_batch_that_has_no_such_parts_is_refused(write, train, tmp_path, parts):
    status, message = train(write(("batch_size = 16", f"batch_size = 16\naccumulate = {parts}")))
    assert status == 2
    assert f"by 1 processes in {parts} parts; make it a multiple of {parts}" in message
    assert not (tmp_path / "out").exists()


def test_without_an_average_samples_come_from_the_generator(trainer):
    it, batches = trainer(("ema = 0.9", ""))
    it.train_step([next(batches)])
    assert "ema" not in it.parts()
    assert torch.equal(it.sample(5, seed=3), it.generator(it.latents(5, seed=3)))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("changes", [[], [("log_every = 1", "log_every = 1\nreuse_fakes = true")]])
def test_compiled_networks_make_the_steps_of_plain_ones(trainer, monkeypatch, changes):
    compiled, compiling = [], nn.Module.compile

    def with_a_quick_backend(module):
        compiled.append(module)
        compiling(module, backend="aot_eager")

    monkeypatch.setattr(nn.Module, "compile", with_a_quick_backend)
    steps = []
    for compile in ("false", "true"):
        it, batches = trainer(("steps = 12", f"steps = 12\ncompile = {compile}"), *changes)
        values = [it.train_step([next(batches)]) for _ in range(3)]
        steps.append((values, it.sample(5, seed=1)))
    assert compiled == [it.generator, it.critic]
    torch.testing.assert_close(steps[0], steps[1], rtol=1e-4, atol=1e-5)


def test_mixed_precision_runs_the_networks_in_bfloat16_and_keeps_float32_weights(trainer):
    it, batches = trainer(("steps = 12", 'steps = 12\nprecision = "bfloat16"'))
    dtypes = set()
    for network in (it.generator, it.critic):
        for layer in network.modules():
            if isinstance(layer, nn.Linear):
                layer.register_forward_hook(lambda m, a, out: dtypes.add(out.dtype))
    values = it.train_step([next(batches)])
    assert torch.bfloat16 in dtypes
    states = [*it.generator.parameters(), *it.critic.parameters(), *it.ema.parameters()]
    assert {p.dtype for p in states} == {torch.float32}
    assert {p.grad.dtype for p in it.critic.parameters()} == {torch.float32}
    other, batches = trainer()
    plain = other.train_step([next(batches)])
    assert values["d_loss"] == pytest.approx(plain["d_loss"], rel=0.02)
    assert values["g_loss"] == pytest.approx(plain["g_loss"], rel=0.02)


def test_auxiliary_term_enters_with_its_weight(trainer, tmp_path):
    (tmp_path / "my_blocks.py").write_text(PLUGIN)
    values = []
    for weight in (0.0, 0.5):
        it, batches = trainer(
            (
                "[data]",
                'plugins = ["./my_blocks.py"]\n'
                f'auxiliary = [{{ term = {{ block = "my_blocks/Gap" }}, weight = {weight} }}]\n'
                "\n[data]",
            )
        )
        real, z = next(batches), it.latents(16)
        gap = it.auxiliary[0](it.critic(*real), it.critic(it.generator(z))).item()
        values.append(it.generator_step(real, z)["g_loss"])
    assert values[1] - values[0] == pytest.approx(0.5 * gap, rel=1e-4)
