import math

import torch

from gan_blocks import build
from gan_blocks.testing import Case, check, parametrize

SPEC = {"block": "template/ExponentialLoss", "temperature": 2.0}


def exponentials(values, sign):
    return torch.stack([math.e ** (sign * x / 2) for x in values]).sum() / len(values)


CASES = [
    Case(
        SPEC,
        inputs=lambda make: (make(6), make(4)),
        call=lambda loss, r, f: loss.discriminator(r, f),
        reference=lambda loss, r, f: exponentials(r, -1) + exponentials(f, 1),
        note="discriminator",
    ),
    Case(
        SPEC,
        inputs=lambda make: (make(6),),
        call=lambda loss, f: loss.generator(f),
        reference=lambda loss, f: exponentials(f, -1),
        note="generator",
    ),
]


@parametrize(CASES)
def test_conformance(case, name):
    check(case, name)


def test_optimal_critic_is_half_the_log_ratio():
    p, q = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.1, 0.3, 0.6])
    best = (p / q).log() / 2
    loss = build({"block": "template/ExponentialLoss"})
    # 1,000 samples in exactly these proportions
    real = best.repeat_interleave((1000 * p).round().int())
    fake = best.repeat_interleave((1000 * q).round().int())
    torch.testing.assert_close(loss.discriminator(real, fake), 2 * (p * q).sqrt().sum())
