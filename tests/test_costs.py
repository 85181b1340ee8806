"""What the pages of blocks say about cost is what a count of the multiplications gives."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

import gan_blocks as gb

BLOCKS = Path(__file__).parents[1] / "docs" / "blocks"
PAGES = [page for page in sorted(BLOCKS.glob("*/*.md")) if page.name != "index.md"]


class Multiplications(TorchDispatchMode):
    """Of products of matrices and of convolutions; torch counts additions too."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if formula := flop_registry.get(func._overloadpacket):
            self.count += formula(*args, **(kwargs or {}), out_val=result) // 2
        return result


def cost(page: str) -> str:
    return " ".join((BLOCKS / f"{page}.md").read_text("utf-8").split("## Cost", 1)[1].split())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_page_of_a_block_ends_with_its_cost(page):
    assert re.findall(r"^## .*$", page.read_text("utf-8"), re.MULTILINE)[-1] == "## Cost"


NETWORKS = {
    "mlp_generator": (lambda: gb.MLPGenerator(64, (1, 28, 28)), (64,)),
    "mlp_discriminator": (lambda: gb.MLPDiscriminator((1, 28, 28)), (1, 28, 28)),
    "dcgan_generator": (gb.DCGANGenerator, (100,)),
    "dcgan_discriminator": (gb.DCGANDiscriminator, (1, 64, 64)),
    "res_net_generator": (gb.ResNetGenerator, (128,)),
    "res_net_discriminator": (gb.ResNetDiscriminator, (3, 32, 32)),
    "r3_gan_generator": (gb.R3GANGenerator, (64,)),
    "r3_gan_discriminator": (gb.R3GANDiscriminator, (3, 32, 32)),
    "patch_discriminator": (gb.PatchDiscriminator, (3, 256, 256)),
    "multi_scale_discriminator": (gb.MultiScaleDiscriminator, (3, 256, 256)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_page_of_a_network_has_its_weights_and_multiplications(name):
    make, shape = NETWORKS[name]
    with torch.device("meta"):
        network, x = make().eval(), torch.empty(1, *shape)
    weights = sum(p.numel() for p in network.parameters())
    with torch.no_grad(), Multiplications() as counted:
        network(x)
    text = cost(f"networks/{name}")
    assert f"{weights:,} weights" in text
    if name.startswith("mlp"):
        assert counted.count == sum(p.numel() for p in network.parameters() if p.dim() > 1)
    else:
        assert f"{counted.count / 1e6:,.0f} million multiplications" in text


def forwards(function: Any, critic: Any, x: Tensor) -> float:
    """How many forwards of the critic on this batch have as many multiplications."""
    with torch.no_grad(), Multiplications() as one:
        critic(x)
    with Multiplications() as counted:
        function().backward()
    return counted.count / one.count


CRITIC = gb.DCGANDiscriminator(width=8, norm="none")
REAL, FAKE = torch.randn(2, 4, 1, 64, 64)
GRADIENTS = {
    "gradient_penalty": gb.GradientPenalty,
    "dragan_penalty": gb.DraganPenalty,
    "r1_penalty": gb.R1Penalty,
    "r2_penalty": gb.R2Penalty,
    "approximate_r1_penalty": gb.ApproximateR1Penalty,
    "approximate_r2_penalty": gb.ApproximateR2Penalty,
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_a_penalty_takes_as_many_multiplications_as_six_forwards(name):
    penalty = GRADIENTS[name]()
    assert "as many multiplications as six forwards" in cost(f"penalties/{name}").lower()
    # The first layer's gradient by the samples is not needed everywhere.
    assert forwards(lambda: penalty(CRITIC, REAL, FAKE), CRITIC, REAL) == pytest.approx(6, rel=0.03)


def plain_step() -> Tensor:
    return gb.NonSaturatingLoss().discriminator(CRITIC(REAL), CRITIC(FAKE))


def test_so_does_the_critics_step():
    assert "six forwards" in cost("losses/minimax_loss")
    assert forwards(plain_step, CRITIC, REAL) == pytest.approx(6, rel=0.03)


def with_r1() -> Tensor:
    x = REAL.clone().requires_grad_()
    logits = CRITIC(x)
    loss = gb.NonSaturatingLoss().discriminator(logits, CRITIC(FAKE))
    return loss + gb.R1Penalty().from_logits(logits, x)


def with_approximate_r1() -> Tensor:
    penalty, logits = gb.ApproximateR1Penalty(), CRITIC(REAL)
    loss = gb.NonSaturatingLoss().discriminator(logits, CRITIC(FAKE))
    return loss + penalty.from_logits(logits, CRITIC(penalty.perturbed(REAL)))


@pytest.mark.parametrize("step", [with_r1, with_approximate_r1])
def test_from_logits_takes_three_forwards_less(step):
    assert forwards(step, CRITIC, REAL) == pytest.approx(6 + 3, rel=0.03)


def test_a_path_length_takes_five_forwards_beside_its_own():
    assert "five forwards" in cost("auxiliary/path_length_penalty")
    generator = gb.MLPGenerator(64, (64,), width=64, depth=30)
    w, penalty = torch.randn(4, 64, requires_grad=True), gb.PathLengthPenalty()
    taken = forwards(lambda: penalty(generator(w), w), generator, w)
    assert taken == pytest.approx(5 + 1, rel=0.03)
