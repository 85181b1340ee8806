"""Penalties on every kind of critic, and in every way people run one."""

import copy
import functools
import itertools
import math
import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

import gan_blocks as gb
from gan_blocks._input_gradient import by_torch_func, input_gradients

F64 = torch.float64
EXACT = [
    gb.GradientPenalty(3.0),
    gb.GradientPenalty(3.0, target=0.1, one_sided=True),
    gb.DraganPenalty(3.0),
    gb.R1Penalty(0.7),
    gb.R2Penalty(0.7),
]
APPROXIMATE = [gb.ApproximateR1Penalty(0.7, 0.1), gb.ApproximateR2Penalty(0.7, 0.1)]
exact = pytest.mark.parametrize("penalty", EXACT, ids=str)
every = pytest.mark.parametrize("penalty", EXACT + APPROXIMATE, ids=str)


def smooth_critic(*widths: int) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def pair(*shape: int, dtype: torch.dtype = F64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    real, fake = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    return real.to(dtype), fake.to(dtype)


def seeded(penalty, critic, real, fake):
    torch.manual_seed(3)
    return penalty(critic, real, fake)


def by_weights(value: Tensor, critic: nn.Module) -> list[Tensor]:
    gradients = torch.autograd.grad(value, list(critic.parameters()), allow_unused=True)
    return [torch.zeros(()) if g is None else g for g in gradients]


# --- several outputs -------------------------------------------------------------------------------


@every
@pytest.mark.parametrize("combine", ["sum", "mean"])
def test_penalty_of_several_sub_discriminators_is_the_sum_or_the_mean_of_theirs(penalty, combine):
    a, b = smooth_critic(6, 5, 1).double(), smooth_critic(6, 4, 2).double()
    real, fake = pair(4, 2, 3)
    combined = gb.build(gb.to_spec(penalty) | {"combine": combine})
    together = seeded(combined, lambda x: [a(x), b(x)], real, fake)
    # Every sub-discriminator looks at the same points.
    apart = seeded(penalty, a, real, fake) + seeded(penalty, b, real, fake)
    torch.testing.assert_close(together, apart if combine == "sum" else apart / 2)
    for ours, expected in zip(by_weights(together, a), by_weights(apart, a), strict=True):
        torch.testing.assert_close(ours, expected if combine == "sum" else expected / 2)


@exact
def test_a_sub_discriminator_that_ignores_its_input_is_refused(penalty):
    critic = smooth_critic(3, 4, 1).double()
    with pytest.raises(ValueError, match="should depend on inputs"):
        penalty(lambda x: [critic(x), torch.zeros(len(x))], *pair(4, 3))


@exact
@pytest.mark.parametrize("n", [1, 5])
def test_samples_may_be_numbers(penalty, n):
    slope = 3.0
    real, fake = pair(n)
    expected = seeded(penalty, lambda x: slope * x[:, 0], real[:, None], fake[:, None])
    torch.testing.assert_close(seeded(penalty, lambda x: slope * x, real, fake), expected)


@exact
def test_critic_may_squeeze_a_batch_of_one(penalty):
    critic = smooth_critic(3, 4, 1).double()
    real, fake = pair(1, 3)
    expected = seeded(penalty, critic, real, fake)
    torch.testing.assert_close(seeded(penalty, lambda x: critic(x).squeeze(), real, fake), expected)


# --- other arguments, other inputs -----------------------------------------------------------------


class Conditional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(3, 4)
        self.classes = nn.Embedding(2, 4)

    def forward(self, x, labels):
        return (self.hidden(x).tanh() * self.classes(labels)).sum(1)


@every
def test_labels_reach_the_critic_with_their_samples(penalty):
    critic = Conditional().double()
    labels = torch.tensor([0, 1, 1, 0, 1])
    real, fake = pair(5, 3)
    whole = seeded(penalty, functools.partial(critic, labels=labels), real, fake)
    torch.testing.assert_close(whole, seeded(penalty, lambda x: critic(x, labels), real, fake))
    other = seeded(penalty, functools.partial(critic, labels=1 - labels), real, fake)
    assert abs(whole.item() - other.item()) > 1e-3 * whole.item()
    if isinstance(penalty, gb.R1Penalty):
        each = [
            penalty(functools.partial(critic, labels=k[None]), x[None])
            for k, x in zip(labels, real, strict=True)
        ]
        torch.testing.assert_close(whole, torch.stack(each).mean())


# --- however the critic is written -----------------------------------------------------------------


class Player(nn.Module):
    """A module that holds both networks, as a LightningModule does."""

    def __init__(self, critic: nn.Module) -> None:
        super().__init__()
        self.critic = critic
        self.generator = nn.Sequential(nn.Linear(2, 6), nn.BatchNorm1d(6))

    def judge(self, x):
        return self.critic(x)


class Judge:
    def __init__(self, critic: Any) -> None:
        self.critic = critic

    def __call__(self, x):
        return self.critic(x)


def of_player(player: Player) -> Any:
    return lambda x: player.critic(x)


def scaled(critic, scale, x):
    return scale * critic(x)


def compiled_in_place(critic: nn.Module) -> nn.Module:
    again = copy.deepcopy(critic)
    again.compile(backend="aot_eager")
    return again


SPELLINGS = {
    "module": lambda critic: critic,
    "bound method": lambda critic: Player(critic).judge,
    "lambda": lambda critic: lambda x: critic(x),
    "lambda of a player": lambda critic: of_player(Player(critic).double()),
    "partial": lambda critic: functools.partial(scaled, critic, 1.0),
    "callable object": Judge,
    "compiled module": lambda critic: torch.compile(critic, backend="aot_eager"),
    "compiled function": lambda critic: torch.compile(lambda x: critic(x), backend="aot_eager"),
    "compiled in place": compiled_in_place,
    "callable object of a compiled module": lambda critic: Judge(
        torch.compile(critic, backend="aot_eager")
    ),
}


@every
@pytest.mark.parametrize("samples", ["samples", "packs"])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_penalty_does_not_depend_on_how_the_critic_is_written(penalty, samples, spelling):
    torch.compiler.reset()
    critic = smooth_critic(6, 5, 2).double()
    real, fake = pair(4, 6) if samples == "samples" else (gb.pack(x, 2) for x in pair(8, 3))
    value = seeded(penalty, SPELLINGS[spelling](critic), real, fake)
    expected = seeded(penalty, critic, real, fake)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    if spelling != "compiled in place":  # that one has weights of its own
        for p, q in zip(by_weights(value, critic), by_weights(expected, critic), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-10, atol=1e-14)


@exact
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_batch_norm_that_runs_in_the_critic_is_named_however_it_is_written(penalty, spelling):
    torch.compiler.reset()
    critic = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 1)).double()
    written = SPELLINGS[spelling](critic)
    with pytest.warns(UserWarning, match="a batch norm of 4 channels in the critic used") as caught:
        penalty(written, *pair(5, 6))
    assert {warning.filename for warning in caught} == {__file__}
    if spelling != "compiled in place":
        critic.eval()
        penalty(written, *pair(5, 6))


@exact
def test_batch_norm_of_another_thread_is_not_the_critics(penalty):
    critic, other = smooth_critic(3, 4, 1).double(), nn.BatchNorm1d(3).double()

    def runs_beside(x):
        thread = threading.Thread(target=other, args=(x.detach(),))
        thread.start()
        thread.join(30)
        return critic(x)

    penalty(runs_beside, *pair(4, 3))
    assert other.num_batches_tracked == 1


class InPlace(nn.Module):
    """Moves its input in place, as a critic that centers images does."""

    def forward(self, x):
        return x.sub_(0.5)


class Away(nn.Module):
    def forward(self, x):
        return x - 0.5


FIRST = {
    "sub_": (InPlace(), Away()),
    "relu": (nn.ReLU(inplace=True), nn.ReLU()),
}


@every
@pytest.mark.parametrize("first", FIRST)
@pytest.mark.parametrize("compiled", [False, True])
def test_critic_may_work_in_place_on_its_input(penalty, first, compiled):
    torch.compiler.reset()
    critic = smooth_critic(3, 4, 1).double()
    in_place, away = (nn.Sequential(layer, critic) for layer in FIRST[first])
    real, fake = pair(4, 3)
    before = real.clone(), fake.clone()
    call = torch.compile(penalty, fullgraph=True, backend="aot_eager") if compiled else penalty
    value = seeded(call, in_place, real, fake)
    expected = seeded(penalty, away, real, fake)
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=0)
    for p, q in zip(by_weights(value, critic), by_weights(expected, critic), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-8, atol=1e-12)
    for x, y in zip((real, fake), before, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=0)
        assert not x.requires_grad


@every
@pytest.mark.parametrize("compiled", [False, True])
def test_logits_with_features_in_a_tuple_are_refused(penalty, compiled):
    torch.compiler.reset()
    critic = smooth_critic(3, 4, 1).double()

    def with_features(x):
        return critic(x), x

    call = torch.compile(penalty, backend="aot_eager") if compiled else penalty
    with pytest.raises(
        TypeError, match=r"tuple: is it \(logits, features\)\? pass the logits only"
    ):
        call(with_features, *pair(4, 3))
    x = pair(4, 3)[0].requires_grad_()
    logits = (critic(x), critic(x))
    for given in (gb.R1Penalty(), gb.R2Penalty(), *APPROXIMATE):
        beside = logits if given in APPROXIMATE else x
        with pytest.raises(TypeError, match="several sub-discriminators are a list"):
            given.from_logits(logits, beside)  # pyright: ignore[reportArgumentType]


@every
@pytest.mark.parametrize("wrong", [nn.Linear(2, 3), 0, "cpu", torch.manual_seed])
def test_generator_that_draws_no_random_numbers_is_refused(penalty, wrong):
    with pytest.raises(TypeError, match=r"generator should be a torch\.Generator.*or None, got"):
        penalty(smooth_critic(3, 1).double(), *pair(4, 3), generator=wrong)


def test_gradient_by_images_that_were_not_augmented_yet():
    torch.manual_seed(0)
    critic, augment = smooth_critic(9, 4, 1).double(), nn.Linear(9, 9).double()
    x, _ = pair(5, 9)
    penalty = gb.R1Penalty(0.7)
    images = x.clone().requires_grad_()
    value = penalty.from_logits(critic(augment(images)), images)
    torch.testing.assert_close(value, penalty(lambda x: critic(augment(x)), x))
    jacobians = [
        torch.autograd.functional.jacobian(lambda s: critic(augment(s[None]))[0, 0], s) for s in x
    ]
    expected = 0.35 * torch.stack([j.square().sum() for j in jacobians]).mean()  # type: ignore[union-attr]
    torch.testing.assert_close(value, expected)


@pytest.mark.parametrize("combine", ["sum", "mean"])
def test_gradient_by_the_features_that_enter_each_head(combine):
    torch.manual_seed(0)
    backbone = nn.Linear(3, 8).double().requires_grad_(False)
    heads = [smooth_critic(5, 4, 1).double(), smooth_critic(3, 4, 2).double()]
    x, _ = pair(5, 3)
    features = [f.detach().requires_grad_() for f in backbone(x).split([5, 3], dim=1)]
    logits = [head(f) for head, f in zip(heads, features, strict=True)]
    penalty = gb.R1Penalty(0.7, combine)
    value = penalty.from_logits(logits, features)
    terms = [gb.R1Penalty(0.7)(head, f) for head, f in zip(heads, features, strict=True)]
    torch.testing.assert_close(value, sum(terms) / (1 if combine == "sum" else 2))
    with pytest.raises(ValueError, match="one for each of 2 sub-discriminators, got 1"):
        penalty.from_logits(logits, features[:1])


def test_shared_inputs_of_several_sub_discriminators():
    a, b = smooth_critic(6, 5, 1).double(), smooth_critic(6, 4, 2).double()
    x, _ = pair(4, 6)
    penalty, inputs = gb.R2Penalty(0.7), x.clone().requires_grad_()
    value = penalty.from_logits([a(inputs), b(inputs)], inputs)
    torch.testing.assert_close(value, penalty(lambda x: [a(x), b(x)], None, x))


# --- three ways to one gradient --------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (1, 4, 4)], ids=str)
def test_autograd_torch_func_and_finite_differences_agree(shape):
    d = math.prod(shape)
    a, b = smooth_critic(max(d, 1), 5, 1).double(), smooth_critic(max(d, 1), 4, 2).double()
    x, _ = pair(4, *shape)

    def critic(x):
        rows = x.reshape(len(x), -1)
        return [a(rows), b(rows)]

    by_autograd, by_func = input_gradients(critic, x, "x"), by_torch_func(critic, x)
    step = 1e-5
    for k, (p, q) in enumerate(zip(by_autograd, by_func, strict=True)):
        assert p.shape == q.shape == (4, d)
        torch.testing.assert_close(p, q)
        for j in range(d):
            away = torch.zeros(d, dtype=F64)
            away[j] = step
            away = away.reshape(shape)
            slope = (critic(x + away)[k] - critic(x - away)[k]).sum(1) / (2 * step)
            torch.testing.assert_close(p[:, j], slope, rtol=1e-6, atol=1e-8)
    parameters = list(a.parameters())[:-1]
    first = torch.autograd.grad(by_autograd[0].square().sum(), parameters)
    second = torch.autograd.grad(by_func[0].square().sum(), parameters)
    for p, q in zip(first, second, strict=True):
        torch.testing.assert_close(p, q)


# --- compiled --------------------------------------------------------------------------------------


@every
def test_compiled_step_with_the_penalty_equals_the_eager_one(penalty):
    torch.compiler.reset()
    a, b = smooth_critic(6, 5, 1), smooth_critic(6, 4, 2)
    both, loss = nn.ModuleList([a, b]), gb.HingeLoss()
    real, fake = pair(4, 6, dtype=torch.float32)

    def step(real, fake):
        logits = [[critic(x) for critic in both] for x in (real, fake)]
        return loss.discriminator(*logits) + penalty(lambda x: [a(x), b(x)], real, fake)

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    torch.manual_seed(3)
    value = compiled(real, fake)
    torch.manual_seed(3)
    expected = step(real, fake)
    torch.testing.assert_close(value, expected)
    for p, q in zip(by_weights(value, both), by_weights(expected, both), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


@exact
@pytest.mark.parametrize("how", ["whole", "in place", "a part", "within a function", "a function"])
def test_penalty_of_a_compiled_critic_is_that_of_the_plain_one(penalty, how):
    torch.compiler.reset()
    plain, critic = smooth_critic(6, 5, 1), smooth_critic(6, 5, 1)
    critic.load_state_dict(plain.state_dict())
    real, fake = pair(4, 6, dtype=torch.float32)
    compiled: nn.Module = critic
    if how == "in place":
        critic.compile(backend="aot_eager")
    elif how == "a part":
        critic[1] = torch.compile(critic[1], backend="aot_eager")  # pyright: ignore[reportArgumentType]
    elif how == "a function":
        compiled = torch.compile(lambda x: critic(x), backend="aot_eager")  # type: ignore[assignment]
    else:
        compiled = torch.compile(critic, backend="aot_eager")  # type: ignore[assignment]
    compiled(real).sum().backward()  # as the loss has it
    called = (lambda x: compiled(x)) if how == "within a function" else compiled
    value, expected = seeded(penalty, called, real, fake), seeded(penalty, plain, real, fake)
    torch.testing.assert_close(value, expected)
    for p, q in zip(by_weights(value, critic), by_weights(expected, plain), strict=True):
        torch.testing.assert_close(p, q)


# --- half precision --------------------------------------------------------------------------------


def tiny_slopes() -> nn.Sequential:
    """A critic whose gradient by the input, 1e-8 of each sample, is no float16."""
    critic = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 1))
    for layer, size in ((critic[0], 1e-5), (critic[2], 1e-4 / 3.2)):
        layer.weight.data.fill_(size)  # type: ignore[union-attr, operator]
    return critic


@pytest.mark.parametrize("gamma", [1.0, 1e14])
def test_r1_under_float16_autocast_is_that_of_float32(gamma):
    critic, x = tiny_slopes(), pair(4, 64, dtype=torch.float32)[0]
    penalty = gb.R1Penalty(gamma)
    expected = penalty(critic, x)
    assert expected > 0
    for samples in (x, x.half()):
        with torch.autocast("cpu", torch.float16):
            value = penalty(critic, samples)
        torch.testing.assert_close(value, expected, rtol=2e-3, atol=0)


@every
def test_training_step_under_float16_with_a_gradient_scaler(penalty):
    torch.manual_seed(0)
    critic = gb.PatchDiscriminator(channels=1, width=4, depth=1, norm="instance")
    real, fake = torch.rand(2, 4, 1, 16, 16)
    loss = gb.HingeLoss()
    plain = loss.discriminator(critic(real), critic(fake)) + seeded(penalty, critic, real, fake)
    expected = torch.cat([g.flatten() for g in by_weights(plain, critic)])
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    optimiser = torch.optim.SGD(critic.parameters(), lr=0.0)
    with torch.autocast("cpu", torch.float16):
        total = loss.discriminator(critic(real), critic(fake)) + seeded(penalty, critic, real, fake)
    scaler.scale(total).backward()
    scaler.unscale_(optimiser)
    found = torch.cat([p.grad.flatten() for p in critic.parameters()])  # type: ignore[union-attr]
    assert found.isfinite().all()
    cosine = torch.nn.functional.cosine_similarity(found, expected, dim=0)
    assert cosine > 0.99
    scaler.step(optimiser)
    scaler.update()
    assert scaler.get_scale() == 2.0**12, "nothing overflowed"


def test_float16_logits_are_refused_where_nothing_can_be_saved():
    critic, x = tiny_slopes(), pair(4, 64, dtype=torch.float32)[0].requires_grad_()
    with torch.autocast("cpu", torch.float16):
        logits = critic(x)
        with pytest.raises(ValueError, match="holds no gradient below 6e-8"):
            gb.R1Penalty().from_logits(logits.float(), x)
    with pytest.raises(ValueError, match="holds no gradient below 6e-8"):
        gb.R2Penalty().from_logits([logits], x)
    with torch.autocast("cpu", torch.bfloat16):
        assert gb.R1Penalty().from_logits(critic(x), x) > 0


@exact
def test_float16_critic_without_autocast_is_refused(penalty):
    critic = smooth_critic(3, 4, 1).half()
    real, fake = pair(4, 3, dtype=torch.float16)
    with pytest.raises(ValueError, match="float16 without autocast"):
        penalty(critic, real, fake)


# --- lazy ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [0, 1])
def test_lazy_penalty_needs_samples_whether_due_or_not(steps):
    lazy = gb.Lazy(gb.R1Penalty(), every=4)
    for _ in range(steps):
        lazy.step()
    with pytest.raises(TypeError, match="should be a tensor of samples"):
        lazy(smooth_critic(3, 1), None, None)


@pytest.mark.parametrize("steps", [0, 1])
def test_lazy_penalty_refuses_wrong_arguments_whether_due_or_not(steps):
    lazy = gb.Lazy(gb.R1Penalty(), every=4)
    for _ in range(steps):
        lazy.step()
    with pytest.raises(TypeError, match="critic should be a module or a function"):
        lazy(nn.Linear, *pair(4, 3))
    with pytest.raises(TypeError, match=r"generator should be a torch\.Generator"):
        lazy(smooth_critic(3, 1), *pair(4, 3), generator=nn.Linear(2, 3))  # pyright: ignore[reportArgumentType]


def test_lazy_penalty_that_is_not_due_is_on_the_device_of_the_samples():
    lazy = gb.Lazy(gb.R1Penalty(), every=4)
    lazy.step()
    assert lazy(nn.Linear(3, 1, device="meta"), torch.randn(4, 3, device="meta")).is_meta


@pytest.mark.parametrize(
    "around",
    [
        lambda penalty: gb.Lazy(penalty, every=1),
        lambda penalty: gb.Scheduled(penalty, gb.LinearSchedule(1.0, 0.0, steps=9)),
    ],
)
def test_penalty_inside_another_draws_with_the_generator_that_is_given(around):
    critic, plain = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)), gb.GradientPenalty()
    samples = torch.randn(2, 4, 3).unbind()
    values = [
        penalty(critic, *samples, generator=torch.Generator().manual_seed(seed)).item()
        for penalty in (around(plain), plain)
        for seed in (0, 1)
    ]
    assert values[:2] == pytest.approx(values[2:])
    assert values[0] != values[1]


def test_scheduled_penalty_gets_the_generated_samples():
    critic, (real, fake) = (
        smooth_critic(3, 1).double(),
        torch.randn(2, 4, 3, dtype=torch.float64).unbind(),
    )
    scheduled = gb.Scheduled(gb.R2Penalty(), gb.LinearSchedule(1.0, 0.0, steps=9))
    torch.testing.assert_close(scheduled(critic, real, fake), gb.R2Penalty()(critic, real, fake))


# --- what a critic may not do, and what it may -------------------------------------------------------


@exact
@pytest.mark.parametrize("how", ["mean", "half"])
def test_mean_over_the_batch_is_refused_whatever_its_shape(penalty, how):
    critic = smooth_critic(3, 4, 1).double()
    wrong = {
        "mean": lambda x: critic(x).mean(0).view(1),  # N^2 too small, in silence
        "half": lambda x: critic(x).view(2, -1).sum(1),
    }
    with pytest.raises(ValueError, match="logits of each of 4 samples, got shape"):
        penalty(wrong[how], *pair(4, 3))


@exact
def test_patches_may_stand_in_the_dimension_of_the_batch(penalty):
    critic = smooth_critic(3, 4, 5).double()
    real, fake = pair(4, 3)
    expected = seeded(penalty, critic, real, fake)
    torch.testing.assert_close(seeded(penalty, lambda x: critic(x).view(-1), real, fake), expected)


def drawn(penalty, real, fake):
    """The points at which a penalty takes the gradient of each sample."""
    seen = []
    torch.manual_seed(3)
    penalty(lambda x: (seen.append(x), x.sum(1))[1], real, fake)
    return seen[0].detach()


@exact
def test_penalty_of_packs_has_one_norm_for_each_pack(penalty):
    critic = smooth_critic(6, 4, 2).double()
    real, fake = (gb.pack(x, 2) for x in pair(8, 3))
    packs = drawn(penalty, real, fake).requires_grad_()
    (gradient,) = torch.autograd.grad(critic(packs).sum(), packs, create_graph=True)
    norms = [(row**2).sum() ** 0.5 for row in gradient]
    assert len(norms) == 4
    if isinstance(penalty, gb.R1Penalty | gb.R2Penalty):
        expected = penalty.gamma / 2 * torch.stack(norms).square().mean()
    else:
        excess = [norm - penalty.target for norm in norms]
        if getattr(penalty, "one_sided", False):
            excess = [e.clamp(min=0) for e in excess]
        expected = penalty.weight * torch.stack(excess).square().mean()
    torch.testing.assert_close(seeded(penalty, critic, real, fake), expected)


def test_gradient_penalty_draws_one_number_for_each_pack():
    real, fake = gb.pack(torch.zeros(64, 3), 2), gb.pack(torch.ones(64, 3), 2)
    shares = drawn(gb.GradientPenalty(), real, fake)
    assert shares.shape == (32, 6)
    assert (shares == shares[:, :1]).all()
    assert len(shares[:, 0].unique()) == 32


# Where a compiled penalty falls back to eager, the compiler looks at the gradient of the logits.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@every
@pytest.mark.parametrize("how", ["layer", "function", "one of several", "compiled"])
def test_packing_inside_the_critic_is_refused_with_the_remedy(penalty, how):
    torch.compiler.reset()
    packed = nn.Sequential(gb.Packing(2), smooth_critic(6, 4, 1).double())
    critic = {
        "function": lambda x: packed[1](x.view(-1, 6)),
        "one of several": lambda x: [x.sum(1), packed(x)],
    }.get(how, packed)
    call = torch.compile(penalty, backend="aot_eager") if how == "compiled" else penalty
    with pytest.raises(
        ValueError, match=r"each of 8 samples.*pack before the critic: pack\(x, m\)"
    ):
        call(critic, *pair(8, 3))


@pytest.mark.parametrize("penalty", [gb.R1Penalty(0.7), gb.R2Penalty(0.7)], ids=str)
def test_penalty_from_logits_of_packs_takes_the_packs(penalty):
    critic = smooth_critic(6, 4, 2).double()
    real, _ = pair(8, 3)
    packs = gb.pack(real, 2).requires_grad_()
    expected = penalty(critic, packs.detach(), packs.detach())
    torch.testing.assert_close(penalty.from_logits(critic(packs), packs), expected)
    samples = real.clone().requires_grad_()
    with pytest.raises(ValueError, match="pack before the critic"):
        penalty.from_logits(critic(gb.pack(samples, 2)), samples)


# --- what the approximations check ------------------------------------------------------------------

approximate = pytest.mark.parametrize("penalty", APPROXIMATE, ids=str)


@approximate
@pytest.mark.parametrize("how", ["mean", "sum", "mean of a batch dimension"])
def test_approximation_refuses_a_sum_or_mean_over_the_batch(penalty, how):
    critic = smooth_critic(3, 4, 1).double()
    wrong = {
        "mean": lambda x: critic(x).mean(),
        "sum": lambda x: critic(x).sum(),
        "mean of a batch dimension": lambda x: critic(x).mean(0),
    }
    with pytest.raises(ValueError, match=r"logits of each of 4 samples, got shape"):
        penalty(wrong[how], *pair(4, 3))


@approximate
def test_approximation_refuses_logits_without_gradient(penalty):
    critic = smooth_critic(3, 4, 1).double()
    real, fake = pair(4, 3)
    without = {
        "detached": lambda x: critic(x).detach(),
        "no_grad": torch.no_grad()(critic),
        "constant": lambda x: torch.zeros(len(x)),
        "frozen": copy.deepcopy(critic).requires_grad_(False),
    }
    for wrong in without.values():
        with pytest.raises(
            ValueError, match="should carry a gradient, or the penalty does not train"
        ):
            penalty(wrong, real, fake)
        with torch.no_grad():
            assert penalty(wrong, real, fake).isfinite()


@approximate
def test_approximation_refuses_one_side_without_gradient(penalty):
    critic, x = smooth_critic(3, 4, 1).double(), pair(4, 3)[0]
    logits, perturbed = critic(x), critic(penalty.perturbed(x))
    with pytest.raises(ValueError, match="output, logits, should carry a gradient"):
        penalty.from_logits(logits.detach(), perturbed)
    with pytest.raises(ValueError, match="output, perturbed_logits, should carry a gradient"):
        penalty.from_logits(logits, perturbed.detach())
    torch.testing.assert_close(
        penalty.from_logits(logits, perturbed),
        torch.no_grad()(penalty.from_logits)(logits.detach(), perturbed),
    )


@approximate
def test_approximation_takes_features_without_gradient(penalty):
    backbone, head = smooth_critic(3, 4).double(), nn.Linear(4, 1).double()
    real, fake = pair(4, 3)
    value = seeded(penalty, lambda x: head(torch.no_grad()(backbone)(x)), real, fake)
    expected = seeded(penalty, lambda x: head(backbone(x)), real, fake)
    torch.testing.assert_close(value, expected)
    for p, q in zip(by_weights(value, head), by_weights(expected, head), strict=True):
        torch.testing.assert_close(p, q)


# --- what else a critic may do ------------------------------------------------------------------------


def test_nan_of_the_critic_is_not_hidden():
    critic = smooth_critic(3, 4, 1).double()
    for penalty in EXACT:
        assert penalty(lambda x: critic(x) * math.nan, *pair(4, 3)).isnan(), penalty


@every
def test_samples_that_are_no_tensor_are_refused_before_the_critic_sees_them(penalty):
    with pytest.raises(TypeError, match="should be a tensor, got NoneType"):
        penalty(smooth_critic(3, 1), None, None)
    with pytest.raises(TypeError, match=r"floating point, .*got torch\.int64"):
        penalty(smooth_critic(3, 1), torch.ones(2, 3).long(), torch.ones(2, 3).long())


def test_inputs_that_are_no_tensor_are_refused():
    with pytest.raises(TypeError, match="should be a tensor, got NoneType"):
        gb.R1Penalty().from_logits(torch.zeros(2), None)  # pyright: ignore[reportArgumentType]


@exact
def test_batch_norm_without_running_statistics_is_named_in_evaluation_mode_too(penalty):
    norm = nn.BatchNorm1d(4, track_running_stats=False)
    critic = nn.Sequential(nn.Linear(3, 4), norm, nn.Linear(4, 1)).double().eval()
    with pytest.warns(UserWarning, match="a batch norm of 4 channels .* or no running statistics"):
        penalty(critic, *pair(4, 3))


@every
def test_compiled_penalty_takes_batches_of_any_size(penalty):
    torch.compiler.reset()
    critic = smooth_critic(3, 4, 1)
    compiled = torch.compile(
        lambda x, y: penalty(critic, x, y), fullgraph=True, backend="aot_eager", dynamic=True
    )
    for n in (4, 3, 7):
        assert compiled(*pair(n, 3, dtype=torch.float32)) >= 0


def test_batch_norm_in_a_step_that_falls_back_to_eager_is_named():
    torch.compiler.reset()
    critic = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    real, _ = pair(4, 3, dtype=torch.float32)
    penalty = gb.R1Penalty()
    step = torch.compile(lambda x: penalty(critic, x), backend="aot_eager")
    with pytest.warns(UserWarning, match="a batch norm of 4 channels in the critic"):
        step(real)


def test_compilation_goes_on_after_penalties_of_several_threads():
    torch.compiler.reset()
    critic, real = smooth_critic(3, 4, 1), pair(4, 3, dtype=torch.float32)[0]
    counter = CompileCounter()
    compiled = torch.compile(critic, backend=counter)
    first_is_in, second_is_in = threading.Event(), threading.Event()

    def first(x):
        first_is_in.set()
        assert second_is_in.wait(30)
        return compiled(x)

    def second(x):
        assert first_is_in.wait(30)
        second_is_in.set()
        other.join(30)  # it leaves before this one
        return compiled(x)

    other = threading.Thread(target=gb.R1Penalty(), args=(first, real))
    other.start()
    gb.R1Penalty()(second, real)
    assert counter.frame_count == 0, "the penalties compiled nothing"
    compiled(real)
    assert counter.frame_count == 1
