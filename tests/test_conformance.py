"""Every block keeps every general promise, and no block is left out."""

from cases import CASES

import gan_blocks
from gan_blocks.testing import check, parametrize


@parametrize(CASES)
def test_conformance(case, name):
    check(case, name)


def test_every_built_in_block_has_a_case_with_a_literal_reference():
    rows = {case.spec["block"] for case in CASES}
    blocks = {entry.name for entry in gan_blocks.registry.list() if entry.plugin == "builtin"}
    assert rows == blocks


def test_case_names_are_unique():
    names = [case.name for case in CASES]
    assert sorted(set(names)) == sorted(names)
