"""Several threads that share networks and blocks: each gets its own results."""
# What lies in a module is typed as any tensor or module.
# pyright: reportArgumentType=false, reportCallIssue=false, reportOptionalMemberAccess=false

import copy
import threading
import time

import pytest
import torch
from torch import nn

import gan_blocks as gb

THREADS, CALLS, SECONDS = 8, 200, 120


class Conditional(nn.Module):
    """Layers of every sort between the virtual batch norms; each thread has another noise scale."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Linear(3, 8), gb.VirtualBatchNorm(8)
        self.lstm, self.last = nn.LSTM(8, 4, batch_first=True), nn.Linear(4, 2)
        self.again = gb.VirtualBatchNorm(4)

    def forward(self, x, scale=1.0):
        x = torch.tanh(self.norm(scale * self.first(x)))
        x = self.again(self.lstm(x[:, None])[0][:, 0])
        return self.last(self.again(x))


def shared_extractor():
    network = gb.MLPDiscriminator((3,), width=8, depth=2)
    features = gb.FeatureExtractor(network, ["layers.0", "layers.2"])
    return lambda i, x: features(x)


def extractors_of_one_network():
    network = nn.Sequential(
        nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 4), nn.Linear(4, 1)
    )
    names = (["0"], ["2", "0"], ["1", ""], ["3"])
    extractors = [gb.FeatureExtractor(network, each) for each in names]
    # Every second call is one of the network itself, which no extractor may stop.
    return lambda i, x: network(x) if i % 2 else extractors[i // 2 % 4](x)


def copied_extractor():
    features = copy.deepcopy(gb.FeatureExtractor(nn.Sequential(nn.Linear(3, 4), nn.ReLU()), ["0"]))
    return lambda i, x: features(x)


def first_use_of_an_extractor():
    network = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4))
    return lambda i, x: gb.FeatureExtractor(network, ["0", ""])(x)


def virtual_batch_norm():
    critic = gb.WithReference(Conditional(), torch.randn(9, 3))
    return lambda i, x: critic(x, scale=1.0 + i)


def frozen_virtual_batch_norm():
    critic = gb.WithReference(Conditional(), torch.randn(9, 3))
    critic.freeze()
    return lambda i, x: critic(x)


def features_under_a_reference():
    critic = gb.WithReference(Conditional(), torch.randn(9, 3))
    features = gb.FeatureExtractor(critic, ["network.norm", "network.lstm", ""])
    return lambda i, x: features(x, scale=1.0 + i)


def wrappers_of_one_network():
    network = Conditional()
    wrappers = [gb.WithReference(network, torch.randn(5 + i, 3)) for i in range(THREADS)]
    return lambda i, x: wrappers[i](x)


def penalty(make):
    def shared():
        critic = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
        block = make()

        def call(i, x):
            draws = torch.Generator().manual_seed(i)
            value = block(critic, x, x.flip(0), generator=draws)
            return value, torch.autograd.grad(value, critic[0].weight)[0]

        return call

    return shared


def loss():
    block = gb.RelativisticAverageLoss()

    def call(i, x):
        x = x.clone().requires_grad_()
        real = x.flip(1)
        value = block.discriminator(real, x) + block.generator(x, real_logits=real)
        return value, torch.autograd.grad(value, x)[0]

    return call


def lookups():
    specs = [
        {"block": "HingeLoss"},
        {"block": "R1Penalty", "gamma": 2.0},
        {"block": "WeightClipper"},
    ]

    def call(i, x):
        block = gb.build(specs[i % 3])
        return repr(block), str(gb.to_spec(block)), gb.registry.kind_of(type(block))

    return call


SHARED = {
    "one extractor": shared_extractor,
    "extractors of one network": extractors_of_one_network,
    "a copied extractor": copied_extractor,
    "an extractor made in each call": first_use_of_an_extractor,
    "virtual batch norm": virtual_batch_norm,
    "frozen virtual batch norm": frozen_virtual_batch_norm,
    "features under a reference": features_under_a_reference,
    "wrappers of one network": wrappers_of_one_network,
    "R1": penalty(gb.R1Penalty),
    "gradient penalty": penalty(gb.GradientPenalty),
    "DRAGAN": penalty(gb.DraganPenalty),
    "approximate R1": penalty(gb.ApproximateR1Penalty),
    "a loss": loss,
    "the registry": lookups,
}


def flat(result):
    """The tensors and words of a result, in order."""
    if isinstance(result, dict):
        result = [*result, *result.values()]
    if isinstance(result, list | tuple):
        return [each for item in result for each in flat(item)]
    return [result]


def differs(result, expected):
    pairs = zip(flat(result), flat(expected), strict=True)
    return any(not torch.equal(a, b) if isinstance(a, torch.Tensor) else a != b for a, b in pairs)


def run_in_threads(call, inputs, seconds=SECONDS):
    """The errors, and how many results differ from those of one thread."""
    expected = [call(i, x) for i, x in enumerate(inputs)]
    errors, foreign, end = [], [0], time.monotonic() + seconds
    start = threading.Barrier(len(inputs))

    def work(i):
        start.wait(seconds)
        for _ in range(CALLS):
            if time.monotonic() > end:
                raise TimeoutError(f"{CALLS} calls take more than {seconds} seconds")
            if differs(call(i, inputs[i]), expected[i]):
                foreign[0] += 1

    def guarded(i):
        try:
            work(i)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(i,), daemon=True) for i in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, end + 10 - time.monotonic()))
    assert not any(thread.is_alive() for thread in threads), "a thread hangs"
    return errors, foreign[0]


@pytest.mark.parametrize("make", SHARED.values(), ids=SHARED)
def test_each_thread_gets_its_own_results(make):
    torch.manual_seed(0)
    call = make()
    errors, foreign = run_in_threads(call, [torch.randn(4 + i, 3) for i in range(THREADS)])
    assert (errors, foreign) == ([], 0)


def test_two_threads_that_make_an_extractor_hook_a_layer_once():
    class HooksSlowly(nn.Linear):
        def register_forward_hook(self, *args, **options):
            time.sleep(0.2)
            return super().register_forward_hook(*args, **options)

    network, start = nn.Sequential(HooksSlowly(3, 4)), threading.Barrier(2)

    def work():
        start.wait(SECONDS)
        gb.FeatureExtractor(network, ["0"])

    threads = [threading.Thread(target=work, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert len(network[0]._forward_hooks) == 1


def test_norms_learn_again_after_the_references_of_several_threads():
    norm = nn.BatchNorm1d(4)
    momentum = nn.InstanceNorm1d(1, track_running_stats=True)
    layers = [nn.Linear(3, 4), norm, nn.Unflatten(1, (1, 4)), momentum, nn.Flatten()]
    critic = gb.WithReference(nn.Sequential(*layers, gb.VirtualBatchNorm(4)), torch.randn(9, 3))
    errors, foreign = run_in_threads(
        lambda i, x: critic(x), [torch.randn(4 + i, 3) for i in range(THREADS)]
    )
    assert (errors, foreign) == ([], 0)
    assert norm.track_running_stats
    assert momentum.momentum == 0.1
    before = norm.running_mean.clone()
    critic(torch.randn(4, 3) + 3)
    assert not torch.equal(norm.running_mean, before)
