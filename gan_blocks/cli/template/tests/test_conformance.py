"""Every block keeps every promise that the kit knows."""

from gan_blocks_template.conformance import CASES

from gan_blocks import registry
from gan_blocks.testing import check, parametrize


@parametrize(CASES)
def test_conformance(case, name):
    check(case, name)


def test_every_block_has_a_case():
    blocks = {entry.name for entry in registry.list() if entry.plugin == "template"}
    assert blocks == {case.spec["block"] for case in CASES}
