"""Batch normalisation over the batch of all processes."""

from typing import Any

import torch
from torch import Tensor, nn

from gan_blocks._input_gradient import statistics_of_the_batch
from gan_blocks.distributed import all_reduce, process_count
from gan_blocks.lipschitz import batch_norm_norm, lipschitz_rule
from gan_blocks.precision import at_least_float32


class _OverProcesses:
    """Torch's own on one process; in a run of several, the statistics are those of all parts."""

    def forward(self: Any, input: Tensor) -> Tensor:
        of_the_batch = self.training or self.running_mean is None
        if process_count() == 1 or not of_the_batch:
            return super().forward(input)  # type: ignore[misc]
        self._check_input_dim(input)
        statistics_of_the_batch(input)
        over, shape = [0, *range(2, input.dim())], (1, -1, *[1] * (input.dim() - 2))
        wide = at_least_float32(input)
        sums = wide.sum(over)
        totals = all_reduce(torch.cat([sums, sums.new_full((1,), wide.numel() / len(sums))]))
        mean, count = totals[:-1] / totals[-1], totals[-1]
        centred = wide - mean.view(shape)
        variance = all_reduce(centred.square().sum(over)) / count
        if self.training and self.track_running_stats:
            self._learn(mean.detach(), (variance * count / (count - 1).clamp(min=1)).detach())
        y = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y.to(input.dtype)

    @torch.no_grad()
    def _learn(self: Any, mean: Tensor, variance: Tensor) -> None:
        self.num_batches_tracked += 1
        momentum = self.momentum
        if momentum is None:
            momentum = 1 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean.to(self.running_mean), momentum)
        self.running_var.lerp_(variance.to(self.running_var), momentum)


class BatchNorm1d(_OverProcesses, nn.BatchNorm1d):
    pass


class BatchNorm2d(_OverProcesses, nn.BatchNorm2d):
    pass


lipschitz_rule(BatchNorm1d, BatchNorm2d)(batch_norm_norm)
