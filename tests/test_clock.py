"""One clock: blocks that count or average advance once per optimizer step, and by nothing else."""

# What lies in a container of modules is typed as any module or tensor.
# pyright: reportCallIssue=false, reportArgumentType=false, reportIncompatibleMethodOverride=false

import copy
import gc
import pickle
import sys
import threading
import warnings

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from torch import nn
from torch.utils.checkpoint import checkpoint

import gan_blocks as gb
from gan_blocks.authoring import Averaging, Clocked
from gan_blocks.authoring.clock import FORGOTTEN

F64 = torch.float64


def optimizer_of(*modules, **options):
    weights = [p for module in modules for p in module.parameters() if p.requires_grad]
    return torch.optim.SGD(weights or [nn.Parameter(torch.zeros(1))], lr=0.01, **options)


def linear_critic():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()


PENALTIES = {
    "scheduled": lambda: gb.Scheduled(gb.R1Penalty(1.0), gb.CosineSchedule(1.0, 0.1, steps=8)),
    "lazy": lambda: gb.Lazy(gb.R1Penalty(1.0), every=3),
    "lazy in scheduled": lambda: gb.Scheduled(
        gb.Lazy(gb.R1Penalty(1.0), every=3), gb.LinearSchedule(1.0, 0.1, steps=8)
    ),
    "scheduled in lazy": lambda: gb.Lazy(
        gb.Scheduled(gb.R1Penalty(1.0), gb.StepSchedule(1.0, 0.1, steps=8)), every=3
    ),
}


# --- accumulated = whole batch -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", PENALTIES)
def test_a_batch_in_four_parts_trains_as_the_whole_batch(kind):
    trained = []
    for parts in (1, 4):
        critic, penalty = linear_critic(), PENALTIES[kind]()
        optimizer = optimizer_of(critic)
        gb.follow(optimizer, penalty)
        draws = torch.Generator().manual_seed(1)
        for _ in range(20):
            real = torch.randn(8, 3, dtype=F64, generator=draws)
            optimizer.zero_grad()
            for part in real.chunk(parts):
                ((critic(part).mean() + penalty(critic, part)) / parts).backward()
            optimizer.step()
        trained.append([p.detach() for p in critic.parameters()])
    for one, four in zip(*trained, strict=True):
        torch.testing.assert_close(one, four, rtol=0, atol=1e-12)


@pytest.mark.parametrize("schedule", [gb.CosineSchedule, gb.LinearSchedule, gb.StepSchedule])
def test_a_schedule_has_the_value_of_its_step_however_often_it_is_asked(schedule):
    weight, optimizer = schedule(2.0, 0.5, steps=5), optimizer_of()
    gb.follow(optimizer, weight)
    for t in range(7):
        for _ in range(3):
            assert weight().item() == pytest.approx(weight.at(t))
        optimizer.step()


def test_noise_in_a_critic_is_annealed_by_the_critics_optimizer():
    noise = gb.GaussianNoise(1.0, anneal_steps=4)
    critic = nn.Sequential(noise, nn.Linear(3, 1))
    optimizer = optimizer_of(critic)
    gb.follow(optimizer, critic)
    found = []
    for _ in range(5):
        found.append(noise.current_std().item())
        for _ in range(4):  # real and generated samples, in two parts
            critic(torch.randn(2, 3))
        optimizer.step()
    assert found == pytest.approx([1.0, 0.75, 0.5, 0.25, 0.0])


def lecam(block, x):
    return block(x[:, 0], x[:, 1])


def path_length(block, x):
    w = x.clone().requires_grad_()
    images = (w * w).sum(1)[:, None, None]
    ones = torch.Generator().manual_seed(0)
    return block(images, w, generator=ones)


def balancer(block, x):
    output = x.clone().requires_grad_()
    return block({"a": output.square().mean(), "b": output[:, 0].sin().mean()}, output)


MODULE = nn.Linear(3, 2).double()

AVERAGES = {
    "lecam": (lambda: gb.LeCamRegularizer(), lecam),
    "balancer": (lambda: gb.GradientBalancer({"a": 1, "b": 2}, decay=0.9), balancer),
    "balancer of the batch's norm": (
        lambda: gb.GradientBalancer({"a": 1, "b": 2}, decay=0.9, per_sample=False),
        balancer,
    ),
    "historical averaging": (lambda: gb.HistoricalAveraging(), lambda block, x: block(MODULE)),
}


def state_after(make, call, parts, steps=20):
    block, draws = make().double(), torch.Generator().manual_seed(1)
    for _ in range(steps):
        for part in torch.randn(12, 3, dtype=F64, generator=draws).split(parts):
            call(block, part)
        block.step()
    return block.state_dict()


@pytest.mark.parametrize("parts", [[3, 3, 3, 3], [1, 5, 6], [7, 2, 1, 1, 1]])
@pytest.mark.parametrize("kind", AVERAGES)
def test_the_state_of_an_average_does_not_depend_on_the_parts_of_the_batch(kind, parts):
    make, call = AVERAGES[kind]
    whole, accumulated = state_after(make, call, [12]), state_after(make, call, parts)
    assert whole.keys() == accumulated.keys()
    for name in whole:
        torch.testing.assert_close(accumulated[name], whole[name], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("parts", [[3, 3, 3, 3], [1, 5, 6]])
def test_the_average_of_path_lengths_does_not_depend_on_the_parts_of_the_batch(parts):
    # An image of one pixel: its noise is given by the numbers that the whole batch would draw.
    def state(sizes):
        block, draws = gb.PathLengthPenalty().double(), torch.Generator().manual_seed(1)
        for seed in range(20):
            w = torch.randn(12, 3, dtype=F64, generator=draws)
            noise = torch.Generator().manual_seed(seed)
            for part in w.split(sizes):
                part.requires_grad_()
                block((part * part).sum(1)[:, None, None], part, generator=noise)
            block.step()
        return block.average

    torch.testing.assert_close(state(parts), state([12]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", AVERAGES)
def test_an_average_called_twice_is_an_average_called_once(kind):
    make, call = AVERAGES[kind]
    once, twice = make().double(), make().double()
    draws = torch.Generator().manual_seed(2)
    for _ in range(5):
        x = torch.randn(7, 3, dtype=F64, generator=draws)
        value = call(once, x)
        assert torch.equal(call(twice, x), value)
        assert torch.equal(call(twice, x), value)
        gb.step(once, twice)
    for name, tensor in once.state_dict().items():
        assert torch.equal(twice.state_dict()[name], tensor), name


@pytest.mark.parametrize("look", ["evaluation", "no_grad"])
@pytest.mark.parametrize("trained_before", [False, True])
@pytest.mark.parametrize("kind", AVERAGES)
def test_evaluation_and_no_grad_leave_no_trace(kind, trained_before, look):
    if "balancer" in kind and look == "no_grad":
        pytest.skip("it needs gradients")
    make, call = AVERAGES[kind]
    block = make().double()
    if trained_before:
        call(block, torch.ones(3, 3, dtype=F64))
    looked_at = copy.deepcopy(block).train(look != "evaluation")
    with torch.set_grad_enabled(look != "no_grad"):
        call(looked_at, torch.full((5, 3), 9.0, dtype=F64))
    gb.step(block, looked_at)
    for name, tensor in block.state_dict().items():
        assert torch.equal(looked_at.state_dict()[name], tensor), name


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_around_a_penalty_counts_no_step(reentrant):
    critic, penalty = linear_critic(), PENALTIES["lazy in scheduled"]()
    regularizer, real = gb.LeCamRegularizer().double(), torch.randn(4, 3, dtype=F64)
    real.requires_grad_()

    def term(x):
        return regularizer(critic(x), critic(-x))

    plain, again = copy.deepcopy(regularizer), penalty(critic, real)
    plain(critic(real), critic(-real))
    plain.step()
    checkpoint(term, real, use_reentrant=reentrant).backward()
    gb.step(regularizer)
    assert torch.equal(regularizer.sums, plain.sums)
    assert torch.equal(penalty(critic, real), again)


# --- following an optimizer --------------------------------------------------------------------------


def test_each_side_has_its_own_clock():
    of_critic, of_generator = (gb.LinearSchedule(0.0, 1.0, steps=10) for _ in range(2))
    critic, generator = optimizer_of(), optimizer_of()
    gb.follow(critic, of_critic)
    gb.follow(generator, of_generator)
    for step in range(6):
        critic.step()
        if step % 3 == 2:
            generator.step()
    assert [int(of_critic.step_count), int(of_generator.step_count)] == [6, 2]


def test_a_block_that_occurs_twice_advances_once():
    shared = gb.CosineSchedule(1.0, 0.0, steps=10)
    r1, r2 = gb.Scheduled(gb.R1Penalty(), shared), gb.Scheduled(gb.R2Penalty(), shared)
    optimizer = optimizer_of()
    handle = gb.follow(optimizer, r1, nn.ModuleList([r2, r1]), shared)
    optimizer.step()
    assert int(shared.step_count) == int(r1.step_count) == int(r2.step_count) == 1
    handle.remove()
    gb.step(r1, r2, r1)
    r1.step()
    assert [int(shared.step_count), int(r1.step_count), int(r2.step_count)] == [3, 3, 2]


def test_a_followed_block_refuses_to_be_stepped_or_followed_a_second_time():
    optimizer, penalty = optimizer_of(), PENALTIES["scheduled"]()
    handle = gb.follow(optimizer, penalty)
    for refused in (penalty.step, penalty.schedule.step, lambda: gb.step(nn.ModuleList([penalty]))):
        with pytest.raises(RuntimeError, match="follows an optimizer, whose step advances it"):
            refused()
    for other in (optimizer, optimizer_of()):
        with pytest.raises(RuntimeError, match="follows an optimizer already"):
            gb.follow(other, penalty.schedule)
    assert int(penalty.step_count) == int(penalty.schedule.step_count) == 0
    handle.remove()
    handle.remove()
    optimizer.step()
    assert int(penalty.step_count) == 0
    penalty.step()
    assert int(penalty.step_count) == 1
    gb.follow(optimizer, penalty)
    optimizer.step()
    assert int(penalty.step_count) == 2


def test_when_one_block_cannot_follow_none_does():
    optimizer = optimizer_of()
    taken, free = gb.GaussianNoise(1.0, 5), gb.GaussianNoise(1.0, 5)
    gb.follow(optimizer, taken)
    with pytest.raises(RuntimeError, match="already"):
        gb.follow(optimizer, free, taken)
    optimizer.step()
    assert [int(taken.step_count), int(free.step_count)] == [1, 0]
    free.step()


def test_when_one_block_cannot_be_stepped_none_is():
    optimizer = optimizer_of()
    free, followed = gb.GaussianNoise(1.0, 5), gb.GaussianNoise(1.0, 5)
    gb.follow(optimizer, followed)
    with pytest.raises(RuntimeError, match="follows an optimizer"):
        gb.step(free, followed)
    with pytest.raises(ValueError, match="needs batch_size"):
        gb.step(free, gb.EMA(nn.Linear(2, 2)))
    assert int(free.step_count) == 0


def test_removing_a_handle_again_leaves_a_later_follow_alone():
    block, optimizer = gb.GaussianNoise(1.0, 5), optimizer_of()
    handle = gb.follow(optimizer_of(), block)
    handle.remove()
    gb.follow(optimizer, block)
    handle.remove()
    with pytest.raises(RuntimeError, match="follows an optimizer, whose step advances it"):
        block.step()
    optimizer.step()
    assert int(block.step_count) == 1


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
@pytest.mark.parametrize(
    "make", [lambda: gb.Lazy(gb.R1Penalty(), 3), lambda: gb.LeCamRegularizer()]
)
def test_copies_follow_nothing(make, copied):
    block, optimizer = make(), optimizer_of()
    gb.follow(optimizer, block)
    optimizer.step()
    other = copied(block)
    optimizer.step()
    assert [int(block.step_count), int(other.step_count)] == [2, 1]
    other.step()
    assert int(other.step_count) == 2


def test_a_block_whose_optimizer_is_gone_is_free():
    block, optimizer = gb.GaussianNoise(1.0, 5), optimizer_of()
    gb.follow(optimizer, block)
    del optimizer
    gc.collect()
    block.step()
    assert int(block.step_count) == 1


def test_a_copy_or_a_pickle_of_an_optimizer_steps_no_block():
    weight = nn.Parameter(torch.ones(1))
    block, optimizer = gb.GaussianNoise(1.0, 5), torch.optim.Adam([weight])
    gb.follow(optimizer, block)
    for other in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        other.step()
    assert int(block.step_count) == 0


class CallsItsParent(torch.optim.Adam):
    def step(self, closure=None):
        return super().step(closure)


def test_an_optimizer_whose_step_calls_its_parents_steps_blocks_once():
    weight = nn.Parameter(torch.ones(1))
    torch.optim.Adam([weight])  # from its first instance on, a class runs the hooks itself
    optimizer, schedule = CallsItsParent([weight]), gb.LinearSchedule(0.0, 1.0, steps=8)
    gb.follow(optimizer, schedule)
    for count in (1, 2, 3):
        optimizer.step()
        assert int(schedule.step_count) == count


def test_a_step_of_an_optimizer_that_failed_leaves_the_next_one_a_step():
    def fail():
        raise ZeroDivisionError

    weight = nn.Parameter(torch.ones(1))
    torch.optim.Adam([weight])
    optimizer, schedule = CallsItsParent([weight]), gb.LinearSchedule(0.0, 1.0, steps=8)
    gb.follow(optimizer, schedule)
    with pytest.raises(ZeroDivisionError):
        optimizer.step(fail)
    optimizer.step()
    assert int(schedule.step_count) == 1


def test_blocks_of_a_compiled_optimizer_are_not_compiled_one_by_one():
    weight = nn.Parameter(torch.ones(1))
    optimizer, blocks = torch.optim.Adam([weight]), [gb.LinearSchedule(0.0, 1.0, steps=8)]
    blocks += [gb.GaussianNoise(1.0, 5), gb.LeCamRegularizer(), PENALTIES["lazy in scheduled"]()]
    gb.follow(optimizer, *blocks)
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    step = torch.compile(optimizer.step, backend="eager")
    weight.grad = torch.ones(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own
        for _ in range(4):
            step()
    assert [int(block.step_count) for block in blocks] == [4, 4, 4, 4]
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 2


def test_when_one_of_several_followers_cannot_step_none_does():
    model = nn.Linear(2, 2)
    optimizer, schedule = optimizer_of(), gb.LinearSchedule(0.0, 1.0, steps=8)
    ema = gb.EMA(model, batch_size=4)
    gb.follow(optimizer, schedule, ema)
    del model
    gc.collect()
    with pytest.raises(ValueError, match="its network is gone"):
        optimizer.step()
    assert [int(schedule.step_count), int(ema.step_count)] == [0, 0]


def test_the_handle_of_an_optimizer_that_is_gone_leaves_the_next_leader_alone():
    block, first, second = gb.GaussianNoise(1.0, 5), optimizer_of(), optimizer_of()
    handle = gb.follow(first, block)
    del first
    gc.collect()
    gb.follow(second, block)
    handle.remove()
    with pytest.raises(RuntimeError, match="follows an optimizer"):
        block.step()


def test_batches_of_before_a_load_do_not_enter_the_average():
    term = gb.LeCamRegularizer()
    saved = copy.deepcopy(term.state_dict())
    logits = torch.ones(4, requires_grad=True)
    term(100 * logits, -100 * logits)
    term.load_state_dict(saved)
    term.step()
    assert not term.sums.any()


@pytest.mark.parametrize("kind", ["lecam", "historical averaging"])
def test_averages_refuse_vmap_in_training_and_keep_their_state(kind):
    logits = torch.randn(3, 4, requires_grad=True)
    if kind == "lecam":
        term = gb.LeCamRegularizer()

        def call(x):
            return term(x, x)
    else:
        term, module = gb.HistoricalAveraging(), nn.Linear(4, 1, bias=False)

        def call(x):
            weights = {"module.weight": x[None]}
            return torch.func.grad(lambda w: torch.func.functional_call(Term(term, module), w, ()))(
                weights
            )["module.weight"].sum()

    with pytest.raises(ValueError, match=r"not many inside torch.vmap; call eval\(\)"):
        torch.func.vmap(call)(logits)
    before = copy.deepcopy(term.state_dict())
    term.step()
    assert term.state_dict()["step_count"] == before["step_count"] + 1
    term.eval()
    assert torch.func.vmap(call)(logits).shape == (3,)


class Term(nn.Module):
    def __init__(self, term, module):
        super().__init__()
        self.term, self.module = term, module

    def forward(self):
        return self.term(self.module)


def test_the_average_of_weights_stays_in_float32_when_it_is_cast_to_half_precision():
    term, module = gb.HistoricalAveraging(), nn.Linear(2, 1)
    term(module)
    term.step()
    average = term.average
    term(module)
    term.bfloat16()
    assert torch.equal(term.average, average)
    assert term.last is not None
    assert term.last.dtype == torch.float32


def test_forgotten_steps_are_told_at_the_users_line():
    noise = gb.GaussianNoise(1.0, anneal_steps=5)
    for _ in range(FORGOTTEN - 1):
        noise(torch.zeros(2, requires_grad=True))
    with pytest.warns(UserWarning, match="without an optimizer step") as caught:
        noise(torch.zeros(2, requires_grad=True))
    assert [each.filename for each in caught] == [__file__]


def test_a_step_beside_a_forward_in_another_thread_halves_no_statistic():
    block, one = Mean(), torch.ones(3, 2, requires_grad=True)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        forwards = threading.Thread(target=lambda: [block(one) for _ in range(3000)], daemon=True)
        forwards.start()
        while forwards.is_alive():
            block.step()
        forwards.join(60)
    finally:
        sys.setswitchinterval(interval)
    assert block.total.any()
    assert torch.equal(block.total, block.total.round())  # each step adds a mean, 1, or nothing


class Wrapper:
    """Holds an optimizer as Lightning's does."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    def step(self):
        self.optimizer.step()


def test_wrapped_optimizers_are_followed_through_the_inner_one():
    block, optimizer = gb.GaussianNoise(1.0, 5), Wrapper(optimizer_of())
    gb.follow(optimizer, block)
    optimizer.step()
    assert int(block.step_count) == 1


class OptimizerAround(torch.optim.Optimizer):
    """An optimizer by its class that leaves the work to another, as Accelerate's does."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    def step(self):
        self.optimizer.step()


def test_an_optimizer_wrapped_twice_is_followed_through_the_innermost_one():
    block, optimizer = gb.GaussianNoise(1.0, 5), Wrapper(OptimizerAround(optimizer_of()))
    gb.follow(optimizer, block)
    optimizer.step()
    assert int(block.step_count) == 1


def test_accelerates_optimizer_steps_blocks_once_per_accumulated_step():
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=3)
    critic = nn.Linear(3, 1)
    critic, optimizer = accelerator.prepare(critic, optimizer_of(critic))
    block = gb.Lazy(gb.R1Penalty(), 2)
    gb.follow(optimizer, block)
    for _ in range(6):
        with accelerator.accumulate(critic):
            accelerator.backward(critic(torch.randn(2, 3)).sum())
            optimizer.step()
            optimizer.zero_grad()
    assert int(block.step_count) == 2


@pytest.mark.parametrize("optimizer", [None, object(), [1], nn.Linear(1, 1), lambda: None])
def test_what_has_no_hook_after_its_step_is_refused_with_the_remedy(optimizer):
    block = gb.GaussianNoise(1.0, 5)
    with pytest.raises(TypeError, match=r"optimizer should be .*call gan_blocks\.step"):
        gb.follow(optimizer, block)
    block.step()


@pytest.mark.parametrize("module", [None, 3, "x", gb.KL(), [gb.Lazy(gb.R1Penalty())], (), gb.Lazy])
def test_what_is_no_module_is_refused(module):
    for call in (gb.step, lambda x: gb.follow(optimizer_of(), x)):
        with pytest.raises(TypeError, match="modules should be torch modules"):
            call(module)


def test_modules_without_a_clock_have_nothing_to_advance():
    optimizer = optimizer_of()
    gb.follow(optimizer, gb.R1Penalty(), nn.Linear(2, 2))
    gb.follow(optimizer, gb.R1Penalty())
    gb.step(gb.R1Penalty(), nn.Linear(2, 2))
    gb.step()
    optimizer.step()


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_a_gradient_scaler_skips_does_not_count(fused):
    weight = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([weight], lr=0.1, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    block, average = gb.Lazy(gb.R1Penalty(), 3), gb.LeCamRegularizer()
    gb.follow(optimizer, block, average)
    for step, factor in enumerate([1.0, float("inf"), 1.0]):
        optimizer.zero_grad()
        average(weight.detach() * factor, -weight.detach())
        scaler.scale((factor * weight).sum()).backward()
        before = weight.detach().clone()
        scaler.step(optimizer)
        scaler.update()
        assert torch.equal(before, weight) == (step == 1)
        assert int(block.step_count) == [1, 1, 2][step]
    assert average.sums.isfinite().all()
    assert average.count.item() == pytest.approx(1 - 0.99**2)


def test_optimizers_with_closures_step_blocks_once():
    weight = nn.Parameter(torch.ones(3))
    optimizer, block = torch.optim.LBFGS([weight], max_iter=5), gb.GaussianNoise(1.0, 5)
    gb.follow(optimizer, block)

    def closure():
        optimizer.zero_grad()
        loss = weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert int(block.step_count) == 1


# --- forgotten ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PENALTIES)
def test_a_counting_penalty_that_nobody_steps_raises_and_names_both_remedies(kind):
    critic, penalty = linear_critic(), PENALTIES[kind]()
    real = torch.randn(2, 3, dtype=F64)
    with torch.no_grad():  # looking does not count
        for _ in range(FORGOTTEN):
            penalty(lambda x: x.sum(1), real)
    for _ in range(FORGOTTEN - 1):
        penalty(critic, real)
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"gan_blocks\.follow.*block\.step\(\)"):
            penalty(critic, real)
    penalty.step()
    penalty(critic, real)
    penalty.eval()
    for _ in range(FORGOTTEN):
        penalty(lambda x: x.sum(1), real)


@pytest.mark.parametrize("kind", AVERAGES)
def test_an_average_that_nobody_steps_warns_once(kind):
    make, call = AVERAGES[kind]
    block, x = make().double(), torch.randn(2, 3, dtype=F64)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(FORGOTTEN + 2):
            call(block, x)
    assert [type(block).__name__ in str(each.message) for each in caught] == [True]
    assert "gan_blocks.follow" in str(caught[0].message)


def test_annealed_noise_and_schedules_that_nobody_steps_warn_and_constant_noise_does_not():
    x = torch.randn(2, 3)
    for block, arguments in (
        (gb.GaussianNoise(1.0, 5), (x,)),
        (gb.LinearSchedule(0.0, 1.0, 5), ()),
    ):
        for _ in range(FORGOTTEN - 1):
            block(*arguments)
        with pytest.warns(UserWarning, match="without an optimizer step"):
            block(*arguments)
    constant = gb.GaussianNoise(1.0)
    for _ in range(FORGOTTEN + 1):
        constant(x)


def test_a_block_that_follows_takes_any_number_of_parts_of_a_batch():
    penalty, critic = PENALTIES["lazy in scheduled"](), linear_critic()
    optimizer, real = optimizer_of(critic), torch.randn(1, 3, dtype=F64)
    gb.follow(optimizer, penalty)
    for _ in range(FORGOTTEN + 44):
        penalty(critic, real)
    optimizer.step()
    penalty(critic, real)


# --- authors of blocks -------------------------------------------------------------------------------


class Mean(Averaging):
    """Averages its input without decay, so that a plain list predicts it."""

    def __init__(self):
        super().__init__((2,))
        self.register_buffer("total", torch.zeros(2))

    def forward(self, x):
        self.pool(x.mean(0), len(x))
        return x.sum() + self.total.sum()

    def commit(self, value, seen):
        self.total = self.total + torch.where(seen, value, 0)


def test_numbers_that_are_not_finite_are_left_out_of_a_pool():
    block = Mean()
    block(torch.tensor([[1.0, float("nan")]]))
    block(torch.tensor([[3.0, 5.0], [5.0, 5.0]]))
    block(torch.tensor([[float("inf"), float("-inf")]]))
    block.step()
    torch.testing.assert_close(block.total, torch.tensor([3.0, 5.0]))


def test_a_small_number_is_pooled_exactly_after_a_step_with_a_large_one():
    block = Mean()
    for value in (1e8, 1e-3):
        block(torch.full((4, 2), value))
        assert torch.equal(block.pooled, torch.full((2,), value))
        block.step()


def test_the_pools_of_a_half_precision_model_stay_in_float32():
    block = Mean().bfloat16()
    assert block.pooled.dtype == block.pooled_samples.dtype == torch.float32
    for _ in range(200):
        block(torch.full((64, 2), 1.0009765625))
    assert block.pooled_samples.tolist() == [12800, 12800]
    assert block.pooled[0] == 1.0009765625


@pytest.mark.parametrize(
    "make",
    [
        gb.LeCamRegularizer,
        gb.PathLengthPenalty,
        lambda: gb.GradientBalancer({"a": 1, "b": 2}),
    ],
)
def test_the_averages_of_a_half_precision_model_stay_in_float32(make):
    for name, buffer in make().bfloat16().named_buffers():
        assert not buffer.is_floating_point() or buffer.dtype == torch.float32, name


def test_two_threads_pool_all_their_samples():
    block = Mean()

    def work(value):
        for _ in range(100):
            block(torch.full((1, 2), value))

    threads = [threading.Thread(target=work, args=(value,)) for value in (1.0, 3.0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert block.pooled_samples.tolist() == [200, 200]
    torch.testing.assert_close(block.pooled, torch.tensor([2.0, 2.0]))


def test_between_two_steps_nothing_is_saved():
    block, fresh = Mean(), Mean()
    block(torch.ones(3, 2))
    assert set(block.state_dict()) == {"step_count", "total"}
    fresh.load_state_dict(block.state_dict())
    fresh.step()
    assert fresh.total.tolist() == [0, 0]


class Clock(RuleBasedStateMachine):
    """Whatever happens around the steps, the state is that of a plain count and a plain list."""

    @initialize(fused=st.booleans())
    def start(self, fused):
        self.block = nn.ModuleDict(
            {
                "mean": Mean().double(),
                "schedule": gb.LinearSchedule(0.0, 1.0, steps=7),
                "lazy": gb.Lazy(gb.R1Penalty(), every=3),
            }
        )
        self.block["again"] = nn.ModuleList([self.block["mean"], self.block["lazy"]])
        self.weight = nn.Parameter(torch.ones(2, dtype=F64))
        self.optimizer = torch.optim.Adam([self.weight], lr=0.0, fused=fused)
        self.scaler = torch.amp.GradScaler("cpu")
        self.handle, self.count, self.total, self.samples = None, 0, 0.0, []

    @rule(values=st.lists(st.integers(-8, 8), min_size=1, max_size=4), repeat=st.integers(1, 3))
    def forward(self, values, repeat):
        x = torch.tensor(values, dtype=F64)[:, None].expand(-1, 2)
        for _ in range(repeat):
            found = self.block["mean"](x)
            assert found.item() == pytest.approx(2 * sum(values) + 2 * self.total)
        if self.block.training:
            self.samples += values * repeat

    @rule()
    def look(self):
        with torch.no_grad():
            self.block["mean"](torch.full((5, 2), 100.0, dtype=F64))
        self.block["schedule"]()

    @rule(mode=st.booleans())
    def train(self, mode):
        self.block.train(mode)

    def _stepped(self):
        self.count += 1
        if self.samples:
            self.total += sum(self.samples) / len(self.samples)
        self.samples = []

    @rule()
    def step(self):
        if self.handle:
            with pytest.raises(RuntimeError):
                gb.step(self.block)
            with pytest.raises(RuntimeError):
                self.block["lazy"].step()
            self.optimizer.step()
        else:
            gb.step(self.block, self.block["again"])
            self.optimizer.step()  # nobody follows it
        self._stepped()

    @rule(finite=st.booleans())
    def scaled_step(self, finite):
        if not self.handle:
            return
        self.optimizer.zero_grad()
        factor = 1.0 if finite else float("inf")
        self.scaler.scale((factor * self.weight).sum()).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if finite:
            self._stepped()

    @rule()
    def follow(self):
        if self.handle:
            with pytest.raises(RuntimeError):
                gb.follow(self.optimizer, self.block["lazy"])
        else:
            self.handle = gb.follow(self.optimizer, self.block)

    @rule()
    def leave(self):
        if self.handle:
            self.handle.remove()
            self.handle = None

    @rule(how=st.sampled_from(["copy", "pickle", "load"]))
    def replace(self, how):
        training = self.block.training
        if how == "copy":
            other = copy.deepcopy(self.block)
        elif how == "pickle":
            other = pickle.loads(pickle.dumps(self.block))
        else:
            other = copy.deepcopy(self.block)
            gb.step(other)
            other["mean"].total.fill_(7)
            other["mean"](torch.ones(1, 2, dtype=F64))
            other.load_state_dict(copy.deepcopy(self.block.state_dict()))
            gb.step(nn.ModuleList([]))
            other["mean"].pooled_samples.zero_()
            self.samples = []
        if self.handle:
            self.handle.remove()
            self.handle = None
        self.block = other.train(training)

    @invariant()
    def state_is_that_of_the_steps(self):
        assert int(self.block["mean"].step_count) == self.count
        assert int(self.block["lazy"].step_count) == self.count
        assert self.block["lazy"].is_due() == (self.count % 3 == 0)
        assert self.block["schedule"]().item() == pytest.approx(min(self.count / 7, 1))
        for number in self.block["mean"].total.tolist():
            assert number == pytest.approx(self.total)


TestClock = Clock.TestCase
TestClock.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


def test_a_block_that_overrides_step_is_refused_when_its_class_is_made():
    with pytest.raises(TypeError, match="Counts should override on_step"):

        class Counts(Clocked):  # pyright: ignore[reportUnusedClass]
            def step(self):
                pass


def test_clocked_blocks_of_ones_own_need_on_step_only():
    class Doubling(Clocked):
        def __init__(self):
            super().__init__()
            self.register_buffer("value", torch.ones(()))

        def forward(self):
            return self.value

        def on_step(self):
            self.value = 2 * self.value

    block, optimizer = Doubling(), optimizer_of()
    gb.follow(optimizer, nn.Sequential(nn.Identity(), block))
    for _ in range(3):
        optimizer.step()
    assert block() == 8


def test_a_step_runs_without_gradients():
    class Copying(Clocked):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2))
            self.register_buffer("copied", torch.zeros(2))

        def on_step(self):
            self.copied = 3 * self.weight

    block = Copying()
    optimizer = optimizer_of(block)
    block.step()
    assert not block.copied.requires_grad
    gb.follow(optimizer, block)
    optimizer.step()
    assert not block.copied.requires_grad
    assert block.copied.tolist() == [3.0, 3.0]


def test_on_step_sees_the_number_of_steps_before_this_one():
    class Recording(Clocked):
        def __init__(self):
            super().__init__()
            self.seen = []

        def on_step(self):
            self.seen.append(int(self.step_count))

    block, optimizer = Recording(), optimizer_of()
    block.step()
    gb.follow(optimizer, block)
    optimizer.step()
    assert block.seen == [0, 1]
