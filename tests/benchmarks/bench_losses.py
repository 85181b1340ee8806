"""Each loss on 1e6 logits, forward and backward, beside the best expression by hand: `make bench`.

In each group the first row is the baseline, fused as far as torch's own functions go; the
bracketed figures are ratios to the fastest. The physical limit is a read of both inputs and a
write of both gradients, 16 MB, which "read and write" does with one multiplication.
"""

import math

import pytest
import torch
import torch.nn.functional as F

import gan_blocks as gb

SIZE = 1_000_000


def zero(x):
    return x.new_zeros(()).expand_as(x)


def one(x):
    return x.new_ones(()).expand_as(x)


def log_one_minus_exp(x):
    return torch.log(-torch.expm1(-x))


BY_HAND = {
    gb.MinimaxLoss(): lambda r, f: -F.logsigmoid(r).mean() + F.softplus(f).mean(),
    gb.NonSaturatingLoss(0.9): lambda r, f: (
        F.softplus(-r).mean() + 0.1 * r.mean() + F.softplus(f).mean()
    ),
    gb.LeastSquaresLoss(): lambda r, f: (F.mse_loss(r, one(r)) + F.mse_loss(f, zero(f))) / 2,
    gb.HingeLoss(): lambda r, f: F.relu(1 - r).mean() + F.relu(1 + f).mean(),
    gb.WassersteinLoss(): lambda r, f: f.mean() - r.mean(),
    gb.RelativisticLoss(): lambda r, f: -F.logsigmoid(r - f).mean(),
    gb.RelativisticLoss("least_squares"): lambda r, f: F.mse_loss(r - f, one(f)),
    gb.RelativisticLoss("hinge"): lambda r, f: F.relu(1 - r + f).mean(),
    gb.RelativisticAverageLoss(): lambda r, f: (
        -F.logsigmoid(r - f.mean()).mean() - F.logsigmoid(r.mean() - f).mean()
    ),
    gb.RelativisticAverageLoss("least_squares"): lambda r, f: (
        F.mse_loss(r, (f.mean() + 1).expand_as(r)) + F.mse_loss(f, (r.mean() - 1).expand_as(r))
    ),
    gb.RelativisticAverageLoss("hinge"): lambda r, f: (
        F.relu(1 + f.mean() - r).mean() + F.relu(1 - r.mean() + f).mean()
    ),
}
BOUNDS_BY_HAND = {
    gb.KL(): lambda r, f: f.exp().mean() / math.e - r.mean(),
    gb.ReverseKL(): lambda r, f: (-r).exp().mean() + f.mean() - 1,
    gb.PearsonChi2(): lambda r, f: F.mse_loss(F.relu(f / 2 + 1), zero(f)) - 1 - r.mean(),
    gb.NeymanChi2(): lambda r, f: (-r).exp().mean() + 1 - 2 * (-f / 2).exp().mean(),
    gb.SquaredHellinger(): lambda r, f: (-r).exp().mean() + f.exp().mean() - 2,
    gb.JensenShannon(): lambda r, f: F.softplus(-r).mean() + F.softplus(f).mean() - 2 * math.log(2),
    gb.WeightedJensenShannon(0.3): lambda r, f: (
        F.softplus(-r).mean() - 0.7 * log_one_minus_exp(F.softplus(-f) / 0.3).mean()
    ),
    gb.TotalVariation(): lambda r, f: (f.tanh().mean() - r.tanh().mean()) / 2,
    # No short expression is right for Jeffrey; this is what its two exponentials alone cost.
    gb.Jeffrey(): lambda r, f: f.exp().mean() + (-f).exp().mean() - r.mean(),
    gb.AlphaDivergence(0.5): lambda r, f: (
        F.softplus(-r).mean() + 4 * F.softplus(-f).reciprocal().mean()
    ),
    gb.AlphaDivergence(1.5): lambda r, f: F.relu(0.5 * f + 1).pow(3).mean() / 1.5 - r.mean(),
}
BY_HAND |= {gb.FDivergenceLoss(d): by_hand for d, by_hand in BOUNDS_BY_HAND.items()}


def timed(benchmark, function):
    real = torch.randn(SIZE, requires_grad=True)
    fake = torch.randn(SIZE, requires_grad=True)

    def run():
        real.grad = fake.grad = None
        function(real, fake).backward()

    benchmark.pedantic(run, rounds=30, warmup_rounds=5)


def bench_physical_limit(benchmark):
    real, fake = torch.randn(SIZE), torch.randn(SIZE)
    benchmark.group = "0: read and write"
    benchmark.pedantic(lambda: (real * 2.0, fake * 2.0), rounds=30, warmup_rounds=5)


def short(loss):
    """The name with what differs from the defaults, or that of the divergence."""
    if isinstance(loss, gb.FDivergenceLoss):
        return repr(loss.divergence)
    arguments, defaults = gb.to_spec(loss), gb.to_spec(type(loss)())
    changed = [str(value) for key, value in arguments.items() if value != defaults[key]]
    return " ".join([type(loss).__name__, *changed])


@pytest.mark.parametrize("name", ["by hand", "ours"])
@pytest.mark.parametrize("loss", BY_HAND, ids=repr)
def bench_loss(benchmark, loss, name):
    benchmark.group = f"{short(loss)} on {SIZE} logits, forward and backward"
    timed(benchmark, loss.discriminator if name == "ours" else BY_HAND[loss])
