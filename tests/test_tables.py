"""The tables that runs write, and that pages show."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import gan_blocks
from gan_blocks.testing import CHECKS

TESTS = Path(__file__).parent
RESULTS = TESTS.parent / "docs" / "results"


@pytest.fixture(scope="module")
def conformance():
    return runpy.run_path(str(TESTS / "conformance_table.py"))["table"]


@pytest.fixture(scope="module")
def benchmarks():
    return runpy.run_path(str(TESTS / "benchmarks" / "table.py"))


def report(*names, inside=""):
    tests = "".join(f'<testcase name="{name}">{inside}</testcase>' for name in names)
    return f"<testsuites><testsuite>{tests}</testsuite></testsuites>"


def row(table, block):
    line = next(line for line in table.splitlines() if line.startswith(f"| `{block}` |"))
    return dict(zip(CHECKS, (cell.strip() for cell in line.split("|")[2:-1]), strict=True))


def test_cells_count_the_cases_that_passed(conformance):
    table = conformance(
        report(
            "test_conformance[KL-gradient]",
            "test_conformance[HingeLoss-gradient]",
            "test_conformance[HingeLoss-of halves - two-gradient]",
            "test_conformance[HingeLoss-meta_device]",
            "test_case_names_are_unique",
        )
    )
    cells = row(table, "HingeLoss")
    assert {name: cell for name, cell in cells.items() if cell} == {
        "gradient": "2",
        "meta_device": "1",
    }
    assert row(table, "KL")["gradient"] == "1"


def test_blocks_of_plugins_have_no_line(conformance, monkeypatch):
    entries = [
        SimpleNamespace(name="KL", plugin="builtin"),
        SimpleNamespace(name="Mine", plugin="x"),
    ]
    monkeypatch.setattr(gan_blocks.registry, "list", lambda: entries)
    table = conformance(report("test_conformance[KL-gradient]", "test_conformance[Mine-gradient]"))
    assert "`KL`" in table
    assert "Mine" not in table


@pytest.mark.parametrize("outcome", ["failure", "error", "skipped"])
def test_no_table_is_made_of_a_run_that_failed(conformance, outcome):
    with pytest.raises(SystemExit, match=r"HingeLoss-gradient\] has not passed"):
        conformance(report("test_conformance[HingeLoss-gradient]", inside=f"<{outcome}/>"))


def test_page_of_conformance_has_every_block_and_every_check():
    table = (RESULTS / "conformance.md").read_text(encoding="utf-8")
    for entry in gan_blocks.registry.list():
        if entry.plugin == "builtin":
            assert int(row(table, entry.name)["literal_reference"]) >= 1
    header = table.splitlines()[0]
    assert [name for name in CHECKS if f"| {name.replace('_', ' ')} |" not in header] == []


def run(group, who, least, params=None):
    return {
        "group": group,
        "name": "bench_read_and_write",
        "param": who,
        "params": params,
        "stats": {"min": least, "rounds": 5},
    }


def test_ratios_are_to_the_first_of_a_group(benchmarks):
    runs = [
        run("loss", None, 2e-6),
        run("step", "KL()-by hand", 0.5, {"name": "by hand"}),
        run("step", "KL()-ours", 0.4, {"name": "ours"}),
        run("clip", "loop", 0.002, {"clip": "UNSERIALIZABLE[...]"}),
    ]
    machine = {"cpu": {"brand_raw": "A processor"}}
    text = benchmarks["table"](
        json.loads(json.dumps({"machine_info": machine, "benchmarks": runs}))
    )
    assert text.splitlines()[0].startswith("On A processor, torch 2.")
    assert text.splitlines()[4:] == [
        "| loss | read and write | 2 µs |  | 5 |",
        "| step | by hand | 500 ms | 1.00 | 5 |",
        "|  | ours | 400 ms | 0.80 | 5 |",
        "| clip | loop | 2 ms |  | 5 |",
    ]


def test_machine_whose_processor_has_no_name_has_its_kind(benchmarks):
    text = benchmarks["table"]({"machine_info": {"machine": "arm64", "cpu": {}}, "benchmarks": []})
    assert text.startswith("On arm64, torch ")


@pytest.mark.parametrize(
    ("seconds", "text"), [(2.5, "2.5 s"), (0.0123, "12.3 ms"), (1e-3, "1 ms"), (4.56e-6, "4.56 µs")]
)
def test_times_have_the_unit_that_fits(benchmarks, seconds, text):
    assert benchmarks["time"](seconds) == text


def test_every_benchmark_can_be_collected():
    command = [sys.executable, "-m", "pytest", "--collect-only", "--quiet"]
    files = sorted((TESTS / "benchmarks").glob("bench_*.py"))
    # A worker of xdist would be told, by a warning, that benchmarks are off there.
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_XDIST")}
    result = subprocess.run(
        [*command, *files], cwd=TESTS.parent, env=env, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert [file.name for file in files if f"{file.name}::" not in result.stdout] == []
