"""A small StyleGAN2 of the handwritten digits that come with scikit-learn, on a CPU in minutes.

    pip install "gan-blocks-stylegan[examples]"
    python digits.py
    python digits.py --steps 500 --folder runs/short

It writes `digits.png`, samples of the averaged generator, and `mixing.png`, where each digit has the
coarse styles of the one at the left and the fine styles of the one above.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from gan_blocks_stylegan import StyleGAN2Discriminator, StyleGAN2Generator
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor
from torchvision.utils import save_image

import gan_blocks
from gan_blocks import (
    EMA,
    Lazy,
    NonSaturatingLoss,
    PathLengthPenalty,
    R1Penalty,
    wasserstein_distance,
)

SIZE, LATENT, BATCH = 16, 64, 32
NETWORKS: dict[str, Any] = {
    "image_size": SIZE,
    "channels": 1,
    "channel_base": 256,
    "channel_max": 32,
}
PATH_EVERY = 4
COARSE = 2
"""Layers of 4x4 pixels."""


def digits() -> tuple[Tensor, Tensor]:
    """The 1,797 images of 8x8 pixels in [-1, 1], doubled, and their classes."""
    pixels, classes = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels).float().view(-1, 1, 8, 8) / 8 - 1
    return F.interpolate(images, scale_factor=2, mode="bilinear"), torch.from_numpy(classes)


def batches(images: Tensor, random: torch.Generator) -> Iterator[Tensor]:
    while True:
        yield from images[torch.randperm(len(images), generator=random)].split(BATCH)[:-1]


def train(images: Tensor, steps: int, seed: int) -> StyleGAN2Generator:
    """The average of the generator after so many steps."""
    torch.manual_seed(seed)
    random = torch.Generator().manual_seed(seed)
    generator = StyleGAN2Generator(LATENT, w_dim=LATENT, mapping_depth=4, **NETWORKS)
    discriminator = StyleGAN2Discriminator(**NETWORKS)
    ema = EMA(generator, half_life=5_000)

    loss, r1, path_length = NonSaturatingLoss(), Lazy(R1Penalty(gamma=0.5), 16), PathLengthPenalty()
    # The path length has steps of its own: Adam makes k + 1 where it would make k.
    c = PATH_EVERY / (PATH_EVERY + 1)
    g_adam = torch.optim.Adam(generator.parameters(), lr=c * 2e-3, betas=(0.0, 0.99**c))
    d_adam = torch.optim.Adam(discriminator.parameters(), lr=2e-3, betas=(0.0, 0.99))
    gan_blocks.follow(d_adam, r1)
    gan_blocks.follow(g_adam, generator, path_length)

    started, data = time.perf_counter(), batches(images, random)
    for step in range(1, steps + 1):
        real, z = next(data), torch.randn(BATCH, LATENT, generator=random)
        fake = generator(z)
        d_loss = loss.discriminator(discriminator(real), discriminator(fake.detach()))
        penalty = r1(discriminator, real, fake)
        d_adam.zero_grad()
        (d_loss + penalty).backward()
        d_adam.step()

        discriminator.requires_grad_(False)
        g_loss = loss.generator(discriminator(fake))
        g_adam.zero_grad()
        g_loss.backward()
        g_adam.step()
        discriminator.requires_grad_(True)

        if step % PATH_EVERY == 0:
            w = generator.styles(z[: BATCH // 2])
            g_adam.zero_grad()
            (PATH_EVERY * path_length(generator.synthesis(w), w)).backward()
            g_adam.step()

        ema.update(generator, samples=BATCH)
        if step % 100 == 0 or step == steps:
            print(
                f"step {step:5d}  discriminator {d_loss.item():.3f}  generator {g_loss.item():.3f}  "
                f"path length {path_length.average.item():.3f}  "
                f"{step / (time.perf_counter() - started):.1f} steps/s",
                flush=True,
            )
    average = ema.module
    assert isinstance(average, StyleGAN2Generator)
    return average


@torch.no_grad()
def sampled(generator: StyleGAN2Generator, count: int, seed: int, psi: float = 1.0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    z = torch.randn(count, LATENT, generator=random)
    return generator(z, psi=psi, generator=random)


@torch.no_grad()
def mixing_grid(generator: StyleGAN2Generator, side: int, seed: int) -> Tensor:
    """Coarse styles by row, fine ones by column; the sources are left of them and above."""
    random = torch.Generator().manual_seed(seed)
    w = generator.styles(torch.randn(2 * side, LATENT, generator=random))
    coarse, fine = w.split(side)
    mixed = generator.mix(coarse.repeat_interleave(side, 0), fine.repeat(side, 1, 1), COARSE)
    sources = generator.synthesis(w, noise="fixed")
    grid = generator.synthesis(mixed, noise="fixed").unflatten(0, (side, side))
    rows = torch.cat([sources[:side, None], grid], dim=1)
    corner = torch.ones_like(sources[:1])
    return torch.cat([corner, sources[side:], rows.flatten(0, 1)])


def judged(images: Tensor, classes: Tensor, generator: StyleGAN2Generator, seed: int) -> str:
    """Shares of the classes, by the nearest real neighbours, and Wasserstein distances."""
    fake = sampled(generator, 1000, seed).flatten(1)
    nearest = KNeighborsClassifier(5).fit(images.flatten(1).numpy(), classes.numpy())
    shares = torch.bincount(torch.from_numpy(nearest.predict(fake.numpy())), minlength=10) / 1000
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    one, other = images[order].flatten(1)[:400].split(200)
    return (
        f"shares of the digits 0 to 9: {' '.join(f'{x:.2f}' for x in shares.tolist())}\n"
        f"Wasserstein distance of 200 to 200 real ones: generated "
        f"{wasserstein_distance(fake[:200], one):.2f}, real {wasserstein_distance(other, one):.2f}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("runs/digits"))
    options = parser.parse_args(arguments)

    images, classes = digits()
    generator = train(images, options.steps, options.seed)
    # Another seed than that of the weights: their first numbers would be the latent vectors again.
    seed = options.seed + 1
    options.folder.mkdir(parents=True, exist_ok=True)
    pictures = {"digits.png": sampled(generator, 64, seed, psi=0.8)}
    pictures["mixing.png"] = mixing_grid(generator, 7, seed)
    for name, grid in pictures.items():
        large = F.interpolate(grid, scale_factor=3)
        save_image(large, options.folder / name, nrow=8, normalize=True, value_range=(-1, 1))
    print(judged(images, classes, generator, seed))
    print(f"pictures in {options.folder}")


if __name__ == "__main__":
    main()
