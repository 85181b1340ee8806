"""The conformance kit: states once what a block computes, and checks every general promise.

```python
from gan_blocks.testing import Case, check, parametrize
```

A [`Case`][gan_blocks.testing.Case] names a block, inputs for it and a slow literal reference. The
kit checks the rest: that its arguments are recorded and round-trip, that copies agree, that it
differentiates, compiles and runs in mixed precision where it claims so, that invalid arguments are
refused, and so on. The same kit tests the built-in blocks.
"""

from gan_blocks.testing.case import Case
from gan_blocks.testing.checks import CHECKS, check, names_of_checks
from gan_blocks.testing.pytest import parametrize

__all__ = ["CHECKS", "Case", "check", "names_of_checks", "parametrize"]
