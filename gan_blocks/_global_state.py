"""Settings of the whole process, to tell which of them changed while a plugin was imported."""

import pickle
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


def _deterministic() -> tuple[bool, bool]:
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    return torch.are_deterministic_algorithms_enabled(), warn_only


def _precision() -> tuple[str, str, str | None]:
    backends: Any = torch.backends
    new = backends.cuda.matmul.fp32_precision, backends.mkldnn.matmul.fp32_precision
    try:
        return (*new, torch.get_float32_matmul_precision())
    except RuntimeError:  # torch refuses to tell when the newer settings are in use
        return (*new, None)


SETTINGS: dict[str, Callable[[], Any]] = {
    "sys.path": lambda: list(sys.path),
    "torch's default dtype": torch.get_default_dtype,
    "torch's default device": torch.get_default_device,
    "torch's gradient mode": torch.is_grad_enabled,
    "torch's deterministic algorithms": _deterministic,
    "torch's cuDNN settings": lambda: (
        torch.backends.cudnn.benchmark,
        torch.backends.cudnn.deterministic,
    ),
    "torch's precision of matrix products": _precision,
    "torch's anomaly detection": lambda: (
        torch.is_anomaly_enabled(),
        torch.is_anomaly_check_nan_enabled(),
    ),
    "torch's number of threads": torch.get_num_threads,
}
"""Random numbers are not among them: other threads draw them at any time."""


@contextmanager
def settings_watched() -> Iterator[list[str]]:
    """Gives a list that names, at the end, the settings that changed meanwhile. Nothing is undone."""
    before = {name: _quietly(read) for name, read in SETTINGS.items()}
    changed: list[str] = []
    try:
        yield changed
    finally:
        changed += [n for n, read in SETTINGS.items() if not _same(_quietly(read), before[n])]


def _quietly(read: Callable[[], Any]) -> Any:
    """A setting that this build of torch does not have is no reason to load nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return read()
        except Exception:
            return None


def _same(now: Any, before: Any) -> bool:
    return pickle.dumps(now) == pickle.dumps(before)
