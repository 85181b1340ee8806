"""The library's own blocks, through the same hooks as any plugin's."""

from gan_blocks.auxiliary.adaptive_weight import AdaptiveWeight
from gan_blocks.auxiliary.consistency import ConsistencyRegularizer
from gan_blocks.auxiliary.feature_matching import FeatureMatchingLoss
from gan_blocks.auxiliary.gradient_balancer import GradientBalancer
from gan_blocks.auxiliary.historical_averaging import HistoricalAveraging
from gan_blocks.auxiliary.layerwise_feature_matching import LayerwiseFeatureMatchingLoss
from gan_blocks.auxiliary.lecam import LeCamRegularizer
from gan_blocks.auxiliary.orthogonal import OrthogonalRegularizer
from gan_blocks.auxiliary.path_length import PathLengthPenalty
from gan_blocks.auxiliary.schedule import CosineSchedule, LinearSchedule, StepSchedule
from gan_blocks.constraints.orthogonal import Orthogonal
from gan_blocks.constraints.spectral_norm import SpectralNorm
from gan_blocks.constraints.weight_clipper import WeightClipper
from gan_blocks.divergences.alpha import AlphaDivergence
from gan_blocks.divergences.gan import GANDivergence
from gan_blocks.divergences.jeffrey import Jeffrey
from gan_blocks.divergences.jensen_shannon import JensenShannon
from gan_blocks.divergences.kl import KL
from gan_blocks.divergences.neyman_chi2 import NeymanChi2
from gan_blocks.divergences.pearson_chi2 import PearsonChi2
from gan_blocks.divergences.reverse_kl import ReverseKL
from gan_blocks.divergences.squared_hellinger import SquaredHellinger
from gan_blocks.divergences.total_variation import TotalVariation
from gan_blocks.divergences.weighted_jensen_shannon import WeightedJensenShannon
from gan_blocks.hookspecs import hookimpl
from gan_blocks.layers.conditional_batch_norm import ConditionalBatchNorm2d
from gan_blocks.layers.diff_augment import DiffAugment
from gan_blocks.layers.equalized import EqualizedConv2d, EqualizedLinear
from gan_blocks.layers.gaussian_noise import GaussianNoise
from gan_blocks.layers.minibatch_discrimination import MinibatchDiscrimination
from gan_blocks.layers.minibatch_std_dev import MinibatchStdDev
from gan_blocks.layers.packing import Packing
from gan_blocks.layers.pixel_norm import PixelNorm
from gan_blocks.layers.projection_head import ProjectionHead
from gan_blocks.layers.residual import ResidualDown2d, ResidualUp2d
from gan_blocks.layers.self_attention import SelfAttention2d
from gan_blocks.layers.virtual_batch_norm import VirtualBatchNorm
from gan_blocks.losses.f_divergence import FDivergenceLoss
from gan_blocks.losses.hinge import HingeLoss
from gan_blocks.losses.least_squares import LeastSquaresLoss
from gan_blocks.losses.minimax import MinimaxLoss
from gan_blocks.losses.non_saturating import NonSaturatingLoss
from gan_blocks.losses.relativistic import RelativisticLoss
from gan_blocks.losses.relativistic_average import RelativisticAverageLoss
from gan_blocks.losses.wasserstein import WassersteinLoss
from gan_blocks.networks.dcgan import DCGANDiscriminator, DCGANGenerator
from gan_blocks.networks.mlp import MLPDiscriminator, MLPGenerator
from gan_blocks.networks.patch import MultiScaleDiscriminator, PatchDiscriminator
from gan_blocks.networks.r3gan import R3GANDiscriminator, R3GANGenerator
from gan_blocks.networks.resnet import ResNetDiscriminator, ResNetGenerator
from gan_blocks.penalties.approximate import ApproximateR1Penalty, ApproximateR2Penalty
from gan_blocks.penalties.dragan import DraganPenalty
from gan_blocks.penalties.gradient import GradientPenalty
from gan_blocks.penalties.lazy import Lazy
from gan_blocks.penalties.r1 import R1Penalty
from gan_blocks.penalties.r2 import R2Penalty
from gan_blocks.penalties.scheduled import Scheduled


@hookimpl
def gan_blocks_layers() -> list[type]:
    return [
        MinibatchDiscrimination,
        MinibatchStdDev,
        Packing,
        VirtualBatchNorm,
        ConditionalBatchNorm2d,
        PixelNorm,
        SelfAttention2d,
        ResidualUp2d,
        ResidualDown2d,
        ProjectionHead,
        EqualizedLinear,
        EqualizedConv2d,
        GaussianNoise,
        DiffAugment,
    ]


@hookimpl
def gan_blocks_auxiliary() -> list[type]:
    return [
        FeatureMatchingLoss,
        LayerwiseFeatureMatchingLoss,
        HistoricalAveraging,
        AdaptiveWeight,
        GradientBalancer,
        LeCamRegularizer,
        OrthogonalRegularizer,
        ConsistencyRegularizer,
        PathLengthPenalty,
    ]


@hookimpl
def gan_blocks_schedules() -> list[type]:
    return [CosineSchedule, LinearSchedule, StepSchedule]


@hookimpl
def gan_blocks_losses() -> list[type]:
    return [
        FDivergenceLoss,
        HingeLoss,
        LeastSquaresLoss,
        MinimaxLoss,
        NonSaturatingLoss,
        RelativisticLoss,
        RelativisticAverageLoss,
        WassersteinLoss,
    ]


@hookimpl
def gan_blocks_divergences() -> list[type]:
    return [
        KL,
        ReverseKL,
        Jeffrey,
        PearsonChi2,
        NeymanChi2,
        SquaredHellinger,
        AlphaDivergence,
        JensenShannon,
        WeightedJensenShannon,
        GANDivergence,
        TotalVariation,
    ]


@hookimpl
def gan_blocks_penalties() -> list[type]:
    return [
        GradientPenalty,
        R1Penalty,
        R2Penalty,
        DraganPenalty,
        ApproximateR1Penalty,
        ApproximateR2Penalty,
        Lazy,
        Scheduled,
    ]


@hookimpl
def gan_blocks_constraints() -> list[type]:
    return [WeightClipper, SpectralNorm, Orthogonal]


@hookimpl
def gan_blocks_networks() -> list[type]:
    return [
        MLPGenerator,
        MLPDiscriminator,
        DCGANGenerator,
        DCGANDiscriminator,
        ResNetGenerator,
        ResNetDiscriminator,
        R3GANGenerator,
        R3GANDiscriminator,
        PatchDiscriminator,
        MultiScaleDiscriminator,
    ]
