"""Griffe extension: the section of a docstring headed ``Example:`` is one of examples.

Griffe knows only ``Examples:``, and would print ``>>>`` as a quotation.
"""

import re
from typing import Any

from griffe import Extension, Object


class ExampleSections(Extension):
    """Renames the heading before the docstring is parsed."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = re.sub(
                r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE
            )
