"""The blocks are registered in process where the package is not installed."""

from importlib.metadata import entry_points

import gan_blocks_audio

from gan_blocks import registry

if "audio" not in entry_points(group="gan_blocks").names:
    registry.register(gan_blocks_audio, name="audio")
