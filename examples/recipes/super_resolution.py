"""Digits of 4x4 pixels to 8x8, with a patch discriminator and feature matching.

    python examples/recipes/super_resolution.py

The discriminator judges pairs of the small image and a large one, as pix2pix's does (Isola et al.
2017, arXiv:1611.07004). The relativistic loss compares each real image with the one that was made
for the same small image. Feature matching compares the two in each layer of the discriminator, as
pix2pixHD does (Wang et al. 2018, arXiv:1711.11585).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common import Judge, digits, options, report
from gan_blocks import (
    FeatureExtractor,
    LayerwiseFeatureMatchingLoss,
    PatchDiscriminator,
    R1Penalty,
    RelativisticLoss,
)

LOSS, PENALTY = RelativisticLoss(), R1Penalty(gamma=1.0)
MATCHING = LayerwiseFeatureMatchingLoss(weight=1.0, layers="mean")


def shrink(x: Tensor) -> Tensor:
    """What the generator is given: means over 2x2 pixels."""
    return F.avg_pool2d(x, 2)


def enlarge(small: Tensor) -> Tensor:
    """The same at twice the side, without any invention."""
    return F.interpolate(small, scale_factor=2, mode="bilinear")


class Generator(nn.Module):
    """Adds what is missing to the enlarged image."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, width, 3, 1, 1), nn.ReLU(),
            nn.Conv2d(width, width, 3, 1, 1), nn.ReLU(),
            nn.Conv2d(width, 4 * width, 3, 1, 1), nn.PixelShuffle(2), nn.ReLU(),
            nn.Conv2d(width, 1, 3, 1, 1),
        )  # fmt: skip

    def forward(self, small: Tensor) -> Tensor:
        """Images of twice the side."""
        return enlarge(small) + self.layers(small)


def critic_of_pairs() -> FeatureExtractor:
    """A discriminator of pairs, which gives its hidden layers and, under the empty name, logits."""
    critic = PatchDiscriminator(channels=2, width=32, depth=1, norm="none")
    return FeatureExtractor(critic, ["layers.0", "layers.1", ""])


def pair(small: Tensor, large: Tensor) -> Tensor:
    """What the discriminator sees."""
    return torch.cat([enlarge(small), large], dim=1)


# --8<-- [start:losses]
def generator_loss(critic: FeatureExtractor, x: Tensor, y: Tensor) -> Tensor:
    """Reconstruction, the game, and the features of every layer but the logits."""
    critic.requires_grad_(False)  # the gradient goes through the critic, not into it
    real, fake = critic(pair(shrink(x), x)), critic(pair(shrink(x), y))
    critic.requires_grad_(True)
    game = LOSS.generator(fake.pop(""), real_logits=real.pop(""))
    return F.l1_loss(y, x) + game + MATCHING(real, fake)


def critic_loss(critic: FeatureExtractor, x: Tensor, y: Tensor) -> Tensor:
    """What the discriminator minimises, the penalty by the large image included."""
    small = shrink(x)

    def logits(large: Tensor) -> Tensor:
        return critic.network(pair(small, large))

    return LOSS.discriminator(logits(x), logits(y.detach())) + PENALTY(logits, x)


# --8<-- [end:losses]
def train(images: Tensor, steps: int, adversarial: bool, seed: int) -> Generator:
    """A generator, trained by the mean error alone or with the game."""
    torch.manual_seed(seed)
    generator, critic = Generator(), critic_of_pairs()
    g_optimizer, d_optimizer = (
        torch.optim.Adam(network.parameters(), lr=1e-3, betas=(0.5, 0.9))
        for network in (generator, critic)
    )
    for _ in range(steps):
        x = images[torch.randint(len(images), (64,))]
        y = generator(shrink(x))
        if adversarial:
            d_optimizer.zero_grad()
            critic_loss(critic, x, y).backward()
            d_optimizer.step()
        loss = generator_loss(critic, x, y) if adversarial else F.l1_loss(y, x)
        g_optimizer.zero_grad()
        loss.backward()
        g_optimizer.step()
    return generator


def main(arguments: list[str] | None = None) -> None:
    """Train it without and with the game, and compare."""
    chosen = options(str(__doc__), 1500, arguments)
    images, labels, held_out = digits()
    judge = Judge(images, labels, held_out)
    small = shrink(held_out)
    outputs = {"enlarged": [enlarge(small)] * chosen.seeds}
    for name, adversarial in (("mean error alone", False), ("with the game", True)):
        models = [train(images, chosen.steps, adversarial, seed) for seed in range(chosen.seeds)]
        with torch.no_grad():
            outputs[name] = [model(small) for model in models]
    results = {
        name: [(F.l1_loss(y, held_out).item(), judge(y)) for y in found]
        for name, found in outputs.items()
    }
    groups = {"real": held_out} | {name: found[0] for name, found in outputs.items()}
    columns = {"mean error": ".3f", "Fréchet distance": ".1f"}
    report("super_resolution", columns, results, groups, chosen)


if __name__ == "__main__":
    main()
