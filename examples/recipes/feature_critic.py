"""A generator made sharp after its training, by a critic on the features of a frozen network.

    python examples/recipes/feature_critic.py

This is how one-step generators of images and video are finished (Lin et al., "Diffusion Adversarial
Post-Training for One-Step Video Generation", 2025, arXiv:2501.08316): a generator exists already,
the critic stands on a large trained network, and a gradient penalty has to do without second
derivatives. Here the generator is the decoder of a variational autoencoder, whose samples are blurred,
and the network is a classifier trained on the spot. Another classifier judges the result.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common import Judge, digits, options, report
from gan_blocks import EMA, ApproximateR1Penalty, NonSaturatingLoss, build, preset
from gan_blocks.presets import OptimizerSettings

LATENT = 16
SIGMA = 0.1


def make_generator() -> nn.Module:
    """Latent vectors to images."""
    return nn.Sequential(
        nn.Linear(LATENT, 256), nn.ReLU(),
        nn.Linear(256, 256), nn.ReLU(),
        nn.Linear(256, 64), nn.Tanh(), nn.Unflatten(1, (1, 8, 8)),
    )  # fmt: skip


def pretrain(images: Tensor, steps: int) -> nn.Module:
    """The decoder of a variational autoencoder (Kingma and Welling 2013, arXiv:1312.6114)."""
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 2 * LATENT))
    decoder = make_generator()
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-3)
    for _ in range(steps):
        x = images[torch.randint(len(images), (64,))]
        mean, log_variance = encoder(x).chunk(2, dim=1)
        y = decoder(mean + (log_variance / 2).exp() * torch.randn_like(mean))
        divergence = (mean**2 + log_variance.exp() - 1 - log_variance).sum(1).mean() / 2
        loss = 2 * (y - x).square().sum((1, 2, 3)).mean() + divergence
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return decoder


class Critic(nn.Module):
    """A logit from each of two layers of a frozen network.

    Args:
        images: What the network learns to classify first.
        labels: Their classes.
        steps: Steps of that.
    """

    def __init__(self, images: Tensor, labels: Tensor, steps: int) -> None:
        super().__init__()
        self.lower = nn.Sequential(nn.Conv2d(1, 16, 3, 1, 1), nn.GELU())
        self.upper = nn.Sequential(nn.Conv2d(16, 32, 4, 2, 1), nn.GELU())
        classifier = nn.Sequential(self.lower, self.upper, nn.Flatten(), nn.Linear(32 * 16, 10))
        optimizer = torch.optim.Adam(classifier.parameters())
        for _ in range(steps):
            batch = torch.randint(len(images), (64,))
            optimizer.zero_grad()
            F.cross_entropy(classifier(images[batch]), labels[batch]).backward()
            optimizer.step()
        classifier.requires_grad_(False).zero_grad()
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Flatten(), nn.Linear(size, 64), nn.GELU(), nn.Linear(64, 1))
            for size in (16 * 64, 32 * 16)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """The logit of each layer."""
        lower = self.lower(x)
        maps = lower, self.upper(lower)
        return [head(features) for head, features in zip(self.heads, maps, strict=True)]


# --8<-- [start:losses]
def critic_loss(
    critic: Critic,
    loss: NonSaturatingLoss,
    penalty: ApproximateR1Penalty,
    real: Tensor,
    fake: Tensor,
) -> Tensor:
    """What the heads minimise. The logits of the real images serve the loss and the penalty."""
    logits = critic(real)
    value = penalty.from_logits(logits, critic(penalty.perturbed(real)))
    return loss.discriminator(logits, critic(fake.detach())) + value


def generator_loss(critic: Critic, loss: NonSaturatingLoss, fake: Tensor) -> Tensor:
    """What the generator minimises: the gradient goes through network and heads, not into them."""
    critic.heads.requires_grad_(False)
    value = loss.generator(critic(fake))
    critic.heads.requires_grad_(True)
    return value


# --8<-- [end:losses]
def finish(generator: nn.Module, critic: Critic, images: Tensor, steps: int) -> nn.Module:
    """The moving average of the generator over its adversarial training, which changes it."""
    settings = preset("apt")
    loss, penalty = build(settings.loss), ApproximateR1Penalty(weight=100.0, sigma=SIGMA)
    average = EMA(generator)
    g_optimizer, d_optimizer = (
        OptimizerSettings(settings.generator_optimizer | {"lr": 2e-4}).build(weights.parameters())
        for weights in (generator, critic.heads)
    )
    for _ in range(steps):
        real = images[torch.randint(len(images), (64,))]
        fake = generator(torch.randn(64, LATENT))
        d_optimizer.zero_grad()
        critic_loss(critic, loss, penalty, real, fake).backward()
        d_optimizer.step()
        g_optimizer.zero_grad()
        generator_loss(critic, loss, fake).backward()
        g_optimizer.step()
        average.update(generator, samples=64)
    return average.module


def main(arguments: list[str] | None = None) -> None:
    """Samples before and after."""
    chosen = options(str(__doc__), 2000, arguments)
    images, labels, held_out = digits()
    judge = Judge(images, labels, held_out)
    results, groups = {"before": [], "after": []}, {"real": held_out}
    for seed in range(chosen.seeds):
        torch.manual_seed(seed)
        generator = pretrain(images, chosen.steps)
        critic = Critic(images, labels, min(500, chosen.steps))
        z = torch.randn(2000, LATENT)
        with torch.no_grad():
            before = generator(z)
        finished = finish(generator, critic, images, chosen.steps)
        with torch.no_grad():
            after = finished(z)
        for name, samples in (("before", before), ("after", after)):
            groups.setdefault(name, samples)
            results[name].append((judge(samples),))
    report("feature_critic", {"Fréchet distance": ".0f"}, results, groups, chosen)


if __name__ == "__main__":
    main()
