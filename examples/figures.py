"""The pictures of the theory pages, from the library's own blocks.

    python examples/figures.py

Each is a function with the name of its file.
"""

import argparse
import math
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.distributions import Normal

import gan_blocks as gb
from show import save

DIVERGENCES = {
    "KL": gb.KL(),
    "reverse KL": gb.ReverseKL(),
    "Jeffrey": gb.Jeffrey(),
    "Pearson": gb.PearsonChi2(),
    "Neyman": gb.NeymanChi2(),
    "Hellinger": gb.SquaredHellinger(),
    "alpha = 0.5": gb.AlphaDivergence(0.5),
    "JS": gb.JensenShannon(),
    "JS, pi = 0.2": gb.WeightedJensenShannon(0.2),
    "GAN": gb.GANDivergence(),
    "total variation": gb.TotalVariation(),
}


def line(start: float, end: float, steps: int = 401) -> Tensor:
    """Numbers at equal distances."""
    return torch.linspace(start, end, steps, dtype=torch.float64)


def f_divergences() -> Figure:
    """A row for each divergence: f, its conjugate, and the activation of the critic's output."""
    figure = Figure(figsize=(7, 12), layout="constrained")
    grid: Any = figure.subplots(len(DIVERGENCES), 3, sharex="col")
    for axes, title in zip(grid[0], ("f(u)", "f*(t)", "g(v)"), strict=True):
        axes.set_title(title, fontsize=10)
    for axes, name in zip(grid[-1], ("u = p/q", "t", "v, the critic's output"), strict=True):
        axes.set_xlabel(name, fontsize=9)
    for row, (name, divergence) in zip(grid, DIVERGENCES.items(), strict=True):
        f, conjugate, activation = row
        end = divergence.slope_at_infinity
        u, t, v = line(0.02, 4), line(-3, min(3, end - 1e-3)), line(-4, 4)
        f.plot(u, divergence.f(u))
        f.plot(1, divergence.f(torch.ones(())), "k.")
        conjugate.plot(t, divergence.conjugate(t))
        start = torch.tensor(divergence.threshold)
        conjugate.plot(start, divergence.conjugate(start), "k.")
        activation.plot(v, divergence.activation(v))
        best = divergence.optimal_critic(torch.zeros(()))
        activation.plot(best, divergence.activation(best), "k.")
        if math.isfinite(end):
            conjugate.axvline(end, color="0.5", linestyle=":", linewidth=1)
            activation.axhline(end, color="0.5", linestyle=":", linewidth=1)
        f.set_ylabel(name, fontsize=9)
        for axes in row:
            heights = axes.lines[0].get_ydata()
            low, high = max(heights.min(), -3), min(heights.max(), 4)
            axes.set_ylim(low - 0.1 * (high - low), high + 0.1 * (high - low))
            axes.tick_params(labelsize=7)
            axes.grid(alpha=0.3)
    return figure


def vanishing_gradients() -> Figure:
    """The slope of each generator's loss, by the logit of its sample."""
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    for name, loss in (("minimax", gb.MinimaxLoss()), ("non-saturating", gb.NonSaturatingLoss())):
        logit = line(-8, 8).requires_grad_()
        total = torch.stack([loss.generator(each[None]) for each in logit]).sum()
        (slope,) = torch.autograd.grad(total, logit)
        axes.plot(logit.detach(), slope, label=name)
    axes.set_xlabel(
        "logit of a generated sample: low where the discriminator is sure that it is one"
    )
    axes.set_ylabel("slope of the generator's loss")
    axes.legend()
    axes.grid(alpha=0.3)
    return figure


def critics_and_distances() -> Figure:
    """What the best critics look like, and how two distances follow a shift."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    discriminators, critics, distances = figure.subplots(1, 3)
    real, fake = Normal(-3.0, 1.0), Normal(3.0, 1.0)
    x = line(-6, 6)
    ratio = real.log_prob(x) - fake.log_prob(x)
    shade(discriminators, real, fake, x)
    discriminators.plot(x, gb.NonSaturatingLoss().optimal_critic(ratio).sigmoid(), color="C2")
    discriminators.set_title("best discriminator, p / (p + q)", fontsize=9)
    quantiles = line(0, 1, 1003)[1:-1]
    points = [each.icdf(quantiles)[:, None] for each in (real, fake)]
    critic = gb.wasserstein_critic(*points)
    between = x[(x > points[0].min()) & (x < points[1].max())][:, None]
    shade(critics, real, fake, x)
    critics.plot(between, critic(between) - critic(torch.zeros_like(between[:1])), color="C2")
    critics.set_title("best Wasserstein critic", fontsize=9)
    theta = torch.arange(-20, 21, dtype=torch.float64) / 10
    zero = torch.zeros(1, 1, dtype=theta.dtype)
    distances.plot(theta, [jensen_shannon_of_points(t) for t in theta], ".", label="JSD")
    wasserstein = [gb.wasserstein_distance(zero, t.reshape(1, 1)) for t in theta]
    distances.plot(theta, wasserstein, label="Wasserstein")
    distances.axhline(math.log(2), color="0.5", linestyle=":", linewidth=1)
    distances.set_title("distance of the points 0 and theta", fontsize=9)
    distances.set_xlabel("theta")
    distances.legend(fontsize=8)
    for axes in (discriminators, critics, distances):
        axes.grid(alpha=0.3)
    return figure


def shade(axes: Any, real: Normal, fake: Normal, x: Tensor) -> None:
    """The two densities behind a curve."""
    axes.fill_between(x, real.log_prob(x).exp(), color="C0", alpha=0.3, linewidth=0)
    axes.fill_between(x, fake.log_prob(x).exp(), color="C1", alpha=0.3, linewidth=0)
    axes.text(real.mean, 0.42, "p, real", ha="center", fontsize=8)
    axes.text(fake.mean, 0.42, "q, generated", ha="center", fontsize=8)
    axes.set_xlabel("x")


def jensen_shannon_of_points(theta: Tensor) -> Tensor:
    """Between a unit mass at 0 and one at theta."""
    places = torch.stack([torch.zeros_like(theta), theta]).unique()
    p, q = (places == 0).double(), (places == theta).double()
    return gb.JensenShannon().between(p, q) / 2  # the block is twice the textbook's


def label_smoothing() -> Figure:
    """The best discriminator without smoothing, with one-sided and with two-sided smoothing."""
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    real, fake = Normal(-2.0, 1.0), Normal(2.0, 1.0)
    x = line(-6, 6)
    shade(axes, real, fake, x)
    ratio = real.log_prob(x) - fake.log_prob(x)
    for (alpha, beta), style in (((1.0, 0.0), "C2-"), ((0.9, 0.0), "C3-"), ((0.9, 0.1), "C4--")):
        best = gb.NonSaturatingLoss(alpha, beta).optimal_critic(ratio).sigmoid()
        axes.plot(x, best, style, label=f"targets {alpha:g} and {beta:g}")
    axes.set_ylabel("best discriminator")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    return figure


FIGURES = (f_divergences, vanishing_gradients, critics_and_distances, label_smoothing)


def main() -> None:
    """Draw all."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("docs/images"), help="(%(default)s)")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for draw in FIGURES:
        save(draw(), options.out / f"{draw.__name__}.png")
    print(f"{len(FIGURES)} pictures are in {options.out}.")


if __name__ == "__main__":
    main()
