"""StyleGAN2 as a plugin of gan_blocks: its layers and its two networks."""

from gan_blocks import hookimpl
from gan_blocks_stylegan.discriminator import StyleGAN2Discriminator
from gan_blocks_stylegan.generator import StyleGAN2Generator
from gan_blocks_stylegan.mapping import MappingNetwork
from gan_blocks_stylegan.modulation import ModulatedConv2d
from gan_blocks_stylegan.noise import NoiseInjection
from gan_blocks_stylegan.resampling import Downsample2d, Upsample2d

__version__ = "0.1.0"
hook_version = 2


@hookimpl
def gan_blocks_layers() -> list[type]:
    return [Downsample2d, MappingNetwork, ModulatedConv2d, NoiseInjection, Upsample2d]


@hookimpl
def gan_blocks_networks() -> list[type]:
    return [StyleGAN2Discriminator, StyleGAN2Generator]


__all__ = [
    "Downsample2d",
    "MappingNetwork",
    "ModulatedConv2d",
    "NoiseInjection",
    "StyleGAN2Discriminator",
    "StyleGAN2Generator",
    "Upsample2d",
]
