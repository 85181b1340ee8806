"""Run twice with a rank and a file: two processes on halves of a batch against one on the whole.

    python tests/two_processes.py 0 FILE & python tests/two_processes.py 1 FILE

Every case whose block claims it, in its own process this time; a step of DistributedDataParallel; and
a compiled layer.
"""
# What lies in a module is typed as any tensor or module, and tables of arguments are unpacked.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportOptionalMemberAccess=false

import copy
import sys
from datetime import timedelta

import torch
import torch.distributed as dist
from cases import CASES
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from gan_blocks import (
    MinibatchDiscrimination,
    MinibatchStdDev,
    R1Penalty,
    RelativisticAverageLoss,
    VirtualBatchNorm,
    WithReference,
    distributed,
)
from gan_blocks.testing.checks import _objective, names_of_checks

F64 = torch.float64


def compare_case(case, rank):
    inputs, block = list(case.tensors()), case.block(dtype=F64)
    batched = len(inputs[: case.batched])
    halves = [len(x) // 2 for x in inputs[:batched]]
    if 0 in halves:
        return
    part = list(inputs)
    for i, half in enumerate(halves):
        inputs[i] = inputs[i][: 2 * half]
        part[i] = inputs[i].split(half)[rank]
    with distributed.local():
        whole, expected = _objective(case, copy.deepcopy(block), inputs)
    ours, gradients = _objective(case, copy.deepcopy(block), part, rank)
    parts = [distributed.all_gather(ours) if ours.dim() else distributed.mean(ours)]
    for i, gradient in enumerate(gradients):
        collect = distributed.all_gather if i < batched else distributed.all_reduce
        parts.append(collect(gradient))
    for actual, wanted in zip(parts, [whole, *expected], strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-7, atol=1e-9)


def critic():
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 3, 3, padding=1), VirtualBatchNorm(3), nn.Tanh(), MinibatchStdDev(4)]
    layers += [nn.Flatten(), nn.Linear(64, 8), nn.Tanh(), MinibatchDiscrimination(8, 4)]
    network = nn.Sequential(*layers, nn.Linear(12, 1), nn.Flatten(0))
    return WithReference(network, torch.randn(5, 1, 4, 4)).double()


def loss_of(network, real, fake):
    """Two forwards and a penalty, of which one backward follows."""
    loss = RelativisticAverageLoss().discriminator(network(real), network(fake))
    return loss + R1Penalty(2.0)(network, real, fake)


def compare_training_step(rank):
    """Gradients under DistributedDataParallel are those of one process on the whole batch."""
    real, fake = torch.randn(8, 1, 4, 4, dtype=F64), torch.randn(8, 1, 4, 4, dtype=F64)
    alone = critic()
    with distributed.local():
        loss_of(alone, real, fake).backward()
    parallel = DistributedDataParallel(critic())
    loss_of(parallel, real[4 * rank :][:4], fake[4 * rank :][:4]).backward()
    pairs = zip(parallel.module.named_parameters(), alone.parameters(), strict=True)
    for (name, p), q in pairs:
        assert p.grad is not None, name
        torch.testing.assert_close(
            p.grad, q.grad, rtol=1e-7, atol=1e-9, msg=lambda m, n=name: n + m
        )


def compare_compiled_layer(rank):
    layer, x = MinibatchDiscrimination(6, 4).double(), torch.randn(3, 6, dtype=F64)
    with torch.no_grad():
        for weight in layer.parameters():
            weight.copy_(torch.linspace(-1, 1, weight.numel(), dtype=F64).view_as(weight))
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    results = []
    for function in (layer, compiled):
        y = x.clone().requires_grad_()
        result = function(y)
        results.append((result, *torch.autograd.grad(result.sin().sum(), (y, layer.theta))))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


def compare_uneven_parts(rank):
    """Three samples here and five there."""
    x = torch.arange(16, dtype=F64).view(8, 2).requires_grad_()
    own = x[:3] if rank == 0 else x[3:]
    torch.testing.assert_close(distributed.all_gather(own), x)
    torch.testing.assert_close(distributed.mean(own), x.mean())
    torch.testing.assert_close(distributed.mean(own, 0), x.mean(0))
    assert distributed.place_in_batch(own) == ((0, 8) if rank == 0 else (3, 8))
    weight = torch.tensor([2.0, 3.0], dtype=F64)[rank]
    (gradient,) = torch.autograd.grad((weight * distributed.all_gather(own)).sum(), x)
    # Both processes' losses see each sample: 2 + 3.
    wanted = torch.zeros_like(x)
    wanted[: 3 if rank == 0 else None] = 5
    wanted[: 0 if rank == 0 else 3] = 0
    torch.testing.assert_close(gradient, wanted)


def main():
    rank, file = int(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{file}", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    torch.manual_seed(5)
    claimed = [c for c in CASES if "two_processes" in names_of_checks(c)]
    claimed = [c for c in claimed if "two_processes" not in c.expected_failures]
    for case in claimed:
        try:
            compare_case(case, rank)
        except Exception as error:
            raise AssertionError(case.name) from error
    compare_uneven_parts(rank)
    compare_training_step(rank)
    compare_compiled_layer(rank)
    print(f"{len(claimed)} cases agree")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
