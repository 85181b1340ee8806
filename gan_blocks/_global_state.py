"""Settings of the whole process that loading a plugin leaves as they were."""

import pickle
import random
import sys
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
    "torch's precision of matrix products": (
        torch.get_float32_matmul_precision,
        torch.set_float32_matmul_precision,
    ),
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
    before = {name: read() for name, (read, _) in _SETTINGS.items()}
    changed: list[str] = []
    try:
        yield changed
    finally:
        for name, (read, write) in _SETTINGS.items():
            if not _same(read(), before[name]):
                write(before[name])
                # A library that the body imports for the first time changes nothing of ours.
                if before[name] is not None:
                    changed.append(name)


def _same(now: Any, before: Any) -> bool:
    if isinstance(before, torch.Tensor):
        return torch.equal(now, before)
    return pickle.dumps(now) == pickle.dumps(before)
