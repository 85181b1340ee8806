"""The metrics of the examples, against cases that a hand can compute."""

import math
from pathlib import Path

import pytest
import torch


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def digits(examples):
    return examples.data.load(examples.data.DataConfig(name="digits"), Path(), 0)


@pytest.fixture(scope="module")
def trained(examples, digits):
    return examples.evaluate.train_classifier(*digits.tensors)


@pytest.mark.parametrize(("name", "n"), [("ring", 8), ("grid", 25)])
def test_perfect_sampler_finds_all_modes_and_scores_as_published(examples, name, n):
    samples = examples.data.mixture(name, 100_000, generator())
    metrics = examples.evaluate.mode_metrics(name, samples)
    assert metrics["modes"] == n
    # Within 3 standard deviations in the plane: 1 - exp(-9/2).
    assert metrics["high_quality"] == pytest.approx(1 - math.exp(-4.5), abs=2e-3)
    assert metrics["reverse_kl"] == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize(("name", "expected"), [("ring", 0.0014), ("grid", 0.0048)])
def test_reverse_kl_of_2500_perfect_samples_is_the_published_floor(examples, name, expected):
    values = [
        examples.evaluate.mode_metrics(name, examples.data.mixture(name, 2500, generator(i)))
        for i in range(40)
    ]
    mean = sum(value["reverse_kl"] for value in values) / len(values)
    assert mean == pytest.approx(expected, rel=0.2)


def test_ring_has_eight_distinct_modes_at_unit_distance(examples):
    means, _ = examples.data.modes("ring")
    assert len(means.unique(dim=0)) == 8
    torch.testing.assert_close(means.norm(dim=1), torch.ones(8))
    distance = torch.pdist(means).min()
    torch.testing.assert_close(distance, torch.tensor(2 * math.sin(math.pi / 8)))


@pytest.mark.parametrize(("name", "n"), [("ring", 8), ("grid", 25)])
def test_metrics_of_modes_equal_the_loop_over_the_definition(examples, name, n):
    # Half from the mixture, unevenly, and half from a wider one.
    samples = examples.data.mixture(name, 400, generator())
    samples = samples[samples[:, 0] > -0.5]
    samples = torch.cat(
        [samples, samples + 0.02 * torch.randn(samples.shape, generator=generator())]
    )
    means, std = examples.data.modes(name)
    counts = [0] * n
    for x in samples.tolist():
        distances = [math.dist(x, mean) for mean in means.tolist()]
        if min(distances) <= 3 * std:
            counts[distances.index(min(distances))] += 1
    good = sum(counts)
    divergence = sum(c / good * math.log(c / good * n) for c in counts if c)
    assert examples.evaluate.mode_metrics(name, samples) == {
        "modes": sum(c > 0 for c in counts),
        "high_quality": pytest.approx(good / len(samples)),
        "reverse_kl": pytest.approx(divergence, rel=1e-5),
    }
    assert good < len(samples)
    assert 0 in counts


def test_collapsed_sampler_finds_one_mode_and_has_the_largest_divergence(examples):
    means, _ = examples.data.modes("ring")
    metrics = examples.evaluate.mode_metrics("ring", means[:1].expand(100, 2))
    assert metrics["modes"] == 1
    assert metrics["high_quality"] == 1
    assert metrics["reverse_kl"] == pytest.approx(math.log(8))


def test_two_of_eight_modes_and_one_sample_in_four_outside(examples):
    means, std = examples.data.modes("ring")
    far, near = torch.tensor([[0.0, 0.0]]), means[1:2] + torch.tensor([[2.9 * std, 0.0]])
    metrics = examples.evaluate.mode_metrics("ring", torch.cat([means[:1], means[:1], near, far]))
    assert (metrics["modes"], metrics["high_quality"]) == (2, 0.75)
    expected = 2 / 3 * math.log(2 / 3 * 8) + 1 / 3 * math.log(1 / 3 * 8)
    assert metrics["reverse_kl"] == pytest.approx(expected)


def test_sampler_that_misses_everything_has_no_divergence(examples):
    metrics = examples.evaluate.mode_metrics("ring", torch.zeros(10, 2))
    assert metrics == {"modes": 0, "high_quality": 0.0, "reverse_kl": None}


def test_classifier_knows_97_percent_of_digits_it_has_not_seen(trained):
    _, accuracy = trained
    assert accuracy >= 0.97


def test_training_the_classifier_leaves_the_random_numbers_alone(examples, digits):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    images, labels = digits.tensors
    examples.evaluate.train_classifier(images, labels, steps=2)
    assert torch.equal(torch.get_rng_state(), before)


def test_real_digits_score_as_a_perfect_generator(examples, digits, trained):
    images, _ = digits.tensors
    chosen = torch.randint(len(images), (2000,), generator=generator())
    metrics = examples.evaluate.class_metrics(trained[0], images, images[chosen])
    assert metrics["classes"] == 10
    assert metrics["rarest_class"] > 0.07
    assert metrics["confidence"] > 0.98
    assert metrics["real_confidence"] > 0.98
    assert metrics["frechet_distance"] < metrics["frechet_distance_of_real_halves"]
    assert abs(metrics["kernel_distance"]) < 3 * metrics["kernel_distance_error"]
    floor = metrics["kernel_distance_of_real_halves"]
    assert abs(floor) < 3 * metrics["kernel_distance_error_of_real_halves"]


def test_collapsed_generator_of_digits_is_detected(examples, digits, trained):
    images, _ = digits.tensors
    metrics = examples.evaluate.class_metrics(trained[0], images, images[:1].expand(2000, 1, 8, 8))
    assert metrics["classes"] == 1
    assert metrics["rarest_class"] == 0
    assert metrics["class_shares"] == [1.0] + [0.0] * 9  # the first image is a zero
    assert metrics["frechet_distance"] > 50 * metrics["frechet_distance_of_real_halves"]
    assert metrics["kernel_distance"] > 50 * metrics["kernel_distance_error_of_real_halves"]


def test_share_of_each_class_is_counted_beside_that_of_real_images(examples, digits, trained):
    images, labels = digits.tensors
    # Three of four are threes, and the rest eights.
    three, eight = (images[labels == label][:100] for label in (3, 8))
    metrics = examples.evaluate.class_metrics(trained[0], images, torch.cat([three] * 3 + [eight]))
    assert metrics["classes"] in (2, 3, 4)  # the classifier is wrong now and then
    assert metrics["class_shares"][3] == pytest.approx(0.75, abs=0.02)
    assert metrics["class_shares"][8] == pytest.approx(0.25, abs=0.02)
    assert sum(metrics["class_shares"]) == pytest.approx(1)
    real = (torch.bincount(labels) / len(labels)).tolist()
    assert metrics["real_class_shares"] == pytest.approx(real, abs=0.005)


def test_noise_is_detected(examples, digits, trained):
    images, _ = digits.tensors
    noise = torch.rand(2000, 1, 8, 8, generator=generator()) * 2 - 1
    metrics = examples.evaluate.class_metrics(trained[0], images, noise)
    assert metrics["confidence"] < 0.9
    assert metrics["frechet_distance"] > 10 * metrics["frechet_distance_of_real_halves"]


def test_data_without_an_evaluation_has_no_metrics(examples):
    assert examples.evaluate.evaluate("CIFAR10", None, lambda n: torch.zeros(n, 3, 32, 32)) == {}


def test_points_are_judged_by_2500_samples_and_digits_by_2000(examples, digits):
    asked = []

    def points(n):
        asked.append(n)
        return torch.zeros(n, 2)

    examples.evaluate.evaluate("ring", None, points)
    assert asked == [2500]
    assert examples.evaluate.IMAGES == 2000


def test_folder_without_a_run_is_refused_by_the_command(examples, tmp_path, capsys):
    assert examples.evaluate.main([str(tmp_path / "nothing")]) == 2
    message = capsys.readouterr().err
    assert "checkpoint.pt is not there" in message
    assert "Traceback" not in message
