r"""MkDocs hook: the formulas of a page become MathML while the site is built.

``pymdownx.arithmatex`` finds ``$...$`` and ``$$...$$``, in pages and in docstrings; ``latex2mathml``
converts them. The browser then needs no script, no font and no network.
"""

import logging
import re
from html import unescape
from typing import Any

from latex2mathml.converter import convert

log = logging.getLogger("mkdocs.hooks.mathml")

FORMULA = re.compile(
    r'<(span|div) class="arithmatex">\s*\\(?:\((?P<inline>.*?)\\\)|\[(?P<block>.*?)\\\])\s*</\1>',
    re.DOTALL,
)
# log, max, sup and so on, with an operator or a start before and a bracket behind.
NAME = re.compile(
    r"(?P<open></mo>|<mrow>)?<(mi|mo)>(?P<name>[a-z]{2,})</\2>(?P<bracket>(?=<mo [^>]*>&#x00028;))?"
)


def on_page_content(html: str, *, page: Any, **_: Any) -> str:
    """Replace each formula; one that is not understood is a warning, so the strict build fails."""

    def mathml(match: re.Match[str]) -> str:
        display = "block" if match["block"] is not None else "inline"
        latex = " ".join(unescape(match["block"] or match["inline"]).split())
        try:
            result = convert(latex, display=display)
        except Exception as error:
            log.warning("%s: cannot convert %s: %s", page.file.src_uri, latex, error)
            return match[0]
        if "\\" in result:
            log.warning("%s: unknown command in %s", page.file.src_uri, latex)
        return NAME.sub(spaced, result)

    return FORMULA.sub(mathml, html)


def spaced(match: re.Match[str]) -> str:
    """The name of a function with TeX's spaces: latex2mathml writes ``u log u`` without any."""
    before = "0" if match["open"] else "0.167em"
    behind = "0" if match["bracket"] is not None else "0.167em"
    name = match["name"]
    return f'{match["open"] or ""}<mo lspace="{before}" rspace="{behind}">{name}</mo>'
