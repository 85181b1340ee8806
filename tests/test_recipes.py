"""The recipes: each runs at toy size, and does what its page says."""

import importlib
import math
import sys

import pytest
import torch
import torch.nn.functional as F

import gan_blocks as gb

NAMES = ("common", "autoencoder")


@pytest.fixture(scope="module")
def recipes(examples):
    """The recipes by name; they are scripts, and import each other and the other examples."""
    folder = str(examples.folder / "recipes")
    sys.path.insert(0, folder)
    yield {name: importlib.import_module(name) for name in NAMES}
    sys.path.remove(folder)
    for name in NAMES:
        del sys.modules[name]


@pytest.fixture(scope="module")
def images(recipes):
    return recipes["common"].digits()[0]


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize(
    ("name", "rows"),
    [("autoencoder", ["without adversarial loss", "with adversarial loss"])],
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
    judge = recipes["common"].Judge(images, labels, held_out)
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
    assert all(p.grad.abs().sum() > 0 for p in model.encoder.parameters() if p.dim() > 1)
    model.zero_grad()
    recipe.critic_loss(critic, loss, images[:16], y.detach()).backward()
    assert all(p.grad is None for p in model.parameters())
    assert all(p.grad.abs().sum() > 0 for p in critic.parameters() if p.dim() > 1)


def test_autoencoder_learns_to_reconstruct_and_plays_only_after_the_start(recipes, images):
    recipe = recipes["autoencoder"]
    same = [recipe.train(images, 150, start, seed=0) for start in (150, 151)]
    assert all(torch.equal(p, q) for p, q in zip(*(m.parameters() for m in same), strict=True))
    with torch.no_grad():
        error = F.l1_loss(same[0](images)[0], images)
    constant = F.l1_loss(images.median(0).values.expand_as(images), images)
    assert error < 0.9 * constant
    played = recipe.train(images, 150, 140, seed=0)
    assert not torch.equal(played.quantizer.codebook, same[0].quantizer.codebook)
