"""Kills a run at many moments, goes on with it each time, and compares with one that was left alone.

    python tests/kill_runs.py FOLDER CONFIG

A moment is a call of a function: a seed draws which of all the calls of a run it is, or of those within
`checkpoint.save`, or of those while the new file takes the place of the old one. There the process sends
itself SIGKILL. Each run is a fork of this process, so torch is imported once.
"""
# The examples are scripts in a folder of their own.
# pyright: reportMissingImports=false

import json
import os
import random
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import torch
from trainer_runs import log_of, same

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

import checkpoint
import plots
import reading
import train
from config import Config

MOMENTS, CPU = 20, torch.device("cpu")
plots.samples = plots.curves = lambda *arguments: None  # most of all calls, and no state


class Calls:
    """Counts calls of functions, of Python and of C, and may kill the process at one of them."""

    def __init__(self, note: Path, kill_at: tuple[str, int] | None = None) -> None:
        self.counts: dict[str, int] = dict.fromkeys(("anywhere", "saving", "renaming"), 0)
        self.note, self.kill_at = note, kill_at
        self.saving = self.renaming = False
        self.trainer: Any = None

    def __call__(self, frame, event, argument) -> None:
        code = frame.f_code
        if event == "call" and code is train.Trainer.train_step.__code__:
            self.trainer = frame.f_locals["self"]
        if code is checkpoint.save.__code__ and event in ("call", "return"):
            self.saving, self.renaming = event == "call", False
        if event == "call" and code is Path.replace.__code__ and self.saving:
            self.renaming = True
        if event in ("call", "c_call"):
            self.count("anywhere")
            if self.saving:
                self.count("saving")
            if self.renaming:
                self.count("renaming")

    def count(self, where: str) -> None:
        self.counts[where] += 1
        if self.kill_at == (where, self.counts[where]):
            sys.setprofile(None)
            self.note.write_text(str(self.trainer.step if self.trainer else 0))
            os.kill(os.getpid(), signal.SIGKILL)


def in_a_fork(function, *arguments) -> int:
    """The exit status of a process that calls the function; minus the signal that ended it."""
    child = os.fork()
    if not child:
        status = 1
        try:
            function(*arguments)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def counted_run(config, out, calls):
    sys.setprofile(calls)
    train.run(config, out, out, CPU, resume=False)
    sys.setprofile(None)
    calls.note.write_text(json.dumps(calls.counts))


def plain_run(config, out, resume):
    train.run(config, out, out, CPU, resume=resume)


def load(path):
    return torch.load(path, weights_only=True)


def main(folder: Path, file: Path) -> None:
    torch.set_num_threads(1)
    config = reading.read_config(Config, file)
    note = folder / "note"
    plain_run(config, folder / "warm", False)  # imports what is imported late, once for all forks
    assert in_a_fork(counted_run, config, folder / "whole", Calls(note)) == 0
    counts = json.loads(note.read_text())
    expected = load(folder / "whole" / "checkpoint.pt")["parts"]
    draws = random.Random(0)
    lost = []
    for i in range(MOMENTS):
        where = list(counts)[i % 3]
        moment = draws.randint(1, counts[where])
        out = folder / f"killed-{i}"
        status = in_a_fork(counted_run, config, out, Calls(note, (where, moment)))
        assert status == -signal.SIGKILL, (i, status)
        at, path = int(note.read_text()), out / "checkpoint.pt"
        temporary = path.with_suffix(".tmp")
        if temporary.exists():  # as if the last part of it had not reached the disk
            whole = temporary.read_bytes()
            temporary.write_bytes(whole[: draws.randint(0, len(whole))])
        saved = [p for p in (path, checkpoint.previous(path)) if p.exists()]
        assert saved or not at, (i, where, moment)
        if saved:
            lost.append(at - load(saved[0])["step"])
            assert lost[-1] <= config.checkpoint_every, (i, where, moment, lost)
        assert in_a_fork(plain_run, config, out, bool(saved)) == 0, (i, where, moment)
        assert same(load(path)["parts"], expected), (i, where, moment)
        assert log_of(out) == log_of(folder / "whole"), (i, where, moment)
    print(f"{MOMENTS} runs killed; of so many calls: {counts}; steps lost: {lost}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
