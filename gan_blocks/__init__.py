"""GAN building blocks for PyTorch."""

from gan_blocks import _builtins
from gan_blocks._builtins import (
    KL,
    AdaptiveWeight,
    AlphaDivergence,
    DCGANDiscriminator,
    DCGANGenerator,
    FDivergenceLoss,
    FeatureMatchingLoss,
    GANDivergence,
    GradientBalancer,
    GradientPenalty,
    HingeLoss,
    HistoricalAveraging,
    Jeffrey,
    JensenShannon,
    LayerwiseFeatureMatchingLoss,
    LeastSquaresLoss,
    MinibatchDiscrimination,
    MinimaxLoss,
    MLPDiscriminator,
    MLPGenerator,
    NeymanChi2,
    NonSaturatingLoss,
    PearsonChi2,
    R1Penalty,
    R2Penalty,
    RelativisticAverageLoss,
    RelativisticLoss,
    ReverseKL,
    SquaredHellinger,
    TotalVariation,
    VirtualBatchNorm,
    WassersteinLoss,
    WeightClipper,
    WeightedJensenShannon,
)
from gan_blocks.divergences.base import FDivergence
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
from gan_blocks.transport import wasserstein_critic, wasserstein_distance

__version__ = "0.1.0"

registry.register_builtin(_builtins)
build = registry.build
to_spec = registry.to_spec

__all__ = [
    "KL",
    "AdaptiveWeight",
    "AlphaDivergence",
    "AuxiliarySpec",
    "ConstraintSpec",
    "DCGANDiscriminator",
    "DCGANGenerator",
    "DivergenceSpec",
    "FDivergence",
    "FDivergenceLoss",
    "FeatureExtractor",
    "FeatureMatchingLoss",
    "GANDivergence",
    "GanBlocksError",
    "GradientBalancer",
    "GradientPenalty",
    "HingeLoss",
    "HistoricalAveraging",
    "InvalidArgumentsError",
    "Jeffrey",
    "JensenShannon",
    "LayerSpec",
    "LayerwiseFeatureMatchingLoss",
    "LeastSquaresLoss",
    "LossSpec",
    "MLPDiscriminator",
    "MLPGenerator",
    "MinibatchDiscrimination",
    "MinimaxLoss",
    "NetworkSpec",
    "NeymanChi2",
    "NonSaturatingLoss",
    "PearsonChi2",
    "PenaltySpec",
    "PluginError",
    "R1Penalty",
    "R2Penalty",
    "RelativisticAverageLoss",
    "RelativisticLoss",
    "ReverseKL",
    "SquaredHellinger",
    "TotalVariation",
    "UnknownBlockError",
    "VirtualBatchNorm",
    "WassersteinLoss",
    "WeightClipper",
    "WeightedJensenShannon",
    "WithReference",
    "block",
    "build",
    "hookimpl",
    "lipschitz_bound",
    "lipschitz_rule",
    "registry",
    "to_spec",
    "wasserstein_critic",
    "wasserstein_distance",
]
