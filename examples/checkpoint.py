"""What a run keeps on disk, such that it can be stopped at any moment and resumed."""

import json
import os
import pickle
import random
import warnings
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ValidationError

from data import UsageError

UNREADABLE = (
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
)
"""What a checkpoint raises that is cut, overwritten, or of something else."""


def random_state(device: torch.device) -> dict[str, Any]:
    """The states of all global random number generators, of types that a checkpoint may hold.

    Args:
        device: Of whose generator there is a state too.
    """
    numpy: Any = np.random.get_state(legacy=True)  # noqa: NPY002
    on_cpu = device.type == "cpu"
    return {
        "python": random.getstate(),
        "numpy": (numpy[0], numpy[1].tolist(), *numpy[2:]),
        "torch": torch.get_rng_state(),
        "device": None if on_cpu else torch.get_device_module(device).get_rng_state(),
    }


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Go on from the states that `random_state` gave."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if device.type != "cpu":
        torch.get_device_module(device).set_rng_state(state["device"])


class RandomNumbers:
    """Every generator of random numbers; `draws` is the one of latent vectors and penalties."""

    def __init__(self, seed: int, device: torch.device) -> None:
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - the global generator, which a plugin may use
        torch.manual_seed(seed)
        # A seed that is drawn: with the run's own, training would draw what its pictures show.
        own = torch.randint(2**62, (), generator=torch.Generator().manual_seed(seed))
        self.draws = torch.Generator(device).manual_seed(int(own))
        self.device = device

    def state_dict(self) -> dict[str, Any]:
        """All states, of types that `torch.load` takes with `weights_only`."""
        return random_state(self.device) | {"draws": self.draws.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from these states."""
        set_random_state(state, self.device)
        self.draws.set_state(state["draws"])


def save(state: dict[str, Any], path: Path) -> None:
    """Write a checkpoint, and keep the one before it.

    At every moment there is a whole one: the file itself or, while the new one takes its place, that of
    `previous`. A disk that is full leaves both as they are.
    """
    temporary = path.with_suffix(".tmp")
    try:
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:  # torch stumbles over what the system has refused
        temporary.unlink(missing_ok=True)
        error = error.__context__ if isinstance(error.__context__, OSError) else error
        remedy = "there is none yet; make room, and start again"
        if path.exists():
            remedy = f"{path} still has an earlier one; make room, and go on from it"
        raise UsageError(
            f"the checkpoint of step {state['step']} cannot be written ({error}): {remedy}"
        ) from error
    if path.exists():
        path.replace(previous(path))
    temporary.replace(path)


def previous(path: Path) -> Path:
    """The checkpoint before the one in this file."""
    return path.with_suffix(".previous.pt")


def exists(path: Path) -> bool:
    """Whether there is a checkpoint in this file, or was when its process was killed."""
    return path.exists() or previous(path).exists()


def check_new(out: Path) -> None:
    """Refuse a folder for a new run that holds anything.

    What a run has left that was killed before its first checkpoint does not count.
    """
    if exists(out / "checkpoint.pt"):
        raise UsageError(f"{out} already holds a run: add --resume, or choose another --out")
    names = sorted(p.name for p in out.iterdir() if p.suffix != ".tmp") if out.exists() else []
    if names:
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if names[3:] else "")
        raise UsageError(
            f"{out} holds {shown} and no checkpoint, so it is no run to go on with; empty it, or choose "
            "another --out"
        )


def load(path: Path, device: torch.device) -> dict[str, Any]:
    """Read a checkpoint of tensors and plain values; it can run no code."""
    if not path.is_file() and previous(path).is_file():
        path = previous(path)  # a process was killed while it put the new one in place
    if not path.is_file():
        raise UsageError(f"{path} is not there, so there is no run to go on with; check the folder")
    try:
        with zipfile.ZipFile(path) as archive:  # torch does not look at the checksums
            if broken := archive.testzip():
                raise zipfile.BadZipFile(f"the checksum of {broken} is wrong")
        with warnings.catch_warnings(action="ignore"):  # of formats that are refused anyway
            state = torch.load(path, map_location="cpu", weights_only=True)
        kind = state["device"]
    except UNREADABLE as error:
        raise damaged(path, error) from error
    if kind != device.type:
        raise UsageError(f"{path} was written on {kind}: add --device {kind}")
    return state


def damaged(path: Path, error: Exception) -> UsageError:
    """The error of a checkpoint that does not hold what it should."""
    reason = str(error).strip().partition("\n")[0]
    remedy = "put back a copy of it"
    if previous(path).is_file():
        remedy = (
            f"rename {previous(path).name}, the one before it, to {path.name} and go on from there"
        )
    return UsageError(
        f"{path} is damaged ({type(error).__name__}: {reason}); {remedy}, or start a new run with "
        "another --out"
    )


def compare(old: dict[str, Any], config: BaseModel, out: Path) -> None:
    """Refuse to go on with another config than the run's. Only `steps` may differ.

    What a later version has brought counts as left out: it has to have its default.
    """
    with suppress(ValidationError):
        old = type(config).model_validate(old).model_dump()
    new, gone = config.model_dump(), "not there"
    changed = [
        f"{key} was {old.get(key, gone)} and is {new.get(key, gone)}"
        for key in old | new
        if key != "steps" and old.get(key, gone) != new.get(key, gone)
    ]
    if changed:
        raise UsageError(
            f"{out} was made with another config: {'; '.join(changed)}; undo the change, or start "
            "a new run with another --out"
        )


def cut_log(path: Path, step: int) -> None:
    """Drop what was logged after a step, since a resumed run logs it again."""
    kept = [line for line in read_log(path) if line["step"] <= step]
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
    temporary.replace(path)


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log but one that a killed process left unfinished."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    values = []
    for number, line in enumerate(text.split("\n")[:-1], 1):
        try:
            values.append(json.loads(line))
            known = isinstance(values[-1], dict) and "step" in values[-1]
        except ValueError:
            known = False
        if not known:
            raise UsageError(
                f"{path} is damaged in line {number}, {line[:40]!r}; delete the line, and go on"
            )
    return values
