"""What the functions for several processes compute, and that blocks agree with one process."""
# What lies in a module is typed as any tensor or module, and tables of arguments are unpacked.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportOptionalMemberAccess=false

import copy
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from gan_blocks import (
    DCGANGenerator,
    MinibatchDiscrimination,
    MinibatchStdDev,
    PatchDiscriminator,
    R1Penalty,
    VirtualBatchNorm,
    WithReference,
    distributed,
)
from gan_blocks.testing.checks import _gloo_groups

F64 = torch.float64


def on_processes(function, count=2):
    """What the function gives for each rank, each with a process group of its own."""
    groups = _gloo_groups(count)

    def process(rank):
        with distributed.process_group(groups[rank]):
            return function(rank)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(process, range(count)))


@pytest.mark.skipif(not dist.is_gloo_available(), reason="this torch has no gloo")
def test_two_processes_agree_with_one(tmp_path):
    script = Path(__file__).with_name("two_processes.py")
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), str(tmp_path / "meeting")],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in (0, 1)
    ]
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output[-4000:]
        count = int(output.split(" cases agree")[0].split()[-1])
        assert count > 100


def test_on_one_process_every_function_is_the_identity():
    x = torch.randn(4, 3, requires_grad=True)
    assert distributed.process_count() == 1
    assert distributed.all_reduce(x) is x
    assert distributed.all_gather(x) is x
    assert distributed.place_in_batch(x) == (0, 4)
    torch.testing.assert_close(distributed.mean(x), x.mean())
    torch.testing.assert_close(distributed.mean(x, 0), x.mean(0))


@pytest.mark.parametrize("count", [2, 3])
def test_gradient_of_a_sum_over_processes_is_the_sum_of_their_gradients(count):
    # With y = sum_r x_r and losses w_r y^2: dL/dx_s = sum_r 2 w_r y on every process s.
    def step(rank):
        x = torch.tensor(float(rank + 1), dtype=F64, requires_grad=True)
        y = distributed.all_reduce(x)
        loss = (rank + 2.0) * y.square()
        (first,) = torch.autograd.grad(loss, x, create_graph=True)
        (second,) = torch.autograd.grad(first, x)
        return y.item(), first.item(), second.item()

    total = count * (count + 1) / 2
    weights = sum(r + 2.0 for r in range(count))
    for y, first, second in on_processes(step, count):
        assert y == total
        assert first == pytest.approx(2 * weights * total)
        # Each process's first derivative depends on every x.
        assert second == pytest.approx(count * 2 * weights)


def test_gathered_batch_holds_the_parts_in_the_order_of_ranks():
    parts = [torch.full((n, 2), float(n), dtype=F64) for n in (1, 3, 2)]
    for gathered in on_processes(lambda rank: distributed.all_gather(parts[rank]), 3):
        assert torch.equal(gathered, torch.cat(parts))


def test_a_part_without_samples_is_allowed():
    parts = [torch.ones(0, 2), torch.ones(3, 2)]
    for gathered in on_processes(lambda rank: distributed.all_gather(parts[rank])):
        assert torch.equal(gathered, torch.ones(3, 2))


def test_functional_gradient_passes_through_the_sum():
    def step(rank):
        x = torch.tensor(2.0 + rank, dtype=F64)
        return torch.func.grad(lambda x: distributed.all_reduce(x).square())(x).item()

    assert on_processes(step) == [2 * 2 * 5.0] * 2


def test_local_leaves_the_other_processes_out():
    layer, x = MinibatchDiscrimination(3, 2), torch.randn(6, 3)
    alone = layer(x[:3])

    def step(rank):
        with distributed.local():
            inside = layer(x[3 * rank :][:3])
        return inside, layer(x[3 * rank :][:3])

    (inside, together), _ = on_processes(step)
    torch.testing.assert_close(inside, alone)
    assert not torch.allclose(together, alone)


def test_means_of_half_precision_keep_its_range():
    x = [torch.full((60_000,), 300.0).half(), torch.full((60_000,), 301.0).half()]
    for dim in (None, 0):
        for mean in on_processes(lambda rank, dim=dim: distributed.mean(x[rank], dim)):
            assert mean.dtype == torch.float16
            assert mean.item() == pytest.approx(300.5)


def test_a_process_without_samples_takes_part():
    parts, layer = [torch.zeros(0, 3), torch.randn(4, 3)], MinibatchStdDev()
    empty, whole = on_processes(lambda rank: layer(parts[rank]))
    assert empty.shape == (0, 4)
    torch.testing.assert_close(whole, layer(parts[1]))


def test_groups_that_are_none_are_refused():
    with (
        pytest.raises(ValueError, match=r'None or "local", got .wrld'),
        distributed.process_group("wrld"),
    ):
        pass
    outside = dist.GroupMember.NON_GROUP_MEMBER
    with pytest.raises(ValueError, match="does not belong"), distributed.process_group(outside):
        pass


@pytest.mark.parametrize("layer", [MinibatchDiscrimination(4, 3), MinibatchStdDev(3)])
def test_parts_of_different_sizes_on_three_processes_give_the_whole(layer):
    x = torch.randn(9, 4)
    parts = x.split([2, 4, 3])
    results = on_processes(lambda rank: layer(parts[rank]), 3)
    torch.testing.assert_close(torch.cat(results), layer(x))


@pytest.mark.parametrize("momentum", [0.1, None])
def test_batch_norm_of_a_network_takes_the_statistics_of_all_parts(momentum):
    torch.manual_seed(0)
    generator = DCGANGenerator(3, 8, width=2)
    for norm in generator.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.momentum = momentum
    z = torch.randn(9, 3)
    parts = z.split([2, 4, 3])

    def step(rank):
        copied = copy.deepcopy(generator)
        images = [copied(parts[rank]) for _ in range(2)]
        return images[-1], copied

    results = on_processes(step, 3)
    generator(z)
    torch.testing.assert_close(torch.cat([images for images, _ in results]), generator(z))
    for _, copied in results:
        for mine, wanted in zip(copied.buffers(), generator.buffers(), strict=True):
            torch.testing.assert_close(mine, wanted)
        torch.testing.assert_close(copied.eval()(z[:1]), generator.eval()(z[:1]))
        generator.train()


def test_initialisation_by_data_ends_the_same_on_all_processes():
    torch.manual_seed(0)
    x = 5 * torch.randn(8, 6)
    alone = MinibatchDiscrimination(6, 3, bias=True)
    state = alone.state_dict()
    alone.initialize(x)

    def step(rank):
        layer = MinibatchDiscrimination(6, 3, bias=True)
        layer.load_state_dict(state)
        layer.initialize(x[4 * rank :][:4])
        return layer

    state = {name: value.clone() for name, value in state.items()}
    state["log_scale"].fill_(-torch.tensor(5.0).log())
    state["bias"].fill_(-1)
    for layer in on_processes(step):
        torch.testing.assert_close(layer.log_scale, alone.log_scale)
        torch.testing.assert_close(layer.bias, alone.bias)


@pytest.mark.parametrize("shape", [(), 4])
def test_draw_for_no_batch_is_refused(shape):
    with pytest.raises(ValueError, match="shape should begin with the size of the part"):
        distributed.draw(torch.randn, shape, torch.device("cpu"))


@pytest.mark.parametrize("distribution", [torch.rand, torch.randn])
def test_draws_of_processes_seeded_alike_are_the_parts_of_one_draw(distribution):
    def step(rank, seed=0):
        generator = torch.Generator().manual_seed(seed)
        first = distributed.draw(distribution, (4, 3), torch.device("cpu"), generator)
        return first, distributed.draw(distribution, (2,), torch.device("cpu"), generator)

    generator = torch.Generator().manual_seed(0)
    whole = distribution((12, 3), generator=generator), distribution((6,), generator=generator)
    for parts, wanted in zip(zip(*on_processes(step, 3), strict=True), whole, strict=True):
        torch.testing.assert_close(torch.cat(parts), wanted, rtol=0, atol=0)


def test_draws_of_processes_seeded_differently_are_independent():
    def step(rank):
        generator = torch.Generator().manual_seed(rank)
        return distributed.draw(torch.randn, (20_000,), torch.device("cpu"), generator)

    first, second = on_processes(step)
    assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 0.03


def test_reference_is_whole_on_every_process_for_layers_that_look_at_the_batch():
    torch.manual_seed(0)
    layers = [MinibatchDiscrimination(6, 3), VirtualBatchNorm(9), torch.nn.Linear(9, 1)]
    network = WithReference(torch.nn.Sequential(*layers), torch.randn(5, 6)).double()
    x = torch.randn(8, 6, dtype=torch.float64)
    parts = on_processes(lambda rank: copy.deepcopy(network)(x[4 * rank :][:4]))
    torch.testing.assert_close(torch.cat(parts), network(x))


@pytest.mark.skipif(not dist.is_gloo_available(), reason="this torch has no gloo")
@pytest.mark.parametrize(("training", "count"), [(True, 2), (False, 0)])
def test_penalties_notice_a_batch_norm_over_several_processes(training, count):
    critic = PatchDiscriminator(3, width=4, depth=1, norm="batch").train(training)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        on_processes(lambda rank: R1Penalty()(critic, torch.randn(2, 3, 8, 8)))
    assert sum("batch norm of 8 channels" in str(each.message) for each in caught) == count
