"""Wrong arguments give the right number or an error of ours that says what was expected."""

import math
from collections import Counter

import pytest
import torch
from misuse.entries import entries, plain
from misuse.judge import NoReference, share_of_ours, sweep
from misuse.kinds import everything
from torch import Tensor

import gan_blocks
from gan_blocks._checks import check_tensor


@pytest.fixture(autouse=True)
def _random_numbers_as_they_were():
    with torch.random.fork_rng(devices=[]):
        yield


@pytest.mark.parametrize("kind", sorted({entry.kind for entry in entries()}))
def test_misuse_gives_the_right_number_or_an_error_of_ours(kind):
    cells = [cell for entry in entries() if entry.kind == kind for cell in sweep(entry)]
    bad = [f"{c.verdict} {c.name}: {c.detail}" for c in cells if c.verdict in ("wrong", "hang")]
    assert not bad, "\n".join(bad)
    foreign = [f"{c.name}: {c.detail}" for c in cells if c.verdict == "foreign"]
    assert share_of_ours(Counter(c.verdict for c in cells)) >= 0.95, "\n".join(foreign)


def test_every_built_in_block_has_an_entry_point():
    names = {entry.name for entry in entries()}
    for block in gan_blocks.registry.list():
        if block.plugin == "builtin":
            assert any(name.startswith(block.name) for name in names), block.name


def test_the_table_is_large_enough():
    kinds = {(family, kind.name) for family, kind in everything()}
    assert len({name for _, name in kinds}) >= 40
    for entry in entries():
        arguments = entry.make().arguments
        assert arguments or entry.kind == "schedule", entry.name


# --- the judge ------------------------------------------------------------------------------------


def judged(function, reference=lambda x: x.double().sum() / len(x)):
    entry = plain("mean", "test", function, lambda: {"x": torch.arange(1.0, 5.0)}, reference)
    return {cell.misuse: cell for cell in sweep(entry)}


def test_a_sum_in_place_of_a_mean_is_found():
    cells = judged(lambda x: x.sum())
    assert cells["non-contiguous"].verdict == "wrong"
    assert cells["under no_grad"].verdict == "wrong"
    assert judged(lambda x: x.mean())["non-contiguous"].verdict == "right"


def test_a_swallowed_nan_is_found():
    assert judged(lambda x: x.nanmean())["a NaN"].verdict == "wrong"
    assert judged(lambda x: x.mean())["a NaN"].verdict == "right"


def test_a_result_of_another_shape_is_found():
    assert judged(lambda x: x.mean()[None])["non-contiguous"].verdict == "wrong"


def test_a_changed_argument_is_found():
    def halved(x):
        mean = x.mean()
        x.mul_(0.5)
        return mean

    assert judged(halved)["non-contiguous"].verdict == "wrong"


def test_a_number_made_of_a_string_is_found():
    cells = judged(lambda x: x.mean() if isinstance(x, Tensor) else torch.tensor(0.0))
    assert cells["a string"].verdict == cells["None"].verdict == "wrong"


def test_errors_of_torch_and_of_python_are_told_from_ours():
    def checked(x):
        check_tensor("x", x)
        return x.mean()

    unchecked, ours = judged(lambda x: x.mean()), judged(checked)
    assert unchecked["a string"].verdict == unchecked["int64"].verdict == "foreign"
    assert ours["a string"].verdict == ours["int64"].verdict == "clear"
    assert ours["an unknown name"].verdict == ours["without x"].verdict == "python"


def test_a_hang_is_found(monkeypatch):
    monkeypatch.setattr("misuse.judge.LIMIT", 0.05)

    def waits(x):
        while isinstance(x, str):
            pass
        return x.mean()

    assert judged(waits)["a string"].verdict == "hang"


def test_a_reference_that_knows_nothing_confirms_nothing():
    def knows_one(x):
        if len(x) != 4 or not math.isclose(float(x[0]), 1):
            raise NoReference
        return x.sum() / 4

    assert judged(lambda x: x.mean(), knows_one)["a sample more"].verdict == "wrong"
