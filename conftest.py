"""Every example of the documentation runs: docstrings, pages and the README."""

import doctest
import os
import sys
from types import ModuleType
from typing import Any

from hypothesis import settings
from sybil import Sybil
from sybil.parsers.doctest import DocTestParser
from sybil.parsers.markdown import PythonCodeBlockParser

# On processors with AMX, bfloat16 convolutions of maps one or two columns wide, at stride 2, read memory
# that nothing has written (torch 2.14.1); tests that use small maps would fail by chance.
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")

OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE

docstrings = Sybil([DocTestParser(OPTIONS)], patterns=["gan_blocks/*.py", "gan_blocks/*/*.py"])


def as_module(namespace: dict[str, Any]) -> None:
    """Give a page a module, so that pickle finds its classes as it finds those of a script."""

    def __getattr__(name: str) -> Any:
        if name in namespace:
            return namespace[name]
        raise AttributeError(name)

    page = ModuleType("page")
    page.__dict__["__getattr__"] = __getattr__
    namespace["__name__"] = page.__name__
    sys.modules[page.__name__] = page


# The blocks of the tutorial's page are those of examples/tutorial.py, which tests/test_tutorial.py runs.
pages = Sybil(
    [PythonCodeBlockParser(doctest_optionflags=OPTIONS)],
    pattern="*.md",
    exclude="tutorial.md",
    setup=as_module,
)

# The package that `gan-blocks new-plugin` writes; tests/test_new_plugin.py runs its tests.
collect_ignore = ["gan_blocks/cli/template"]

pytest_collect_file = (docstrings + pages).pytest()

# The first example pays for torch's start; timing is the benchmarks' business.
settings.register_profile("gan_blocks", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("gan_blocks")
