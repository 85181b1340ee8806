"""Plugins are found, loaded when asked for, and kept apart."""

import functools
import os
import re
import subprocess
import sys
import textwrap
import threading
import time
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import gan_blocks
from gan_blocks import PluginError, UnknownBlockError, block, hookimpl
from gan_blocks._installed import needs_newer
from gan_blocks.authoring import Clocked
from gan_blocks.registry import Registry


@block
class Triple(nn.Module):
    def forward(self, x):
        return 3 * x


@block
class MyLoss(nn.Module):
    def discriminator(self, real_logits, fake_logits):
        return fake_logits.mean() - real_logits.mean()

    def generator(self, fake_logits, *, real_logits=None):
        return -fake_logits.mean()


@pytest.fixture
def registry() -> Registry:
    from gan_blocks import _builtins

    fresh = Registry()
    fresh.register_builtin(_builtins)
    return fresh


# --- in process ----------------------------------------------------------------------------------


def test_classes_register_in_process(registry):
    registry.register([MyLoss], name="mine")
    registry.register(Triple, name="other", kind="layer")
    assert isinstance(registry.build({"block": "mine/MyLoss"}, "loss"), MyLoss)
    assert registry.to_spec(Triple()) == {"block": "other/Triple"}


def test_module_registers_its_own_block_classes_or_its_hooks(registry):
    module = types.ModuleType("single_file")
    exec(
        textwrap.dedent("""
        from gan_blocks import KL, block
        @block
        class Bigger:
            def __call__(self, module): pass
        """),
        vars(module),
    )
    registry.register(module, name="single")
    found = [(e.name, e.kind) for e in registry.list() if e.plugin == "single"]
    assert found == [("single/Bigger", "constraint")], "what it imports is not its own"

    hooked = types.ModuleType("hooked")
    vars(hooked)["gan_blocks_layers"] = hookimpl(lambda: [Triple])
    # pluggy reads the hook's name from the attribute, so a lambda serves
    registry.register(hooked, name="hooked")
    assert registry.find("hooked/Triple").kind == "layer"


def test_registering_again_replaces(registry):
    def define(value):
        @block
        class Cell(nn.Module):
            def forward(self, x):
                return value * x

        return Cell

    registry.register(define(1), name="notebook", kind="layer")
    registry.register(define(2), name="notebook", kind="layer")
    assert registry.build({"block": "notebook/Cell"})(1) == 2


def test_failed_registration_leaves_everything_as_it_was(registry):
    registry.register(MyLoss, name="mine")
    with pytest.raises(PluginError):
        registry.register([MyLoss, nn.Linear], name="mine")
    with pytest.raises(PluginError, match="two blocks named MyLoss"):
        registry.register([MyLoss, block(type("MyLoss", (MyLoss,), {}))], name="mine")
    assert registry.find("mine/MyLoss").cls is MyLoss


@pytest.mark.parametrize(
    ("plugin", "name", "text"),
    [
        (nn.Linear, "mine", "is not a class decorated with @block"),
        ([3], "mine", "is not a class decorated with @block"),
        (
            Triple,
            "mine",
            r"the kind of Triple .*pass kind=.*or declare side= and compares= .*loss term",
        ),
        (MyLoss, "a/b", "a word without a slash"),
        (MyLoss, "", "a word without a slash"),
        (MyLoss, "builtin", "a word without a slash"),
        (types.ModuleType("empty"), "mine", "adds no block"),
        (3, "mine", "neither a module nor a block class"),
    ],
)
def test_wrong_registration_says_what_is_expected(registry, plugin, name, text):
    with pytest.raises(PluginError, match=text):
        registry.register(plugin, name=name)


def test_kind_is_told_by_the_methods(registry):
    for entry in gan_blocks.registry.list():
        if entry.kind not in ("layer", "network") and entry.plugin == "builtin":
            registry.register(entry.cls, name="again")
            assert registry.find(f"again/{entry.cls.__name__}").kind == entry.kind


class Plain:
    """Has the attribute `__call__` from its metaclass, as every class, and no call."""


def takes_nothing(self): ...


def a_penalty(self, critic, real, fake, *, generator=None): ...


def passes_on(function):
    @functools.wraps(function)
    def wrapper(*arguments, **options):
        return function(*arguments, **options)

    return wrapper


def by_position(self, fake_logits, real_logits=None): ...


def by_keyword(self, fake_logits, *, real_logits): ...


def alone(self, fake_logits): ...


def two(self, real_logits, fake_logits): ...


def bound(self, real): ...


def anything(self, *arguments, **options): ...


SCHEDULE = {"forward": takes_nothing, "at": alone, "step": takes_nothing}


PENALTY = r"penalty\(critic, real, fake, generator=\.\.\.\)"
DISCRIMINATOR = r"loss\.discriminator\(real_logits, fake_logits\)"
GENERATOR = r"loss\.generator\(fake_logits, real_logits=\.\.\.\)"
# A kind, a base, members, and the expected call if it is refused.
SHAPES: list[tuple[str, type, dict[str, Any], str]] = [
    ("penalty", Plain, {}, PENALTY),
    ("penalty", nn.Module, {}, PENALTY),
    ("penalty", Plain, {"__call__": None}, PENALTY),
    ("penalty", Plain, {"forward": a_penalty}, PENALTY),
    ("penalty", nn.Module, {"forward": a_penalty}, ""),
    ("penalty", Plain, {"__call__": a_penalty}, ""),
    ("penalty", Plain, {"__call__": staticmethod(lambda c, r, f, generator=None: 0)}, ""),
    ("penalty", Plain, {"__call__": classmethod(a_penalty)}, ""),
    ("penalty", Plain, {"__call__": torch.no_grad()(a_penalty)}, ""),
    ("penalty", Plain, {"__call__": passes_on(lambda self, c, r, f: 0)}, PENALTY),
    ("penalty", Plain, {"__call__": lambda self, critic, real, fake: 0}, PENALTY),
    ("penalty", Plain, {"__call__": lambda self, critic, real, fake, generator, more: 0}, PENALTY),
    ("penalty", Plain, {"__call__": lambda self, c, r, f, **options: 0}, ""),
    ("penalty", Plain, {"__call__": anything}, ""),
    ("penalty", Plain, {"__call__": staticmethod(min)}, ""),
    ("loss", Plain, {"discriminator": two, "generator": by_position}, ""),
    ("loss", Plain, {"discriminator": two, "generator": by_keyword}, ""),
    ("loss", Plain, {"discriminator": two, "generator": alone}, ""),
    ("loss", nn.Module, {"discriminator": two, "generator": anything}, ""),
    ("loss", Plain, {"discriminator": alone, "generator": alone}, DISCRIMINATOR),
    ("loss", Plain, {"discriminator": two, "generator": takes_nothing}, GENERATOR),
    ("loss", Plain, {"discriminator": two}, GENERATOR),
    ("loss", nn.Module, {"forward": two}, DISCRIMINATOR),
    ("constraint", Plain, {"__call__": alone}, ""),
    ("constraint", Plain, {"__call__": two}, r"constraint\(module\)"),
    ("schedule", Clocked, {"forward": takes_nothing, "at": alone}, ""),
    ("schedule", nn.Module, SCHEDULE, r"does not derive from gan_blocks\.authoring\.Clocked"),
    ("schedule", Clocked, {"forward": alone, "at": alone}, r"schedule\(\)"),
    ("schedule", Clocked, {"forward": takes_nothing, "at": takes_nothing}, r"schedule\.at\(step\)"),
    ("divergence", Plain, {"f": alone, "conjugate": alone, "activation": alone}, "derivative"),
    ("divergence", gan_blocks.KL, {}, ""),
    ("divergence", gan_blocks.KL, {"bound": bound}, r"divergence\.bound\(real, fake\)"),
    ("layer", nn.Module, {"forward": two}, ""),
    ("layer", nn.ReLU, {}, ""),
    ("layer", nn.Module, {}, r"layer\(\.\.\.\)"),
    ("layer", Plain, {"forward": two}, "is no nn.Module"),
    ("network", nn.Module, {}, r"network\(\.\.\.\)"),
]


@pytest.mark.parametrize(("kind", "base", "members", "expected"), SHAPES)
def test_a_kind_is_known_by_its_call_when_a_class_is_registered(
    registry, kind, base, members, expected
):
    cls = block(type("Mine", (base,), members | {"__doc__": "A class."}))
    if not expected:
        registry.register(cls, name="mine", kind=kind)
        assert registry.find("mine/Mine").kind == kind
        return
    with pytest.raises(PluginError, match=f"Mine .*so it is no {kind}.*Moving a plugin") as error:
        registry.register(cls, name="mine", kind=kind)
    assert re.search(expected, str(error.value))
    assert "mine/Mine" not in [entry.name for entry in registry.list()]


def test_a_schedule_among_auxiliary_terms_is_sent_to_its_own_hook(registry):
    @block
    class Ramp(Clocked):
        """A schedule."""

        def at(self, step):
            return float(step)

        def forward(self):
            return self.at(int(self.step_count))

    with pytest.raises(PluginError, match="return it from gan_blocks_schedules"):
        registry.register(Ramp, name="mine", kind="auxiliary")
    registry.register(Ramp, name="mine")
    assert registry.find("mine/Ramp").kind == "schedule"


@pytest.mark.parametrize(
    ("declared", "members", "reason"),
    [
        ({}, {"forward": two}, "does not say which side's loss it belongs to"),
        ({"side": "critic", "compares": "logits"}, {"forward": two}, ""),
        (
            {"side": "critic", "compares": "logits"},
            {"forward": alone},
            r"auxiliary\(real_logits, fake",
        ),
        ({"side": "both", "compares": "module"}, {"forward": alone}, ""),
        ({"side": "both", "compares": "module"}, {"forward": two}, r"auxiliary\(module\)"),
        ({"side": "generator", "compares": "samples"}, {"forward": two}, ""),
        ({"side": "generator", "compares": "features"}, {"forward": anything}, ""),
        ({"side": "generator", "compares": "other"}, {"forward": takes_nothing}, ""),
        ({"side": "generator", "compares": "other"}, {}, "has no call of its own"),
    ],
)
def test_an_auxiliary_term_declares_its_side_and_what_it_compares(
    registry, declared, members, reason
):
    cls = block(**declared)(type("Term", (nn.Module,), members | {"__doc__": "A term."}))
    if reason:
        with pytest.raises(PluginError, match=f"Term {reason}|Term .*{reason}"):
            registry.register(cls, name="mine", kind="auxiliary")
    else:
        registry.register(cls, name="mine")  # the declaration tells the kind
        assert registry.find("mine/Term").kind == "auxiliary"


@pytest.mark.parametrize(
    ("claims", "text"),
    [
        ({"batch_dependent": True}, "batch_dependent should say in words why"),
        (
            {"side": "discriminator", "compares": "logits"},
            "side should be one of critic, generator",
        ),
        ({"side": "critic", "compares": "logit"}, "compares should be one of features"),
        ({"side": "critic"}, "both side and compares"),
        ({"compares": "logits"}, "both side and compares"),
    ],
)
def test_a_wrong_declaration_is_refused_when_the_class_is_defined(claims, text):
    with pytest.raises(TypeError, match=text):
        block(**claims)(type("Wrong", (nn.Module,), {}))


def test_built_in_terms_and_blocks_of_the_batch_declare_themselves():
    entries = [entry for entry in gan_blocks.registry.list() if entry.plugin == "builtin"]
    record = {entry.name: entry.blueprint.capabilities for entry in entries}
    for entry in entries:
        assert (record[entry.name].side is not None) == (entry.kind == "auxiliary"), entry.name
    assert (record["LeCamRegularizer"].side, record["LeCamRegularizer"].compares) == (
        "critic",
        "logits",
    )
    for name in ("RelativisticAverageLoss", "DraganPenalty", "AdaptiveWeight", "GradientBalancer"):
        assert len(record[name].batch_dependent.split()) > 4, name
    moving = {name for name, claims in record.items() if claims.moves_in_forward}
    assert {"ConditionalBatchNorm2d", "ResNetDiscriminator", "DCGANGenerator"} <= moving
    assert not moving & {"R3GANGenerator", "MLPDiscriminator", "VirtualBatchNorm"}


def test_built_in_blocks_are_registered_once(registry):
    from gan_blocks import _builtins

    with pytest.raises(PluginError, match="registered already"):
        registry.register_builtin(_builtins)


def test_lookups_go_on_while_other_threads_register(registry):
    classes = [
        block(type(f"Own{i}", (nn.Module,), {"forward": anything, "__doc__": "Own."}))
        for i in range(8)
    ]
    start, failures = threading.Barrier(12), []

    def register(cls):
        start.wait()
        for _ in range(40):
            registry.register(cls, name=f"plugin-{cls.__name__}", kind="layer")

    def look_up():
        start.wait()
        for i in range(60):
            assert registry.to_spec(registry.build({"block": "R1Penalty"}))["gamma"] == 10.0
            assert len(registry.list("loss")) == 8
            assert registry.plugins()[0].name == "builtin"
            for entry in registry.list("layer"):
                if entry.plugin != "builtin":
                    assert registry.to_spec(registry.build({"block": entry.name})) == {
                        "block": entry.name
                    }, i

    def run(target, *arguments):
        try:
            target(*arguments)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(register, cls)) for cls in classes]
    threads += [threading.Thread(target=run, args=(look_up,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not any(thread.is_alive() for thread in threads)
    assert failures == []
    names = {entry.name for entry in registry.list("layer")}
    assert {f"plugin-{cls.__name__}/{cls.__name__}" for cls in classes} <= names


def test_of_classes_that_do_not_all_fit_none_is_registered(registry):
    class_of_no_layer = block(type("NoLayer", (), {"__call__": lambda self, x: x}))
    with pytest.raises(PluginError, match="is no layer"):
        registry.register([Triple, class_of_no_layer], name="mixed", kind="layer")
    assert not any(entry.name.startswith("mixed/") for entry in registry.list())


def test_what_is_found_by_its_name_while_it_is_registered_is_known_by_its_class(
    registry, monkeypatch
):
    seen = []

    def watched(entries):
        for entry in registry.list("layer"):
            seen.append(entry.name)
            assert registry.kind_of(entry.cls) == "layer"
        return types.MappingProxyType(entries)

    monkeypatch.setattr(sys.modules[Registry.__module__], "MappingProxyType", watched)
    registry.register(Triple, name="watched", kind="layer")
    assert seen


def test_two_threads_that_register_at_the_same_time_both_do(registry, monkeypatch):
    classes = [block(type(f"Own{i}", (nn.Module,), {"forward": anything})) for i in range(2)]
    start = threading.Barrier(2)

    def slowly(entries):
        time.sleep(0.2)
        return types.MappingProxyType(entries)

    def register(cls):
        start.wait(60)
        registry.register(cls, name=f"plugin-{cls.__name__}", kind="layer")

    monkeypatch.setattr(sys.modules[Registry.__module__], "MappingProxyType", slowly)
    threads = [threading.Thread(target=register, args=(c,), daemon=True) for c in classes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for cls in classes:
        assert registry.find(f"plugin-{cls.__name__}/{cls.__name__}").cls is cls
        assert registry.kind_of(cls) == "layer"


def test_built_in_blocks_are_found_and_others_registered_while_a_plugin_is_imported(tmp_path):
    distribution(tmp_path, "slow", "slow", "import time\ntime.sleep(3)\n" + textwrap.dedent(GOOD))
    printed = python(
        """
        import threading, time
        import gan_blocks
        loading = threading.Thread(target=gan_blocks.build, args=({"block": "slow/Good"},))
        loading.start()
        time.sleep(0.5)
        start = time.perf_counter()
        gan_blocks.build({"block": "HingeLoss"})
        gan_blocks.registry.register(gan_blocks.HingeLoss, name="mine")
        gan_blocks.build({"block": "mine/HingeLoss"})
        print(time.perf_counter() - start < 1, loading.is_alive())
        loading.join(timeout=60)
        print({info.name: info.status for info in gan_blocks.registry.plugins()})
        """,
        tmp_path,
    )
    assert printed.splitlines() == [
        "True True",
        "imported good",
        "{'builtin': 'builtin', 'mine': 'registered', 'slow': 'loaded'}",
    ]


@pytest.mark.parametrize(
    ("requires", "needed"),
    [
        (["gan-blocks>=99"], ">= 99"),
        (["torch", "gan_blocks (>=0.2)"], ">= 0.2"),
        (["GAN.Blocks ~= 1.0, != 1.1"], "~= 1.0"),
        (["gan-blocks==0.1.1"], "== 0.1.1"),
        (["gan-blocks>0.1.0"], "> 0.1.0"),
        (["gan-blocks[examples]>=3"], ">= 3"),
        (["gan-blocks>=0.1.0"], ""),
        (["gan-blocks>=0.1,<99"], ""),
        (["gan-blocks==0.1.*"], ""),
        (["gan-blocks"], ""),
        (["gan-blocks-audio>=99"], ""),
        (["gan-blocks>=99; extra == 'new'"], ""),
        (["gan-blocks @ https://example.org/gan_blocks.zip"], ""),
        (["nonsense >>> 3", ""], ""),
        (None, ""),
    ],
)
def test_a_package_that_needs_a_newer_gan_blocks_is_known(requires, needed):
    package: Any = types.SimpleNamespace(requires=requires)
    assert needs_newer(package, "0.1.0") == needed
    assert needs_newer(None, "0.1.0") == ""


def test_a_class_keeps_its_built_in_name(registry):
    registry.register(gan_blocks.HingeLoss, name="mine")
    assert registry.to_spec(gan_blocks.HingeLoss())["block"] == "HingeLoss"


def test_unknown_plugin_is_named(registry):
    with pytest.raises(UnknownBlockError, match="no plugin named 'nope' is installed"):
        registry.find("nope/Block")


# --- installed packages ----------------------------------------------------------------------------


def distribution(folder: Path, name: str, point: str, source: str, package: str = "") -> None:
    """An installed distribution, as pip leaves it: a module and its metadata."""
    package = package or f"dist-{name}"
    info = folder / f"{package.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    module = package.replace("-", "_") + "_module"
    (info / "entry_points.txt").write_text(f"[gan_blocks]\n{point} = {module}\n")
    (folder / f"{module}.py").write_text(textwrap.dedent(source))


GOOD = """
    print("imported good")
    from torch import nn
    from gan_blocks import block, hookimpl
    @block
    class Good(nn.Module):
        def __init__(self, size: int = 1) -> None:
            super().__init__()
        def forward(self, x):
            return x
    @hookimpl
    def gan_blocks_layers():
        return [Good]
"""


def python(code: str, path: Path, **env: str) -> str:
    """What a new interpreter prints that sees these distributions."""
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=os.environ | {"PYTHONPATH": str(path)} | env,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


BROKEN = {
    "syntax": "def (:",
    "import": "import no_such_package",
    "exits": "raise SystemExit('bye')",
    "hook_raises": """
        from gan_blocks import hookimpl
        @hookimpl
        def gan_blocks_losses():
            raise RuntimeError("inside the hook")
    """,
    "not_classes": """
        from gan_blocks import hookimpl
        @hookimpl
        def gan_blocks_losses():
            return [3]
    """,
    "not_a_list": """
        from gan_blocks import hookimpl
        @hookimpl
        def gan_blocks_losses():
            return 3
    """,
    "no_block": """
        from torch import nn
        from gan_blocks import hookimpl
        @hookimpl
        def gan_blocks_layers():
            return [nn.Linear]
    """,
    "misspelt": """
        from gan_blocks import hookimpl
        @hookimpl
        def gan_blocks_loses():
            return []
    """,
    "newer": "hook_version = 3",
    "wants_arguments": """
        from gan_blocks import hookimpl
        @hookimpl
        def gan_blocks_losses(config):
            return []
    """,
    "two_of_a_name": """
        from gan_blocks import block, hookimpl
        def make():
            @block
            class Twin:
                def __call__(self, module): pass
            return Twin
        @hookimpl
        def gan_blocks_constraints():
            return [make(), make()]
    """,
}

REASONS = {
    "syntax": "SyntaxError",
    "import": "No module named 'no_such_package'",
    "exits": "SystemExit: bye",
    "hook_raises": "RuntimeError: inside the hook",
    "not_classes": "returns 3, which is no class",
    "not_a_list": "should return a list of classes",
    "no_block": "decorate Linear with @block",
    "misspelt": "did you mean gan_blocks_losses?",
    "newer": "written for version 3 of the hooks",
    "wants_arguments": "config",
    "two_of_a_name": "two blocks named Twin",
}


def test_a_broken_plugin_is_reported_and_stops_nothing_else(tmp_path):
    distribution(tmp_path, "good", "good", GOOD)
    for name, source in BROKEN.items():
        distribution(tmp_path, name, name, source)
    distribution(tmp_path, "one", "contested", GOOD, "one")
    distribution(tmp_path, "two", "contested", GOOD, "two")
    printed = python(
        f"""
        import gan_blocks
        print("before")
        for name in {[*BROKEN, "contested"]!r}:
            try:
                gan_blocks.build({{"block": f"{{name}}/Block"}})
            except gan_blocks.UnknownBlockError as error:
                print(name, "::", error)
        print(gan_blocks.build({{"block": "good/Good", "size": 3}}))
        print(len(gan_blocks.registry.list()) > 19)
        print(sorted({{p.status for p in gan_blocks.registry.plugins()}}))
        """,
        tmp_path,
    )
    before, _, after = printed.partition("before\n")
    assert before == "", "importing gan_blocks imported a plugin"
    lines = dict(line.split(" :: ", 1) for line in after.splitlines() if " :: " in line)
    for name, reason in REASONS.items():
        assert reason in lines[name], lines[name]
        assert f"dist-{name} 1.0 failed to load" in lines[name]
    assert "one 1.0 and two 1.0 both claim the name 'contested'" in lines["contested"]
    assert after.splitlines()[-4:] == [
        "imported good",
        "Good(size=3)",
        "True",
        "['builtin', 'failed', 'loaded']",
    ]


def test_building_one_plugins_block_imports_that_plugin_only(tmp_path):
    distribution(tmp_path, "good", "good", GOOD)
    distribution(tmp_path, "other", "other", GOOD.replace("imported good", "imported other"))
    printed = python(
        """
        import gan_blocks
        gan_blocks.build({"block": "HingeLoss"})
        gan_blocks.build({"block": "good/Good"})
        """,
        tmp_path,
    )
    assert printed == "imported good\n"


def test_environment_variables_switch_plugins_off(tmp_path):
    distribution(tmp_path, "good", "good", GOOD)
    distribution(tmp_path, "other", "other", GOOD)
    code = """
        import gan_blocks
        for name in ("good/Good", "other/Good"):
            try:
                gan_blocks.build({"block": name})
            except gan_blocks.UnknownBlockError as error:
                print(error)
    """
    assert "GAN_BLOCKS_PLUGINS" in python(code, tmp_path, GAN_BLOCKS_DISABLE_PLUGINS="1")
    printed = python(code, tmp_path, GAN_BLOCKS_PLUGINS="good, else")
    assert printed.count("imported good") == 1
    assert "unknown block 'other/Good': the plugin is switched off" in printed


def test_in_process_name_of_an_installed_package_is_refused(tmp_path):
    distribution(tmp_path, "good", "good", GOOD)
    printed = python(
        """
        import gan_blocks
        try:
            gan_blocks.registry.register(gan_blocks.HingeLoss, name="good")
        except gan_blocks.PluginError as error:
            print(error)
        """,
        tmp_path,
    )
    assert "belongs to the installed package dist-good 1.0" in printed


def test_a_trace_says_what_is_imported_called_and_returned(tmp_path):
    distribution(tmp_path, "good", "good", GOOD)
    distribution(tmp_path, "broken", "broken", BROKEN["hook_raises"])
    code = "import gan_blocks; gan_blocks.registry.list()"
    assert traced(code, tmp_path) == ""
    lines = traced(code, tmp_path, GAN_BLOCKS_TRACE="1").splitlines()
    assert all(line.startswith("gan_blocks.plugins: ") for line in lines), lines
    for text in (
        "found good: dist-good 1.0",
        "loading good: importing dist_good_module",
        "good: calling gan_blocks_layers()",
        "good: gan_blocks_layers() returned [<class 'dist_good_module.Good'>]",
        "loaded good in ",
        "broken: calling gan_blocks_losses()",
        "failed broken in ",
    ):
        assert any(text in line for line in lines), (text, lines)
    assert traced("import gan_blocks", tmp_path, GAN_BLOCKS_TRACE="1") == ""


def traced(code: str, path: Path, **env: str) -> str:
    """Standard error of a new interpreter."""
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(path)} | env,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    return result.stderr


def test_two_threads_that_ask_for_one_plugin_both_get_it(tmp_path):
    slow = "import time\ntime.sleep(0.5)\n" + textwrap.dedent(GOOD)
    distribution(tmp_path, "good", "good", slow)
    printed = python(
        """
        from concurrent.futures import ThreadPoolExecutor
        import gan_blocks
        with ThreadPoolExecutor(4) as pool:
            blocks = list(pool.map(gan_blocks.build, 4 * [{"block": "good/Good"}]))
        print(len({type(block) for block in blocks}))
        """,
        tmp_path,
    )
    assert printed == "imported good\n1\n"


def test_what_is_known_of_a_plugin_cannot_be_changed_from_outside(registry):
    registry.plugins()[0].status = "failed"
    assert registry.plugins()[0].status == "builtin"
