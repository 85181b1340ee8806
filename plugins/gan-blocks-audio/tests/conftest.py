"""The blocks are registered in process where the package is not installed."""

import os
from importlib.metadata import entry_points

import gan_blocks_audio

from gan_blocks import registry

# Without it torch 2.14.1 errs by chance in narrow bfloat16 convolutions, on processors with AMX.
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")

if "audio" not in entry_points(group="gan_blocks").names:
    registry.register(gan_blocks_audio, name="audio")
