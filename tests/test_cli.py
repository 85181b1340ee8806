"""What the command line prints."""

import json

import pytest
from typer.testing import CliRunner

import gan_blocks
from gan_blocks.cli import app


def run(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


def test_list_names_every_block():
    result = run("list")
    assert result.exit_code == 0
    assert all(entry.name in result.stdout for entry in gan_blocks.registry.list())


def test_list_of_a_kind_is_json_for_programs():
    documents = json.loads(run("list", "loss", "--json").stdout)
    assert {document["kind"] for document in documents} == {"loss"}
    assert "HingeLoss" in [document["name"] for document in documents]


@pytest.mark.parametrize("columns", ["40", "200"])
def test_list_fits_the_terminal(columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    assert max(map(len, run("list").stdout.splitlines())) <= int(columns)


def test_show_prints_arguments_limits_and_source():
    printed = run("show", "GradientPenalty").stdout
    assert "weight: number at least 0, default 10.0" in printed
    assert "one_sided: boolean, default false" in printed
    assert "arXiv:1704.00028" in printed
    assert "divergence: a divergence, required" in run("show", "FDivergenceLoss").stdout
    assert "output_shape: list of integer above 0" in run("show", "MLPGenerator").stdout


def test_unknown_names_exit_with_2_and_a_hint():
    result = run("show", "HingLoss")
    assert (result.exit_code, "did you mean HingeLoss?" in result.stderr) == (2, True)
    result = run("list", "loses")
    assert (result.exit_code, "did you mean loss?" in result.stderr) == (2, True)
