"""Loading a plugin leaves the settings of the process as they were."""

import random

import numpy as np
import pytest
import torch

from gan_blocks._global_state import _SETTINGS, _quietly, settings_kept

CHANGES = {
    "torch's default dtype": lambda: torch.set_default_dtype(torch.float64),
    "torch's default device": lambda: torch.set_default_device("meta"),
    "torch's gradient mode": lambda: torch.set_grad_enabled(not torch.is_grad_enabled()),
    "torch's deterministic algorithms": lambda: torch.use_deterministic_algorithms(
        True, warn_only=True
    ),
    "torch's cuDNN settings": lambda: setattr(torch.backends.cudnn, "benchmark", True),
    "torch's precision of matrix products": lambda: torch.set_float32_matmul_precision("medium"),
    "torch's anomaly detection": lambda: torch.autograd.set_detect_anomaly(True),
    "torch's number of threads": lambda: torch.set_num_threads(torch.get_num_threads() + 1),
    "torch's random numbers": lambda: torch.rand(1, device="cpu"),
    "Python's random numbers": lambda: random.random(),
    "NumPy's random numbers": lambda: np.random.rand(),  # noqa: NPY002
}


def state() -> dict[str, str]:
    def plain(value):
        return value.tolist() if isinstance(value, torch.Tensor) else value

    return {name: repr(plain(_quietly(read))) for name, (read, _) in _SETTINGS.items()}


def test_every_setting_has_a_change_below():
    assert set(CHANGES) == set(_SETTINGS) - {"CUDA's random numbers"}


@pytest.mark.parametrize("name", CHANGES)
def test_a_setting_is_put_back_and_named(name):
    before = state()
    with settings_kept() as changed:
        CHANGES[name]()
        assert state() != before
    assert state() == before
    assert changed == [name]


def test_settings_are_put_back_when_the_body_raises():
    before = state()
    with pytest.raises(OSError, match="later"), settings_kept() as changed:  # noqa: PT012
        for change in CHANGES.values():
            change()
        raise OSError("later")
    assert state() == before
    assert set(changed) == set(CHANGES)


def test_what_does_not_change_is_not_named():
    with settings_kept() as changed:
        torch.ones(3).sum()
    assert changed == []


def test_a_users_own_settings_are_what_is_put_back():
    with settings_kept():
        torch.set_default_device("meta")
        torch.set_default_dtype(torch.float64)
        mine = state()
        with settings_kept() as changed:
            torch.set_default_device("cpu")
            torch.set_default_dtype(torch.float16)
        assert state() == mine
        assert changed == ["torch's default dtype", "torch's default device"]


@pytest.mark.parametrize(("backend", "value"), [("cuda", "tf32"), ("mkldnn", "bf16")])
def test_torchs_newer_settings_of_precision_stop_nothing(backend, value):
    """Once they are used, torch refuses to tell the older one."""
    place = getattr(torch.backends, backend).matmul
    before = place.fp32_precision
    try:
        place.fp32_precision = value
        mine = state()
        with settings_kept() as changed:
            place.fp32_precision = "ieee"
        assert state() == mine
        assert changed == ["torch's precision of matrix products"]
    finally:
        place.fp32_precision = before
