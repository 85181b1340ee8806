"""GAN building blocks for PyTorch."""

from gan_blocks import _builtins
from gan_blocks._builtins import (
    KL,
    DCGANDiscriminator,
    DCGANGenerator,
    FDivergenceLoss,
    FeatureMatchingLoss,
    GANDivergence,
    GradientPenalty,
    HingeLoss,
    JensenShannon,
    LeastSquaresLoss,
    MinibatchDiscrimination,
    MinimaxLoss,
    MLPDiscriminator,
    MLPGenerator,
    NonSaturatingLoss,
    PearsonChi2,
    R1Penalty,
    R2Penalty,
    RelativisticLoss,
    ReverseKL,
    SquaredHellinger,
    VirtualBatchNorm,
    WassersteinLoss,
    WeightClipper,
)
from gan_blocks.errors import (
    GanBlocksError,
    InvalidArgumentsError,
    PluginError,
    UnknownBlockError,
)
from gan_blocks.features import FeatureExtractor
from gan_blocks.fields import (
    AuxiliarySpec,
    ConstraintSpec,
    DivergenceSpec,
    LayerSpec,
    LossSpec,
    NetworkSpec,
    PenaltySpec,
)
from gan_blocks.hookspecs import hookimpl
from gan_blocks.layers.virtual_batch_norm import WithReference
from gan_blocks.lipschitz import lipschitz_bound, lipschitz_rule
from gan_blocks.registry import registry
from gan_blocks.spec import block

__version__ = "0.1.0"

registry.register_builtin(_builtins)
build = registry.build
to_spec = registry.to_spec

__all__ = [
    "KL",
    "AuxiliarySpec",
    "ConstraintSpec",
    "DCGANDiscriminator",
    "DCGANGenerator",
    "DivergenceSpec",
    "FDivergenceLoss",
    "FeatureExtractor",
    "FeatureMatchingLoss",
    "GANDivergence",
    "GanBlocksError",
    "GradientPenalty",
    "HingeLoss",
    "InvalidArgumentsError",
    "JensenShannon",
    "LayerSpec",
    "LeastSquaresLoss",
    "LossSpec",
    "MLPDiscriminator",
    "MLPGenerator",
    "MinibatchDiscrimination",
    "MinimaxLoss",
    "NetworkSpec",
    "NonSaturatingLoss",
    "PearsonChi2",
    "PenaltySpec",
    "PluginError",
    "R1Penalty",
    "R2Penalty",
    "RelativisticLoss",
    "ReverseKL",
    "SquaredHellinger",
    "UnknownBlockError",
    "VirtualBatchNorm",
    "WassersteinLoss",
    "WeightClipper",
    "WithReference",
    "block",
    "build",
    "hookimpl",
    "lipschitz_bound",
    "lipschitz_rule",
    "registry",
    "to_spec",
]
