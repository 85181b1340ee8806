"""What each side computes in a step, as one module.

`Accelerator.prepare` wraps such a module. Whatever happens within it, such as two looks of the critic
and a penalty that differentiates twice, is one forward and one backward pass for
`DistributedDataParallel`, and its precision is set in one place.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gan_blocks import FeatureExtractor
from gan_blocks.precision import at_least_float32
from gan_blocks.types import Logits

Terms = dict[str, Tensor]
"""Scalars by name: the terms of a loss, or what is told beside it."""

Batch = tuple[Tensor, ...]
"""Real samples, and their labels if the networks have classes."""


def realness(logits: Logits) -> Tensor:
    """The mean probability of being real."""
    parts = [logits] if isinstance(logits, Tensor) else logits
    outputs = torch.cat([part.detach().flatten() for part in parts])
    return at_least_float32(outputs).sigmoid().mean()


@torch.no_grad()
def spread(*outputs: Logits) -> Tensor:
    """The largest less the least of a critic's outputs; of several sub-critics the widest."""
    lists = [[x] if isinstance(x, Tensor) else x for x in outputs]
    each = [torch.cat([x.flatten() for x in group]) for group in zip(*lists, strict=True)]
    return torch.stack([x.max() - x.min() for x in each]).max()


def slope(loss: Tensor, logits: Logits) -> Tensor:
    """The sum of the absolute derivatives of a loss by the logits."""
    parts = [logits] if isinstance(logits, Tensor) else list(logits)
    gradients = torch.autograd.grad(loss, parts, retain_graph=True, allow_unused=True)
    return torch.stack(
        [loss.new_zeros(()), *(g.abs().sum() for g in gradients if g is not None)]
    ).sum()


def channels_last(network: nn.Module) -> nn.Module:
    """The network with the weights of two-dimensional convolutions in their faster layout."""
    for weight in network.parameters():
        if weight.dim() == 4:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    return network


def needs_real_logits(loss: Any, device: torch.device) -> bool:
    """Whether the generator's side of a loss does not go without them."""
    try:
        copy.deepcopy(loss).generator(torch.zeros(2, device=device))
    except Exception:  # whatever the loss of a plugin raises
        return True
    return False


@contextmanager
def frozen(weights: Sequence[nn.Parameter]) -> Iterator[None]:
    """Within it these weights take no gradient."""
    for weight in weights:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(True)


def _add(terms: Terms, name: str, value: Tensor) -> None:
    terms[name] = terms[name] + value if name in terms else value


class CriticStep(nn.Module):
    """The critic's loss and all penalties on a batch.

    Args:
        critic: Whose weights this step trains.
        generator: Makes the samples that the critic is shown.
        loss: The adversarial loss.
        penalties: What is added to it.
        draws: The random numbers of the penalties.
        keeps_graph: Whether the samples keep their graph, for the generator's step.
    """

    def __init__(
        self,
        critic: nn.Module,
        generator: nn.Module,
        loss: Any,
        penalties: list[Any],
        draws: torch.Generator,
        keeps_graph: bool,
    ) -> None:
        super().__init__()
        self.critic = critic
        # In a tuple: what wraps this module must see the weights of this side only.
        self.others = (generator, loss, penalties, draws)
        self.keeps_graph = keeps_graph

    def forward(self, real: Batch, z: Tensor) -> tuple[Terms, Terms, Tensor]:
        """The terms of the loss, what else there is to tell, and the generated samples."""
        generator, loss, penalties, draws = self.others
        x, *labels = real
        with torch.set_grad_enabled(self.keeps_graph):
            fake = generator(z, *labels)
        shown = fake.detach()  # the critic's loss is none of the generator's business
        real_logits, fake_logits = self.critic(x, *labels), self.critic(shown, *labels)
        terms = {"the discriminator's loss": loss.discriminator(real_logits, fake_logits)}
        critic = (lambda x: self.critic(x, *labels)) if labels else self.critic
        for penalty in penalties:
            _add(terms, f"the penalty {penalty}", penalty(critic, x, shown, generator=draws))
        told = {"d_real": realness(real_logits), "spread": spread(real_logits, fake_logits)}
        return terms, told, fake


class GeneratorStep(nn.Module):
    """The generator's loss and all auxiliary terms on a batch.

    Args:
        generator: Whose weights this step trains.
        features: The critic's logits, under the empty name, and the features of the terms.
        loss: The adversarial loss.
        weight: Its factor.
        auxiliary: Each further term with the layers that it compares and its factor.
        needs_real_logits: Whether the loss compares with real samples.
    """

    def __init__(
        self,
        generator: nn.Module,
        features: FeatureExtractor,
        loss: Any,
        weight: float,
        auxiliary: list[tuple[Any, list[str], float]],
        needs_real_logits: bool,
    ) -> None:
        super().__init__()
        self.generator = generator
        self.others = (features, loss, auxiliary)
        self.weight, self.needs_real_logits = weight, needs_real_logits

    def forward(self, real: Batch, z: Tensor, fake: Tensor | None = None) -> tuple[Terms, Terms]:
        """The terms of the loss and what else there is to tell.

        Args:
            real: What relativistic losses and auxiliary terms compare with.
            z: Latent vectors.
            fake: What the generator has already made of them, with its graph.
        """
        features, loss, auxiliary = self.others
        x, *labels = real
        seen = features(self.generator(z, *labels) if fake is None else fake, *labels)
        of_real = dict[str, Tensor]()
        if self.needs_real_logits or auxiliary:
            with torch.no_grad():
                of_real = features(x, *labels)
        real_logits = of_real[""] if self.needs_real_logits else None
        value = loss.generator(seen[""], real_logits)
        terms = {"the generator's loss": self.weight * value}
        for term, layers, weight in auxiliary:
            compared = [term(of_real[name], seen[name]) for name in layers]
            _add(terms, f"the term {term}", weight * torch.stack(compared).sum())
        return terms, {"d_fake_before": realness(seen[""]), "slope": slope(value, seen[""])}
