"""Inputs for each block, and a slow literal computation of what it must give."""

import math

import torch

from gan_blocks.testing import Case

SPEC = {"block": "template/ExponentialLoss", "temperature": 2.0}


def exponentials(values, sign):
    """The mean of exp(sign * value / 2), one value after the other."""
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
