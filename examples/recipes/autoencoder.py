"""An autoencoder with a codebook, whose reconstructions a discriminator keeps sharp: VQGAN's recipe.

    python examples/recipes/autoencoder.py

Esser, Rombach and Ommer, "Taming Transformers for High-Resolution Image Synthesis", 2021,
arXiv:2012.09841. A digit is four codes out of eight, so 12 bits, and much has to be made up. The
adversarial loss starts when the reconstruction has settled, and weighs 0.8 times as much as the
reconstruction in the gradient of the decoder's last layer. R1 is not VQGAN's: the images are few,
and without it the game gained nothing.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common import Judge, digits, options, report
from gan_blocks import HingeLoss, PatchDiscriminator, R1Penalty, build, preset


class Quantizer(nn.Module):
    """Puts the nearest vector of a codebook in the place of each vector of a map."""

    def __init__(self, codes: int, dim: int) -> None:
        super().__init__()
        self.codebook = nn.Parameter(torch.randn(codes, dim))

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The quantised map, and the loss that keeps vectors and codes together."""
        flat = z.movedim(1, -1)
        nearest = torch.cdist(flat.flatten(0, -2), self.codebook).argmin(1)
        codes = self.codebook[nearest].view_as(flat)
        # The codes go to the vectors, and more slowly the vectors to the codes.
        loss = F.mse_loss(codes, flat.detach()) + 0.25 * F.mse_loss(flat, codes.detach())
        # Straight through: the decoder's gradient is passed on as if nothing had been replaced.
        return (flat + (codes - flat).detach()).movedim(-1, 1), loss


class Autoencoder(nn.Module):
    """Images of 8x8 pixels to 2x2 codes and back."""

    def __init__(self, width: int = 32, codes: int = 8, dim: int = 3) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, width, 4, 2, 1), nn.ReLU(),
            nn.Conv2d(width, width, 4, 2, 1), nn.ReLU(),
            nn.Conv2d(width, dim, 1), nn.BatchNorm2d(dim, affine=False),
        )  # fmt: skip
        self.quantizer = Quantizer(codes, dim)
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(dim, width, 4, 2, 1), nn.ReLU(),
            nn.ConvTranspose2d(width, width, 4, 2, 1), nn.ReLU(),
            nn.Conv2d(width, 1, 3, 1, 1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstructions, and the codebook's loss."""
        z, loss = self.quantizer(self.encoder(x))
        return self.decoder(z).tanh(), loss


# --8<-- [start:loss]
def autoencoder_loss(
    model: Autoencoder,
    critic: nn.Module | None,
    loss: HingeLoss,
    adaptive: nn.Module,
    x: Tensor,
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """What the autoencoder minimises, the reconstructions, and the parts; no critic, no game."""
    y, codebook = model(x)
    parts = {"reconstruction": (y - x).abs().mean(), "codebook": codebook}
    total = parts["reconstruction"] + codebook
    if critic is not None:
        critic.requires_grad_(False)  # the gradient goes through the critic, not into it
        parts["adversarial"] = loss.generator(critic(y))
        critic.requires_grad_(True)
        last = model.decoder[-1].weight
        parts["weight"] = adaptive(parts["reconstruction"], parts["adversarial"], last)
        total = total + parts["weight"] * parts["adversarial"]
    return total, y, parts


def critic_loss(critic: nn.Module, loss: HingeLoss, x: Tensor, y: Tensor) -> Tensor:
    """What the discriminator minimises."""
    return loss.discriminator(critic(x), critic(y)) + R1Penalty(gamma=1.0)(critic, x)


# --8<-- [end:loss]
def train(images: Tensor, steps: int, start: int, seed: int) -> Autoencoder:
    """An autoencoder; the adversarial term begins at step `start`."""
    torch.manual_seed(seed)
    settings = preset("vqgan")
    loss, adaptive = build(settings.loss), build(settings.auxiliary[0].term)
    model, critic = Autoencoder(), PatchDiscriminator(channels=1, width=32, depth=1, norm="none")
    betas = settings.generator_optimizer["betas"]
    g_optimizer, d_optimizer = (
        torch.optim.Adam(network.parameters(), lr=1e-3, betas=betas) for network in (model, critic)
    )
    for step in range(steps):
        x = images[torch.randint(len(images), (64,))]
        total, y, _ = autoencoder_loss(model, critic if step >= start else None, loss, adaptive, x)
        g_optimizer.zero_grad()
        total.backward()
        g_optimizer.step()
        if step >= start:
            d_optimizer.zero_grad()
            critic_loss(critic, loss, x, y.detach()).backward()
            d_optimizer.step()
    return model.eval()


def main(arguments: list[str] | None = None) -> None:
    """Train it without and with the adversarial loss, and compare."""
    chosen = options(str(__doc__), 2000, arguments)
    images, labels, held_out = digits()
    judge = Judge(images, labels, held_out)
    results, groups = {}, {"real": held_out}
    for name, start in (("without", chosen.steps), ("with", chosen.steps // 2)):
        models = [train(images, chosen.steps, start, seed) for seed in range(chosen.seeds)]
        with torch.no_grad():
            outputs = [model(held_out)[0] for model in models]
        errors = [(y - held_out).abs().mean().item() for y in outputs]
        results[f"{name} adversarial loss"] = list(zip(errors, map(judge, outputs), strict=True))
        groups[name] = outputs[0]
    columns = {"mean error": ".3f", "Fréchet distance": ".0f"}
    report("autoencoder", columns, results, groups, chosen)


if __name__ == "__main__":
    main()
