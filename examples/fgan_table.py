"""The experiment of the f-GAN paper: a Gaussian is fitted to a mixture by five divergences.

    python examples/fgan_table.py            # by quadrature, in seconds
    python examples/fgan_table.py --train    # adversarially as well, in some minutes

The table has the paper's optimum (Nowozin, Cseke and Tomioka 2016, arXiv:1606.00709, table 4)
beside ours: `between` minimised over mean and standard deviation on a fine grid, and an
`FDivergenceLoss` trained with samples.
"""

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.distributions import Categorical, MixtureSameFamily, Normal
from tqdm import tqdm

import gan_blocks as gb
from show import Table, keep

# The paper says "a mixture of Gaussians"; with these numbers all fifteen of its optima come out.
WEIGHTS, MEANS, VARIANCES = (0.33, 0.67), (-1.0, 2.0), (0.065, 2.0)


@dataclass(frozen=True)
class Fit:
    """A divergence (or a bound on it) and the Gaussian at which it is least."""

    value: float
    mean: float
    std: float


DIVERGENCES = {
    "KL": gb.KL(),
    "reverse KL": gb.ReverseKL(),
    "Jensen-Shannon": gb.JensenShannon(),
    "Jeffrey": gb.Jeffrey(),
    "Pearson": gb.PearsonChi2(),
}
PUBLISHED = {
    "KL": Fit(0.2831, 1.0100, 1.8308),
    "reverse KL": Fit(0.2480, 1.5782, 1.6319),
    "Jensen-Shannon": Fit(0.1280, 1.3070, 1.7542),
    "Jeffrey": Fit(0.5705, 1.3218, 1.7034),
    "Pearson": Fit(0.6457, 0.5737, 1.9274),
}
"""The optima that the paper's table has."""

PUBLISHED_TRAINED = {
    "KL": (1.0335, 1.8236),
    "reverse KL": (1.5624, 1.6403),
    "Jensen-Shannon": (1.2854, 1.7659),
    "Jeffrey": (1.2295, 1.8087),
    "Pearson": (0.6157, 1.9031),
}
"""Mean and standard deviation that the paper's adversarial training found."""


def mixture(dtype: torch.dtype = torch.float32) -> MixtureSameFamily:
    """The distribution of the data."""
    weights, means, variances = (torch.tensor(x, dtype=dtype) for x in (WEIGHTS, MEANS, VARIANCES))
    return MixtureSameFamily(Categorical(weights), Normal(means, variances.sqrt()))


GRID = torch.linspace(-16, 20, 8001, dtype=torch.float64)


def on_grid(log_density: Tensor) -> Tensor:
    """A density as a discrete distribution over the grid."""
    return log_density.softmax(0)


def by_quadrature(divergence: gb.FDivergence) -> Fit:
    """The least divergence over all Gaussians, to many digits."""
    p = on_grid(mixture(torch.float64).log_prob(GRID))
    state = torch.tensor([1.0, math.log(1.7)], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [state], max_iter=100, tolerance_grad=1e-10, line_search_fn="strong_wolfe"
    )

    def value() -> Tensor:
        return divergence.between(p, on_grid(Normal(state[0], state[1].exp()).log_prob(GRID)))

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = value()
        loss.backward()
        return loss

    optimizer.step(closure)  # pyright: ignore[reportArgumentType]
    return Fit(value().item(), state[0].item(), state[1].exp().item())


class Gaussian(nn.Module):
    """A generator with two parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(()))
        self.log_std = nn.Parameter(torch.zeros(()))

    def forward(self, z: Tensor) -> Tensor:
        """Samples from standard normal numbers."""
        return self.mean + self.log_std.exp() * z


@dataclass(frozen=True)
class Training:
    """What adversarial training came to."""

    fit: Fit
    """The mean of the bound and of the parameters over the second half of the steps."""
    bound: float
    """The critic's bound at the end, by quadrature."""
    exact: float
    """The divergence that it bounds, of the generator at the end."""


def by_training(
    divergence: gb.FDivergence, steps: int = 3000, seed: int = 0, batch: int = 1024
) -> Training:
    """Adversarial training with samples: the paper's algorithm, four critic steps to one."""
    torch.manual_seed(seed)
    data, loss = mixture(), gb.FDivergenceLoss(divergence)
    critic, generator = gb.MLPDiscriminator((1,), width=64, depth=2, activation="tanh"), Gaussian()
    descent = {
        network: torch.optim.Adam(network.parameters(), lr=2e-3, betas=(0.5, 0.9))
        for network in (critic, generator)
    }
    history = []
    for _ in tqdm(range(steps), desc=repr(divergence), leave=False):
        value = torch.zeros(())
        for _ in range(4):
            fake = generator(torch.randn(batch, 1)).detach()
            value = loss.discriminator(critic(data.sample((batch, 1))), critic(fake))
            step(value, critic, descent[critic], largest=5.0)
        gain = loss.generator(critic(generator(torch.randn(batch, 1))))
        step(gain, generator, descent[generator], largest=1.0)
        history.append((-value.item(), generator.mean.item(), generator.log_std.exp().item()))
    bound, mean, std = torch.tensor(history[steps // 2 :]).mean(0).tolist()
    with torch.no_grad():
        v = critic(GRID.float()[:, None]).double()
        p = on_grid(mixture(torch.float64).log_prob(GRID))
        final = Normal(generator.mean.double(), generator.log_std.double().exp())
        q = on_grid(final.log_prob(GRID))
        at_end = (p * divergence.activation(v) - q * divergence.conjugate_of_activation(v)).sum()
    return Training(Fit(bound, mean, std), at_end.item(), divergence.between(p, q).item())


def step(
    loss: Tensor, network: nn.Module, optimizer: torch.optim.Optimizer, *, largest: float
) -> None:
    """One step of an optimiser, with a limit on the gradient's norm."""
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(network.parameters(), largest)
    optimizer.step()


def table_of(fits: dict[str, Fit], trainings: dict[str, Training]) -> Table:
    """Ours beside the paper's."""
    header = ["divergence", "", "D", "mean", "standard deviation"]
    rows: list[list[str]] = []

    def add(name: str, what: str, *numbers: float | None) -> None:
        rows.append([name, what, *("" if x is None else f"{x:.4f}" for x in numbers)])

    for name, fit in fits.items():
        paper = PUBLISHED[name]
        add(name, "optimum, paper", paper.value, paper.mean, paper.std)
        add("", "optimum, `between`", fit.value, fit.mean, fit.std)
        if name in trainings:
            add("", "trained, paper", None, *PUBLISHED_TRAINED[name])
            trained = trainings[name].fit
            add("", "trained, `FDivergenceLoss`", trained.value, trained.mean, trained.std)
    return Table(header, rows)


def figure_of(fits: dict[str, Fit], trainings: dict[str, Training]) -> Figure:
    """The mixture and each Gaussian; dashed where it was trained."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    x = torch.linspace(-5, 8, 1001, dtype=torch.float64)
    density = mixture(torch.float64).log_prob(x).exp()
    axes.fill_between(x, density, color="0.85", label="the mixture")
    for i, (name, fit) in enumerate(fits.items()):
        axes.plot(x, normal_density(x, fit), color=f"C{i}", label=name)
        if name in trainings:
            axes.plot(x, normal_density(x, trainings[name].fit), color=f"C{i}", linestyle="--")
    axes.set_xlabel("x")
    axes.set_ylabel("density")
    axes.set_ylim(0, 0.55)
    axes.legend(fontsize=9)
    return figure


def normal_density(x: Tensor, fit: Fit) -> Tensor:
    """The density of a fitted Gaussian."""
    mean, std = (torch.tensor(v, dtype=x.dtype) for v in (fit.mean, fit.std))
    return Normal(mean, std).log_prob(x).exp()


def main() -> None:
    """The table, printed and kept, and the picture."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--train", action="store_true", help="train adversarially as well")
    parser.add_argument("--steps", type=int, default=3000, help="generator steps (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the training (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("runs/fgan_table"), help="(%(default)s)")
    parser.add_argument("--docs", type=Path, help="also copy table and picture there")
    options = parser.parse_args()
    if options.steps < 2:
        parser.error(f"--steps should be at least 2, got {options.steps}")
    fits = {name: by_quadrature(divergence) for name, divergence in DIVERGENCES.items()}
    trainings = {
        name: by_training(divergence, options.steps, options.seed)
        for name, divergence in (DIVERGENCES if options.train else {}).items()
    }
    table = table_of(fits, trainings)
    print(table)
    keep("fgan_table", table, figure_of(fits, trainings), options.out, options.docs)
    print(f"\nThe table and its picture are in {options.out}.")


if __name__ == "__main__":
    main()
