"""What each side computes in a step, as one module.

`Accelerator.prepare` wraps such a module. Whatever happens within it, such as two looks of the critic
and a penalty that differentiates twice, is one forward and one backward pass for
`DistributedDataParallel`, and its precision is set in one place.
"""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gan_blocks import FeatureExtractor, pack
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


def needs_real_logits(loss: Any) -> bool:
    """Whether the generator's side of a loss has a required argument `real_logits`."""
    parameter = inspect.signature(loss.generator).parameters.get("real_logits")
    return parameter is not None and parameter.default is inspect.Parameter.empty


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


class Term(NamedTuple):
    """An auxiliary term in the loss of one side.

    Args:
        name: Its name in messages.
        block: The block that computes it.
        of_module: Whether it takes the network itself. Otherwise it takes the critic's outputs on real
            and on generated samples.
        layers: The layers whose outputs it compares, one at a time. The empty name is the logits.
        weight: Its weight in the loss.
    """

    name: str
    block: Any
    of_module: bool
    layers: list[str]
    weight: float

    def value(self, network: nn.Module, real: Mapping[str, Any], fake: Mapping[str, Any]) -> Tensor:
        """Return the weighted sum over the layers.

        Args:
            network: The network that this side trains.
            real: The critic's outputs on real samples, by layer.
            fake: The critic's outputs on generated samples, by layer.
        """
        if self.of_module:
            return self.weight * self.block(network)
        values = [self.block(real[name], fake[name]) for name in self.layers]
        return self.weight * torch.stack(values).sum()


class CriticStep(nn.Module):
    """Computes the critic's loss on a batch, with all penalties and its auxiliary terms.

    Args:
        critic: The network that this step trains.
        generator: Makes the generated samples.
        loss: The adversarial loss.
        penalties: The penalties added to the loss, by name.
        auxiliary: The auxiliary terms added to the loss.
        draws: The random number generator for the penalties.
        packing: The number of samples in a pack.
        keeps_graph: Whether the generated samples keep their graph, for the generator's step.
    """

    def __init__(
        self,
        critic: nn.Module,
        generator: nn.Module,
        loss: Any,
        penalties: Mapping[str, Any],
        auxiliary: list[Term],
        draws: torch.Generator,
        packing: int,
        keeps_graph: bool,
    ) -> None:
        super().__init__()
        self.critic = critic
        # In a tuple: what wraps this module must see the weights of this side only.
        self.others = (generator, loss, penalties, auxiliary, draws)
        self.packing, self.keeps_graph = packing, keeps_graph

    def forward(self, real: Batch, z: Tensor) -> tuple[Terms, Terms, Tensor]:
        """The terms of the loss, what else there is to tell, and the generated samples."""
        generator, loss, penalties, auxiliary, draws = self.others
        x, *labels = real
        with torch.set_grad_enabled(self.keeps_graph):
            fake = generator(z, *labels)
        # Detach, so that the critic's loss does not reach the generator.
        x, shown = pack(x, self.packing), pack(fake.detach(), self.packing)
        real_logits, fake_logits = self.critic(x, *labels), self.critic(shown, *labels)
        terms = {"the discriminator's loss": loss.discriminator(real_logits, fake_logits)}
        critic = (lambda x: self.critic(x, *labels)) if labels else self.critic
        for name, penalty in penalties.items():
            terms[name] = penalty(critic, x, shown, generator=draws)
        for term in auxiliary:
            terms[term.name] = term.value(self.critic, {"": real_logits}, {"": fake_logits})
        told = {"d_real": realness(real_logits), "spread": spread(real_logits, fake_logits)}
        return terms, told, fake


class GeneratorStep(nn.Module):
    """Computes the generator's loss on a batch, with its auxiliary terms.

    Args:
        generator: The network that this step trains.
        features: Extracts the critic's logits, under the empty name, and the features for the terms.
        loss: The adversarial loss.
        weight: The weight of the adversarial loss.
        auxiliary: The auxiliary terms added to the loss.
        packing: The number of samples in a pack.
    """

    def __init__(
        self,
        generator: nn.Module,
        features: FeatureExtractor,
        loss: Any,
        weight: float,
        auxiliary: list[Term],
        packing: int,
    ) -> None:
        super().__init__()
        self.generator = generator
        self.others = (features, loss, auxiliary)
        self.weight, self.packing = weight, packing
        self.needs_real_logits = needs_real_logits(loss)
        self.needs_real = self.needs_real_logits or not all(term.of_module for term in auxiliary)

    def forward(self, real: Batch, z: Tensor, fake: Tensor | None = None) -> tuple[Terms, Terms]:
        """The terms of the loss and what else there is to tell.

        Args:
            real: What relativistic losses and auxiliary terms compare with.
            z: Latent vectors.
            fake: What the generator has already made of them, with its graph.
        """
        features, loss, auxiliary = self.others
        x, *labels = real
        made = self.generator(z, *labels) if fake is None else fake
        seen, of_real = features(pack(made, self.packing), *labels), {}
        if self.needs_real:
            with torch.no_grad():
                of_real = features(pack(x, self.packing), *labels)
        given = {"real_logits": of_real[""]} if self.needs_real_logits else {}
        value = loss.generator(seen[""], **given)
        terms = {"the generator's loss": self.weight * value}
        for term in auxiliary:
            terms[term.name] = term.value(self.generator, of_real, seen)
        return terms, {"d_fake_before": realness(seen[""]), "slope": slope(value, seen[""])}
