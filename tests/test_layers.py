"""What the papers say of the layers that look at a batch."""
# What lies in a module is typed as any tensor or module, and wrong types are passed on purpose.
# pyright: reportArgumentType=false, reportCallIssue=false, reportOptionalMemberAccess=false

import copy
import dataclasses
import pickle
from typing import NamedTuple

import pytest
import torch
from torch import nn

import gan_blocks
from gan_blocks import FeatureExtractor, MinibatchDiscrimination, VirtualBatchNorm, WithReference

F64 = torch.float64


def similarities(layer, x):
    return layer(x)[:, x.shape[1] :]


# --- minibatch discrimination ------------------------------------------------------------------------


def test_features_pass_through_in_front_of_the_similarities():
    x = torch.randn(5, 7)
    assert torch.equal(MinibatchDiscrimination(7, 3)(x)[:, :7], x)


@pytest.mark.parametrize("n", [1, 2, 9])
def test_equal_samples_have_similarity_n_minus_1(n):
    x = torch.randn(1, 6, dtype=F64).expand(n, 6)
    layer = MinibatchDiscrimination(6, 4, dtype=F64)
    torch.testing.assert_close(similarities(layer, x), torch.full((n, 4), n - 1.0, dtype=F64))


def test_similarities_ignore_a_shift_of_all_samples():
    layer, x = MinibatchDiscrimination(6, 4, dtype=F64), torch.randn(5, 6, dtype=F64)
    torch.testing.assert_close(similarities(layer, x + 3.0), similarities(layer, x))


@pytest.mark.parametrize("features", [16, 64, 1024])
@pytest.mark.parametrize("kernel_dim", [1, 5, 16])
def test_layer_is_alive_at_initialisation(features, kernel_dim):
    layer = MinibatchDiscrimination(features, 100, kernel_dim)
    x = torch.randn(64, features, requires_grad=True)
    o = similarities(layer, x) / 63
    assert 0.05 < o.mean() < 0.95
    assert o.std() > 0.01, "features differ between samples and kernels"
    o.mean().backward()
    assert x.grad is not None
    assert (x.grad.norm(dim=1) > 1e-6).all()
    assert layer.theta.grad is not None
    assert layer.theta.grad.abs().max() > 1e-7


def test_offset_starts_at_minus_one():
    x = torch.randn(3, 6)
    layer = MinibatchDiscrimination(6, 4, bias=True)
    assert layer.bias is not None
    assert (layer.bias == -1).all()
    without = torch.cat([x, layer(x)[:, 6:] + 1], dim=1)
    layer.bias.data.zero_()
    torch.testing.assert_close(layer(x), without)


def test_unnormalised_weights_would_be_dead():
    x, weight = torch.randn(64, 256), torch.randn(256, 5)
    distance = torch.cdist(x @ weight, x @ weight, p=1) + 1e9 * torch.eye(64)
    assert (-distance).exp().mean() < 1e-5


def test_scale_of_the_directions_does_not_matter():
    layer, x = MinibatchDiscrimination(6, 4, dtype=F64), torch.randn(5, 6, dtype=F64)
    expected = layer(x)
    layer.theta.data *= 7
    torch.testing.assert_close(layer(x), expected)


def test_images_are_refused_with_advice():
    with pytest.raises(ValueError, match=r"x should have shape \(N, 6\), got \(2, 6, 4, 4\)"):
        MinibatchDiscrimination(6)(torch.randn(2, 6, 4, 4))


# --- virtual batch norm ------------------------------------------------------------------------------


def network(norm=VirtualBatchNorm) -> nn.Sequential:
    layers = [nn.Conv1d(2, 6, 3, padding=1), norm(6), nn.Tanh(), nn.Conv1d(6, 4, 3, padding=1)]
    return nn.Sequential(*layers, norm(4), nn.Flatten(), nn.Linear(20, 3)).double()


def data(n: int):
    return torch.randn(n, 2, 5, dtype=F64)


def test_result_is_that_of_batch_norm_over_reference_and_sample_layer_by_layer():
    # In the first layer the two agree exactly; deeper ones see a reference normalised by itself.
    layer = VirtualBatchNorm(2).double()
    reference, x = data(7), data(3)
    batch_norm = nn.BatchNorm1d(2).double()
    expected = torch.cat([batch_norm(torch.cat([reference, s[None]]))[-1:] for s in x])
    torch.testing.assert_close(WithReference(layer, reference)(x), expected)


def test_the_reference_itself_is_normalised_by_its_own_statistics():
    layer, reference = VirtualBatchNorm(2).double(), data(7)
    seen = []

    class Spy(nn.Module):
        def forward(self, x):
            seen.append(x)
            return x

    WithReference(nn.Sequential(layer, Spy()), reference)(data(3))
    torch.testing.assert_close(seen[0], nn.BatchNorm1d(2).double()(reference))


def test_sample_is_independent_of_its_batch_mates():
    critic, x = WithReference(network(), data(7)), data(6)
    alone = torch.cat([critic(s[None]) for s in x])
    torch.testing.assert_close(critic(x), alone)


def test_statistics_follow_the_weights_with_gradient_through_the_reference():
    critic, x = WithReference(network(), data(7)), data(1)
    weight = next(critic.parameters())
    (exact,) = torch.autograd.grad(critic(x).sum(), weight)
    step = 1e-6 * torch.randn_like(exact)
    weight.data += step
    up = critic(x).sum()
    weight.data -= 2 * step
    measured = (up - critic(x).sum()) / 2  # a central difference, exact to the third order
    torch.testing.assert_close(measured, (exact * step).sum(), rtol=1e-5, atol=1e-13)


@pytest.mark.parametrize("shape", [(4,), (4, 9), (4, 6, 6)])
def test_means_of_ten_thousand_keep_their_variance_in_float32(shape):
    layer = VirtualBatchNorm(4)
    reference, x = torch.randn(64, *shape), torch.randn(5, *shape)
    expected = WithReference(layer, reference)(x)
    shifted = WithReference(layer, reference + 1e4)(x + 1e4)
    assert shifted.isfinite().all()
    assert (shifted - expected).abs().max() < 0.02


def test_reference_lies_in_state_dict_and_moves_with_the_module():
    reference = data(7)
    critic, other = WithReference(network(), reference), WithReference(network(), data(7))
    other.load_state_dict(critic.state_dict())
    x = data(3)
    torch.testing.assert_close(other(x), critic(x))
    assert critic.half().reference[0].dtype == torch.float16


class Mates(nn.Module):
    """Records the batches that it sees."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def forward(self, x):
        self.sizes.append(len(x))
        return x


def test_no_other_layer_sees_the_reference_as_batch_mates():
    mates, batch_norm = Mates(), nn.BatchNorm1d(8)
    discrimination = MinibatchDiscrimination(8, 2)
    tail = nn.Sequential(mates, batch_norm, discrimination)
    norm = VirtualBatchNorm(8)
    nn.init.constant_(norm.bias, 3.0)  # or the reference's mean would be 0 and change nothing
    head = nn.Sequential(nn.Linear(3, 8), norm)
    critic = WithReference(nn.Sequential(head, tail), torch.randn(64, 3))
    x = torch.randn(5, 3)
    result = critic(x)
    assert mates.sizes == [64, 5]
    assert (result[:, 8:] <= 4).all(), "at most 4 other samples"
    # One update of the running mean, from the input alone.
    normalised = WithReference(head, critic.reference[0])(x)
    torch.testing.assert_close(batch_norm.running_mean, 0.1 * normalised.mean(0))


def test_frozen_statistics_stay_and_carry_no_gradient_to_the_reference():
    critic, x = WithReference(network(), data(7)), data(3)
    expected = critic(x)
    critic.freeze()
    torch.testing.assert_close(critic(x), expected)
    sizes: list[int] = []
    first = next(m for m in critic.modules() if isinstance(m, nn.Conv1d))
    seen = first.register_forward_hook(lambda module, args, out: sizes.append(len(out)))
    critic(x)
    seen.remove()
    assert sizes == [3], "the reference is not run again"
    critic.unfreeze()
    torch.testing.assert_close(critic(x), expected)


def test_a_network_of_which_a_part_is_frozen_has_the_statistics_of_its_reference():
    layers, reference, x = network(), data(7), data(3)
    critic = WithReference(layers, reference)
    expected = critic(x)
    WithReference(layers[:2], 2 * reference).freeze()
    assert not critic.frozen
    torch.testing.assert_close(critic(x), expected)
    critic.freeze()
    assert critic.frozen
    torch.testing.assert_close(critic(x), expected)


def test_a_layer_that_works_in_place_leaves_the_reference_as_it_is():
    reference = data(7)
    critic = WithReference(nn.Sequential(nn.ReLU(inplace=True), VirtualBatchNorm(2)), reference)
    critic(data(3))
    assert torch.equal(critic.reference[0], reference)


def test_frozen_statistics_lie_in_the_state_and_go_into_a_fresh_network():
    critic, x = WithReference(network(), data(7)), data(3)
    critic.freeze()
    fresh = WithReference(network(), data(7))
    fresh.load_state_dict(critic.state_dict())
    assert fresh.frozen
    expected = critic(x)
    with torch.no_grad():
        critic.reference[0].add_(1.0)  # the reference has no part in it any more
    torch.testing.assert_close(critic(x), expected)
    torch.testing.assert_close(fresh(x), expected)
    critic.unfreeze()
    assert not critic.frozen
    assert not torch.allclose(critic(x), expected)
    # The state of a network that is not frozen thaws one that is.
    fresh.load_state_dict(critic.state_dict())
    assert not fresh.frozen


def test_frozen_statistics_follow_the_dtype_and_keep_their_precision():
    critic = WithReference(network(VirtualBatchNorm).float(), data(7).float())
    x = data(3).float()
    critic.freeze()
    expected = critic(x)
    layers = [m for m in critic.modules() if isinstance(m, VirtualBatchNorm)]
    assert all(m.frozen is not None and not m.frozen.requires_grad for m in layers)
    half = critic.bfloat16()(x.bfloat16())
    torch.testing.assert_close(half.float(), expected, rtol=0.1, atol=0.1)


def test_a_layer_that_runs_twice_has_statistics_of_each_run():
    norm = VirtualBatchNorm(3).double()

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = norm

        def forward(self, x):
            return self.norm(self.norm(x).square() + 1)

    reference, x = torch.randn(9, 3, dtype=F64), torch.randn(4, 3, dtype=F64)
    critic = WithReference(Twice(), reference)
    first = WithReference(norm, reference)(x).square() + 1
    own = (reference - reference.mean(0)) / (reference.var(0, correction=0) + norm.eps).sqrt()
    expected = WithReference(norm, own.square() + 1)(first)
    torch.testing.assert_close(critic(x), expected)
    critic.freeze()
    torch.testing.assert_close(critic(x), expected)


def test_frozen_statistics_of_large_features_survive_half_precision():
    critic = WithReference(VirtualBatchNorm(2), 1000 * torch.randn(64, 2))
    x = 1000 * torch.randn(3, 2)
    critic.freeze()
    expected = critic(x)
    half = critic.half()(x.half())
    torch.testing.assert_close(half.float(), expected, rtol=0.01, atol=0.01)


def test_a_state_without_the_layer_leaves_it_frozen():
    critic = WithReference(network(), data(7))
    critic.freeze()
    critic.load_state_dict({}, strict=False)
    assert critic.frozen


@pytest.mark.parametrize("momentum", [0.1, None])
def test_the_reference_teaches_no_running_statistics(momentum):
    batch_norm = nn.BatchNorm1d(2, momentum=momentum)
    instance_norm = nn.InstanceNorm1d(2, track_running_stats=True)
    layers = [batch_norm, nn.Unflatten(1, (2, 1)), nn.Upsample(4), instance_norm]
    critic = WithReference(nn.Sequential(*layers, VirtualBatchNorm(2)), torch.randn(8, 2))
    alone = nn.BatchNorm1d(2, momentum=momentum)
    x = torch.randn(4, 2) + 5
    for _ in range(3):
        critic(x)
        alone(x)
    for mine, wanted in zip(batch_norm.buffers(), alone.buffers(), strict=True):
        torch.testing.assert_close(mine, wanted)
    assert instance_norm.num_batches_tracked in (0, 3)  # torch does not count these
    critic.eval()
    torch.testing.assert_close(batch_norm(x), alone.eval()(x))
    assert batch_norm.track_running_stats


def test_the_reference_teaches_no_running_statistics_of_instance_norm():
    norm, alone = (nn.InstanceNorm1d(2, track_running_stats=True) for _ in range(2))
    x = torch.randn(4, 2, 6) + 5
    WithReference(nn.Sequential(norm, VirtualBatchNorm(2)), torch.randn(8, 2, 6))(x)
    alone(x)
    torch.testing.assert_close(norm.running_mean, alone.running_mean)
    torch.testing.assert_close(norm.running_var, alone.running_var)
    assert norm.momentum == 0.1


def test_a_tensor_by_name_would_meet_the_reference():
    class Conditional(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = VirtualBatchNorm(2)

        def forward(self, x, labels=None, scale=1.0):
            return self.norm(scale * x)

    critic = WithReference(Conditional(), torch.randn(4, 2))
    with pytest.raises(TypeError, match="pass labels by position"):
        critic(torch.randn(4, 2), labels=torch.zeros(4))
    x = torch.randn(4, 2)
    expected = critic(x, scale=3.0)
    critic.freeze(scale=3.0)
    torch.testing.assert_close(critic(x, scale=3.0), expected)


def test_conditional_networks_take_a_reference_for_each_input():
    class Conditional(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.norm = nn.Embedding(3, 4), VirtualBatchNorm(4)

        def forward(self, x, labels):
            return self.norm(x + self.embed(labels))

    labels = torch.tensor([0, 1, 2, 0])
    critic = WithReference(Conditional(), (torch.randn(4, 4), labels))
    assert critic(torch.randn(2, 4), labels[:2]).shape == (2, 4)


def test_gradient_penalty_of_a_virtually_normalised_critic_is_each_samples_own():
    critic = nn.Sequential(WithReference(network(), data(7)), nn.Linear(3, 1).double())
    real = data(4)
    whole = gan_blocks.R1Penalty()(critic, real)
    alone = torch.stack([gan_blocks.R1Penalty()(critic, x[None]) for x in real]).mean()
    torch.testing.assert_close(whole, alone)
    whole.backward()


def test_wrong_use_is_explained():
    with pytest.raises(RuntimeError, match="wrap the network"):
        VirtualBatchNorm(3)(torch.randn(2, 3))
    with pytest.raises(ValueError, match=r"shape \(N, 3, \.\.\.\), got \(2, 4\)"):
        WithReference(nn.Sequential(VirtualBatchNorm(3)), torch.randn(2, 4))(torch.randn(2, 4))
    with pytest.raises(ValueError, match="no VirtualBatchNorm layer"):
        WithReference(nn.Linear(2, 2), torch.randn(2, 2))
    with pytest.raises(ValueError, match="reference is empty"):
        WithReference(VirtualBatchNorm(2), torch.randn(0, 2))
    # A failed forward leaves no statistics behind.
    critic = WithReference(nn.Sequential(VirtualBatchNorm(3)), torch.randn(4, 3))
    with pytest.raises(ValueError, match="x should have shape"):
        critic(torch.randn(2, 5))
    assert critic(torch.randn(2, 3)).shape == (2, 3)


# --- feature matching --------------------------------------------------------------------------------


def test_feature_matching_is_zero_on_a_permutation_and_prefers_the_right_spread_to_collapse():
    loss = gan_blocks.FeatureMatchingLoss()
    real = torch.randn(512, 32, dtype=F64)
    assert loss(real, real[torch.randperm(512)]) < 1e-24
    spread = torch.randn(512, 32, dtype=F64)
    squares = lambda x: torch.cat([x, x**2], dim=1)  # noqa: E731
    collapsed = torch.zeros(512, 32, dtype=F64)
    assert loss(squares(real), squares(spread)) < loss(squares(real), squares(collapsed))
    # The elementwise distance between arbitrary pairs prefers the collapse.
    pairs = lambda a, b: (a - b).abs().mean()  # noqa: E731
    assert pairs(real, collapsed) < pairs(real, spread)


def test_real_side_gets_no_gradient_and_batches_may_differ():
    real = torch.randn(4, 3, requires_grad=True)
    fake = torch.randn(7, 3, requires_grad=True)
    gan_blocks.FeatureMatchingLoss()(real, fake).backward()
    assert real.grad is None
    assert fake.grad is not None


def test_wrong_features_are_refused():
    loss = gan_blocks.FeatureMatchingLoss()
    with pytest.raises(ValueError, match="should differ in the batch size alone"):
        loss(torch.randn(4, 3), torch.randn(4, 2))
    for bad in (torch.randn(4), torch.randn(0, 3), torch.randn(4, 0)):
        with pytest.raises(ValueError, match=r"should have shape \(N, C, ...\), not empty"):
            loss(bad, bad)
    assert loss(torch.ones(1, 1), torch.zeros(1, 1)) == 1
    with pytest.raises(TypeError, match="floating point"):
        loss(torch.ones(4, 2).long(), torch.ones(4, 2))


def test_extractor_returns_layers_by_name_and_stops_after_the_last():
    ran = []
    network = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 4), nn.ReLU())
    network[3].register_forward_hook(lambda module, args, out: ran.append(1))
    x = torch.randn(5, 2)
    features = FeatureExtractor(network, ["2", "0"])(x)
    assert list(features) == ["2", "0"]
    torch.testing.assert_close(features["2"], network[:3](x))
    torch.testing.assert_close(features["0"], network[0](x))
    assert ran == []
    features["2"].sum().backward()
    assert network[0].weight.grad is not None


def test_extractors_hook_a_layer_once_however_many_they_are_and_however_often_they_run():
    network = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    extractors = [FeatureExtractor(network, names) for names in (["0"], ["1", "0"]) * 3]
    for extractor in extractors * 2:
        extractor(torch.randn(4, 2))
    copied = copy.deepcopy(extractors[-1])
    copied(torch.randn(4, 2))
    for layer in (*network, *copied.network.children()):
        assert len(layer._forward_hooks) == 1


def test_extractor_gives_what_a_layer_put_out_before_an_in_place_layer_overwrites_it():
    convolution, x = nn.Conv1d(1, 2, 3), torch.randn(2, 1, 8)
    network = nn.Sequential(convolution, nn.LeakyReLU(inplace=True), nn.Conv1d(2, 1, 3))
    features = FeatureExtractor(network, ["0", "1"])(x)
    torch.testing.assert_close(features["0"], convolution(x))
    torch.testing.assert_close(features["1"], nn.functional.leaky_relu(convolution(x)))
    features["1"].sum().backward()

    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x):
            return self.second(nn.functional.relu_(self.first(x)))

    with pytest.raises(RuntimeError, match="what first put out was overwritten by an in-place"):
        FeatureExtractor(Functional(), ["first", "second"])(torch.randn(2, 3))


def test_extractor_gives_the_features_of_the_input_and_not_those_of_the_reference():
    inside, reference, x = network(), data(7), data(3)
    critic = WithReference(inside, reference)
    expected = {}
    handles = [
        inside[i].register_forward_hook(lambda m, a, out, i=i: expected.update({i: out}))
        for i in (1, 4)
    ]
    logits = critic(x)  # the last forward of each layer is that of x
    for handle in handles:
        handle.remove()
    outside = FeatureExtractor(critic, ["network.1", "network.4"])(x)
    within = WithReference(FeatureExtractor(inside, ["1", "4"]), reference)(x)
    for i in (1, 4):
        assert len(expected[i]) == 3
        torch.testing.assert_close(outside[f"network.{i}"], expected[i])
        torch.testing.assert_close(within[str(i)], expected[i])
    torch.testing.assert_close(FeatureExtractor(critic, ["network.1", ""])(x)[""], logits)


def test_forward_that_stops_early_leaves_no_statistics_behind():
    inside, x = network(), data(3)
    FeatureExtractor(WithReference(inside, data(7)), ["network.1"])(x)
    with pytest.raises(RuntimeError, match="wrap the network"):
        inside[4](torch.randn(3, 4, 5, dtype=F64))


def test_empty_name_is_the_network_s_own_output_from_the_same_forward():
    ran = []
    layers = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    layers[0].register_forward_hook(lambda module, args, out: ran.append(1))
    x = torch.randn(5, 2)
    features = FeatureExtractor(layers, ["", "0"])(x)
    assert ran == [1]
    torch.testing.assert_close(features[""], layers(x))
    torch.testing.assert_close(features["0"], layers[0](x))


def test_layer_reached_by_another_name_gives_the_features_of_the_input():
    class Aliased(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = network()
            self.wrapped = WithReference(self.body, data(7))

        def forward(self, x):
            return self.wrapped(x)

    assert len(FeatureExtractor(Aliased(), ["body.1"])(data(3))["body.1"]) == 3


def test_layer_that_runs_twice_gives_its_first_output():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, x):
            return self.layer(self.layer(x))

    network, x = Twice(), torch.randn(5, 2)
    for names in (["layer"], ["layer", ""]):
        features = FeatureExtractor(network, names)(x)
        torch.testing.assert_close(features["layer"], network.layer(x))


def test_extractor_refuses_unknown_names():
    with pytest.raises(ValueError, match=r"has no layer '3'; there are 0, 1"):
        FeatureExtractor(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), ["3"])
    with pytest.raises(ValueError, match=r"no layer 'layer.2', did you mean 'layers.2'"):
        FeatureExtractor(gan_blocks.MLPDiscriminator((2,)), ["layer.2"])


@pytest.mark.parametrize("layers", ["0", None, [0], ["0", 1], 3, {"0": "1"}], ids=repr)
def test_extractor_refuses_layers_that_are_no_list_of_names(layers):
    with pytest.raises(
        TypeError, match=r"layers should be a list of layer names, got .*there are 0"
    ):
        FeatureExtractor(nn.Sequential(nn.Linear(2, 2)), layers)


def test_extractor_refuses_what_is_no_network_and_a_call_without_input():
    with pytest.raises(ValueError, match="layers should name one layer at least"):
        FeatureExtractor(nn.Sequential(nn.Linear(2, 2)), [])
    with pytest.raises(TypeError, match=r"network should be a torch\.nn\.Module, got function"):
        FeatureExtractor(lambda x: x, ["0"])
    with pytest.raises(
        TypeError, match=r"network should be a torch\.nn\.Module, got the class Linear"
    ):
        FeatureExtractor(nn.Linear, ["0"])
    with pytest.raises(TypeError, match="takes the inputs of its network, got none"):
        FeatureExtractor(nn.Sequential(nn.Linear(2, 2)), ["0"])()


def test_layer_may_put_out_anything():
    class Pair(NamedTuple):
        first: torch.Tensor
        rest: dict

    @dataclasses.dataclass
    class Answer:
        value: torch.Tensor
        name: str = "answer"

    class Named(nn.Module):
        def forward(self, x):
            return Pair(x + 1, {"twice": [2 * x, None], "name": "b"})

    class Tabled(nn.Module):
        def forward(self, pair):
            return Answer(pair.first + pair.rest["twice"][0])

    class Network(nn.Module):
        def __init__(self, inplace):
            super().__init__()
            self.lstm, self.named, self.tabled = nn.LSTM(3, 3), Named(), Tabled()
            self.relu = nn.ReLU(inplace)

        def forward(self, x):
            return self.relu(self.tabled(self.named(self.lstm(x)[0])).value)

    x = torch.randn(4, 2, 3)
    for inplace in (False, True):  # with an in-place layer the outputs are copies
        network = Network(inplace)
        features = FeatureExtractor(network, ["lstm", "named", "tabled", ""])(x)
        torch.testing.assert_close(features["lstm"], network.lstm(x))
        out, (h, c) = features["lstm"]
        assert out.shape == (4, 2, 3)
        assert h.shape == c.shape == (1, 2, 3)
        pair = features["named"]
        assert type(pair) is Pair
        torch.testing.assert_close(pair.first, out + 1)
        torch.testing.assert_close(pair.rest["twice"][0], 2 * out)
        assert pair.rest["twice"][1] is None
        assert type(features["tabled"]) is Answer
        torch.testing.assert_close(features["tabled"].value, 3 * out + 1)
        torch.testing.assert_close(features[""], (3 * out + 1).relu())
        out.sum().backward()
        assert network.lstm.weight_ih_l0.grad.abs().sum() > 0


@pytest.mark.parametrize("place", ["a tuple", "a list", "a dict"])
def test_overwritten_output_is_found_in_anything(place):
    makers = {
        "a tuple": lambda x: (x, 2 * x),
        "a list": lambda x: [x, 2 * x],
        "a dict": lambda x: {0: x, 1: 2 * x},
    }

    class First(nn.Module):
        def forward(self, x):
            return makers[place](x)

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = First(), nn.Linear(3, 3)

        def forward(self, x):
            return self.second(self.first(x)[1].relu_())

    network = Network()
    assert len(FeatureExtractor(network, ["first"])(torch.randn(2, 3))["first"]) == 2
    with pytest.raises(RuntimeError, match="what first put out was overwritten by an in-place"):
        FeatureExtractor(network, ["first", "second"])(torch.randn(2, 3))


def test_extractor_works_in_inference_mode():
    network, x = nn.Sequential(nn.Linear(2, 3), nn.ReLU()), torch.randn(5, 2)
    with torch.inference_mode():
        torch.testing.assert_close(FeatureExtractor(network, ["0"])(x)["0"], network[0](x))


def test_extractor_inside_another_one_stops_for_itself_only():
    network, x = nn.Sequential(*[nn.Linear(2, 2) for _ in range(4)]), torch.randn(5, 2)

    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.last = FeatureExtractor(network, ["1"]), nn.Linear(2, 2)

        def forward(self, x):
            return self.last(self.inner(x)["1"])

    around = Around()
    early = FeatureExtractor(around, ["inner.network.0"])(x)
    torch.testing.assert_close(early["inner.network.0"], network[0](x))
    both = FeatureExtractor(around, ["inner.network.1", "last"])(x)
    torch.testing.assert_close(both["inner.network.1"], network[:2](x))
    torch.testing.assert_close(both["last"], around.last(network[:2](x)))
    same = FeatureExtractor(around, ["inner.network.1"])(x)
    torch.testing.assert_close(same["inner.network.1"], network[:2](x))


def test_error_in_the_middle_of_a_forward_leaves_nothing_behind():
    class Picky(nn.Module):
        def forward(self, x):
            if len(x) == 3:
                raise ValueError("three")
            return x

    critic = WithReference(
        nn.Sequential(nn.Linear(2, 2), Picky(), VirtualBatchNorm(2)), torch.randn(4, 2)
    )
    features, x = FeatureExtractor(critic, ["network.0", "network.2"]), torch.randn(5, 2)
    expected = features(x)
    with pytest.raises(ValueError, match="three"):
        features(torch.randn(3, 2))
    assert critic(x).shape == (5, 2)  # no extractor sees this one, and it does not stop
    torch.testing.assert_close(features(x), expected)
    with pytest.raises(RuntimeError, match="wrap the network"):
        critic.network(x)


def test_extractor_and_reference_are_copied_and_pickled_as_they_work():
    critic = WithReference(network(), data(7))
    features, x = FeatureExtractor(critic, ["network.1", ""]), data(3)
    expected = features(x)
    for other in (copy.deepcopy(features), pickle.loads(pickle.dumps(features))):
        assert other.network is not critic
        torch.testing.assert_close(other(x), expected)
        torch.testing.assert_close(features(x), expected)
    alone = pickle.loads(pickle.dumps(critic.network))
    torch.testing.assert_close(WithReference(alone, critic.reference)(x), expected[""])


def test_layer_that_takes_the_place_of_another_later_is_seen():
    layers = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    features, x = FeatureExtractor(layers, ["0"]), torch.randn(5, 2)
    layers[0] = nn.Linear(2, 2)
    torch.testing.assert_close(features(x)["0"], layers[0](x))


def test_wrapper_inside_another_one_has_a_reference_of_its_own():
    inner = WithReference(nn.Sequential(nn.Linear(2, 2), VirtualBatchNorm(2)), torch.randn(6, 2))
    outer_norm = VirtualBatchNorm(2)
    reference, x = torch.randn(7, 2), torch.randn(4, 2)
    both = WithReference(nn.Sequential(inner, outer_norm), reference)
    expected = WithReference(outer_norm, inner(reference))(inner(x))
    torch.testing.assert_close(both(x), expected)
    assert FeatureExtractor(both, ["network.0.network.0"])(x)["network.0.network.0"].shape == (4, 2)


@pytest.mark.parametrize("reference", [None, 3, [[1.0]], {"x": torch.ones(2, 2)}], ids=repr)
def test_reference_that_is_no_batch_is_refused(reference):
    with pytest.raises(TypeError, match="reference should be a tensor, or a tuple of tensors"):
        WithReference(VirtualBatchNorm(2), reference)


def test_wrapper_of_no_network_and_a_call_without_input_are_refused():
    with pytest.raises(TypeError, match=r"network should be a torch\.nn\.Module, got function"):
        WithReference(lambda x: x, torch.randn(2, 2))
    with pytest.raises(TypeError, match="takes the inputs of its network by position, got none"):
        WithReference(VirtualBatchNorm(2), torch.randn(4, 2))()
    with pytest.raises(TypeError, match="x should be a tensor of floating-point numbers, got list"):
        VirtualBatchNorm(2)([1.0])
    with pytest.raises(TypeError, match=r"x should be a tensor of floating-point .* torch\.int64"):
        VirtualBatchNorm(2)(torch.ones(3, 2).long())


def test_input_that_is_not_like_its_reference_is_refused():
    critic = WithReference(VirtualBatchNorm(2), torch.randn(4, 2))
    with pytest.raises(
        TypeError, match="input 0 should be a tensor, as its reference is, got list"
    ):
        critic([1.0])
    for frozen in (False, True):
        for shape in ((3, 2, 1), (2,)):
            with pytest.raises(
                ValueError, match="input 0 should have 2 dimensions, as its reference"
            ):
                critic(torch.randn(shape))
        if not frozen:
            critic.freeze()


def test_error_of_the_reference_s_own_pass_names_the_reference():
    with pytest.raises(
        ValueError, match=r"reference should be a batch of inputs: VirtualBatchNorm: x"
    ):
        WithReference(VirtualBatchNorm(3), torch.randn(4, 2))(torch.randn(2, 3))

    class Strange(ValueError):
        def __init__(self, first, second):
            super().__init__(first)

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = VirtualBatchNorm(3)

        def forward(self, x):
            raise Strange(1, 2)

    with pytest.raises(Strange):
        WithReference(Network(), torch.randn(4, 3))(torch.randn(2, 3))


# --- settings ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "defaults"),
    [
        (
            {"block": "MinibatchDiscrimination", "in_features": 4},
            {"num_kernels": 100, "kernel_dim": 5, "bias": False},
        ),
        ({"block": "MinibatchStdDev"}, {"group_size": 4, "num_channels": 1, "eps": 1e-8}),
        ({"block": "VirtualBatchNorm", "num_features": 2}, {"eps": 1e-5}),
        (
            {"block": "ConditionalBatchNorm2d", "num_features": 2, "num_classes": 3},
            {"eps": 1e-5, "momentum": 0.1},
        ),
        ({"block": "Packing"}, {"pack_size": 2}),
        ({"block": "PixelNorm"}, {"eps": 1e-8}),
        (
            {"block": "SelfAttention2d", "in_channels": 8},
            {"key_channels": None, "value_channels": None, "pool": False},
        ),
        (
            {"block": "EqualizedLinear", "in_features": 2, "out_features": 3},
            {"bias": True, "gain": 1.0, "lr_multiplier": 1.0},
        ),
        (
            {"block": "EqualizedConv2d", "in_channels": 2, "out_channels": 3, "kernel_size": 3},
            {"stride": 1, "padding": 0, "bias": True, "gain": 1.0, "lr_multiplier": 1.0},
        ),
        ({"block": "GaussianNoise"}, {"std": 0.1, "anneal_steps": 0}),
        (
            {"block": "DiffAugment"},
            {"policy": ["color", "translation", "cutout"], "translation": 0.125, "cutout": 0.5},
        ),
        (
            {"block": "ResidualDown2d", "in_channels": 2, "out_channels": 3},
            {"downsample": True, "first": False},
        ),
    ],
    ids=lambda x: x.get("block"),
)
def test_settings_left_out_are_those_of_the_papers(spec, defaults):
    assert gan_blocks.to_spec(gan_blocks.build(spec)) == spec | defaults
