"""The blocks have names without an installation too, when the package is on the path only."""

from importlib.metadata import entry_points

import gan_blocks_stylegan
import torch

from gan_blocks import registry

if not entry_points(group="gan_blocks", name="stylegan"):
    registry.register(gan_blocks_stylegan, name="stylegan")

# Threads that wait for each other on a busy machine cost more than they bring to small tensors.
torch.set_num_threads(1)
