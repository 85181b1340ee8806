"""The library's own blocks, through the same hooks as any plugin's."""

from gan_blocks.auxiliary.feature_matching import FeatureMatchingLoss
from gan_blocks.constraints.weight_clipper import WeightClipper
from gan_blocks.divergences.gan import GANDivergence
from gan_blocks.divergences.jensen_shannon import JensenShannon
from gan_blocks.divergences.kl import KL
from gan_blocks.divergences.pearson_chi2 import PearsonChi2
from gan_blocks.divergences.reverse_kl import ReverseKL
from gan_blocks.divergences.squared_hellinger import SquaredHellinger
from gan_blocks.hookspecs import hookimpl
from gan_blocks.layers.minibatch_discrimination import MinibatchDiscrimination
from gan_blocks.layers.virtual_batch_norm import VirtualBatchNorm
from gan_blocks.losses.f_divergence import FDivergenceLoss
from gan_blocks.losses.hinge import HingeLoss
from gan_blocks.losses.least_squares import LeastSquaresLoss
from gan_blocks.losses.minimax import MinimaxLoss
from gan_blocks.losses.non_saturating import NonSaturatingLoss
from gan_blocks.losses.relativistic import RelativisticLoss
from gan_blocks.losses.wasserstein import WassersteinLoss
from gan_blocks.networks.dcgan import DCGANDiscriminator, DCGANGenerator
from gan_blocks.networks.mlp import MLPDiscriminator, MLPGenerator
from gan_blocks.penalties.gradient import GradientPenalty
from gan_blocks.penalties.r1 import R1Penalty
from gan_blocks.penalties.r2 import R2Penalty


@hookimpl
def gan_blocks_layers() -> list[type]:
    return [MinibatchDiscrimination, VirtualBatchNorm]


@hookimpl
def gan_blocks_auxiliary() -> list[type]:
    return [FeatureMatchingLoss]


@hookimpl
def gan_blocks_losses() -> list[type]:
    return [
        FDivergenceLoss,
        HingeLoss,
        LeastSquaresLoss,
        MinimaxLoss,
        NonSaturatingLoss,
        RelativisticLoss,
        WassersteinLoss,
    ]


@hookimpl
def gan_blocks_divergences() -> list[type]:
    return [KL, ReverseKL, PearsonChi2, SquaredHellinger, JensenShannon, GANDivergence]


@hookimpl
def gan_blocks_penalties() -> list[type]:
    return [GradientPenalty, R1Penalty, R2Penalty]


@hookimpl
def gan_blocks_constraints() -> list[type]:
    return [WeightClipper]


@hookimpl
def gan_blocks_networks() -> list[type]:
    return [MLPGenerator, MLPDiscriminator, DCGANGenerator, DCGANDiscriminator]
