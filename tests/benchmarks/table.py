"""The page's table of benchmarks, from the file that pytest-benchmark wrote: `make bench`.

    python tests/benchmarks/table.py BENCHMARKS.json TABLE.md

The first line of a group is its baseline, and the others are ratios of the least times to it.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch


def table(report: dict[str, Any]) -> str:
    """A Markdown table of a report, its groups in the order in which they ran."""
    machine = report["machine_info"]
    lines = [
        f"On {machine['cpu'].get('brand_raw') or machine['machine']}, torch {torch.__version__}.",
        "",
        "| What | Who | Least time | Ratio | Rounds |",
        "|---|---|--:|--:|--:|",
    ]
    groups: dict[str, list[Any]] = {}
    for run in report["benchmarks"]:
        groups.setdefault(run["group"], []).append(run)
    for group, runs in groups.items():
        baseline = runs[0]["stats"]["min"]
        for run in runs:
            least, what = run["stats"]["min"], group if run is runs[0] else ""
            words = run["name"].removeprefix("bench_").replace("_", " ")
            who = run["params"].get("name", run["param"]) if run["params"] else words
            ratio = f"{least / baseline:.2f}" if len(runs) > 1 else ""
            lines.append(f"| {what} | {who} | {time(least)} | {ratio} | {run['stats']['rounds']} |")
    return "\n".join(lines) + "\n"


def time(seconds: float) -> str:
    """Three digits with the unit that fits."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} µs"


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:])
    target.write_text(table(json.loads(source.read_text(encoding="utf-8"))), encoding="utf-8")
