"""The page's table of conformance, from the JUnit file that pytest wrote: `make conformance`.

    python tests/conformance_table.py CONFORMANCE.xml TABLE.md

A cell says how many cases of a block have passed a check; it is empty where the check does not apply.
"""

import re
import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import gan_blocks
from gan_blocks.testing import CHECKS


def table(report: str) -> str:
    """A Markdown table of a report, a line for each built-in block.

    Raises:
        SystemExit: If a test has not passed, so that no table hides it.
    """
    passed = Counter[tuple[str, str]]()
    for test in ElementTree.fromstring(report).iter("testcase"):
        match = re.fullmatch(r"test_conformance\[(\w+)(?:-.*)?-(\w+)\]", test.get("name") or "")
        if len(test):
            sys.exit(f"{test.get('name')} has not passed: {test[0].tag}")
        if match:
            passed[match[1], match[2]] += 1
    lines = [
        " | ".join(["| Block", *(name.replace("_", " ") for name in CHECKS), ""]).rstrip(),
        "|---" + "|:-:" * len(CHECKS) + "|",
    ]
    for entry in gan_blocks.registry.list():
        if entry.plugin == "builtin":
            cells = [str(passed[entry.name, check] or "") for check in CHECKS]
            lines.append(" | ".join([f"| `{entry.name}`", *cells, ""]).rstrip())
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:])
    target.write_text(table(source.read_text(encoding="utf-8")), encoding="utf-8")
