"""Train a small vocoder: from mel spectrograms back to waveforms.

The signals are made here: a source of harmonics with moving pitch or of noise, through filters whose
resonances move from vowel to vowel, with bursts between them. The generator is HiFi-GAN's at toy size;
the losses are its own: least squares, feature matching with weight 2, mel loss with weight 45.

    python examples/vocoder.py --steps 300 --out vocoder

prints a table and writes `vocoder/real.wav` and `vocoder/generated.wav`, the held-out signals one after
the other.
"""

import argparse
import math
import time
import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from gan_blocks import build

RATE = 8000
HOP = 64
SEGMENT = 2048
MEL = {"windows": [256], "num_mels": [40], "sample_rate": RATE}
VOWELS = (
    (730, 1090, 2440),
    (270, 2290, 3010),
    (300, 870, 2240),
    (530, 1840, 2480),
    (570, 840, 2410),
)
"""The first three resonances of five vowels in Hz, men's averages of Peterson and Barney, 1952."""


# --- signals -----------------------------------------------------------------------------------


def curve(low: float, high: float, points: int, length: int, generator: torch.Generator) -> Tensor:
    """A smooth curve through random values."""
    values = low + (high - low) * torch.rand(1, 1, points, generator=generator)
    return F.interpolate(values, length, mode="linear", align_corners=True).flatten()


def utterance(length: int, generator: torch.Generator) -> Tensor:
    """Vowels with moving pitch, noise between them, at a peak of 0.9."""
    time_axis = torch.arange(length) / RATE
    pitch = curve(90, 240, 4, length, generator)
    phase = 2 * math.pi * pitch.cumsum(0) / RATE
    syllables = max(2, round(length / RATE * 5))
    order = torch.randint(len(VOWELS), (syllables,), generator=generator)
    targets = torch.tensor(VOWELS, dtype=torch.float32)[order].T.unsqueeze(0)
    formants = F.interpolate(targets, length, mode="linear", align_corners=True)[0]
    voiced = torch.zeros(length)
    for k in range(1, 40):
        f = k * pitch
        # The gain of three resonances of 120 Hz bandwidth at this harmonic, over the source's 1/k.
        gain = sum(
            strength / (1 + ((f - formant) / 120).square())
            for strength, formant in zip((1.0, 0.5, 0.25), formants, strict=True)
        )
        voiced += torch.where(f < RATE / 2, gain, 0) * (k * phase).sin() / k**0.5
    rhythm = (math.pi * 5 * time_axis + 6 * torch.rand(1, generator=generator)).sin().square()
    noise = torch.randn(length, generator=generator)
    hiss = noise - F.pad(noise, (1, 0))[:-1]  # high frequencies
    bursts = (1 - rhythm).pow(8)
    signal = rhythm * voiced + 0.15 * bursts * hiss + 0.002 * noise
    return 0.9 * signal / signal.abs().max()


def utterances(count: int, length: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([utterance(length, generator) for _ in range(count)]).unsqueeze(1)


# --- the generator -----------------------------------------------------------------------------


class Residual(nn.Module):
    """Dilated convolutions, each added to its input."""

    def __init__(self, channels: int, kernel: int, dilations: Sequence[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            weight_norm(
                nn.Conv1d(channels, channels, kernel, dilation=d, padding=d * (kernel // 2))
            )
            for d in dilations
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer(F.leaky_relu(x, 0.1))
        return x


class Generator(nn.Module):
    """HiFi-GAN's: transposed convolutions, after each the mean of residual blocks of several kernels."""

    def __init__(self, mels: int, width: int = 64, rates: Sequence[int] = (8, 4, 2)) -> None:
        super().__init__()
        self.first = weight_norm(nn.Conv1d(mels, width, 7, padding=3))
        self.ups, self.residuals = nn.ModuleList(), nn.ModuleList()
        for rate in rates:
            up = nn.ConvTranspose1d(width, width // 2, 2 * rate, rate, rate // 2)
            self.ups.append(weight_norm(up))
            width //= 2
            self.residuals.append(nn.ModuleList(Residual(width, k, (1, 3)) for k in (3, 7)))
        self.last = weight_norm(nn.Conv1d(width, 1, 7, padding=3))

    def forward(self, mel: Tensor) -> Tensor:
        x = self.first(mel)
        for up, blocks in zip(self.ups, self.residuals, strict=True):
            x = up(F.leaky_relu(x, 0.1))
            x = torch.stack([block(x) for block in blocks.children()]).mean(0)
        return self.last(F.leaky_relu(x)).tanh()


# --- training ----------------------------------------------------------------------------------


def train(steps: int, batch_size: int, seed: int, every: int) -> tuple[Tensor, Tensor, list[float]]:
    """The held-out signals, what the generator makes of them, and their mel distances on the way."""
    torch.manual_seed(seed)
    training, held_out = utterances(24, 2 * RATE, seed), utterances(4, RATE // HOP * HOP, seed + 1)
    mel_loss = build({"block": "audio/MelSpectrogramLoss", "weight": 45, **MEL})
    mel_distance = build({"block": "audio/MelSpectrogramLoss", **MEL})
    discriminators = nn.ModuleList(
        [
            build({"block": "audio/MultiPeriodDiscriminator", "width": 4}),
            build({"block": "audio/MultiScaleWaveDiscriminator", "width": 8, "num_scales": 2}),
            build(
                {"block": "audio/MultiResolutionSTFTDiscriminator", "width": 4}
                | {"windows": [512, 256, 128]}
            ),
        ]
    )
    adversarial = build(
        {"block": "LeastSquaresLoss", "discriminator_scale": 1, "generator_scale": 1}
    )
    matching = build({"block": "LayerwiseFeatureMatchingLoss", "weight": 2})
    generator = Generator(mels=40)
    # The paper's 2e-4 for the discriminators; so small a generator learns with more. Both fall to zero.
    optimiser_g = torch.optim.AdamW(generator.parameters(), 1e-3, (0.8, 0.99), weight_decay=0.01)
    optimiser_d = torch.optim.AdamW(
        discriminators.parameters(), 2e-4, (0.8, 0.99), weight_decay=0.01
    )
    schedules = [
        torch.optim.lr_scheduler.CosineAnnealingLR(each, max(steps, 1))
        for each in (optimiser_g, optimiser_d)
    ]

    def mels(x: Tensor) -> Tensor:
        return mel_distance.log_mel_spectrograms(x.squeeze(1))[0]

    def maps(x: Tensor) -> list[list[Tensor]]:
        parts: Any = discriminators
        return [each for part in parts for each in part.feature_maps(x)]

    def logits(maps: list[list[Tensor]]) -> list[Tensor]:
        return [each[-1] for each in maps]

    def evaluate() -> tuple[Tensor, float]:
        with torch.no_grad():
            generated = generator(mels(held_out))
            return generated, float(mel_distance(held_out, generated))

    distances = [evaluate()[1]]
    print(
        f"{'step':>5} {'critics':>8} {'adversarial':>11} {'features':>8} {'mel':>6} {'held out':>8}"
    )
    print(f"{0:5} {'':36} {distances[0]:8.3f}")
    start = time.perf_counter()
    for step in range(1, steps + 1):
        rows = torch.randint(len(training), (batch_size,))
        starts = torch.randint(training.shape[-1] - SEGMENT, (batch_size,))
        pairs = zip(rows, starts, strict=True)
        real = torch.stack([training[row, :, first : first + SEGMENT] for row, first in pairs])
        fake = generator(mels(real))

        critics = adversarial.discriminator(logits(maps(real)), logits(maps(fake.detach())))
        optimiser_d.zero_grad()
        critics.backward()
        optimiser_d.step()

        discriminators.requires_grad_(False)
        with torch.no_grad():
            real_maps = maps(real)
        fake_maps = maps(fake)
        terms = [
            adversarial.generator(logits(fake_maps)),
            matching(real_maps, fake_maps),
            mel_loss(real, fake),
        ]
        optimiser_g.zero_grad()
        torch.stack(terms).sum().backward()
        optimiser_g.step()
        discriminators.requires_grad_(True)
        for schedule in schedules:
            schedule.step()

        if step % every == 0 or step == steps:
            distances.append(evaluate()[1])
            a, f, m = (float(term.detach()) for term in terms)
            print(
                f"{step:5} {float(critics.detach()):8.3f} {a:11.3f} {f:8.3f} {m / 45:6.3f} "
                f"{distances[-1]:8.3f}"
            )
    print(f"{steps} steps in {time.perf_counter() - start:.0f} s")
    return held_out, evaluate()[0], distances


def write(path: Path, x: Tensor) -> None:
    """A WAV file of 16 bits."""
    samples = (32767 * x.flatten().clamp(-1, 1)).round().short()
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(b"".join(int(s).to_bytes(2, "little", signed=True) for s in samples))


def main(arguments: Sequence[str] | None = None) -> list[float]:
    parser = argparse.ArgumentParser(description="Train a small vocoder on synthesised signals.")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=50, help="steps between rows of the table")
    parser.add_argument("--out", type=Path, default=Path("vocoder"))
    options = parser.parse_args(arguments)
    real, generated, distances = train(
        options.steps, options.batch_size, options.seed, options.every
    )
    options.out.mkdir(parents=True, exist_ok=True)
    write(options.out / "real.wav", real)
    write(options.out / "generated.wav", generated)
    print(f"held-out mel distance {distances[0]:.3f} before, {distances[-1]:.3f} after")
    return distances


if __name__ == "__main__":
    main()
