"""What theory says about the loss."""

import torch

from gan_blocks import build


def test_optimal_critic_is_half_the_log_ratio():
    p, q = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.1, 0.3, 0.6])
    best = (p / q).log() / 2
    loss = build({"block": "template/ExponentialLoss"})
    # 1,000 samples in exactly these proportions
    real = best.repeat_interleave((1000 * p).round().int())
    fake = best.repeat_interleave((1000 * q).round().int())
    torch.testing.assert_close(loss.discriminator(real, fake), 2 * (p * q).sqrt().sum())
