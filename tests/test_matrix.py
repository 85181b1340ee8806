"""The runner of the stacking matrix, and some of its pairs; `make matrix` runs them all."""

import itertools

import matrix
import pytest
import torch

from gan_blocks import registry

PAIRS = matrix.covering()
# One layer after the other, the penalties and the ways in turn.
SOME = [
    next(p for p in PAIRS if p.layer == layer and p.penalty == penalty)
    for layer, penalty in zip(matrix.LAYERS, itertools.cycle(matrix.PENALTIES), strict=False)
]


def test_each_penalty_meets_each_layer_and_both_meet_every_way():
    layers, penalties = list(matrix.LAYERS), list(matrix.PENALTIES)
    assert {(p.layer, p.penalty) for p in PAIRS} == set(itertools.product(layers, penalties))
    for part in ("layer", "penalty"):
        for name in layers if part == "layer" else penalties:
            ways = {p.way for p in PAIRS if getattr(p, part) == name}
            for field in ("mode", "precision", "processes"):
                assert {getattr(w, field) for w in ways} == {getattr(w, field) for w in matrix.WAYS}


def test_no_penalty_and_no_layer_of_the_library_is_left_out():
    def ours(kind):
        return {entry.name for entry in registry.list(kind) if entry.plugin == "builtin"}

    assert {spec["block"] for spec in matrix.PENALTIES.values()} == ours("penalty")
    generators_only = {"ResidualUp2d"}
    assert ours("layer") - generators_only <= set(matrix.LAYERS)
    assert ours("constraint") <= set(matrix.LAYERS)


@pytest.fixture(scope="module")
def run():
    with matrix.runner("aot_eager") as runner:
        yield runner


@pytest.mark.parametrize("pair", SOME, ids=lambda pair: pair.key)
def test_penalty_trains_a_critic_with_the_layer(run, pair):
    result = run(pair)
    assert not result["problem"], result


def test_batch_norm_is_named_eagerly_and_refused_in_a_compiled_penalty(run):
    eager, compiled = matrix.Way("E", "32", 1), matrix.Way("S", "32", 1)
    for way, note in ((eager, "warns"), (compiled, "refused")):
        result = run(matrix.Pair("R1Penalty", "ConditionalBatchNorm2d", way))
        assert (result["problem"], result["note"]) == ("", note)


def test_judge_sees_what_is_wrong():
    pair = matrix.Pair("R1Penalty", "none", matrix.Way("E", "32", 1))
    result = matrix.train(pair, "eager")
    assert matrix.judge(pair, [result]) == ""
    change = torch.tensor(result["change"], dtype=torch.float64)

    def judged(*changes):
        return matrix.judge(pair, [{"change": c.tolist()} for c in changes])

    assert "off by 0.01 of its length" in judged(1.01 * change)
    assert judged(change, change + 1e-9) == "processes differ"
    assert judged(0 * change) == "weights did not move"
    assert judged(change * float("nan")) == "weights are not finite"


def test_table_tells_what_was_not_run_and_what_failed():
    first, second = PAIRS[:2]
    results = {
        first.key: {"problem": "", "note": "warns"},
        second.key: {"problem": "ValueError: no", "note": ""},
    }
    text = matrix.table(results)
    assert text.count("not run") == len(PAIRS) - 2
    assert f"| {first.way}, warns |" in text
    assert f"**fails** ({second.way})" in text
