"""The public entry points, with right arguments and literal references."""
# Blocks are made by name, so their methods are not known to the type checker.
# pyright: reportAttributeAccessIssue=false

import contextlib
import copy
import functools
import inspect
import math
from collections.abc import Callable, Container
from typing import Any

import torch
from cases import CASES
from cases.constraints import polar_factor
from cases.penalties import norm_at
from torch import Tensor, nn
from torch.distributions import Normal
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils.parametrize import is_parametrized

import gan_blocks
from gan_blocks import distributed, labels, precision, registry
from gan_blocks.testing import Case
from gan_blocks.testing.case import SEED
from misuse.judge import Call, Entry, NoReference, agree

# --- entry points of the conformance kit's cases -----------------------------------------------------


class _Recorder:
    """Stands for a block in the call of a case, and notes what is called how."""

    def __init__(self, block: Any, replacement: tuple[Any, ...] | None = None) -> None:
        self._block, self._replacement = block, replacement
        self._calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def __deepcopy__(self, _: Any) -> "_Recorder":
        return self

    def _called(self, name: str, *args: Any, **kwargs: Any) -> Any:
        self._calls.append((name, args, kwargs))
        if self._replacement is not None:
            args, kwargs = self._replacement
        return (self._block if name == "__call__" else getattr(self._block, name))(*args, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._called("__call__", *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        value = getattr(self._block, name)
        if name in ("eval", "train"):
            value()
            return lambda *_: self
        return functools.partial(self._called, name) if callable(value) else value


def _place(value: Any, inputs: tuple[Tensor, ...]) -> Any:
    """Which input an argument is, or which of them a list is made of."""
    if isinstance(value, list | tuple) and value:
        return [_place(x, inputs) for x in value]
    places = [i for i, x in enumerate(inputs) if x is value]
    if not places:
        raise LookupError
    return places[0]


def _filled(place: Any, inputs: tuple[Tensor, ...]) -> Any:
    return [_filled(p, inputs) for p in place] if isinstance(place, list) else inputs[place]


def _put(place: Any, value: Any, inputs: list[Any]) -> None:
    if not isinstance(place, list):
        inputs[place] = value
        return
    if not isinstance(value, list | tuple) or len(value) != len(place):
        raise NoReference
    for p, x in zip(place, value, strict=True):
        _put(p, x, inputs)


def of_case(case: Case, known: Container[str] = ()) -> Entry | None:
    """The entry point that a case calls, if its arguments are the inputs of the case."""
    block = case.block()
    recorder = _Recorder(copy.deepcopy(block))
    inputs = case.tensors(torch.float32)
    try:
        case.run(recorder, *inputs)
    except TypeError:
        return None  # the case wraps the block in something that looks at its class
    if len(recorder._calls) != 1:
        return None
    method, args, kwargs = recorder._calls[0]
    if method == "__call__" and isinstance(block, nn.Module):
        function = type(block).forward
    else:
        function = getattr(type(block), method)
    parameters = inspect.signature(function).parameters
    names = [*list(parameters)[1 : len(args) + 1], *kwargs]
    try:
        places = dict(
            zip(names, (_place(x, inputs) for x in (*args, *kwargs.values())), strict=True)
        )
    except LookupError:
        return None
    flat = torch.tensor([i for p in places.values() for i in _flat(p)]).tolist()
    if len(set(flat)) < len(flat):
        return None
    owner, name = type(block).__name__, "" if method == "__call__" else f".{method}"
    form = "".join("[]" for p in places.values() if isinstance(p, list))
    form += "".join(f"/{n}" for n in names if n in ("labels",))
    full_name = f"{owner}{name}{form}"
    if full_name in known:
        return None
    optional = tuple(n for n in names if parameters[n].default is None)

    modules = block.modules() if isinstance(block, nn.Module) else ()
    # Copies of parametrized modules share a class, which removing a parametrization changes.
    parametrized = any(is_parametrized(m) for m in modules)

    def new() -> Any:
        if not isinstance(block, nn.Module):
            return block
        return case.block() if parametrized else copy.deepcopy(block)

    def make() -> Call:
        made, inputs = new(), case.tensors(torch.float32)

        def call(*args: Any, **kwargs: Any) -> Any:
            # Not by case.run, which refuses what is no tensor.
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(SEED)
                return case.call(_Recorder(made, (args, kwargs)), *inputs)

        return Call(call, {n: _filled(p, inputs) for n, p in places.items()}, frozenset(kwargs))

    def reference(arguments: dict[str, Any], dtype: torch.dtype = torch.float64) -> Tensor:
        given: list[Any] = [x.to(dtype) if x.is_floating_point() else x for x in inputs]
        for name, value in arguments.items():
            value = _as_dtype(value, dtype)
            if isinstance(value, list) and _flat(places[name]) == list(range(len(inputs))):
                given = value  # of any length
            else:
                _put(places[name], value, given)
        # A float where the formula has a batch would be broadcast.
        if not given or not all(isinstance(x, Tensor) for x in given):
            raise NoReference
        made = new()
        made = made.to(dtype) if isinstance(made, nn.Module) else made
        if case.spec["block"] == "EqualizedLinear":
            flat = case.run_reference(made, given[0].reshape(-1, given[0].shape[-1]))
            result = flat.view(*given[0].shape[:-1], -1)
        elif case.entry.kind == "divergence" and len(given) == 1:
            try:
                result = case.run_reference(made, given[0].flatten()).view_as(given[0])
            except OverflowError:
                result = case.run(made, *given)
        else:
            result = case.run_reference(made, *given)
        if not bool(result.isfinite().all()) and not any(bool(x.isnan().any()) for x in given):
            # The literal formula overflows where the stable one does not.
            result = case.run(made, *given)
        return result

    # What draws its noise in the dtype of the samples draws other numbers in float64.
    first = make()
    with torch.no_grad():
        actual = first.made(first.arguments)
    for dtype in (torch.float64, torch.float32):
        if agree(actual, reference(make().arguments, dtype), 1e-4):
            break
    else:
        raise AssertionError(f"{case.name} and its reference differ in float32")
    ignored = tuple(n for n in names if not _matters(n, make, reference, dtype))
    return Entry(
        full_name,
        case.entry.kind,
        make,
        functools.partial(reference, dtype=dtype),
        ignored=ignored,
        optional=optional,
        legal=LEGAL.get(owner) or LEGAL.get(f"{case.entry.kind}({', '.join(names)})", {}),
    )


ANY = "a reshape of tensors of any dtype"
KINK = "a kink or the end of a domain, where more than one value is right"
RATIO = "density ratios are not negative, and to look at them would make the device wait"
LEGAL: dict[str, dict[str, str]] = {
    "Packing": {"bool": ANY, "complex64": ANY},
    "divergence(u)": {"-1e4 times as large": RATIO, "a negative infinity": RATIO},
    "TotalVariation": dict.fromkeys(
        ("all the same", "int64", "uint8", "-1e4 times as large", "a negative infinity"), KINK
    ),
}


def _flat(place: Any) -> list[int]:
    return [i for p in place for i in _flat(p)] if isinstance(place, list) else [place]


def _as_dtype(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, list):
        return [_as_dtype(x, dtype) for x in value]
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.to(dtype)
    return value


def _matters(name: str, make: Any, reference: Any, dtype: torch.dtype) -> bool:
    """Whether the result depends on an argument."""
    first, other = make().arguments, make().arguments
    value = other[name]
    if isinstance(value, Tensor) and value.is_floating_point():
        for changed in (value * 1.5 + 0.25, -value, value.flip(0) - 1):
            other[name] = changed
            if not torch.equal(reference(first, dtype), reference(other, dtype)):
                return True
        return False
    return True


def from_cases() -> list[Entry]:
    """One entry for each method of each block, and for each form of its arguments."""
    found: dict[str, Entry] = {}
    for case in CASES:
        if entry := of_case(case, found):
            found[entry.name] = entry
    return list(found.values())


# --- helpers of the others --------------------------------------------------------------------------


def draw(*shape: int, seed: int = 5) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def plain(
    name: str,
    kind: str,
    function: Callable[..., Any],
    arguments: Callable[[], dict[str, Any]],
    reference: Callable[..., Any],
    by_name: tuple[str, ...] = (),
    **options: Any,
) -> Entry:
    """An entry point that is a function of its arguments."""
    return Entry(
        name,
        kind,
        lambda: Call(function, arguments(), frozenset(by_name)),
        lambda given: reference(**given),
        **options,
    )


def method(
    block: Callable[[], Any],
    name: str,
    kind: str,
    arguments: Callable[[], dict[str, Any]],
    reference: Callable[..., Any],
    by_name: tuple[str, ...] = (),
    **options: Any,
) -> Entry:
    """A method of a new block for each call; the call itself if it has no name."""

    def make() -> Call:
        made = block()
        return Call(getattr(made, name) if name else made, arguments(), frozenset(by_name))

    owner = type(block()).__name__
    return Entry(
        f"{owner}.{name}" if name else owner,
        kind,
        make,
        lambda given: reference(**given),
        **options,
    )


# --- divergences -------------------------------------------------------------------------------------


def divergences() -> list[Entry]:
    """What the cases of the kit have in another form, or not at all."""
    made: list[Entry] = []
    names = [e.name for e in registry.list("divergence") if e.plugin == "builtin"]
    options = {"AlphaDivergence": {"alpha": 1.7}, "WeightedJensenShannon": {"pi": 0.3}}
    for name in names:
        # Divergences have no state, and the look at f that building them takes is slow.
        block = functools.cache(
            functools.partial(registry.build, {"block": name} | options.get(name, {}))
        )
        case = next(
            c for c in CASES
            if c.spec == {"block": name} | options.get(name, {}) and c.note.startswith("conjugate_of")
        )  # fmt: skip
        activation = next(
            c for c in CASES if c.spec == case.spec and c.note.startswith("activation")
        )
        f = next(c for c in CASES if c.spec == case.spec and c.note.startswith("f"))

        def bound(
            real: Tensor, fake: Tensor, g: Any = activation, h: Any = case, block: Any = block
        ) -> Tensor:
            value = torch.tensor(math.nan)
            with contextlib.suppress(OverflowError):
                first = g.reference(None, real.flatten())
                second = h.reference(None, fake.flatten())
                value = first.sum() / len(first) - second.sum() / len(second)
            if not bool(value.isfinite()) and not bool(real.isnan().any() | fake.isnan().any()):
                # The literal formula overflows where the stable one does not.
                value = block().bound(real.double(), fake.double())
            return value

        def between(p: Tensor, q: Tensor, f: Any = f) -> Tensor:
            if p.shape != q.shape or p.dim() != 2:
                raise NoReference
            for x in (p, q):
                if not bool(((x.sum(-1) - 1).abs() < 0.02).all() and (x > 0).all()):
                    raise NoReference
            terms = f.reference(None, (p / q).flatten()).view_as(p) * q
            return terms.sum(-1)

        def optimal(log_ratio: Tensor, block: Any = block, f: Any = f) -> Tensor:
            divergence, x = block(), log_ratio.double()
            v = divergence.optimal_critic(x)
            # Its activation is the derivative of f at the ratio, where neither overflows.
            wanted, found = divergence.derivative(x.exp()), divergence.activation(v)
            near = wanted.isfinite() & (wanted.abs() < 1e8) & v.isfinite()
            if not torch.allclose(found[near], wanted[near], rtol=1e-5, atol=1e-8):
                raise NoReference
            return v

        made += [
            method(
                block, "bound", "divergence",
                lambda: {"real": draw(6), "fake": draw(4, seed=6)}, bound,
            ),
            method(
                block, "between", "divergence",
                lambda: {"p": draw(3, 5).softmax(-1), "q": draw(3, 5, seed=6).softmax(-1)}, between,
            ),
            method(
                block, "conjugate", "divergence",
                lambda b=block: {"t": b().activation(draw(9))},
                lambda t, b=block: _conjugate(b(), t),
                legal=dict.fromkeys(("all the same", "zeros"), KINK),
            ),
            method(block, "optimal_critic", "divergence", lambda: {"log_ratio": draw(5)}, optimal),
            method(
                block, "between_gaussians", "divergence",
                lambda: {"p": Normal(0.1, 1.0), "q": Normal(-0.2, 1.1)},
                lambda p, q, b=block: _gaussians(b, p, q),
            ),
        ]  # fmt: skip
    # The others say that there is no closed form.
    return [
        e for e in made
        if not e.name.endswith("between_gaussians")
        or type(e.make().function.__self__).between_gaussians  # type: ignore[attr-defined]
        is not gan_blocks.FDivergence.between_gaussians
    ]  # fmt: skip


def _conjugate(divergence: Any, t: Tensor) -> Tensor:
    """sup_u ut - f(u), on a fine grid of u."""
    if not bool(t.isfinite().all()):
        return torch.where(t.isnan(), t, divergence.conjugate(t))
    u = torch.cat([torch.zeros(1), torch.logspace(-14, 14, 28001)]).double()
    values = t.flatten()[:, None] * u - divergence.f(u)
    best = values.amax(1)
    outside = values[:, -1] >= best  # still rising
    value = torch.where(outside, math.inf, best)
    exact = divergence.conjugate(t.flatten())
    # The grid finds the maximum to 1e-6.
    near = (value - exact).abs() <= 1e-5 * (1 + exact.abs())
    return torch.where(near | (value == exact), exact, value).view_as(t)


def _gaussians(block: Any, p: Any, q: Any) -> Any:
    if not isinstance(p, Normal) or not isinstance(q, Normal):
        raise NoReference
    x = torch.linspace(-30, 30, 600001, dtype=torch.float64)
    try:
        block().between_gaussians(p, q)
    except NotImplementedError:
        raise NoReference from None
    a, b = (Normal(float(n.mean), float(n.stddev)) for n in (p, q))
    density_q = b.log_prob(x).exp()
    ratio = (a.log_prob(x) - b.log_prob(x)).exp()
    return ((density_q * block().f(ratio)).sum() * (x[1] - x[0])).to(torch.float64)


GRAPH = dict.fromkeys(
    ("1e4 times as large", "-1e4 times as large", "expanded"),
    "another point of the graph, of which no reference is written",
)

# --- penalties ---------------------------------------------------------------------------------------

W1, W2 = draw(6, 5, seed=7), draw(5, seed=8)


def smooth_critic(x: Tensor) -> Tensor:
    w1, w2 = W1.to(x), W2.to(x)
    return torch.tanh(x.flatten(1) @ w1) @ w2


def norms(points: Any) -> Tensor:
    if not isinstance(points, Tensor) or points.dim() < 2 or points[0].numel() != 6:
        raise NoReference
    return torch.stack([norm_at(x, W1.double(), W2.double()) for x in points])


def samples() -> dict[str, Any]:
    return {
        "critic": smooth_critic,
        "real": draw(4, 1, 2, 3),
        "fake": draw(4, 1, 2, 3, seed=6),
        "generator": torch.Generator().manual_seed(0),
    }


def noise_of(x: Tensor, generator: Any, distribution: Any = torch.randn) -> Tensor:
    return distribution(x.shape, generator=torch.Generator().manual_seed(0)).double()


def gradient_penalty(critic: Any, real: Any, fake: Any, generator: Any) -> Tensor:
    if real.shape != fake.shape:
        raise NoReference
    epsilon = torch.rand(
        (len(real), *[1] * (real.dim() - 1)), generator=torch.Generator().manual_seed(0)
    ).double()
    return 10 * (norms(epsilon * real + (1 - epsilon) * fake) - 1).square().mean()


def dragan(critic: Any, real: Any, fake: Any, generator: Any) -> Tensor:
    again = torch.Generator().manual_seed(0)
    u = torch.rand(real.shape, generator=again).double()
    alpha = torch.rand((len(real), *[1] * (real.dim() - 1)), generator=again).double()
    std = (real - real.mean()).square().mean().sqrt()
    return 10 * (norms(real + alpha * 0.5 * std * u) - 1).square().mean()


def approximate(x: Any) -> Tensor:
    norms(x)
    moved = x + 0.01 * noise_of(x, None)
    return 100 * (smooth_critic(x) - smooth_critic(moved)).square().mean()


def schedule() -> Any:
    return registry.build({"block": "LinearSchedule", "start": 0.5, "end": 2.0, "steps": 8})


OF_THE_NETWORK: dict[str, str] = dict.fromkeys(
    ("in float64", "in bfloat16", "in float16", "complex", "on meta", "a module of other shapes"),
    "any network is taken; torch says whether it takes the input",
)


def trained_samples() -> dict[str, Any]:
    """Samples, and a critic with a weight: a frozen one is refused."""
    weight = torch.ones((), requires_grad=True)
    return samples() | {"critic": lambda x: weight * smooth_critic(x)}


def penalties() -> list[Entry]:
    """Each with real and generated samples of its own."""
    make = registry.build

    def r1(critic: Any, real: Any, fake: Any, generator: Any) -> Tensor:
        return 5 * norms(real).square().mean()

    def r2(critic: Any, real: Any, fake: Any, generator: Any) -> Tensor:
        return 5 * norms(fake).square().mean()

    table: list[tuple[dict[str, Any], Any, tuple[str, ...], tuple[str, ...]]] = [
        ({"block": "R1Penalty"}, r1, ("fake",), ("fake", "generator")),
        ({"block": "R2Penalty"}, r2, ("real",), ("real", "generator")),
        ({"block": "GradientPenalty"}, gradient_penalty, (), ("generator",)),
        ({"block": "DraganPenalty"}, dragan, ("fake",), ("fake", "generator")),
        (
            {"block": "ApproximateR1Penalty"},
            lambda critic, real, fake, generator: approximate(real),
            ("fake",), ("fake", "generator"),
        ),
        (
            {"block": "ApproximateR2Penalty"},
            lambda critic, real, fake, generator: approximate(fake),
            ("real",), ("real", "generator"),
        ),
        (
            {"block": "Lazy", "penalty": {"block": "R1Penalty"}, "every": 4},
            lambda **given: 4 * r1(**given),
            ("fake",), ("fake", "generator"),
        ),
        (
            {"block": "Scheduled", "penalty": {"block": "R1Penalty"}}
            | {"schedule": {"block": "StepSchedule", "start": 0.25, "end": 1.0, "steps": 99}},
            lambda **given: 0.25 * r1(**given),
            ("fake",), ("fake", "generator"),
        ),
    ]  # fmt: skip
    made = [
        method(
            functools.partial(make, spec), "", "penalty",
            trained_samples if "Approximate" in spec["block"] else samples, reference, ("generator",),
            ignored=ignored, optional=optional,
            legal={"bfloat16": "warned: sigma drowns in rounding"} if "Approx" in spec["block"] else {},
        )
        for spec, reference, ignored, optional in table
    ]  # fmt: skip

    def logits_and_inputs() -> dict[str, Any]:
        x = draw(4, 1, 2, 3).requires_grad_()
        return {"logits": smooth_critic(x), "inputs": x}

    for name in ("R1Penalty", "R2Penalty"):
        made.append(
            method(
                functools.partial(make, {"block": name}), "from_logits", "penalty", logits_and_inputs,
                lambda logits, inputs: _only_right(
                    5 * norms(draw(4, 1, 2, 3).double()).square().mean(),
                    (logits, smooth_critic(draw(4, 1, 2, 3)).double()),
                    (inputs, draw(4, 1, 2, 3).double()),
                ),
                legal=GRAPH | {"a dimension more at the end": "logits may have any shape"},
            )
        )  # fmt: skip
    for name in ("ApproximateR1Penalty", "ApproximateR2Penalty"):
        build = functools.partial(make, {"block": name})
        made += [
            method(
                build, "from_logits", "penalty",
                lambda: {
                    "logits": draw(4).requires_grad_(),
                    "perturbed_logits": draw(4, seed=6).requires_grad_(),
                },
                lambda logits, perturbed_logits: 100 * _pairs(logits, perturbed_logits),
            ),
            method(
                build, "perturbed", "penalty",
                lambda: {"x": draw(4, 2), "generator": torch.Generator().manual_seed(0)},
                lambda x, generator: _batch(x) + 0.01 * noise_of(x, generator),
                ("generator",), optional=("generator",),
            ),
        ]  # fmt: skip
    return made


def _no() -> Any:
    raise NoReference


def _only_right(value: Any, *pairs: tuple[Any, Any]) -> Any:
    """A value that is known for the right arguments alone, which may come in other layouts."""
    for given, right in pairs:
        if isinstance(right, Tensor):
            if not isinstance(given, Tensor) or given.shape != right.shape:
                raise NoReference
            if not torch.allclose(given.double(), right.double(), rtol=0.1, atol=0.1):
                raise NoReference
        elif given is not right and given != right:
            raise NoReference
    return value


def _pairs(a: Any, b: Any) -> Tensor:
    if not isinstance(a, Tensor) or a.shape != b.shape or not a.numel():
        raise NoReference
    squares = [(x - y) ** 2 for x, y in zip(a.flatten(), b.flatten(), strict=True)]
    return torch.stack(squares).sum() / len(squares)


def _batch(x: Any) -> Tensor:
    if not isinstance(x, Tensor) or not x.dim() or not x.numel():
        raise NoReference
    return x


# --- constraints and auxiliary terms -------------------------------------------------------------------


def two_layers() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def weights_of(module: Any) -> Tensor:
    layers = [m for m in module.modules() if isinstance(m, nn.Linear)] or [nn.Linear(0, 0)]
    return torch.cat([layer.eval().weight.detach().flatten().double() for layer in layers])


def _real_layers(module: Any) -> list[nn.Linear]:
    if not isinstance(module, nn.Module):
        raise NoReference
    layers = [m for m in module.modules() if isinstance(m, nn.Linear)]
    lazy = any(isinstance(m, LazyModuleMixin) for m in module.modules())
    if lazy or not layers or any(p.is_complex() for p in module.parameters()):
        raise NoReference
    return layers


def _weights(module: Any) -> list[Tensor]:
    return [layer.weight.detach().double() for layer in _real_layers(module)]


def constraint(spec: dict[str, Any], reference: Callable[[Tensor], Tensor]) -> Entry:
    """Acts in place on a module; the result is its weights."""

    def make() -> Call:
        block = registry.build(spec)

        def call(*args: Any, **kwargs: Any) -> Any:
            block(*args, **kwargs)
            (module,) = args
            return weights_of(module)

        return Call(call, {"module": two_layers()})

    def wanted(given: dict[str, Any]) -> Tensor:
        module = given["module"]
        if spec["block"] == "WeightClipper" and not list(module.parameters()):
            return torch.empty(0)
        weights = _weights(given["module"])
        if any(w.is_meta for w in weights):
            return torch.cat([w.flatten() for w in weights])
        return torch.cat([reference(w).flatten() for w in weights])

    return Entry(spec["block"], "constraint", make, wanted)


def _clipped(w: Tensor) -> Tensor:
    if not bool(w.isfinite().all()):
        return torch.where(w.isnan(), w, w.clamp(-0.5, 0.5))
    return torch.tensor([[min(max(float(x), -0.5), 0.5) for x in row] for row in w])


def _over_norm(w: Tensor) -> Tensor:
    if not bool(w.isfinite().all()) or not bool((w != 0).any()):
        raise NoReference
    return w / torch.linalg.eigvalsh(w @ w.T)[-1].sqrt()


def _polar(w: Tensor) -> Tensor:
    if not bool(w.isfinite().all()):
        raise NoReference
    if not bool((w != 0).any()):
        return torch.eye(*w.shape, dtype=w.dtype)  # any orthogonal matrix is as near
    return polar_factor(w) if w.shape[0] <= w.shape[1] else polar_factor(w.T).T


def auxiliary() -> list[Entry]:
    """Terms of modules, of graphs and of nothing at all."""
    make = registry.build

    def losses_and_layer() -> dict[str, Any]:
        w = draw(3).requires_grad_()
        return {
            "reconstruction_loss": ((draw(4, 3) @ w) ** 2).mean(),
            "adversarial_loss": torch.sin(draw(5, 3, seed=6) @ w).mean(),
            "last_layer": w,
        }

    def ratio(reconstruction_loss: Any, adversarial_loss: Any, last_layer: Any) -> Tensor:
        right = losses_and_layer()
        w = draw(3).double()
        first = torch.stack([2 * (r * w).sum() * r for r in draw(4, 3).double()]).sum(0) / 4
        second = (
            torch.stack([torch.cos((r * w).sum()) * r for r in draw(5, 3, seed=6).double()]).sum(0)
            / 5
        )
        value = first.square().sum().sqrt() / (second.square().sum().sqrt() + 1e-4)
        return _only_right(
            value.clamp(max=1e4),
            (reconstruction_loss, right["reconstruction_loss"].detach()),
            (adversarial_loss, right["adversarial_loss"].detach()),
            (last_layer, right["last_layer"].detach()),
        )

    def balanced_losses() -> dict[str, Any]:
        output = draw(4, 3).requires_grad_()
        y, z = draw(4, 3, seed=6), draw(4, 3, seed=7)
        return {
            "losses": {"first": (output * y).sum(), "second": (output * z).sum()},
            "output": output,
        }

    def shares(losses: Any, output: Any) -> Tensor:
        if not isinstance(losses, dict) or set(losses) != {"first", "second"}:
            raise NoReference
        x, y, z = draw(4, 3).double(), draw(4, 3, seed=6).double(), draw(4, 3, seed=7).double()

        def size(g: Tensor) -> Tensor:
            return torch.stack([row.square().sum().sqrt() for row in g]).sum() / len(g)

        value = 3 / 4 * (x * y).sum() / size(y) + (x * z).sum() / size(z) / 4
        return _only_right(value, (output, x))

    def path() -> dict[str, Any]:
        w = draw(4, 5).requires_grad_()
        a = draw(5, 6, seed=6)
        return {
            "images": torch.tanh(w @ a).view(4, 2, 3),
            "w": w,
            "generator": torch.Generator().manual_seed(0),
        }

    def lengths(images: Any, w: Any, generator: Any) -> Tensor:
        v, a = draw(4, 5).double(), draw(5, 6, seed=6).double()
        noise = torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(0)).double() / 3**0.5
        out = torch.stack(
            [
                (a @ (y * (1 - torch.tanh(row @ a) ** 2))).square().sum().sqrt()
                for row, y in zip(v, noise.flatten(1), strict=True)
            ]
        )
        average = 0.01 * out.sum() / 4
        value = 2 * (out - average).square().sum() / 4
        return _only_right(value, (images, torch.tanh(v @ a).view(4, 2, 3)), (w, v))

    def maps(seed: int) -> list[list[Tensor]]:
        return [[draw(3, 2, 4, seed=seed), draw(3, 1, seed=seed)], [draw(3, 5, seed=seed)]]

    def layer_distances(real_features: Any, fake_features: Any) -> Tensor:
        same = [[x.shape for x in m] for m in maps(5)]
        for given in (real_features, fake_features):
            if [[x.shape for x in m] for m in given] != same:
                raise NoReference
        terms = [
            (a - b).abs().sum() / a.numel()
            for m, n in zip(real_features, fake_features, strict=True)
            for a, b in zip(m, n, strict=True)
        ]
        return torch.stack(terms).sum()

    def orthogonality(module: Any) -> Tensor:
        weights = [
            m.weight.detach().double() for m in _real_layers(module) if m.weight.requires_grad
        ]
        if not weights:
            raise NoReference
        total = torch.zeros((), dtype=torch.float64)
        for w in weights:
            for i in range(len(w)):
                for j in range(len(w)):
                    if i != j:
                        total = total + (w[i] * w[j]).sum() ** 2
        return 3 * total

    def nothing_past(module: Any) -> Tensor:
        layers = [m for m in _real_layers(module) if m.weight.requires_grad]
        if not layers:
            raise NoReference
        total = sum(p.detach().double().sum() * 0 for p in module.parameters())
        return torch.as_tensor(total)

    made = [
        method(
            functools.partial(make, {"block": "AdaptiveWeight"}), "", "auxiliary",
            losses_and_layer, ratio, legal=GRAPH | {"swapped": "both are losses"},
        ),
        method(
            functools.partial(
                make, {"block": "GradientBalancer", "weights": {"first": 3, "second": 1}}
            ),
            "", "auxiliary", balanced_losses, shares, legal=GRAPH,
        ),
        method(
            functools.partial(make, {"block": "PathLengthPenalty"}), "", "auxiliary", path, lengths,
            ("generator",), optional=("generator",),
            legal=GRAPH
            | dict.fromkeys(
                (
                    "a dimension more at the end",
                    "a feature less",
                    "a feature more",
                    "flattened samples",
                    "the last dimension less",
                    "float8_e4m3fn",
                ),
                "images of any shape",
            ),
        ),
        method(
            functools.partial(make, {"block": "LayerwiseFeatureMatchingLoss"}), "", "auxiliary",
            lambda: {"real_features": maps(5), "fake_features": maps(6)}, layer_distances,
        ),
        method(
            functools.partial(make, {"block": "OrthogonalRegularizer", "weight": 3}), "", "auxiliary",
            lambda: {"module": two_layers()}, orthogonality,
        ),
        method(
            functools.partial(make, {"block": "HistoricalAveraging"}), "", "auxiliary",
            lambda: {"module": two_layers()}, nothing_past,
        ),
    ]  # fmt: skip
    for name in ("LinearSchedule", "CosineSchedule", "StepSchedule"):
        build = functools.partial(make, {"block": name, "start": 0.5, "end": 2.0, "steps": 8})
        made += [
            method(
                build, "at", "schedule", lambda: {"step": 3}, functools.partial(_schedule, name)
            ),
            method(build, "", "schedule", dict, lambda: torch.tensor(0.5)),
        ]
        if hasattr(build(), "step"):
            made.append(method(build, "step", "schedule", dict, lambda: None))
    return made


def _schedule(name: str, step: Any) -> float:
    if not isinstance(step, bool | int | float) or step < 0:
        raise NoReference
    if math.isnan(step):
        return math.nan
    done = min(step / 8, 1)
    share = {
        "LinearSchedule": done,
        "CosineSchedule": (1 - math.cos(math.pi * done)) / 2,
        "StepSchedule": float(done == 1),
    }[name]
    return 0.5 + 1.5 * share


# --- layers and networks ---------------------------------------------------------------------------


def layers() -> list[Entry]:
    """What the kit's cases of layers do not call."""
    make = registry.build

    def fixed(spec: dict[str, Any]) -> Callable[[], Any]:
        def build() -> Any:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                return make(spec)

        return build

    attention = fixed({"block": "SelfAttention2d", "in_channels": 3, "key_channels": 2})
    discrimination = fixed(
        {"block": "MinibatchDiscrimination", "in_features": 4, "num_kernels": 3, "kernel_dim": 2}
    )
    augment = fixed({"block": "DiffAugment", "policy": ["color"]})
    patch = fixed({"block": "PatchDiscriminator", "channels": 1, "width": 1, "depth": 0})

    def shares(x: Any) -> Tensor:
        layer = attention().double()
        if not isinstance(x, Tensor) or x.dim() != 4 or x.shape[1] != 3 or not x.numel():
            raise NoReference
        f, g = layer.f.weight[:, :, 0, 0], layer.g.weight[:, :, 0, 0]
        rows = []
        for image in x.flatten(2):
            products = torch.stack([(f @ image).T @ (g @ pixel) for pixel in image.T])
            rows.append(products.softmax(1))
        return torch.stack(rows)

    def scales(x: Any) -> Tensor:
        layer = discrimination().double()
        if not isinstance(x, Tensor) or x.dim() != 2 or x.shape[1] != 4 or len(x) < 2:
            raise NoReference
        if not bool(x.isfinite().all()):
            raise NoReference
        weight = layer.theta * layer.log_scale.exp() / layer.theta.square().sum(0).sqrt()
        m = torch.einsum("nd,dbc->nbc", x, weight)
        wanted = []
        for b in range(3):
            distances = [
                min(float((m[i, b] - m[j, b]).abs().sum()) for j in range(len(x)) if j != i)
                for i in range(len(x))
            ]
            if sum(distances) <= 0:
                raise NoReference
            d = sum(distances) / len(distances)
            wanted.append(layer.log_scale[b] - math.log(d / 2))
        return torch.stack(wanted).detach()

    def initialized() -> Call:
        layer = discrimination()

        def call(*args: Any, **kwargs: Any) -> Tensor:
            layer.initialize(*args, **kwargs)
            return layer.log_scale.detach()

        return Call(call, {"x": draw(5, 4)})

    def colors(x: Any, draw: Any) -> Tensor:
        if x.dim() != 4 or not x.numel() or draw.shape != (len(x), 7):
            raise NoReference
        images = []
        for image, u in zip(x, draw, strict=True):
            image = image + u[0] - 0.5
            grey = image.sum(0) / len(image)
            image = torch.stack([(channel - grey) * 2 * u[1] + grey for channel in image])
            mean = image.sum() / image.numel()
            images.append((image - mean) * (u[2] + 0.5) + mean)
        return torch.stack(images)

    def draws(x: Any, generator: Any) -> Tensor:
        if not isinstance(x, Tensor) or not x.dim():
            raise NoReference
        return torch.rand(len(x), 7, generator=torch.Generator().manual_seed(0))

    def logits(x: Any) -> Tensor:
        case = next(c for c in CASES if c.spec["block"] == "PatchDiscriminator")
        return case.reference(patch().double(), x)

    def feature_maps() -> Call:
        network = patch()
        return Call(lambda *a, **k: network.feature_maps(*a, **k)[-1], {"x": draw(2, 1, 6, 7)})

    def virtual() -> Call:
        network = gan_blocks.VirtualBatchNorm(3)

        def call(*args: Any, **kwargs: Any) -> Tensor:
            return gan_blocks.WithReference(*args, **kwargs)(draw(4, 3))

        return Call(call, {"network": network, "reference": draw(6, 3, seed=6)})

    def with_reference() -> Call:
        network = gan_blocks.WithReference(gan_blocks.VirtualBatchNorm(3), draw(6, 3, seed=6))
        return Call(network, {"input": draw(4, 3)})

    def by_virtual(network: Any, reference: Any) -> Tensor:
        if type(network) is not gan_blocks.VirtualBatchNorm or network.num_features != 3:
            raise NoReference
        scale = network.weight.detach().double(), network.bias.detach().double()
        return virtually(draw(4, 3).double(), reference, *scale)

    def virtually(x: Any, reference: Any, weight: Any = 1, bias: Any = 0) -> Tensor:
        if not isinstance(reference, Tensor):
            (reference,) = reference
            reference = reference.double()
        if reference.dim() == 3:
            reference = reference.squeeze(2)
        if reference.dim() != 2 or not len(reference):
            raise NoReference
        if x.dim() != 2 or x.shape[1] != 3 or reference.shape[1] != 3:
            raise NoReference
        rows = []
        for sample in x:
            batch = torch.cat([reference, sample[None]])
            mean = batch.sum(0) / len(batch)
            variance = (batch - mean).square().sum(0) / len(batch)
            rows.append((sample - mean) / (variance + 1e-5).sqrt() * weight + bias)
        return torch.stack(rows) if rows else x

    return [
        method(attention, "shares", "layer", lambda: {"x": draw(2, 3, 2, 3)}, shares),
        Entry("MinibatchDiscrimination.initialize", "layer", initialized, lambda g: scales(**g)),
        method(
            augment, "", "layer",
            lambda: {"x": draw(2, 2, 3, 3), "draw": torch.rand(2, 7, generator=_generator())}, colors,
            optional=("draw",),
            legal=dict.fromkeys(
                ("1e4 times as large", "-1e4 times as large"),
                "to look at the numbers of a draw would make the device wait",
            ),
        ),
        method(
            augment, "draw", "layer",
            lambda: {"x": draw(2, 2, 3, 3), "generator": _generator()}, draws, ("generator",),
            optional=("generator",),
        ),
        method(
            fixed({"block": "GaussianNoise", "std": 0.3}), "", "layer",
            lambda: {"x": draw(4, 3), "generator": _generator()},
            lambda x, generator: x + 0.3 * torch.randn(x.shape, generator=_generator()).double(),
            ("generator",), optional=("generator",),
        ),
        Entry("PatchDiscriminator.feature_maps", "network", feature_maps, lambda g: logits(**g)),
        Entry(
            "WithReference", "training", virtual, lambda g: by_virtual(**g)
        ),
        Entry(
            "VirtualBatchNorm", "layer", with_reference,
            lambda g: virtually(g["input"], draw(6, 3, seed=6).double()), signature=False,
        ),
    ]  # fmt: skip


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


# --- what goes around a network --------------------------------------------------------------------


def training() -> list[Entry]:
    """EMA, features, bounds, distances."""

    def ema() -> Call:
        def call(*args: Any, **kwargs: Any) -> Tensor:
            return gan_blocks.EMA(*args, **kwargs)(draw(4, 3)).double()

        return Call(call, {"model": two_layers(), "half_life": 1000.0, "rampup": 0.05})

    def averaged(model: Any, half_life: Any, rampup: Any) -> Tensor:
        for number in (half_life, rampup):
            if isinstance(number, bool) or not isinstance(number, int | float) or not number > 0:
                raise NoReference
            if math.isinf(number):
                raise NoReference
        return outputs(model, draw(4, 3))

    def outputs(model: Any, x: Tensor) -> Tensor:
        if isinstance(model, nn.ReLU) or (isinstance(model, nn.Sequential) and not len(model)):
            return model(x.double())
        if not isinstance(model, nn.Sequential) or len(model) != 3 or x.shape[-1:] != (3,):
            raise NoReference
        first: Any = copy.deepcopy(model[0]).double()
        last: Any = copy.deepcopy(model[2]).double()
        rows = [torch.tanh(first.weight @ r + first.bias) for r in x.double().reshape(-1, 3)]
        out = [last.weight @ row + last.bias for row in rows]
        return torch.stack(out).detach().view(*x.shape[:-1], 2) if out else x[..., :2].double()

    def updated() -> Call:
        average = gan_blocks.EMA(two_layers(), half_life=64, rampup=None)
        average.update(two_layers(), 1)  # the first update takes the weights as they are

        def call(*args: Any, **kwargs: Any) -> Tensor:
            average.update(*args, **kwargs)
            return torch.cat([p.detach().flatten().double() for p in average.module.parameters()])

        with torch.no_grad():
            model = two_layers()
            for p in model.parameters():
                p.mul_(2)
        return Call(call, {"model": model, "samples": 64})

    def halfway(model: Any, samples: Any) -> Tensor:
        if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
            raise NoReference
        if not isinstance(model, nn.Module):
            raise NoReference
        new, old = list(model.parameters()), list(two_layers().parameters())
        if [p.shape for p in new] != [p.shape for p in old] or any(p.is_complex() for p in new):
            raise NoReference
        beta = 0.5 ** (samples / 64)
        mixed = [
            beta * a.detach().double() + (1 - beta) * b.detach().double()
            for a, b in zip(old, new, strict=True)
        ]
        return torch.cat([x.flatten() for x in mixed])

    def extracted() -> Call:
        def call(*args: Any, **kwargs: Any) -> Tensor:
            return gan_blocks.FeatureExtractor(*args, **kwargs)(draw(4, 3))["1"].double()

        return Call(call, {"network": two_layers(), "layers": ["0", "1"]})

    def features(network: Any, layers: Any) -> Tensor:
        if not isinstance(network, nn.Sequential) or len(network) != 3:
            raise NoReference
        if not isinstance(layers, list | tuple) or "1" not in layers:
            raise NoReference
        first: Any = copy.deepcopy(network[0]).double()
        return torch.stack(
            [torch.tanh(first.weight @ row + first.bias) for row in draw(4, 3).double()]
        ).detach()

    def forwarded() -> Call:
        extractor = gan_blocks.FeatureExtractor(two_layers(), ["1"])
        return Call(lambda *a, **k: extractor(*a, **k)["1"], {"x": draw(4, 3)})

    def bound(module: Any, input_shape: Any) -> float:
        shape = tuple(int(n) for n in input_shape)
        if any(isinstance(n, bool | float | str) for n in input_shape) or shape[-1:] != (3,):
            raise NoReference
        if isinstance(module, nn.ReLU) or (isinstance(module, nn.Sequential) and not len(module)):
            return 1.0
        if not isinstance(module, nn.Sequential) or len(module) != 3:
            raise NoReference
        value = 1.0
        for w in _weights(module):
            if w.is_meta or not bool(w.isfinite().all()):
                raise NoReference
            value *= float(torch.linalg.eigvalsh(w @ w.T)[-1].clamp(min=0).sqrt())
        return value

    def on_a_line(x: Any, y: Any) -> Tensor:
        if not isinstance(x, Tensor) or not isinstance(y, Tensor) or not x.numel() or not y.numel():
            raise NoReference
        if not x.dim() or not y.dim():
            raise NoReference
        x, y = (z[:, 0] if z.dim() == 2 and z.shape[1] == 1 else z for z in (x, y))
        if x.dim() != 1 or y.dim() != 1:
            raise NoReference
        if not bool(x.isfinite().all() & y.isfinite().all()):
            raise NoReference
        a, b = x.repeat_interleave(len(y)).sort().values, y.repeat_interleave(len(x)).sort().values
        return (a.sort().values - b.sort().values).abs().sum() / len(a)

    def in_the_plane(x: Any, y: Any) -> Tensor:
        if x.dim() != 2 or y.dim() != 2 or x.shape[1] != y.shape[1] or not x.numel() or not len(y):
            raise NoReference
        if not bool(x.isfinite().all() & y.isfinite().all()):
            raise NoReference
        # Each point as often as makes the sets equal: then the best coupling is a permutation.
        from scipy.optimize import linear_sum_assignment

        x, y = x.repeat_interleave(len(y), 0), y.repeat(len(x), 1)
        distances = torch.stack([(y - a).square().sum(1).sqrt() for a in x])
        rows, columns = linear_sum_assignment(distances.numpy())
        return distances[rows, columns].sum() / len(x)

    def critic() -> Call:
        def call(*args: Any, **kwargs: Any) -> Tensor:
            f = gan_blocks.wasserstein_critic(*args, **kwargs)
            x, y = (a for a in args) if len(args) == 2 else (args[0], kwargs["y"])
            return f(x).mean() - f(y).mean()

        return Call(call, {"x": draw(5), "y": draw(4, seed=6)})

    def values() -> Call:
        f = gan_blocks.wasserstein_critic(draw(5, 2), draw(5, 2, seed=6))
        return Call(f, {"z": draw(5, 2)})

    def on_real(z: Any) -> Tensor:
        if not isinstance(z, Tensor) or z.dim() != 2 or z.shape[1] != 2:
            raise NoReference
        f = gan_blocks.wasserstein_critic(draw(5, 2).double(), draw(5, 2, seed=6).double())
        potential = f(draw(5, 2).double())
        if not len(z):
            return z[:, 0]
        points = draw(5, 2).double()
        rows = [[v - (a - x).norm() for v, x in zip(potential, points, strict=True)] for a in z]
        return torch.stack([torch.stack(row).max() for row in rows])

    def conditional() -> Call:
        block = registry.build(
            {"block": "ResidualUp2d", "in_channels": 1, "out_channels": 1, "num_classes": 3}
        )
        return Call(
            lambda *a, **k: labels.labels_for(*a, **k)[0],
            {"conditional": block, "labels": torch.tensor([2, 0, 1]), "count": 3},
        )

    def checked(labels: Any, count: Any, conditional: Any = None) -> Tensor:
        if type(count) is not int or not isinstance(labels, Tensor) or labels.shape != (count,):
            raise NoReference
        if conditional is not None and getattr(conditional, "num_classes", None) != 3:
            raise NoReference
        return labels.long()

    def sampled(distribution: Any, shape: Any, device: Any, generator: Any, dtype: Any) -> Tensor:
        if distribution is not torch.rand or str(device) != "cpu":
            raise NoReference
        if any(type(n) is not int for n in shape) or not shape:
            raise NoReference
        if dtype not in (torch.float32, None):
            raise NoReference
        return torch.rand(tuple(shape), generator=_generator())

    def nothing_known(**_: Any) -> Any:
        raise NoReference

    def over(x: Any, dim: Any) -> Tensor:
        if isinstance(x, Tensor) and not x.dim() and dim in (0, -1):
            return x
        if type(dim) is not int or not isinstance(x, Tensor) or not -x.dim() <= dim < x.dim():
            raise NoReference
        rows = x.unbind(dim)
        if not rows:
            return x.sum(dim) / 0
        return sum(rows[1:], rows[0]) / len(rows)

    def whole(x: Any) -> Any:
        return _as_tensor(x)

    def start(x: Any) -> Any:
        x = _as_tensor(x)
        return 0, len(x)

    def process_group(*args: Any, **kwargs: Any) -> Tensor:
        with distributed.process_group(*args, **kwargs):
            return torch.tensor(distributed.process_count())

    def without_autocast(*args: Any, **kwargs: Any) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16), precision.without_autocast(*args, **kwargs):
            y = torch.eye(3, dtype=torch.float32) @ torch.eye(3, dtype=torch.float32)
        return torch.tensor(y.dtype == torch.float32)

    def autocast_is_off(x: Any) -> Tensor:
        return torch.tensor(_as_tensor(x).dtype is not None)

    def build(*args: Any, **kwargs: Any) -> Any:
        return registry.to_spec(registry.build(*args, **kwargs))

    def the_same(spec: Any, kind: Any = "loss") -> Any:
        if spec != {"block": "HingeLoss"} or kind not in ("loss", None):
            raise NoReference
        return registry.to_spec(gan_blocks.HingeLoss())

    def ema_forward() -> Call:
        return Call(gan_blocks.EMA(two_layers()), {"x": draw(4, 3)})

    return [
        Entry(
            "EMA",
            "training",
            ema,
            lambda g: averaged(**g),
            optional=("rampup",),
            defaulted=("half_life",),
            legal=OF_THE_NETWORK,
        ),
        Entry(
            "EMA.update",
            "training",
            updated,
            lambda g: halfway(**g),
            legal={"an infinity": "a network that has diverged has no average"},
        ),
        Entry(
            "EMA.forward",
            "training",
            ema_forward,
            lambda g: outputs(two_layers(), _as_tensor(g["x"])),
            signature=False,
            passes_on=True,
        ),
        Entry(
            "FeatureExtractor",
            "training",
            extracted,
            lambda g: features(**g),
            legal=OF_THE_NETWORK,
        ),
        Entry(
            "FeatureExtractor.forward",
            "training",
            forwarded,
            lambda g: _hidden(g["x"]),
            signature=False,
            passes_on=True,
        ),
        plain(
            "lipschitz_bound",
            "lipschitz",
            gan_blocks.lipschitz_bound,
            lambda: {"module": two_layers(), "input_shape": (3,)},
            bound,
        ),
        plain(
            "lipschitz_rule",
            "lipschitz",
            lambda *a, **k: gan_blocks.lipschitz_rule(*a, **k) and None,
            lambda: {"classes": nn.Bilinear},
            lambda classes: (
                None if isinstance(classes, type) and issubclass(classes, nn.Module) else _no()
            ),
            signature=False,
        ),
        plain(
            "wasserstein_distance",
            "lipschitz",
            gan_blocks.wasserstein_distance,
            lambda: {"x": draw(5), "y": draw(4, seed=6)},
            on_a_line,
        ),
        plain(
            "wasserstein_distance/plane",
            "lipschitz",
            gan_blocks.wasserstein_distance,
            lambda: {"x": draw(4, 2), "y": draw(4, 2, seed=6)},
            in_the_plane,
        ),
        Entry("wasserstein_critic", "lipschitz", critic, lambda g: on_a_line(**g)),
        Entry("wasserstein_critic.critic", "lipschitz", values, lambda g: on_real(**g)),
        plain(
            "checked_labels",
            "authoring",
            labels.checked_labels,
            lambda: {"labels": torch.tensor([2, 0, 1]), "count": 3},
            checked,
        ),
        Entry("labels_for", "authoring", conditional, lambda g: checked(**g)),
        plain(
            "distributed.draw",
            "authoring",
            distributed.draw,
            lambda: {
                "distribution": torch.rand,
                "shape": (4, 2),
                "device": torch.device("cpu"),
                "generator": _generator(),
                "dtype": torch.float32,
            },
            sampled,
            optional=("generator",),
            defaulted=("dtype",),
        ),
        plain(
            "distributed.mean",
            "authoring",
            distributed.mean,
            lambda: {"x": draw(4, 3), "dim": 0},
            over,
            optional=("dim",),
        ),
        plain(
            "distributed.all_reduce",
            "authoring",
            distributed.all_reduce,
            lambda: {"x": draw(4, 3)},
            whole,
            legal={"complex64": "no number is changed"},
        ),
        plain(
            "distributed.all_gather",
            "authoring",
            distributed.all_gather,
            lambda: {"x": draw(4, 3)},
            whole,
            legal={"complex64": "no number is changed"},
        ),
        plain(
            "distributed.place_in_batch",
            "authoring",
            distributed.place_in_batch,
            lambda: {"x": draw(4, 3)},
            start,
            legal={"complex64": "no number is changed"},
        ),
        plain(
            "distributed.process_group",
            "authoring",
            process_group,
            lambda: {"group": "local"},
            lambda group: torch.tensor(1) if group in ("local", None) else _no(),
            optional=("group",),
        ),
        plain(
            "at_least_float32",
            "authoring",
            precision.at_least_float32,
            lambda: {"x": draw(4, 3)},
            whole,
        ),
        plain(
            "without_autocast",
            "authoring",
            without_autocast,
            lambda: {"x": draw(4, 3)},
            autocast_is_off,
            legal=dict.fromkeys(("complex64", "meta among cpu"), "the device is what counts"),
        ),
        plain(
            "build",
            "spec",
            build,
            lambda: {"spec": {"block": "HingeLoss"}, "kind": "loss"},
            the_same,
            optional=("kind",),
        ),
        plain(
            "to_spec", "spec", registry.to_spec, lambda: {"block": gan_blocks.HingeLoss()}, _spec
        ),
    ]


def _spec(block: Any) -> Any:
    if type(block) is not gan_blocks.HingeLoss:
        raise NoReference
    return registry.to_spec(gan_blocks.HingeLoss())


def _as_tensor(x: Any) -> Tensor:
    if not isinstance(x, Tensor):
        raise NoReference
    return x


def _hidden(x: Any) -> Tensor:
    x = _as_tensor(x)
    if x.shape[-1:] != (3,) or not x.numel():
        raise NoReference
    first = two_layers()[0].double()
    rows = [torch.tanh(first.weight @ row + first.bias) for row in x.double().reshape(-1, 3)]
    return torch.stack(rows).detach().view(*x.shape[:-1], 4)


@functools.cache
def entries() -> tuple[Entry, ...]:
    """All entry points."""
    constraints = [
        constraint({"block": "WeightClipper", "bound": 0.5}, _clipped),
        constraint({"block": "SpectralNorm", "n_power_iterations": 60}, _over_norm),
        constraint({"block": "Orthogonal"}, _polar),
    ]
    explicit = [*divergences(), *penalties(), *constraints, *auxiliary(), *layers(), *training()]
    names = {entry.name for entry in explicit}
    return (*(e for e in from_cases() if e.name not in names), *explicit)
