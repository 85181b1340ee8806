"""Published scores by torch-fidelity, in the features of a stand-in for its large networks."""

import json
import math
import urllib.error
from types import SimpleNamespace

import pytest
import torch
import torch_fidelity
from torch.utils.data import TensorDataset


class StandIn(torch_fidelity.FeatureExtractorBase):
    """The pixels of the first channel are the features, and a bright pixel is a class."""

    def __init__(self, name, features_list, **_):
        super().__init__(name, features_list)

    def forward(self, input):
        assert input.dtype == torch.uint8
        assert input.shape[1] == 3
        pixels = input[:, 0].flatten(1).float() / 127.5 - 1
        features = {"features": pixels, "logits": 100 * pixels}
        return tuple(features[name] for name in self.features_list)

    @staticmethod
    def get_provided_features_list():
        return ("features", "logits")

    @staticmethod
    def get_default_feature_layer_for_metric(metric):
        return "logits" if metric == "isc" else "features"


@pytest.fixture(scope="module")
def scores(examples):
    torch_fidelity.register_feature_extractor("stand-in", StandIn)

    def compute(generated, real):
        return examples.inception.inception_metrics(generated, TensorDataset(real), "stand-in")

    return compute


def images(n, seed, shift=0.0, channels=1):
    """Images whose pixels a byte holds exactly."""
    draws = torch.randn(n, channels, 2, 3, generator=torch.Generator().manual_seed(seed)) / 4
    return ((draws + shift).clamp(-1, 1) * 127.5 + 127.5).round() / 127.5 - 1


def nearest(points, k):
    """The distance of each point to its k-th nearest neighbour."""
    return [sorted(math.dist(p, q) for q in points)[k] for p in points]


def covered(points, by, k=3):
    """The share of points within the distance of some other point to its k-th neighbour."""
    radii = nearest(by, k)
    inside = [any(math.dist(p, q) <= r for q, r in zip(by, radii, strict=True)) for p in points]
    return sum(inside) / len(points)


def test_scores_are_those_of_the_formulas_in_the_same_features(scores, examples):
    generated, real = images(60, 0, shift=0.2), images(50, 1)
    found = scores(generated, real)
    x, y = generated.flatten(1), real.flatten(1)
    assert found["fid"] == pytest.approx(examples.distances.frechet_distance(x, y), rel=1e-4)
    assert found["precision"] == pytest.approx(covered(x.tolist(), y.tolist()))
    assert found["recall"] == pytest.approx(covered(y.tolist(), x.tolist()))
    assert found["precision"] != found["recall"]


def test_kid_of_subsets_that_are_the_whole_set_is_the_kernel_distance(scores, examples):
    # Equal numbers, so that each subset of 50 is everything.
    generated, real = images(50, 0, shift=0.2), images(50, 1)
    found = scores(generated, real)
    value, _ = examples.distances.kernel_distance(generated.flatten(1), real.flatten(1))
    assert found["kid"] == pytest.approx(value, rel=1e-4)
    assert found["kid_deviation"] == pytest.approx(0, abs=1e-6)


def test_real_images_as_samples_score_perfectly(scores):
    found = scores(images(100, 0), images(100, 0))
    assert found["fid"] == pytest.approx(0, abs=1e-4)
    assert found["kid"] < 0  # unbiased, so below 0 where the samples are the very same
    assert (found["precision"], found["recall"]) == (1, 1)


def test_one_real_image_again_and_again_has_precision_and_no_recall(scores):
    real = images(100, 0)
    found = scores(real[:1].expand(100, 1, 2, 3), real)
    assert (found["precision"], found["recall"]) == (1, pytest.approx(0.01))
    assert found["inception_score"] == pytest.approx(1)


def test_samples_far_from_the_data_have_neither_precision_nor_recall(scores):
    found = scores(images(100, 0, shift=-0.9), images(100, 1, shift=0.9))
    assert (found["precision"], found["recall"]) == (0, 0)


def test_inception_score_of_sure_and_even_classes_is_their_number(scores):
    bright = torch.eye(6).repeat(500, 1).reshape(-1, 1, 2, 3) * 2 - 1
    # exp of the entropy, which ten splits of 300 lower by 5 / 600.
    assert scores(bright, images(10, 0))["inception_score"] == pytest.approx(6, rel=0.02)


def test_colour_images_keep_their_channels(scores):
    generated, real = (images(20, seed, channels=3) for seed in (0, 1))
    assert scores(generated, real) == scores(generated[:, :1], real[:, :1])


def test_points_and_few_images_are_refused(scores, examples):
    with pytest.raises(examples.data.UsageError, match="these samples are points"):
        scores(torch.zeros(20, 2), torch.zeros(20, 2))
    with pytest.raises(examples.data.UsageError, match="got 9 generated and 20 real"):
        scores(images(9, 0), images(20, 1))


@pytest.fixture
def hub(tmp_path):
    """An empty folder for downloaded weights."""
    before = torch.hub.get_dir()
    torch.hub.set_dir(tmp_path)
    yield tmp_path
    torch.hub.set_dir(before)


def test_weights_that_cannot_be_had_are_named_with_their_source_and_place(
    examples, hub, monkeypatch
):
    def no_network(url, *_, **__):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    with pytest.raises(examples.data.UsageError) as refused:
        examples.inception.inception_metrics(images(20, 0), TensorDataset(images(20, 1)))
    message = str(refused.value)
    name = "weights-inception-2015-12-05-6726825d.pth"
    assert f"{hub / 'checkpoints' / name} is not there" in message
    assert "no network" in message
    assert "get https://github.com/toshas/torch-fidelity/releases/" in message


def test_damaged_weights_are_refused_by_name(examples, hub):
    file = hub / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth"
    file.parent.mkdir()
    file.write_bytes(b"half of a download")
    with pytest.raises(examples.data.UsageError, match=f"{file.name} is damaged; remove it"):
        examples.inception.fetch_weights()


def test_scores_join_the_metrics_of_a_run(examples, scores, tmp_path, monkeypatch):
    compute = examples.inception.inception_metrics
    monkeypatch.setattr(
        examples.inception, "inception_metrics", lambda x, y: compute(x, y, "stand-in")
    )
    asked = []
    trainer = SimpleNamespace(
        config=SimpleNamespace(data=SimpleNamespace(name="CIFAR10")),
        dataset=TensorDataset(images(30, 0)),
        sample=lambda n, seed: asked.append(n) or images(n, seed),
        step=7,
    )
    metrics = examples.evaluate.evaluate_run(trainer, tmp_path, inception=20)
    assert asked == [20]
    names = ["step", "fid", "kid", "kid_deviation", "inception_score", "precision", "recall"]
    assert list(metrics) == names
    assert json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8")) == metrics
