"""Settings of the whole process that loading a plugin leaves as they were."""

import pickle
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


def _read_device() -> Any:
    return torch.get_default_device()


def _write_device(device: torch.device) -> None:
    # Without a default device torch need not look at every call.
    torch.set_default_device(None if device.type == "cpu" else device)


def _read_deterministic() -> tuple[bool, bool]:
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    return torch.are_deterministic_algorithms_enabled(), warn_only


def _write_deterministic(setting: tuple[bool, bool]) -> None:
    torch.use_deterministic_algorithms(setting[0], warn_only=setting[1])


def _read_cudnn() -> tuple[bool, bool]:
    return torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic


def _write_cudnn(setting: tuple[bool, bool]) -> None:
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = setting


def _read_anomaly() -> tuple[bool, bool]:
    return torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()


def _read_precision() -> tuple[str, str, str | None]:
    backends: Any = torch.backends
    new = backends.cuda.matmul.fp32_precision, backends.mkldnn.matmul.fp32_precision
    try:
        return (*new, torch.get_float32_matmul_precision())
    except RuntimeError:  # torch refuses to tell when the newer settings are in use
        return (*new, None)


def _write_precision(setting: tuple[str, str, str | None]) -> None:
    backends: Any = torch.backends
    *new, old = setting
    if old is not None:
        torch.set_float32_matmul_precision(old)
    # The older setting writes the newer ones.
    backends.cuda.matmul.fp32_precision, backends.mkldnn.matmul.fp32_precision = new


def _read_cuda() -> list[bytes] | None:
    if not torch.cuda.is_initialized():
        return None
    return [state.numpy().tobytes() for state in torch.cuda.get_rng_state_all()]


def _write_cuda(states: list[bytes] | None) -> None:
    if states is not None:
        torch.cuda.set_rng_state_all(
            [torch.frombuffer(bytearray(state), dtype=torch.uint8) for state in states]
        )


def _read_numpy() -> Any:
    return sys.modules["numpy"].random.get_state() if "numpy" in sys.modules else None


def _write_numpy(state: Any) -> None:
    if state is not None:
        sys.modules["numpy"].random.set_state(state)


_SETTINGS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "torch's default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "torch's default device": (_read_device, _write_device),
    "torch's gradient mode": (torch.is_grad_enabled, torch.set_grad_enabled),
    "torch's deterministic algorithms": (_read_deterministic, _write_deterministic),
    "torch's cuDNN settings": (_read_cudnn, _write_cudnn),
    "torch's precision of matrix products": (_read_precision, _write_precision),
    "torch's anomaly detection": (
        _read_anomaly,
        lambda setting: torch.autograd.set_detect_anomaly(*setting),
    ),
    "torch's number of threads": (torch.get_num_threads, torch.set_num_threads),
    "torch's random numbers": (torch.get_rng_state, torch.set_rng_state),
    "CUDA's random numbers": (_read_cuda, _write_cuda),
    "Python's random numbers": (random.getstate, random.setstate),
    "NumPy's random numbers": (_read_numpy, _write_numpy),
}


@contextmanager
def settings_kept() -> Iterator[list[str]]:
    """Puts back what the body changes, and names it in the list that it gives."""
    before = {name: _quietly(read) for name, (read, _) in _SETTINGS.items()}
    changed: list[str] = []
    try:
        yield changed
    finally:
        for name, (read, write) in _SETTINGS.items():
            # What cannot be read cannot be kept; a library that the body imports for the first
            # time changes nothing of ours.
            if before[name] is not None and not _same(_quietly(read), before[name]):
                _quietly(write, before[name])
                changed.append(name)


def _quietly(function: Callable[..., Any], *arguments: Any) -> Any:
    """A setting that this build of torch does not have is no reason to load nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return function(*arguments)
        except Exception:
            return None


def _same(now: Any, before: Any) -> bool:
    if isinstance(before, torch.Tensor):
        return now is not None and torch.equal(now, before)
    return pickle.dumps(now) == pickle.dumps(before)
