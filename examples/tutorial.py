# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The tutorial, corrected
#
# A tutorial on generative adversarial networks, in four chapters: the adversarial game, improved
# techniques, f-GAN, and Wasserstein GANs. Each step has its formula, the lines that compute it, and
# the result. The source tutorial prints the log of its own DCGAN, in which training collapses for
# thousands of iterations. Its log stands beside ours, and its errors are named where they belong, each
# with a number that shows it.
#
# This page, the notebook `examples/tutorial.ipynb` and the script `examples/tutorial.py` are one
# source.
#
# ```console
# pip install ".[examples]"
# python examples/tutorial.py
# ```
#
# MNIST is downloaded to the folder that the configs name, unless `GAN_BLOCKS_MNIST` names another. The
# training runs are short, for two cores; `GAN_BLOCKS_TUTORIAL_STEPS` makes all of them shorter still.

# %%
import copy
import json
import math
import os
import sys
import warnings
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.distributions import Normal
from torch.nn import functional as F

import checkpoint
import data
import evaluate
import gan_blocks as gb
import plots
import reading
import train
from config import Config
from show import picture, table

CONFIGS = Path(train.__file__).parent / "configs"
OUT = Path("runs") / f"tutorial-{datetime.now():%Y%m%d-%H%M%S}"
CAP = int(os.environ.get("GAN_BLOCKS_TUTORIAL_STEPS", "1_000_000"))
SETTINGS = []
if "GAN_BLOCKS_MNIST" in os.environ:
    root = Path(os.environ["GAN_BLOCKS_MNIST"]).expanduser().resolve()
    SETTINGS = [f"data.root={json.dumps(str(root))}"]
DEVICE = reading.choose_device(None)  # the accelerator if there is one, never a fixed `.cuda()`
torch.manual_seed(0)


def config_of(name: str, steps: int, *changes: str) -> Config:
    """A config of the examples, with fewer steps."""
    steps = min(steps, CAP)
    changes = (f"steps={steps}", f"log_every={min(25, steps)}", *SETTINGS, *changes)
    return reading.read_config(Config, CONFIGS / f"{name}.toml", changes)


try:
    MNIST: Any = data.load(config_of("mnist_dcgan_small", 1).data, CONFIGS, seed=0)
except data.UsageError as error:
    sys.exit(f"The tutorial needs MNIST. {error}")
print(f"{len(MNIST):,} images")


# %% [markdown]
# What is kept on this page comes from `mnist10k`, a stand-in: the 10,000 images of MNIST's *test* set,
# of which 9,000 are trained on. With the 60,000 images of the training set the numbers differ
# somewhat.
#
# Two helpers: one fits a small network, the other runs the trainer with a config.


# %%
def fit(network: nn.Module, objective: Callable[[], Tensor], steps: int, lr: float = 2e-3) -> None:
    """Minimise an objective over the weights of a network."""
    optimizer = torch.optim.Adam(network.parameters(), lr)
    for _ in range(min(steps, CAP)):
        optimizer.zero_grad()
        objective().backward()
        optimizer.step()


def run(name: str, steps: int, *changes: str) -> tuple[train.Trainer, list[dict[str, float]]]:
    """The trainer after its run, and the log."""
    config = config_of(name, steps, *changes)
    out = OUT / "-".join((name, *changes)).replace('"', "")
    trainer = train.run(config, CONFIGS, out, DEVICE, resume=False)
    return trainer, checkpoint.read_log(out / "log.jsonl")


def gradient_norm(loss: Tensor, network: nn.Module) -> float:
    """The norm of the gradient by all weights of a network."""
    gradient = torch.autograd.grad(loss, list(network.parameters()), retain_graph=True)
    return nn.utils.get_total_norm(gradient).item()


# %% [markdown]
# ## 1. The adversarial game
#
# ### The optimal discriminator
#
# A discriminator $D$ tells samples of the data, of density $p$, from samples of the generator, of
# density $q$. Both play for one value (Goodfellow et al. 2014, equation 1):
#
# $$V(D, G) = \mathbb{E}_{x \sim p} \log D(x) + \mathbb{E}_{x \sim q} \log(1 - D(x)).$$
#
# For fixed $q$ the best discriminator and its value are
#
# $$D^*(x) = \frac{p(x)}{p(x) + q(x)}, \qquad V(D^*, G) = -\log 4 + 2\,\mathrm{JSD}(p, q).$$
#
# At $p = q$ the discriminator can only say 1/2, and the value is $-2 \log 2 = -1.386$. On two known
# densities all of it can be checked. `MinimaxLoss` takes logits $r, f$ with $D = \sigma(r)$, and its
# discriminator's loss is $-V$.

# %%
p, q = Normal(-1.0, 1.0), Normal(1.0, 0.7)
game = gb.MinimaxLoss()
critic = gb.MLPDiscriminator((1,), width=64, depth=2)


def loss_on_samples(critic: nn.Module, loss: Any, n: int = 512) -> Tensor:
    """The discriminator's loss on new samples of p and q."""
    return loss.discriminator(critic(p.sample((n, 1))), critic(q.sample((n, 1))))


def jsd(p: Tensor, q: Tensor) -> Tensor:
    """The Jensen-Shannon divergence of two distributions: both KL divergences from their mean."""
    m = (p + q) / 2
    return (gb.KL().between(p, m) + gb.KL().between(q, m)) / 2


fit(critic, partial(loss_on_samples, critic, game), steps=2000)

x = torch.linspace(-5, 4, 1801)
density_p, density_q = p.log_prob(x).exp(), q.log_prob(x).exp()
P, Q = density_p / density_p.sum(), density_q / density_q.sum()  # probabilities on the grid
best = density_p / (density_p + density_q)
with torch.no_grad():
    trained = critic(x[:, None]).sigmoid()
    value = -loss_on_samples(critic, game, 100_000).item()

table(
    ["value", "result"],
    [
        ["V of the trained discriminator", value],
        ["-log 4 + 2 JSD(p, q)", -math.log(4) + 2 * jsd(P, Q).item()],
        ["V at p = q, D = 1/2", -game.discriminator(torch.zeros(1), torch.zeros(1)).item()],
        ["-2 log 2", -2 * math.log(2)],
    ],
)

# %%
figure = Figure(figsize=(7, 3), layout="constrained")
axes = figure.subplots()
axes.plot(x, density_p, color="grey", linestyle="--", label="p")
axes.plot(x, density_q, color="grey", linestyle=":", label="q")
axes.plot(x, best, linewidth=4, alpha=0.4, label="p / (p + q)")
axes.plot(x, trained, label="trained D")
axes.set_xlabel("x")
picture(
    figure,
    OUT / "optimal-discriminator.png",
    "Two bell curves p and q, and the trained discriminator, which lies on the curve p / (p + q)",
)

# %% [markdown]
# ### Two losses for the generator
#
# The generator can descend $V$ itself, or do what works better in practice and ascend $\log D(G(z))$
# (Goodfellow et al. 2014, section 3). With a logit $f$ of a generated sample and the softplus
# $\zeta(x) = \log(1 + e^x)$:
#
# $$L_{\text{saturating}} = -\zeta(f), \quad \frac{dL}{df} = -\sigma(f); \qquad
#   L_{\text{non-saturating}} = \zeta(-f), \quad \frac{dL}{df} = -(1 - \sigma(f)).$$
#
# A generator that loses has $f \ll 0$. That is where the first loss has no gradient and the second one
# has all of it.


# %%
def slope(loss: Callable[[Tensor], Tensor], logit: float) -> float:
    """The derivative of a loss by the logit."""
    f = torch.tensor([logit], requires_grad=True)
    return torch.autograd.grad(loss(f), f)[0].item()


logits = (5.0, 0.0, -5.0, -10.0, -46.0)
losses = {"saturating": gb.MinimaxLoss(), "non-saturating": gb.NonSaturatingLoss()}
table(
    ["dL/df at f =", *map(str, logits)],
    [[name, *(slope(loss.generator, f) for f in logits)] for name, loss in losses.items()],
)

# %% [markdown]
# ### A sigmoid and then a logarithm
#
# The tutorial's discriminator ends in a sigmoid, and the loss is binary cross-entropy of its output.
# On paper that is the non-saturating loss. In float32 it is not: for a generated sample of logit $f$
# the gradient is computed as
#
# $$\frac{dL}{dD} \cdot \frac{dD}{df} = -\frac{1}{D} \cdot D(1 - D),$$
#
# where $D = \sigma(f)$. At $f = -46$, $D = 10^{-20}$. PyTorch bounds the denominator $D(1 - D)$ of the
# first factor from below by $10^{-12}$, so the gradient is $-10^{-8}$ where it should be $-1$. On the
# other side $D$ rounds to 1 from a logit of 17 on, and its derivative to 0. A loss on logits never
# forms $D$.


# %%
def bce(logits: Tensor, target: float) -> Tensor:
    """The naive form: sigmoid, then binary cross-entropy."""
    return F.binary_cross_entropy(logits.sigmoid(), torch.full_like(logits, target))


class Naive:
    """The naive form of both sides."""

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return bce(real, 1.0) + bce(fake, 0.0)

    def generator(self, fake: Tensor) -> Tensor:
        return bce(fake, 1.0)


logits = (0.0, -10.0, -17.0, -30.0, -46.0, -57.0)
losses = {"sigmoid, then BCE": Naive(), "on logits": gb.NonSaturatingLoss()}
table(
    ["dL/df at f =", *map(str, logits)],
    [[name, *(slope(loss.generator, f) for f in logits)] for name, loss in losses.items()],
)

# %% [markdown]
# ### DCGAN on MNIST
#
# The config `mnist_dcgan_small.toml` has the tutorial's optimisers, batch of 32 and kind of networks
# (Radford et al. 2015) at 32 pixels instead of 64; here the networks are narrower once more, so that
# the run passes the iterations where the tutorial's collapses. The loss is `NonSaturatingLoss`, on
# logits.

# %%
dcgan, log = run("mnist_dcgan_small", 8000, "generator.width=16", "discriminator.width=16")

# %% [markdown]
# The tutorial prints a line every 500 iterations. It labels the last two columns D(x) and D(G(z));
# what its code computes is $D(G(z))$ after and before the generator's step. An epoch has 1,875
# iterations of 32 images. Each cell has the tutorial's value first and ours second. Both are values of
# one batch.

# %%
lines = (Path(train.__file__).parent / "tutorial_log.csv").read_text(encoding="utf-8").split()
names = lines[0].split(",")
theirs = [dict(zip(names, map(float, line.split(",")), strict=True)) for line in lines[1:]]
for line in theirs:
    line["iteration"] = 1875 * line["epoch"] + line["iteration"]
ours = {line["step"]: line for line in log}
columns = {
    "D loss": ("d_loss", "d_loss"),
    "G loss": ("g_loss", "g_loss"),
    "D(x)": ("d_x", "d_real"),
    "D(G(z)) before": ("d_g_z_before_generator_step", "d_fake_before"),
    "after": ("d_g_z_after_generator_step", "d_fake_after"),
}


def both(line: dict[str, float], their_name: str, our_name: str) -> str:
    """Their value and ours at the same iteration."""
    our_line = ours.get(int(line["iteration"]))
    return f"{line[their_name]:.3f} / " + (f"{our_line[our_name]:.3f}" if our_line else "-")


table(
    ["iteration", *columns],
    [
        [int(line["iteration"]), *(both(line, *pair) for pair in columns.values())]
        for line in theirs
        if line["iteration"] in (500, 1500, 2875, 4250, 5250) or 5625 <= line["iteration"] <= 8000
    ],
)
print(f"least gradient norm of D {min(line['d_gradient'] for line in log):.2g}, ", end="")
print(f"of G {min(line['g_gradient'] for line in log):.2g}")

# %%
figure = Figure(figsize=(8, 3), layout="constrained")
for axes, name in zip(figure.subplots(1, 2, sharey=True), ("d_loss", "g_loss"), strict=True):
    axes.semilogy([v["step"] for v in log], [v[name] for v in log], linewidth=0.6, label="ours")
    known = [line for line in theirs if line["iteration"] <= 8000]
    points = [line["iteration"] for line in known], [line[name] for line in known]
    axes.semilogy(*points, "o", markersize=4, label="the tutorial's log")
    axes.set_title("D loss" if name == "d_loss" else "G loss", fontsize=10)
    axes.set_xlabel("iteration")
picture(
    figure,
    OUT / "dcgan-curves.png",
    "Losses by iteration: the tutorial's D loss jumps to 45 and its G loss to 57, ours do not",
)

# %% [markdown]
# From iteration 5,625 to 8,000 the tutorial's discriminator gives 0 to real and to generated images
# alike: logits of about -46 and -57, by its two losses. Both networks want to move and neither can.
#
# To see that this is the form of the loss, the trained networks are forced into that state: a constant
# is taken off the logits, so that real and generated images are at a mean of $-s$. Then the gradient
# by all weights of the discriminator and of the generator is taken in both forms.

# %%
real_images = next(data.batches(MNIST, 32, seed=1)).to(DEVICE)
fake = dcgan.generator(dcgan.latents(32, seed=1))
real_logits, fake_logits = dcgan.critic(real_images), dcgan.critic(fake)
real_logits, fake_logits = (x - x.mean().detach() for x in (real_logits, fake_logits))
shifts = [0, 5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 57]
norms = {
    (name, side): [
        gradient_norm(loss.discriminator(real_logits - s, fake_logits - s), dcgan.critic)
        if side == "D"
        else gradient_norm(loss.generator(fake_logits - s), dcgan.generator)
        for s in shifts
    ]
    for name, loss in losses.items()
    for side in "DG"
}
table(
    ["gradient norm at mean logit", *(str(-s) for s in (0, 15, 30, 45, 57))],
    [
        [f"{side}, {name}", *(norms[name, side][shifts.index(s)] for s in (0, 15, 30, 45, 57))]
        for side in "DG"
        for name in losses
    ],
)

# %%
figure = Figure(figsize=(8, 3), layout="constrained")
for axes, side in zip(figure.subplots(1, 2, sharey=True), "DG", strict=True):
    for name, style in (("on logits", "o-"), ("sigmoid, then BCE", "s--")):
        axes.semilogy([-s for s in shifts], norms[name, side], style, markersize=3, label=name)
    axes.set_title(f"gradient norm, weights of {side}", fontsize=10)
    axes.set_xlabel("mean logit")
picture(
    figure,
    OUT / "saturation.png",
    "Gradient norm by mean logit: on logits it stays, with sigmoid and BCE it vanishes",
)

# %% [markdown]
# Training from that state tells the rest. Networks and optimisers are those that the run left; only a
# constant is taken off the logits, so that real images are at a mean of -46. Adam divides each
# gradient by the size that gradients had in the last thousand iterations, so one that is a millionth
# of them moves nothing. The naive form stays where the tutorial's log stays, with losses of about 46
# and 56. On logits the discriminator is back at once.


# %%
def recovery(loss: Any, steps: int = 200) -> list[str]:
    """The losses of D and G while both train on from the saturated state."""
    generator, critic, g_optimizer, d_optimizer = copy.deepcopy(
        (dcgan.generator, dcgan.critic, dcgan.g_optimizer, dcgan.d_optimizer)
    )
    batches = data.batches(MNIST, 32, seed=2)
    offset = critic(real_images).mean().item() + 46
    values = []
    for i in range(min(steps, CAP) + 1):
        real, fake = next(batches).to(DEVICE), generator(dcgan.latents(32, seed=i))
        d_loss = loss.discriminator(critic(real) - offset, critic(fake.detach()) - offset)
        d_optimizer.zero_grad()
        d_loss.backward()
        d_optimizer.step()
        g_loss = loss.generator(critic(fake) - offset)
        g_optimizer.zero_grad()
        g_loss.backward()
        g_optimizer.step()
        values.append(f"{d_loss.item():.2f}, {g_loss.item():.2f}")
    return values


recovered = {name: recovery(loss) for name, loss in losses.items()}
shown = [i for i in (0, 25, 50, 100, 200) if i <= CAP]
table(
    ["D loss, G loss after iterations", *map(str, shown)],
    [[name, *(values[i] for i in shown)] for name, values in recovered.items()],
)

# %% [markdown]
# ### Samples, and batches of one
#
# The tutorial draws its pictures in training mode. Batch norm then takes its statistics from the batch
# that is drawn, so an image depends on the others beside it, and each picture moves the running
# statistics. Drawing needs `eval()` and no gradient. The trainer's `sample` does both, and puts back
# the mode of each module.

# %%
z = dcgan.latents(64, seed=3)
with torch.no_grad():
    among_64, among_2 = dcgan.generator(z)[:2], dcgan.generator(z[:2])
    in_training = (among_64 - among_2).abs().max().item()
with evaluate.without_training(dcgan.generator):
    among_64, among_2 = dcgan.generator(z)[:2], dcgan.generator(z[:2])
    in_evaluation = (among_64 - among_2).abs().max().item()
table(
    ["mode", "largest difference of a pixel among 64 and among 2 images"],
    [["training", in_training], ["evaluation", in_evaluation]],
)

# %%
picture(
    plots.figure_of_samples({"": dcgan.sample(60, seed=1)}, rows=5),
    OUT / "dcgan-samples.png",
    "Sixty handwritten digits drawn by the DCGAN",
)

# %% [markdown]
# How good they are: a small classifier is trained on the real images, on the spot, and looks at 1,000
# generated ones. How many of the ten digits does it see, how sure is it, and how far are its features
# from those of real images (a Fréchet distance, 0 at best, in a unit of its own)?

# %%
chosen = torch.randperm(len(MNIST), generator=torch.Generator().manual_seed(0))[:4000]
images, labels = MNIST[chosen]
classifier, accuracy = evaluate.train_classifier(images, labels, steps=min(300, max(CAP, 10)))
print(f"the classifier's accuracy on images that it was not trained on: {accuracy:.3f}")


def judged(name: str, trainer: train.Trainer) -> list[object]:
    """A row of the table below."""
    sampled = trainer.sample(1000, seed=1).cpu()
    metrics = evaluate.class_metrics(classifier, images[:2000], sampled)
    return [
        name,
        trainer.step,
        *(metrics[key] for key in ("classes", "confidence", "frechet_distance")),
    ]


MEASURES = ["run", "steps", "digits", "confidence", "Fréchet distance"]
table(MEASURES, [judged("DCGAN", dcgan)])

# %% [markdown]
# Two more errors are of one line each. The tutorial calls `squeeze()` on the discriminator's output,
# which for a batch of one removes the batch as well; here a discriminator always gives `(N,)`. And it
# calls `.cuda()` throughout, so it needs a CUDA device; here one line at the top chooses the device.

# %%
one = torch.zeros(1, 1, 1, 1)  # the last map of a discriminator, for one image
try:
    F.binary_cross_entropy(one.sigmoid().squeeze(), torch.ones(1))
except ValueError as error:
    print(str(error).partition(". ")[0])
print(tuple(dcgan.critic(real_images[:1]).shape))

# %% [markdown]
# ### Why gradients vanish
#
# With the best discriminator at hand the generator descends $2\,\mathrm{JSD}(p, q)$. Two densities on
# narrow supports hardly overlap, and then the JSD is at its greatest, $\log 2$, whatever the distance:
# it has no slope to descend (Arjovsky and Bottou 2017, section 2). KL has one, but it grows without
# bound, and is infinite as soon as $q$ misses mass of $p$. The Wasserstein distance of chapter 4,
#
# $$W_1(p, q) = \int |F_p(x) - F_q(x)|\,dx$$
#
# in one dimension, with the distribution functions $F$, has slope 1 at any distance. Here $p$ and $q$
# are Gaussians of standard deviation 0.15 whose means are $\theta$ apart.

# %%
grid = torch.linspace(-1, 3, 4001, dtype=torch.float64)
theta = torch.linspace(0, 2, 81, dtype=torch.float64, requires_grad=True)
moving = (-((grid - theta[:, None]) ** 2) / (2 * 0.15**2)).softmax(1)  # q, one row for each theta
fixed = moving[0].detach().expand_as(moving)  # p
cumulative = (fixed - moving).cumsum(1).abs()
distances = {
    "JSD": jsd(fixed, moving),
    "KL": gb.KL().between(fixed, moving),
    "W1": cumulative.sum(1) * (grid[1] - grid[0]),
}
slopes = {
    name: torch.autograd.grad(d.sum(), theta, retain_graph=True)[0] for name, d in distances.items()
}
table(
    ["theta", *distances, *(f"slope of {name}" for name in distances)],
    [
        [theta[i].item(), *(d[i].item() for group in (distances, slopes) for d in group.values())]
        for i in (10, 20, 40, 80)
    ],
)

# %%
figure = Figure(figsize=(8, 3), layout="constrained")
left, right = figure.subplots(1, 2)
for name, style in (("JSD", "-"), ("KL", "--"), ("W1", "-.")):
    left.plot(theta.detach(), distances[name].detach(), style, label=name)
    right.semilogy(theta.detach()[1:], slopes[name][1:], style, label=name)
left.set_ylim(0, 2.2)
left.set_title("distance", fontsize=10)
right.set_ylim(1e-10, 1e3)
right.set_title("its slope by theta", fontsize=10)
left.set_xlabel("theta")
right.set_xlabel("theta")
picture(
    figure,
    OUT / "vanishing-gradients.png",
    "JSD levels off at log 2 and its slope falls to 1e-9; KL grows ever steeper; W1 keeps slope 1",
)

# %% [markdown]
# ## 2. Improved techniques
#
# Salimans et al. 2016 give remedies for training that runs in circles or collapses. The tutorial
# implements four.
#
# ### Feature matching
#
# The generator matches the mean features of real images in an intermediate layer $f$ of the
# discriminator (section 3.1):
#
# $$\left\|\mathbb{E}_{x \sim p} f(x) - \mathbb{E}_z f(G(z))\right\|_2^2.$$
#
# The means are taken first and the distance afterwards. The tutorial takes the distance between the
# features of the $i$-th real and the $i$-th generated image, elementwise, and then the mean. These
# images have nothing to do with each other, and the nearest thing to an arbitrary real image is a grey
# average: elementwise, collapse costs *less* than the right answer. Below, $p = N(0, 1)$, the
# generator makes $N(0, s^2)$, and $f(x) = (x, x^2)$, for which feature matching is exactly
# $(1 - s^2)^2$.

# %%
matching = gb.FeatureMatchingLoss()


def f(x: Tensor) -> Tensor:
    """The features."""
    return torch.stack([x, x**2], dim=1)


real_x, fake_x = torch.randn(2, 100_000)
scales = torch.linspace(0, 1.6, 33).tolist()
matched = [matching(f(real_x), f(s * fake_x)).item() for s in scales]
elementwise = [F.l1_loss(f(s * fake_x), f(real_x)).item() for s in scales]
shuffled = real_x[torch.randperm(len(real_x))]
table(
    ["distance to", "collapse, s = 0", "p itself, s = 1", "a permutation of the batch"],
    [
        ["FeatureMatchingLoss", matched[0], matched[20], matching(f(real_x), f(shuffled)).item()],
        ["elementwise", elementwise[0], elementwise[20], F.l1_loss(f(shuffled), f(real_x)).item()],
    ],
)

# %%
figure = Figure(figsize=(7, 3), layout="constrained")
axes = figure.subplots()
axes.plot(scales, matched, label="FeatureMatchingLoss")
axes.plot(scales, elementwise, "--", label="elementwise")
axes.axvline(1, color="grey", linewidth=0.8)
axes.set_ylim(0, 2)
axes.set_xlabel("standard deviation s of the generator; right is 1")
picture(
    figure,
    OUT / "feature-matching.png",
    "Feature matching is least at standard deviation 1; the elementwise distance is least near collapse",
)

# %% [markdown]
# The tutorial chooses the layer by `layer_idx=-1` and compares it with a counter that starts at 0, so
# no layer ever matches. `FeatureExtractor` takes the names of the layers, and refuses one that is not
# there.

# %%
try:
    gb.FeatureExtractor(dcgan.critic, ["-1"])
except ValueError as error:
    print(str(error).partition(", layers.1")[0] + ", ...")
print(
    {
        k: tuple(v.shape)
        for k, v in gb.FeatureExtractor(dcgan.critic, ["layers.7"])(real_images).items()
    }
)

# %% [markdown]
# ### Minibatch discrimination
#
# A generator that collapses makes images that resemble each other. A discriminator that sees one image
# at a time cannot tell; this layer (section 3.2) shows it how close an image is to the others of its
# batch. With features $f(x_i)$, projected to $M_i = f(x_i)\,T$ with rows $M_{i,b}$,
#
# $$o(x_i)_b = \sum_{j \ne i} \exp\left(-\|M_{i,b} - M_{j,b}\|_1\right).$$
#
# The tutorial's layer has $L_2$ distances, counts $j = i$, so that every image is at least 1 close to
# the batch, and draws $T$ from $N(0, 1)$. Then the distances are of the size of $\sqrt{n}$ for $n$
# features, and $\exp(-\text{distance})$ and its gradient are nearly 0: the layer is dead from the
# start. `MinibatchDiscrimination` normalises the weights as the paper's authors do in their code.

# %%
layer = gb.MinibatchDiscrimination(1024, num_kernels=20)
T = torch.randn(1024, 20, 5)


def tutorials_layer(x: Tensor) -> Tensor:
    """The layer with the three errors."""
    m = torch.einsum("na,abc->nbc", x, T)
    return (-torch.linalg.vector_norm(m[:, None] - m[None], dim=3)).exp().sum(1)


def similarity(o: Callable[[Tensor], Tensor], spread: float) -> tuple[float, float]:
    """Its mean over a batch of 64 of some spread, and the norm of the gradient by the batch."""
    x = (1 + spread * noise).requires_grad_()
    total = o(x).mean()
    return total.item(), torch.autograd.grad(total, x)[0].norm().item()


noise = torch.randn(64, 1024)
layers = {
    "MinibatchDiscrimination": lambda x: layer(x)[:, 1024:],
    "tutorial's": tutorials_layer,
}
table(
    ["layer", "spread 1: similarity", "gradient", "spread 0.1: similarity", "gradient", "collapse"],
    [
        [name, *similarity(o, 1.0), *similarity(o, 0.1), similarity(o, 0.0)[0]]
        for name, o in layers.items()
    ],
)

# %%
spreads = torch.logspace(-3, 1, 41).tolist()
figure = Figure(figsize=(7, 3), layout="constrained")
axes = figure.subplots()
for (name, o), style in zip(layers.items(), ("-", "--"), strict=True):
    axes.semilogx(spreads, [similarity(o, s)[0] for s in spreads], style, label=name)
axes.set_xlabel("spread of the features in the batch (1 at the start of training)")
axes.set_ylabel("similarity to 63 others")
picture(
    figure,
    OUT / "minibatch-discrimination.png",
    "Similarity by spread: ours falls from 63 around spread 1, the tutorial's is flat from 0.1 on",
)

# %% [markdown]
# The tutorial also puts the layer between two convolutions, on input of four dimensions, where it
# compares pixels at the same place. It belongs on feature vectors, before the logit;
# `DCGANDiscriminator(minibatch_kernels=100)` puts it there.

# %%
try:
    layer(torch.zeros(64, 1024, 4, 4))
except ValueError as error:
    print(error)

# %% [markdown]
# ### One-sided label smoothing
#
# Real images get the target $\alpha$ instead of 1 (section 3.4). With the target $\beta$ for generated
# ones,
#
# $$D^*(x) = \frac{\alpha\,p(x) + \beta\,q(x)}{p(x) + q(x)}.$$
#
# With $\beta > 0$ the generator's own samples would be rewarded where there is no data, so
# $\beta = 0$: one-sided. At $p = q$ then $D = \alpha/2$. A perfect discriminator of well separated
# data has the loss $H(\alpha) = -\alpha \log \alpha - (1 - \alpha) \log(1 - \alpha)$, not 0, and gains
# nothing from logits beyond $\log(\alpha/(1 - \alpha))$, which is 2.2 for 0.9.

# %%
smooth = gb.NonSaturatingLoss(real_target=0.9)
critic = gb.MLPDiscriminator((1,), width=64, depth=2)
fit(critic, partial(loss_on_samples, critic, smooth), steps=2000)
points = torch.tensor([-2.0, -1.0, 0.0, 0.5, 1.0])
p_there, q_there = p.log_prob(points).exp(), q.log_prob(points).exp()
table(
    ["D at x =", *(f"{x:g}" for x in points.tolist())],
    [
        ["trained with real_target=0.9", *critic(points[:, None]).sigmoid().tolist()],
        ["0.9 p / (p + q)", *(0.9 * p_there / (p_there + q_there)).tolist()],
    ],
)
never = torch.tensor([-100.0])  # the logit of a generated image that is recognised for certain
table(
    ["D loss at real logit", "1", "2.197", "5", "20"],
    [
        [
            str(loss),
            *(loss.discriminator(torch.tensor([r]), never).item() for r in (1.0, 2.197, 5.0, 20.0)),
        ]
        for loss in (gb.NonSaturatingLoss(), smooth)
    ],
)
print(f"H(0.9) = {-0.9 * math.log(0.9) - 0.1 * math.log(0.1):.4f}")

# %% [markdown]
# ### Virtual batch norm
#
# Batch norm lets an image's result depend on the other images of its batch. Virtual batch norm
# (section 3.5) normalises each sample by the statistics of a fixed reference batch together with *that
# one sample*. With $n$ samples in the reference and $c = 1/(n + 1)$,
#
# $$\mu = c\,\mu_x + (1 - c)\,\mu_{\text{ref}}, \qquad
#   \sigma^2 = c\,\sigma_x^2 + (1 - c)\,\sigma_{\text{ref}}^2 + c(1 - c)(\mu_x - \mu_{\text{ref}})^2.$$
#
# The tutorial takes the current batch plus the reference, which mixes the samples as before. The test:
# normalise one sample beside 63 mates, then beside 63 others.

# %%
reference, sample = torch.randn(64, 8), torch.randn(1, 8)
mates, others = torch.randn(63, 8), 3 + torch.randn(63, 8)
virtual = gb.WithReference(gb.VirtualBatchNorm(8), reference)
norms_of = {
    "batch norm": lambda x: F.batch_norm(x, None, None, training=True),
    "batch plus reference": lambda x: F.batch_norm(
        torch.cat([x, reference]), None, None, training=True
    )[: len(x)],
    "virtual batch norm": virtual,
}
table(
    ["normalisation", "largest change of the sample"],
    [
        [
            name,
            (norm(torch.cat([sample, mates]))[0] - norm(torch.cat([sample, others]))[0])
            .abs()
            .max()
            .item(),
        ]
        for name, norm in norms_of.items()
    ],
)

# %% [markdown]
# ### The four together
#
# `improved_gan_small.toml` holds all four: the two layers inside the networks, the target 0.9 in the
# loss, and feature matching as a term of the generator's loss.

# %%
improved, log = run("improved_gan_small", 250)
table(MEASURES, [judged("improved", improved)])
picture(
    plots.figure_of_samples({"": improved.sample(60, seed=1)}, rows=5),
    OUT / "improved-samples.png",
    "Sixty handwritten digits drawn by the GAN with the four techniques",
)

# %% [markdown]
# ## 3. f-GAN
#
# The game bounds one divergence of a whole family (Nowozin et al. 2016). For convex $f$ with
# $f(1) = 0$,
#
# $$D_f(P \| Q) = \mathbb{E}_{x \sim q}\, f\left(\frac{p(x)}{q(x)}\right), \qquad
#   f^*(t) = \sup_u\, ut - f(u),$$
#
# and for every function $T$
#
# $$D_f(P \| Q) \ge \mathbb{E}_{x \sim p}\, T(x) - \mathbb{E}_{x \sim q}\, f^*(T(x)),$$
#
# with equality at $T^* = f'(p/q)$. The critic ascends the bound and the generator descends it. $f^*$
# has a domain, so the critic's free output $v$ goes through an activation, $T = g(v)$.
#
# On two Gaussians that overlap more than those of chapter 1: the exact divergence, the bound at $T^*$,
# the bound at $T = f'(1)$, which knows nothing, and the bound that a small critic learns through
# `FDivergenceLoss`. The last is estimated from samples, and may lie a little above.

# %%
divergences = [
    gb.KL(),
    gb.ReverseKL(),
    gb.PearsonChi2(),
    gb.SquaredHellinger(),
    gb.JensenShannon(),
    gb.GANDivergence(),
]
p, q = Normal(0.0, 1.0), Normal(0.5, 1.2)
P, Q = (d.log_prob(x).double().softmax(0) for d in (p, q))
rows = []
for divergence in divergences:
    loss = gb.FDivergenceLoss(divergence)
    critic = gb.MLPDiscriminator((1,), width=64, depth=2)
    fit(critic, partial(loss_on_samples, critic, loss), steps=600)
    with torch.no_grad():
        learned = -loss_on_samples(critic, loss, 100_000).item()
    best_T = divergence.derivative(P / Q)
    constant = torch.full_like(P, divergence.threshold)
    bounds = [(P * T - Q * divergence.conjugate(T)).sum().item() for T in (best_T, constant)]
    rows.append([type(divergence).__name__, divergence.between(P, Q).item(), *bounds, learned])
table(["divergence", "exact", "bound at T*", "at T = f'(1)", "learned"], rows)

# %% [markdown]
# Two rows need a word. `JensenShannon` is the paper's, which is twice the JSD. `GANDivergence` is the
# row that gives the original game: its $f(1)$ is $-\log 4$ and not 0, so $-1.386$ is its least value.
#
# Between its two ends, $T = (1 - c) f'(1) + c\,T^*$, each bound rises to the divergence at $c = 1$ and
# falls again.

# %%
figure = Figure(figsize=(7, 3), layout="constrained")
axes = figure.subplots()
c = torch.linspace(0, 2, 81, dtype=torch.float64)[:, None]
for divergence, style in zip(divergences, ("-", "--", "-.", ":", "-", "--"), strict=True):
    T = (1 - c) * divergence.threshold + c * divergence.derivative(P / Q)
    bound = (P * T - Q * divergence.conjugate(T)).sum(1)
    share = (bound - bound[0]) / (divergence.between(P, Q) - bound[0])
    axes.plot(c, share, style, label=type(divergence).__name__)
axes.axvline(1, color="grey", linewidth=0.8)
axes.set_ylim(-0.2, 1.1)
axes.set_xlabel("c")
axes.set_ylabel("share of the divergence")
picture(
    figure,
    OUT / "f-gan-bounds.png",
    "Six bounds, each of which rises to the whole divergence at c = 1 and falls on both sides",
)

# %% [markdown]
# In `fgan_small.toml` the divergence is one word. Two runs that differ in it:

# %%
fgans = {
    word: run("fgan_small", 600, f'loss.divergence.block="{word}"', "ema=0.9")[0]
    for word in ("JensenShannon", "KL")
}
table(MEASURES, [judged(word, trainer) for word, trainer in fgans.items()])
picture(
    plots.figure_of_samples({word: t.sample(30, seed=1) for word, t in fgans.items()}, rows=5),
    OUT / "f-gan-samples.png",
    "Handwritten digits drawn by two f-GANs, trained with the Jensen-Shannon and the KL divergence",
)

# %% [markdown]
# ## 4. Wasserstein GANs
#
# ### The distance and its dual
#
# $W_1$ is the least cost of carrying the mass of $p$ to $q$. By the duality of Kantorovich and
# Rubinstein it is also
#
# $$W_1(p, q) = \sup_{\|f\|_L \le 1} \mathbb{E}_{x \sim p} f(x) - \mathbb{E}_{x \sim q} f(x),$$
#
# over the functions of slope at most 1 (Arjovsky et al. 2017, section 3). A critic of slope at most
# $K$ estimates $K\,W_1$. `WassersteinLoss` is the negative of this difference of means; the limit on
# the slope is a matter of its own. In one dimension $W_1$ of two equal samples is exact: sort both,
# and average the distances.
#
# Two critics learn from samples: one with the gradient penalty, one with weights clipped to
# $[-0.01, 0.01]$ and the tutorial's RMSprop of 5e-5. `lipschitz_bound` gives each a certain upper
# bound on its slope $K$.

# %%
p, q = Normal(-1.0, 1.0), Normal(1.0, 0.7)
wasserstein, penalty, clip = gb.WassersteinLoss(), gb.GradientPenalty(), gb.WeightClipper(0.01)


def penalised(critic: nn.Module, n: int = 256) -> Tensor:
    """The critic's loss with its penalty."""
    real, fake = p.sample((n, 1)), q.sample((n, 1))
    return wasserstein.discriminator(critic(real), critic(fake)) + penalty(critic, real, fake)


def clipped_steps(critic: nn.Module, steps: int, *, before: bool = False, n: int = 256) -> None:
    """Steps of RMSprop, with the clip after each step, or before it as in the tutorial."""
    optimizer = torch.optim.RMSprop(critic.parameters(), 5e-5)
    for _ in range(min(steps, CAP)):
        loss = wasserstein.discriminator(critic(p.sample((n, 1))), critic(q.sample((n, 1))))
        optimizer.zero_grad()
        loss.backward()
        if before:
            clip(critic)
        optimizer.step()
        if not before:
            clip(critic)


critic = gb.MLPDiscriminator((1,), width=64, depth=2)
fit(critic, partial(penalised, critic), steps=1000)
critics = {
    "gradient penalty": critic,
    "weight clipping": gb.MLPDiscriminator((1,), width=64, depth=2),
}
clipped_steps(critics["weight clipping"], 1000)

real_x, fake_x = p.sample((100_000, 1)), q.sample((100_000, 1))
exact = (real_x.sort(0).values - fake_x.sort(0).values).abs().mean().item()
rows = []
with torch.no_grad():
    for name, critic in critics.items():
        estimate = -wasserstein.discriminator(critic(real_x), critic(fake_x)).item()
        rows.append([name, estimate, exact, gb.lipschitz_bound(critic, (1,))])
table(["critic", "difference of means", "exact W1", "bound on its slope"], rows)

# %%
figure = Figure(figsize=(7, 3), layout="constrained")
axes = figure.subplots()
with torch.no_grad():
    for (name, critic), style in zip(critics.items(), ("-", "--"), strict=True):
        y = critic(x[:, None])
        y = y - y.mean()
        steepest = (y.diff() / x.diff()).abs().max()
        if name == "weight clipping":
            name, y = f"{name}, divided by its steepest slope of {steepest:.2g}", y / steepest
        axes.plot(x, y, style, label=name)
axes.plot(x, x.mean() - x, color="grey", linewidth=0.8, label="slope -1")
axes.set_xlabel("x")
axes.set_ylabel("critic")
picture(
    figure,
    OUT / "critics.png",
    "Critic by x: with the penalty close to a line of slope -1; the clipped one of tiny slope",
)

# %% [markdown]
# The penalised critic comes close to $W_1$, and from above: the penalty is a price and no wall. A
# slope $s$ gains $s\,W_1$ and costs $\lambda(s - 1)^2$, so the best is $s = 1 + W_1/(2\lambda)$, here
# 1.1, and the difference of means is 1.1 times $W_1$. The clipped one is far below it, because its
# slope is: its loss is no estimate of $W_1$, only of a small and unknown multiple, of which the last
# column is an upper bound.
#
# ### Parallel lines
#
# The example of the WGAN paper (section 2): real samples are $(0, u)$, generated ones $(\theta, u)$,
# with $u$ uniform. Then $W_1 = |\theta|$, but $\mathrm{JSD} = \log 2$ and $\mathrm{KL} = \infty$ for
# each $\theta \ne 0$. Both critics are trained, and then the derivative of the generator's loss by
# $\theta$ is what a generator would have to learn from.


# %%
def on_line(theta: Tensor | float, n: int = 256) -> Tensor:
    """Samples on a vertical line."""
    return torch.stack([torch.ones(n) * theta, torch.rand(n)], dim=1)


def on_lines(critic: nn.Module, loss: Any, theta: float) -> Tensor:
    """The loss of either discriminator; the Wasserstein critic has its penalty."""
    real, fake = on_line(0.0), on_line(theta)
    value = loss.discriminator(critic(real), critic(fake))
    return value + penalty(critic, real, fake) if loss is wasserstein else value


rows = []
for theta in (0.5, 1.0, 2.0):
    rows.append([theta])
    for loss in (wasserstein, game):
        critic = gb.MLPDiscriminator((2,), width=64, depth=2)
        fit(critic, partial(on_lines, critic, loss, theta), steps=600)
        position = torch.tensor(theta, requires_grad=True)
        real, fake = critic(on_line(0.0)), critic(on_line(position))
        value = -loss.discriminator(real, fake).item()
        learned = value if loss is wasserstein else (value + math.log(4)) / 2
        rows[-1] += [learned, torch.autograd.grad(loss.generator(fake), position)[0].item()]
table(["theta", "W1 learned", "slope by theta", "JSD learned", "slope by theta"], rows)
print(f"log 2 = {math.log(2):.4f}; KL = {gb.KL().between(torch.eye(2)[0], torch.eye(2)[1]):.0f}")

# %% [markdown]
# ### Clipping
#
# Algorithm 1 of the paper clips after each step. The tutorial clips before it, and so leaves the
# weights outside the box by the length of a step; RMSprop's steps are up to ten times its learning
# rate at first.
#
# It also clips everything, and its critic has batch norm: the scales $\gamma$, which start at 1,
# become 0.01. That takes a factor of 100 from the signal at each such layer. `WeightClipper` leaves
# normalisation alone, and the config has `norm = "none"`, as the paper wants it.
#
# And it sums the critic's outputs over the batch where the formula has a mean. The gradient then grows
# with the batch size, and a learning rate, or a penalty's weight, is right for one batch size only.

# %%
for words, before in (("before the step, as in the tutorial", True), ("after the step", False)):
    critic = gb.MLPDiscriminator((1,), width=64, depth=2)
    clipped_steps(critic, 20, before=before)
    largest = max(w.abs().max().item() for w in critic.parameters())
    print(f"clip {words}: largest weight {largest:.5f}")

# %%
rows = []
for words, everything in (
    ("everything, as in the tutorial", True),
    ("not the normalisation", False),
):
    critic = gb.DCGANDiscriminator(image_size=32, width=16).to(DEVICE)
    clip(critic)
    if everything:
        for weight in critic.parameters():
            weight.data.clamp_(-0.01, 0.01)
    images_in = real_images.clone().requires_grad_()
    values = critic(images_in)
    slope_in = torch.autograd.grad(values.sum(), images_in)[0].flatten(1).norm(dim=1).mean()
    rows.append([words, values.std().item(), slope_in.item()])
table(["clipped", "spread of the critic's values", "slope by the image"], rows)

# %%
critic = gb.MLPDiscriminator((1,), width=64, depth=2)
rows = []
for n in (32, 64, 128):
    mean_loss = wasserstein.discriminator(critic(real_x[:n]), critic(fake_x[:n]))
    sum_loss = critic(fake_x[:n]).sum() - critic(real_x[:n]).sum()
    rows.append([n, gradient_norm(mean_loss, critic), gradient_norm(sum_loss, critic)])
table(["batch size", "gradient norm, mean", "sum, as in the tutorial"], rows)

# %% [markdown]
# ### The gradient penalty
#
# Instead of a box for the weights, a price for the slope (Gulrajani et al. 2017, algorithm 1). Between
# each real $x_i$ and generated $\tilde x_i$ a point
# $\hat x_i = \epsilon_i x_i + (1 - \epsilon_i) \tilde x_i$ is drawn, and
#
# $$\lambda\,\frac1n \sum_i \left(\|\nabla D(\hat x_i)\|_2 - 1\right)^2$$
#
# is added. There is one $\epsilon_i$ and one norm per sample, over all its pixels. A linear critic of
# slope 1 has to be free of charge. A norm over some of the dimensions only, here one for each column of
# pixels, charges it most of $\lambda$. And the critic must
# not mix the samples: under batch norm the gradient of one value by one image is not what is computed,
# so the block warns.

# %%
linear = nn.Linear(1024, 1, bias=False)
linear.weight.data /= linear.weight.data.norm()
unit = nn.Sequential(nn.Flatten(), linear).to(DEVICE)
fake = torch.randn_like(real_images)
points = fake.clone().requires_grad_()
gradient = torch.autograd.grad(unit(points).sum(), points)[0]
print(f"one norm per sample: {penalty(unit, real_images, fake).item():.4f}")
print(
    f"one per column of pixels: {10 * (gradient.norm(dim=(1, 2)) - 1).square().mean().item():.4f}"
)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    penalty(dcgan.critic, real_images, fake)
print(str(caught[0].message))

# %% [markdown]
# ### Both on MNIST
#
# `mnist_wgan_small.toml` clips, `mnist_wgan_gp_small.toml` has the penalty, and layer norm in the
# critic. Each step of the generator comes after five of the critic. The runs here are a small part of
# what the configs ask for, so the average over the generator's weights is made shorter as well.
# After so few the one with the penalty begins to draw strokes of digits, and the clipped one does not
# yet.

# %%
wgan, wgan_log = run("mnist_wgan_small", 500, "ema=0.9")
wgan_gp, wgan_gp_log = run("mnist_wgan_gp_small", 500, "ema=0.9")
wgans = {"weight clipping": wgan, "gradient penalty": wgan_gp}
table(MEASURES, [judged(name, trainer) for name, trainer in wgans.items()])
picture(
    plots.figure_of_samples({name: t.sample(30, seed=1) for name, t in wgans.items()}, rows=5),
    OUT / "wgan-samples.png",
    "What two Wasserstein GANs draw after a short run, with weight clipping and with gradient penalty",
)

# %%
figure = Figure(figsize=(8, 3), layout="constrained")
panels = zip(figure.subplots(1, 2), wgans, (wgan_log, wgan_gp_log), strict=True)
for axes, name, log in panels:
    axes.plot([v["step"] for v in log], [-v["d_loss"] for v in log], linewidth=0.8)
    axes.set_title(f"minus the critic's loss, {name}", fontsize=10)
    axes.set_xlabel("step of the generator")
picture(
    figure,
    OUT / "wgan-curves.png",
    "Minus the critic's loss by step, for the run with weight clipping and for that with the penalty",
)

# %% [markdown]
# ## What to take along
#
# - Losses on logits. They are the same mathematics, and they alone keep their gradient.
# - A constraint after the step, a mean over the batch, one norm per sample.
# - Means of features are compared, not features of unrelated images.
# - A layer that compares or normalises must say what it mixes: minibatch discrimination leaves the
#   sample itself out, virtual batch norm leaves all others out.
# - Draw samples in evaluation mode and without gradient.
