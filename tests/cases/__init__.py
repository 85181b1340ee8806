"""One row or more per block: inputs, and the formula as a slow literal computation.

A reference loops over the samples and writes the paper's formula down; it shares no code with the
block.
"""

from cases.auxiliary import AUXILIARY
from cases.constraints import CONSTRAINTS
from cases.divergences import DIVERGENCES
from cases.layers import LAYERS
from cases.losses import LOSSES
from cases.networks import NETWORKS
from cases.penalties import PENALTIES
from gan_blocks.testing import Case

CASES: list[Case] = [
    *LOSSES,
    *AUXILIARY,
    *DIVERGENCES,
    *PENALTIES,
    *CONSTRAINTS,
    *LAYERS,
    *NETWORKS,
]
