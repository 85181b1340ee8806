"""Runs the sweep and prints how many cells of each verdict there are.

python tests/misuse/sweep.py
python tests/misuse/sweep.py --only layer --verbose
python tests/misuse/sweep.py --json cells.json
"""

import argparse
import dataclasses
import json
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from misuse.entries import entries
from misuse.judge import VERDICTS, Cell, counts, share_of_ours, sweep
from misuse.kinds import everything

BAD = ("foreign", "wrong", "hang")


def line(name: str, count: Counter[str]) -> str:
    numbers = "".join(f"{count[verdict]:>9}" for verdict in VERDICTS)
    return f"{name:<14}{sum(count.values()):>8}{numbers}{share_of_ours(count):>9.1%}"


def main() -> None:
    """Prints the table, and the cells that are not as they should be."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--only", default="", help="entry points whose name or kind has this")
    parser.add_argument("--verbose", action="store_true", help="list the cells that are bad")
    parser.add_argument("--verdict", default="", help="list the cells of this verdict")
    parser.add_argument("--json", type=Path, help="write all cells to this file")
    parser.add_argument("--times", action="store_true", help="list the slowest entry points")
    options = parser.parse_args()
    torch.set_num_threads(1)
    start, cells, times = time.perf_counter(), list[Cell](), {}
    chosen = [e for e in entries() if options.only in e.name or options.only in e.kind]
    for entry in chosen:
        began = time.perf_counter()
        cells += sweep(entry)
        times[entry.name] = time.perf_counter() - began
    if options.json:
        options.json.write_text(json.dumps([dataclasses.asdict(cell) for cell in cells], indent=1))
    listed = (options.verdict,) if options.verdict else BAD if options.verbose else ()
    for cell in cells:
        if cell.verdict in listed:
            print(f"{cell.verdict:<8} {cell.name}: {cell.detail}")
    for name, seconds in sorted(times.items(), key=lambda t: -t[1])[: 12 if options.times else 0]:
        print(f"{seconds:6.1f} s  {name}")
    print(f"{'':<14}{'calls':>8}" + "".join(f"{v:>9}" for v in VERDICTS) + f"{'ours':>9}")
    table = counts(cells)
    for name in sorted(table):
        print(line(name, table[name]))
    print(line("all", sum(table.values(), Counter())))
    print(
        f"{len(chosen)} entry points, {len(list(everything()))} kinds of misuse, "
        f"{time.perf_counter() - start:.0f} s"
    )


if __name__ == "__main__":
    main()
