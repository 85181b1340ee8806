"""The recipes: each runs at toy size, and does what its page says."""

import importlib
import math
import re
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import gan_blocks as gb

NAMES = ("common", "autoencoder", "super_resolution", "feature_critic")
PAGES = Path(__file__).parents[1] / "docs" / "recipes"


@pytest.fixture(scope="module")
def recipes(examples):
    """The recipes by name; they are scripts, and import each other and the other examples."""
    before = sys.path[:]
    sys.path.insert(0, str(examples.folder / "recipes"))
    yield {name: importlib.import_module(name) for name in NAMES}
    sys.path[:] = before  # without what the recipes add, too
    for name in NAMES:
        del sys.modules[name]


@pytest.fixture(scope="module")
def images(recipes):
    return recipes["common"].digits()[0]


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def gradients(network):
    """For each weight matrix whether a backward pass reached it."""
    weights = [p for p in network.parameters() if p.dim() > 1]
    return {p.grad is not None and bool(p.grad.abs().sum() > 0) for p in weights}


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("autoencoder", ["without adversarial loss", "with adversarial loss"]),
        ("super_resolution", ["enlarged", "mean error alone", "with the game"]),
        ("feature_critic", ["before", "after"]),
    ],
)
def test_recipe_reports_a_table_and_a_picture(recipes, name, rows, tmp_path, capsys, monkeypatch):
    Judge = recipes["common"].Judge
    monkeypatch.setattr(recipes[name], "Judge", lambda *data: Judge(*data, steps=2))
    out, docs = tmp_path / "out", tmp_path / "docs"
    (docs / "results").mkdir(parents=True)
    (docs / "images").mkdir()
    arguments = ["--steps", "4", "--seeds", "2", "--out", str(out), "--docs", str(docs)]
    recipes[name].main(arguments)
    table = (docs / "results" / f"{name}.md").read_text(encoding="utf-8")
    assert table in capsys.readouterr().out
    lines = [line.strip("| ").split("|") for line in table.splitlines()[2:]]
    assert [line[0].strip() for line in lines] == rows
    for line in lines:
        values = [float(cell.split("±")[0]) for cell in line[1:]]
        assert all(map(math.isfinite, values))
    assert (docs / "images" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(SystemExit):
        recipes[name].main(["--steps", "1"])
    assert "--steps should be at least 2, got 1" in capsys.readouterr().err


def test_judge_finds_real_images_near_and_noise_far(recipes, examples):
    images, labels, held_out = recipes["common"].digits()
    assert len(images) == 1200
    assert len(held_out) == 597
    judge = recipes["common"].Judge(images, labels, held_out, steps=200)
    assert judge(held_out) == pytest.approx(0, abs=1e-6)
    assert judge(images) < 40
    assert judge(torch.rand_like(held_out) * 2 - 1) > 400


# --- autoencoder ---------------------------------------------------------------------------------


def test_quantiser_takes_the_nearest_code_and_passes_the_gradient_straight_through(recipes):
    quantizer = recipes["autoencoder"].Quantizer(codes=5, dim=3)
    z = torch.randn(2, 3, 2, 2, requires_grad=True)
    y, loss = quantizer(z)
    terms = []
    for n in range(2):
        for i in range(2):
            for j in range(2):
                vector = z[n, :, i, j].detach()
                code = min(quantizer.codebook.detach(), key=lambda c: math.dist(c, vector))
                torch.testing.assert_close(y[n, :, i, j].detach(), code)
                terms.append((1 + 0.25) * (code - vector).square().mean())
    torch.testing.assert_close(loss.detach(), sum(terms) / len(terms))
    weights = torch.randn(2, 3, 2, 2)
    (gradient,) = torch.autograd.grad((y * weights).sum(), z, retain_graph=True)
    torch.testing.assert_close(gradient, weights)
    # The commitment moves the vectors at a quarter of the pace of the codes.
    (to_vectors, to_codes) = torch.autograd.grad(loss, [z, quantizer.codebook])
    torch.testing.assert_close(to_vectors.sum((0, 2, 3)), -0.25 * to_codes.sum(0))


@pytest.fixture
def autoencoder(recipes):
    """The recipe, its model and its discriminator."""
    recipe = recipes["autoencoder"]
    return recipe, recipe.Autoencoder(width=8), gb.PatchDiscriminator(1, 8, 1, "none")


def test_adaptive_weight_of_the_autoencoder_is_the_ratio_of_the_gradients(autoencoder, images):
    recipe, model, critic = autoencoder
    loss, adaptive = gb.HingeLoss(0.5), gb.AdaptiveWeight(weight=0.8)
    x = images[:16]
    total, y, parts = recipe.autoencoder_loss(model, critic, loss, adaptive, x)
    norms = []
    for term in ((y - x).abs().mean(), -critic(y).mean()):
        (gradient,) = torch.autograd.grad(term, model.decoder[-1].weight, retain_graph=True)
        norms.append(gradient.norm())
    torch.testing.assert_close(parts["weight"], 0.8 * norms[0] / (norms[1] + 1e-4))
    expected = parts["reconstruction"] + parts["codebook"] - parts["weight"] * critic(y).mean()
    torch.testing.assert_close(total, expected)


def test_step_of_the_autoencoder_leaves_the_discriminator_alone_and_the_other_way_round(
    autoencoder, images
):
    recipe, model, critic = autoencoder
    loss, adaptive = gb.HingeLoss(0.5), gb.AdaptiveWeight(weight=0.8)
    total, y, _ = recipe.autoencoder_loss(model, critic, loss, adaptive, images[:16])
    total.backward()
    assert all(p.grad is None and p.requires_grad for p in critic.parameters())
    assert gradients(model) == {True}
    model.zero_grad()
    recipe.critic_loss(critic, loss, images[:16], y.detach()).backward()
    assert all(p.grad is None for p in model.parameters())
    assert gradients(critic) == {True}


def test_autoencoder_learns_to_reconstruct_and_plays_only_after_the_start(recipes, images):
    recipe = recipes["autoencoder"]
    same = [recipe.train(images, 150, start, seed=0) for start in (150, 151)]
    assert all(torch.equal(p, q) for p, q in zip(*(m.parameters() for m in same), strict=True))
    with torch.no_grad():
        error = F.l1_loss(same[0](images)[0], images)
    constant = F.l1_loss(images.median(0).values.expand_as(images), images)
    assert error < 0.9 * constant
    played = recipe.train(images, 150, 148, seed=0)
    assert not torch.equal(played.quantizer.codebook, same[0].quantizer.codebook)


# --- super-resolution ----------------------------------------------------------------------------


@pytest.fixture
def super_resolution(recipes, images):
    """The recipe, its networks, images and what the generator makes of the small ones."""
    recipe = recipes["super_resolution"]
    generator, critic = recipe.Generator(width=8), recipe.critic_of_pairs()
    x = images[:16]
    return recipe, generator, critic, x, generator(recipe.shrink(x))


def test_generator_of_super_resolution_is_given_means_of_four_pixels_only(super_resolution):
    recipe, generator, _, x, y = super_resolution
    small = recipe.shrink(x)
    assert small.shape == (16, 1, 4, 4)
    torch.testing.assert_close(small[3, 0, 1, 2], x[3, 0, 2:4, 4:6].mean())
    # Pixels change places within their group of four, and nothing else changes.
    torch.testing.assert_close(
        generator(recipe.shrink(x.unflatten(3, (4, 2)).flip(4).flatten(3))), y
    )


def test_loss_of_super_resolution_is_the_sum_of_the_three(super_resolution):
    recipe, _, critic, x, y = super_resolution
    maps = {name: critic.network.feature_maps(recipe.pair(recipe.shrink(x), image))
            for name, image in (("x", x), ("y", y))}  # fmt: skip
    game = F.softplus(maps["x"][-1] - maps["y"][-1]).mean()
    pairs = zip(maps["x"][:-1], maps["y"][:-1], strict=True)
    matching = sum((a - b).abs().mean() for a, b in pairs) / 2
    expected = (x - y).abs().mean() + game + matching
    torch.testing.assert_close(recipe.generator_loss(critic, x, y), expected)


def test_steps_of_super_resolution_leave_the_other_network_alone(super_resolution):
    recipe, generator, critic, x, y = super_resolution
    recipe.critic_loss(critic, x, y).backward(retain_graph=True)
    assert all(p.grad is None for p in generator.parameters())
    assert gradients(critic) == {True}
    critic.zero_grad()
    recipe.generator_loss(critic, x, y).backward()
    assert all(p.grad is None and p.requires_grad for p in critic.parameters())
    assert gradients(generator) == {True}


def test_penalty_of_super_resolution_is_by_the_large_image_only(super_resolution):
    recipe, _, critic, x, y = super_resolution
    small, large = recipe.shrink(x), x.clone().requires_grad_()
    real, fake = (critic.network(recipe.pair(small, image)) for image in (large, y.detach()))
    (slope,) = torch.autograd.grad(real.sum(), large, retain_graph=True)
    expected = F.softplus(fake - real).mean() + slope.square().sum((1, 2, 3)).mean() / 2
    torch.testing.assert_close(recipe.critic_loss(critic, x, y), expected)


@pytest.mark.parametrize("adversarial", [False, True])
def test_super_resolution_is_closer_than_the_enlarged_image(recipes, images, adversarial):
    recipe = recipes["super_resolution"]
    model = recipe.train(images, 60, adversarial, seed=0)
    small = recipe.shrink(images)
    with torch.no_grad():
        error = F.l1_loss(model(small), images)
    assert error < 0.8 * F.l1_loss(recipe.enlarge(small), images)


# --- a critic on frozen features -----------------------------------------------------------------


@pytest.fixture
def feature_critic(recipes, images):
    """The recipe and its critic, whose network has hardly learned."""
    recipe = recipes["feature_critic"]
    return recipe, recipe.Critic(images, recipes["common"].digits()[1], steps=2)


def test_heads_learn_on_a_network_that_stays_as_it_is(feature_critic, images):
    recipe, critic = feature_critic
    before = {name: value.clone() for name, value in critic.state_dict().items()}
    generator = recipe.make_generator()
    recipe.finish(generator, critic, images, steps=2)
    changed = {
        name.split(".")[0]
        for name, value in critic.state_dict().items()
        if not torch.equal(value, before[name])
    }
    assert changed == {"heads"}


def test_loss_of_the_heads_is_the_game_and_the_differences_to_perturbed_images(
    feature_critic, images
):
    recipe, critic = feature_critic
    penalty = gb.ApproximateR1Penalty(weight=100.0, sigma=0.1)
    real, fake = images[:16], images[16:32].flip(3)
    torch.manual_seed(5)
    found = recipe.critic_loss(critic, gb.NonSaturatingLoss(), penalty, real, fake)
    torch.manual_seed(5)
    noisy = real + 0.1 * torch.randn_like(real)
    expected = 0
    for a, b, c in zip(critic(real), critic(fake), critic(noisy), strict=True):
        expected += F.softplus(-a).mean() + F.softplus(b).mean() + 100 * (a - c).square().mean()
    torch.testing.assert_close(found, expected)


def test_step_of_the_generator_reaches_it_through_the_frozen_network(feature_critic):
    recipe, critic = feature_critic
    generator = recipe.make_generator()
    fake = generator(torch.randn(8, recipe.LATENT))
    recipe.generator_loss(critic, gb.NonSaturatingLoss(), fake).backward()
    assert gradients(generator) == {True}
    assert all(p.grad is None for p in critic.parameters())
    assert all(p.requires_grad for p in critic.heads.parameters())


def test_pretrained_generator_makes_images_like_the_data_but_blurred(recipes, images):
    recipe = recipes["feature_critic"]
    generator = recipe.pretrain(images, 400)
    with torch.no_grad():
        samples = generator(torch.randn(500, recipe.LATENT))
    assert F.mse_loss(samples.mean(0), images.mean(0)) < 0.02
    assert samples.var(0).mean() < 0.8 * images.var(0).mean()


# --- your own loop -------------------------------------------------------------------------------


def test_each_loop_of_the_page_marks_the_few_lines_that_the_blocks_bring():
    text = (PAGES / "your_own_loop.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    loops = [block for block in blocks if "# +" in block]
    clocked = loops.pop()
    assert [line for line in clocked.splitlines() if "follow(" in line and "# +" not in line] == []
    assert len(loops) == 3
    for loop in loops:
        lines = loop.splitlines()
        marked = [line for line in lines if line.endswith("# +")]
        assert len(marked) <= 10
        assert marked == [
            line for line in lines if re.search(r"penalty|Loss|loss\.(disc|gen)", line)
        ]
