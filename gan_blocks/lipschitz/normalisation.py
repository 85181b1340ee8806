"""The bound of batch norm in evaluation mode."""

from typing import Any

from torch import nn

from gan_blocks.lipschitz.bound import lipschitz_rule
from gan_blocks.lipschitz.linear import finite


@lipschitz_rule(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
def batch_norm_norm(module: Any, input_shape: tuple[int, ...]) -> float:
    r"""$\max_c |\gamma_c| / \sqrt{\sigma_c^2 + \epsilon}$, of the running variances."""
    name = type(module).__name__
    if module.running_var is None:
        raise TypeError(f"{name} without running statistics has no Lipschitz bound")
    if module.training:
        raise TypeError(
            f"{name} in training mode divides by the deviation of the batch, which nothing bounds "
            "from below: call eval() for a bound"
        )
    if not input_shape or input_shape[0] != module.num_features:
        raise ValueError(f"{module} takes {module.num_features} channels, got shape {input_shape}")
    scale = (finite(module.running_var, module) + module.eps).rsqrt()
    if module.affine:
        scale = scale * finite(module.weight, module).abs()
    return float(scale.max()) * (1 + 1e-15)
