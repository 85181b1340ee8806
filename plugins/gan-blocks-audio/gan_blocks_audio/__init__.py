"""Blocks for audio: discriminators of waveforms and spectrograms, and the mel loss.

A plugin of gan_blocks; in specs its blocks are `audio/MultiPeriodDiscriminator` and so on.
"""

from gan_blocks import hookimpl
from gan_blocks_audio.mel import mel_filters
from gan_blocks_audio.mel_spectrogram_loss import MelSpectrogramLoss
from gan_blocks_audio.multi_period import MultiPeriodDiscriminator
from gan_blocks_audio.multi_resolution_stft import MultiResolutionSTFTDiscriminator
from gan_blocks_audio.multi_scale_wave import MultiScaleWaveDiscriminator

__all__ = [
    "MelSpectrogramLoss",
    "MultiPeriodDiscriminator",
    "MultiResolutionSTFTDiscriminator",
    "MultiScaleWaveDiscriminator",
    "mel_filters",
]

hook_version = 2


@hookimpl
def gan_blocks_networks() -> list[type]:
    return [MultiPeriodDiscriminator, MultiScaleWaveDiscriminator, MultiResolutionSTFTDiscriminator]


@hookimpl
def gan_blocks_auxiliary() -> list[type]:
    return [MelSpectrogramLoss]
