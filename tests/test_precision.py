"""Buffers that stay wide keep their numbers and their dtype however the module is cast and moved."""

import copy

import pytest
import torch
from torch import nn

from gan_blocks.precision import WideBuffers

F16, F32, F64 = torch.float16, torch.float32, torch.float64


class Counting(WideBuffers):
    wide_buffers = ("count", "mask", "absent")

    def __init__(self, device=None):
        super().__init__()
        self.linear = nn.Linear(2, 2, device=device)
        self.register_buffer("count", torch.full((), 4099.0, device=device))  # 4100 in float16
        self.register_buffer("mask", torch.ones(2, dtype=torch.bool, device=device))
        self.register_buffer("absent", None)


@pytest.mark.parametrize(
    ("cast", "dtype"),
    [
        (lambda m: m.half(), F32),
        (lambda m: m.half().half(), F32),
        (lambda m: m.double().half(), F32),
        (lambda m: m.half().double(), F64),
        (lambda m: copy.deepcopy(m.half()).share_memory(), F32),
        (lambda m: m.cpu(), F32),
    ],
)
def test_wide_buffers_keep_their_numbers_through_casts(cast, dtype):
    module = cast(Counting())
    assert module.count.dtype == dtype
    assert module.count == 4099
    assert module.mask.dtype == torch.bool, "only floating-point buffers are meant"


@pytest.mark.parametrize(
    "cast",
    [
        lambda m: m.half(),
        lambda m: m.half().to_empty(device="cpu"),
        lambda m: m.to_empty(device="cpu").half(),
    ],
)
def test_wide_buffers_stay_wide_on_the_meta_device_and_from_there(cast):
    module = cast(Counting("meta"))
    assert module.count.dtype == F32
    assert module.linear.weight.dtype == F16
    if not module.count.is_meta:
        module.load_state_dict(Counting().state_dict())
        assert module.count == 4099


@pytest.mark.parametrize("names", [("cuont",), "count", ("weight",)])
def test_name_of_no_buffer_is_refused_with_those_that_there_are(names):
    class Wrong(WideBuffers):
        wide_buffers = names

        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(()))
            self.register_buffer("count", torch.zeros(()))

    with pytest.raises(
        TypeError, match=r"Wrong: wide_buffers .* which are \['count'\]; '.*' is none"
    ):
        Wrong().half()
