"""What an import changes in the whole process is told, and left as it is."""

import random
import sys
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from gan_blocks._global_state import SETTINGS, settings_watched


def change_path() -> None:
    sys.path = sys.path[1:]


CHANGES: dict[str, Callable[[], object]] = {
    "sys.path": change_path,
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
}


@pytest.fixture(autouse=True)
def settings_as_they_were() -> Iterator[None]:
    path, threads = list(sys.path), torch.get_num_threads()
    places = [getattr(torch.backends, name).matmul for name in ("cuda", "mkldnn")]
    precisions = [place.fp32_precision for place in places]
    yield
    sys.path = path
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)
    torch.set_grad_enabled(True)
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = False
    for place, precision in zip(places, precisions, strict=True):
        place.fp32_precision = precision
    torch.autograd.set_detect_anomaly(False)
    torch.set_num_threads(threads)


def state() -> dict[str, str]:
    return {name: repr(read()) for name, read in SETTINGS.items()}


def test_every_setting_has_a_change_above():
    assert set(CHANGES) == set(SETTINGS)


@pytest.mark.parametrize("name", CHANGES)
def test_a_setting_that_changes_is_named_and_stays_changed(name):
    with settings_watched() as changed:
        CHANGES[name]()
        during = state()
    assert state() == during
    assert changed == [name]


def test_settings_are_named_when_the_body_raises():
    with pytest.raises(OSError, match="later"), settings_watched() as changed:  # noqa: PT012
        for change in CHANGES.values():
            change()
        raise OSError("later")
    assert set(changed) == set(CHANGES)


def test_random_numbers_that_are_drawn_are_no_change_and_are_not_drawn_again():
    with settings_watched() as changed:
        drawn = torch.rand(3), random.random(), np.random.rand()  # noqa: NPY002
    after = torch.rand(3), random.random(), np.random.rand()  # noqa: NPY002
    assert changed == []
    assert not torch.equal(drawn[0], after[0])
    assert drawn[1:] != after[1:]


@pytest.mark.parametrize(("backend", "value"), [("cuda", "tf32"), ("mkldnn", "bf16")])
def test_torchs_newer_settings_of_precision_stop_nothing(backend, value):
    """Once they are used, torch refuses to tell the older one."""
    place = getattr(torch.backends, backend).matmul
    place.fp32_precision = value
    with settings_watched() as changed:
        place.fp32_precision = "ieee"
    assert place.fp32_precision == "ieee"
    assert changed == ["torch's precision of matrix products"]
