"""Every block keeps every general promise, and no block is left out."""

from cases import CASES

import gan_blocks
from gan_blocks.testing import check, parametrize
from gan_blocks.testing.checks import sees_mates


@parametrize(CASES)
def test_conformance(case, name):
    check(case, name)


def test_every_built_in_block_has_a_case_with_a_literal_reference():
    rows = {case.spec["block"] for case in CASES}
    blocks = {entry.name for entry in gan_blocks.registry.list() if entry.plugin == "builtin"}
    assert rows == blocks


def test_every_block_that_declares_that_samples_see_each_other_has_a_case_that_proves_it():
    declared = {
        entry.name
        for entry in gan_blocks.registry.list()
        if entry.plugin == "builtin" and entry.blueprint.capabilities.batch_dependent
    }
    proved = {
        case.spec["block"] for case in CASES if case.spec["block"] in declared and sees_mates(case)
    }
    assert proved == declared


def test_case_names_are_unique():
    names = [case.name for case in CASES]
    assert sorted(set(names)) == sorted(names)
