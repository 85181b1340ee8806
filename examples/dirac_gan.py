"""The Dirac-GAN: the smallest game of all, and whether a loss and a penalty come to rest in it.

    python examples/dirac_gan.py

Real samples are all 0, the generator makes theta, the critic is psi x (Mescheder, Geiger and
Nowozin 2018, arXiv:1801.04406, section 2). The equilibrium is (0, 0). For each game the table has
the eigenvalues of its Jacobian there, found by differentiating the library's own losses and
penalties: a negative real part comes to rest, none circles for ever. The picture has the
trajectories of alternating gradient descent.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import gan_blocks as gb
from gan_blocks.types import AdversarialLoss, Penalty
from show import Table, keep

GAMES: dict[str, tuple[AdversarialLoss, Sequence[Penalty]]] = {
    "non-saturating": (gb.NonSaturatingLoss(), ()),
    "non-saturating, R1": (gb.NonSaturatingLoss(), (gb.R1Penalty(0.5),)),
    "non-saturating, R1 critical": (gb.NonSaturatingLoss(), (gb.R1Penalty(1.0),)),
    "relativistic, R1 and R2": (gb.RelativisticLoss(), (gb.R1Penalty(0.25), gb.R2Penalty(0.25))),
    "least squares": (gb.LeastSquaresLoss(-1, 1, 0.5), ()),
    "hinge": (gb.HingeLoss(), ()),
    "Wasserstein": (gb.WassersteinLoss(), ()),
    "Wasserstein, gradient penalty": (gb.WassersteinLoss(), (gb.GradientPenalty(1.0),)),
    "Wasserstein, clipped": (gb.WassersteinLoss(), ()),
}
CLIP = gb.WeightClipper(0.5)


class Dirac(nn.Module):
    """A player of one number, which multiplies (the critic) or is the sample (the generator)."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value, dtype=torch.float64))


def losses(
    loss: AdversarialLoss, penalties: Sequence[Penalty], psi: Tensor, theta: Tensor
) -> tuple[Tensor, Tensor]:
    """What the critic and the generator minimise."""
    real, fake = torch.zeros(1, 1, dtype=psi.dtype), theta.reshape(1, 1)

    def critic(x: Tensor) -> Tensor:
        return (psi * x).squeeze(1)

    critic_loss = loss.discriminator(critic(real), critic(fake))
    for penalty in penalties:
        critic_loss = critic_loss + penalty(critic, real, fake)
    return critic_loss, loss.generator(critic(fake), real_logits=critic(real))


def eigenvalues(loss: AdversarialLoss, penalties: Sequence[Penalty]) -> list[complex]:
    """Of the Jacobian of both players' descent at (0, 0); none where that is no equilibrium."""

    def field(state: Tensor) -> Tensor:
        psi, theta = state.unbind()
        critic_loss, generator_loss = losses(loss, penalties, psi, theta)
        (by_psi,) = torch.autograd.grad(critic_loss, psi, create_graph=True)
        (by_theta,) = torch.autograd.grad(generator_loss, theta, create_graph=True)
        return -torch.stack([by_psi, by_theta])

    beside = torch.tensor([1e-9, 0.0], dtype=torch.float64, requires_grad=True)
    if field(beside).norm() > 1e-6:
        return []
    matrix = torch.autograd.functional.jacobian(field, torch.zeros(2, dtype=torch.float64))
    return torch.linalg.eigvals(matrix).tolist()  # pyright: ignore[reportArgumentType]


def trajectory(
    loss: AdversarialLoss, penalties: Sequence[Penalty], steps: int, lr: float, *, clip: bool
) -> list[tuple[float, float]]:
    """(theta, psi) along alternating gradient descent."""
    critic, generator = Dirac(0.0), Dirac(1.0)
    descent = [torch.optim.SGD(player.parameters(), lr) for player in (critic, generator)]
    path = []
    for _ in range(steps):
        path.append((generator.value.item(), critic.value.item()))
        for i, optimizer in enumerate(descent):
            optimizer.zero_grad()
            losses(loss, penalties, critic.value, generator.value)[i].backward()
            optimizer.step()
            if i == 0 and clip:
                CLIP(critic)
    return path


def words(values: list[complex]) -> str:
    """Both eigenvalues, in short."""
    if not values:
        return "no equilibrium"
    one, other = sorted(values, key=lambda z: (z.real, z.imag))
    if abs(one.imag) > 1e-9:
        return f"{other.real + 0:.3g} +- {other.imag:.3g}i"
    return f"{one.real + 0:.3g}, {other.real + 0:.3g}"


def verdict(path: list[tuple[float, float]]) -> str:
    """How far from the equilibrium the last tenth of a trajectory still goes."""
    tail = path[-len(path) // 10 :]
    return f"{max((theta**2 + psi**2) ** 0.5 for theta, psi in tail):.2g}"


def main() -> None:
    """The table and the picture."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--steps", type=int, default=2000, help="of descent (%(default)s)")
    parser.add_argument("--lr", type=float, default=0.03, help="step size (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("runs/dirac_gan"), help="(%(default)s)")
    parser.add_argument("--docs", type=Path, help="also copy table and picture there")
    options = parser.parse_args()
    if options.steps < 1:
        parser.error(f"--steps should be at least 1, got {options.steps}")
    paths = {
        name: trajectory(*game, options.steps, options.lr, clip=name.endswith("clipped"))
        for name, game in GAMES.items()
    }
    table = Table(
        ["game", "eigenvalues", "distance from (0, 0) at the end"],
        [[name, words(eigenvalues(*game)), verdict(paths[name])] for name, game in GAMES.items()],
    )
    print(table)
    figure = Figure(figsize=(8, 8), layout="constrained")
    for axes, (name, path) in zip(figure.subplots(3, 3).flat, paths.items(), strict=True):
        axes.plot(*zip(*path, strict=True), linewidth=0.8)
        axes.plot(1, 0, "o", markersize=4)
        axes.plot(0, 0, "k+")
        axes.set_title(name, fontsize=9)
        axes.set_xlim(-2.2, 2.2)
        axes.set_ylim(-2.2, 2.2)
        axes.set_aspect("equal")
        axes.set_xlabel("theta")
        axes.set_ylabel("psi")
    keep("dirac_gan", table, figure, options.out, options.docs)
    print(f"\nThe table and the picture are in {options.out}.")


if __name__ == "__main__":
    main()
