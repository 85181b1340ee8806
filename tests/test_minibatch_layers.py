"""Layers that look at a batch: the pieces of minibatch discrimination, standard deviation, packs."""
# pyright: reportOptionalMemberAccess=false

import math

import pytest
import torch
from torch import nn

from gan_blocks import (
    DCGANDiscriminator,
    MinibatchDiscrimination,
    MinibatchStdDev,
    MLPDiscriminator,
    Packing,
    VirtualBatchNorm,
    WithReference,
    pack,
)
from gan_blocks.layers import _similarity

F64 = torch.float64


def derivatives(function, m, own, g, h):
    """The sums, their gradient, and that gradient's derivatives in a direction."""
    m, g = m.clone().requires_grad_(), g.clone().requires_grad_()
    sums = function(m, own)
    (gradient,) = torch.autograd.grad(sums, m, g, create_graph=True)
    return [sums, gradient, *torch.autograd.grad((gradient * h).sum(), (m, g))]


@pytest.mark.parametrize("kept", [2**25, 0], ids=["kept", "computed again"])
@pytest.mark.parametrize("numbers", [2**19, 256, 1], ids=["few pieces", "many", "one row each"])
@pytest.mark.parametrize(
    ("n", "own"), [(1, 1), (2, 2), (63, 63), (64, 64), (65, 65), (129, 129), (130, 50), (7, 3)]
)
def test_pieces_give_what_plain_operations_give(monkeypatch, kept, numbers, n, own):
    monkeypatch.setattr(_similarity, "_KEPT_BYTES", kept)
    monkeypatch.setitem(_similarity._NUMBERS, "cpu", numbers)
    generator = torch.Generator().manual_seed(n)
    m, h = (torch.randn(2, 3, n, dtype=F64, generator=generator) for _ in range(2))
    g = torch.randn(3, own, dtype=F64, generator=generator)
    pieces = derivatives(_similarity.similarity_sums, m, own, g, h)
    plain = derivatives(_similarity._in_plain_operations, m, own, g, h)
    for a, b in zip(pieces, plain, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("kept", [2**25, 0], ids=["kept", "computed again"])
def test_pieces_cover_more_kernels_than_there_are_samples(monkeypatch, kept):
    monkeypatch.setattr(_similarity, "_KEPT_BYTES", kept)
    monkeypatch.setitem(_similarity._NUMBERS, "cpu", 64)
    m, h = torch.randn(2, 2, 20, 5, dtype=F64)
    g = torch.randn(20, 5, dtype=F64)
    pieces = derivatives(_similarity.similarity_sums, m, 5, g, h)
    plain = derivatives(_similarity._in_plain_operations, m, 5, g, h)
    for a, b in zip(pieces, plain, strict=True):
        torch.testing.assert_close(a, b)


def test_what_is_kept_for_the_backward_pass_stays_within_its_limit():
    saved = []
    layer = MinibatchDiscrimination(4, 100, 1)
    for n in (256, 600):
        saved.clear()

        def keep(x):
            saved.append(x.numel() * x.element_size())
            return x

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            layer(torch.randn(n, 4))
        assert max(saved) <= 2**25
        if n == 256:
            assert max(saved) > 100 * 256**2 / 2 * 4, "kept where it fits"
        else:
            assert max(saved) < 100 * 600**2 / 2 * 4, "not kept where it does not"


def test_equal_samples_push_each_other_nowhere():
    m = torch.randn(2, 3, 1, dtype=F64).repeat(1, 1, 70).requires_grad_()
    sums = _similarity.similarity_sums(m, 70)
    (gradient,) = torch.autograd.grad(sums.sum(), m)
    assert (sums == 69).all()
    assert (gradient == 0).all()


def test_third_derivatives_are_refused_and_not_wrong():
    layer, x = MinibatchDiscrimination(3, 2).double(), torch.randn(4, 3, dtype=F64).requires_grad_()
    (first,) = torch.autograd.grad(layer(x)[:, 3:].square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiable twice"):
        torch.autograd.grad(second.square().sum(), x)


def test_functional_gradients_agree_with_autograds():
    layer, x = MinibatchDiscrimination(3, 2).double(), torch.randn(4, 3, dtype=F64)

    def loss(x):
        return layer(x)[:, 3:].square().sum()

    y = x.clone().requires_grad_()
    (first,) = torch.autograd.grad(loss(y), y, create_graph=True)
    torch.testing.assert_close(torch.func.grad(loss)(x), first.detach())
    (second,) = torch.autograd.grad(first.square().sum(), y)
    twice = torch.func.grad(lambda x: torch.func.grad(loss)(x).square().sum())(x)
    torch.testing.assert_close(twice, second)


def test_half_precision_features_are_compared_in_float32():
    layer = MinibatchDiscrimination(64, 8)
    x = torch.randn(32, 64).bfloat16()
    exact = layer(x.float())
    half = layer.bfloat16()(x)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), exact, rtol=0.1, atol=0.3)


def test_a_column_of_zeros_stays_finite():
    layer, x = MinibatchDiscrimination(4, 2, 3), torch.randn(5, 4, requires_grad=True)
    with torch.no_grad():
        layer.theta[:, 0] = 0
    y = layer(x)
    torch.testing.assert_close(y[:, 4], torch.full((5,), 4.0), rtol=0, atol=1e-6)
    y.sum().backward()
    assert all(p.grad.isfinite().all() for p in (x, layer.theta, layer.log_scale))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("scale", [0.01, 1.0, 300.0])
@torch.no_grad()
def test_initialisation_by_data_puts_the_nearest_neighbour_at_distance_2(scale, bias):
    torch.manual_seed(0)
    layer = MinibatchDiscrimination(8, 3, 4, bias=bias, dtype=F64)
    x = scale * torch.randn(20, 8, dtype=F64)
    layer.initialize(x)
    m = layer._projections(x)
    for b in range(3):
        nearest = []
        for i in range(20):
            distances = [float((m[i, b] - m[j, b]).abs().sum()) for j in range(20) if j != i]
            nearest.append(min(distances))
        assert sum(nearest) / 20 == pytest.approx(2)
    if bias:
        torch.testing.assert_close(layer(x)[:, 8:].mean(0), torch.zeros(3, dtype=F64))
    else:
        assert layer(x)[:, 8:].mean() > 0.1


@pytest.mark.parametrize("x", [torch.ones(4, 3), torch.ones(1, 3), torch.full((4, 3), math.inf)])
def test_initialisation_needs_different_finite_samples(x):
    layer = MinibatchDiscrimination(3)
    before = layer.log_scale.clone()
    with pytest.raises(ValueError, match=r"x should (hold different|have two) samples"):
        layer.initialize(x)
    assert torch.equal(layer.log_scale, before)


# --- minibatch standard deviation ------------------------------------------------------------------


def statistic(layer, x):
    return layer(x)[:, x.shape[1] :]


@pytest.mark.parametrize("n", [4, 8, 12])
@pytest.mark.parametrize("channels", [1, 2])
def test_groups_are_those_of_stylegan2_where_the_size_divides_the_batch(n, channels):
    x = torch.randn(n, 6, 3, 2, dtype=F64)
    groups = x.reshape(4, -1, channels, 6 // channels, 3, 2)
    variance = groups.var(0, correction=0)
    expected = (variance + 1e-8).sqrt().mean((2, 3, 4)).repeat(4, 1)
    actual = statistic(MinibatchStdDev(4, channels), x)
    torch.testing.assert_close(actual, expected[:, :, None, None].expand(-1, -1, 3, 2))


@pytest.mark.parametrize("n", range(1, 12))
def test_every_batch_size_has_groups_of_about_one_size(n):
    # A sample far from the others shows in its own group only.
    sizes = []
    for i in range(n):
        x = torch.zeros(n, 1, dtype=F64)
        x[i] = 1.0
        sizes.append(int((statistic(MinibatchStdDev(4), x) > 1e-3).sum()))
    groups = -(-n // 4)
    if n > groups:
        assert max(sizes) - min(s or 1 for s in sizes) <= 1
        assert max(sizes) <= 4


def test_groups_are_of_four_as_in_the_paper_unless_told_otherwise():
    x = torch.randn(12, 4)
    assert statistic(MinibatchStdDev(), x).unique().numel() == 3
    torch.testing.assert_close(MinibatchStdDev()(x), MinibatchStdDev(4)(x))


def test_whole_batch_statistic_is_that_of_torch_and_ignores_the_order():
    x = torch.randn(9, 5, dtype=F64)
    layer = MinibatchStdDev(None, eps=1e-30)
    expected = x.std(0, correction=0).mean().expand(9, 1)
    torch.testing.assert_close(statistic(layer, x), expected)
    torch.testing.assert_close(statistic(layer, x.flip(0)), expected)


def test_a_collapsed_batch_shows_and_has_a_finite_gradient():
    x = torch.ones(8, 3, 2, 2, requires_grad=True)
    result = statistic(MinibatchStdDev(), x)
    torch.testing.assert_close(result, torch.full_like(result, 1e-4))
    (gradient,) = torch.autograd.grad(result.sum(), x)
    assert (gradient == 0).all()
    torch.testing.assert_close(statistic(MinibatchStdDev(), x[:1]), result[:1])


def test_large_means_keep_their_deviation_in_float32():
    x = torch.randn(16, 8)
    layer = MinibatchStdDev(None)
    torch.testing.assert_close(statistic(layer, x + 1e4), statistic(layer, x), rtol=0.01, atol=0)


@pytest.mark.parametrize("shape", [(4,), (4, 3), (0, 2), (4, 0), (4, 2, 0)])
def test_wrong_samples_are_refused(shape):
    with pytest.raises(ValueError, match=r"x should have shape .* got"):
        MinibatchStdDev(4, num_channels=2)(torch.zeros(shape))


def test_maps_are_appended_behind_the_features():
    x = torch.randn(4, 6, 3, 3)
    result = nn.Sequential(MinibatchStdDev(4, 2))(x)
    assert torch.equal(result[:, :6], x)
    assert result.shape == (4, 8, 3, 3)
    assert not torch.allclose(result[:, 6], result[:, 7]), "each map has its own channels"


# --- packing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(6, 2), (6, 2, 5), (6, 2, 4, 3), (6, 0), (0, 2, 3)])
def test_pack_is_its_samples_joined_along_the_channels(shape):
    x = torch.randn(shape)
    expected = torch.cat([x[0::3], x[1::3], x[2::3]], dim=1)
    assert torch.equal(pack(x, 3), expected)
    assert torch.equal(Packing(3)(x), expected)
    if x.dim() == 4:
        x = x.contiguous(memory_format=torch.channels_last)
        assert torch.equal(pack(x, 3), expected)


def test_packs_of_one_are_the_samples():
    for n in (0, 1, 5):
        x = torch.randn(n, 3, 2)
        assert torch.equal(pack(x, 1), x)


@pytest.mark.parametrize(
    ("x", "m", "error", "text"),
    [
        (
            torch.zeros(1, 2),
            4,
            ValueError,
            "multiple of 4 samples, which pack joins 4 by 4, got 1",
        ),
        (
            torch.zeros(5, 2),
            4,
            ValueError,
            "multiple of 4 samples, which pack joins 4 by 4, got 5",
        ),
        (torch.zeros(4), 4, ValueError, r"shape \(N, C, ...\), got \(4,\)"),
        (torch.zeros(4, 2), 0, ValueError, "m should be 1 or more, got 0"),
        (torch.zeros(4, 2), 2.0, TypeError, "m should be the number of samples of a pack, got 2.0"),
        (
            torch.zeros(4, 2),
            True,
            TypeError,
            "m should be the number of samples of a pack, got True",
        ),
        ([torch.zeros(4, 2)], 2, TypeError, "tensor of samples, got list"),
    ],
)
def test_samples_that_fill_no_pack_are_refused(x, m, error, text):
    with pytest.raises(error, match=text):
        pack(x, m)


CRITICS = {
    "MLPDiscriminator": (lambda m: MLPDiscriminator((m * 2,), 8, 2, dtype=F64), (2,)),
    "DCGANDiscriminator": (
        lambda m: DCGANDiscriminator(16, m, 2, norm="none", dtype=F64),
        (1, 16, 16),
    ),
}


@pytest.mark.parametrize("name", CRITICS)
def test_logit_of_a_pack_depends_on_all_of_its_samples_and_on_no_other(name):
    make, shape = CRITICS[name]
    torch.manual_seed(0)
    critic, x = make(3), torch.randn(6, *shape, dtype=F64, requires_grad=True)
    logits = critic(pack(x, 3))
    assert logits.shape == (2,)
    for i, logit in enumerate(logits):
        (gradient,) = torch.autograd.grad(logit, x, retain_graph=True)
        reached = gradient.flatten(1).abs().sum(1) > 0
        assert reached.tolist() == [j // 3 == i for j in range(6)]


def test_virtual_batch_norm_takes_packs_and_a_reference_of_packs():
    torch.manual_seed(0)
    inside = nn.Sequential(nn.Linear(6, 4), VirtualBatchNorm(4), nn.Linear(4, 1)).double()
    x, reference = torch.randn(4, 3, dtype=F64), torch.randn(10, 3, dtype=F64)
    packed = WithReference(inside, pack(reference, 2))(pack(x, 2))
    expected = WithReference(inside, reference.view(5, 6))(x.view(2, 6))
    torch.testing.assert_close(packed, expected)
