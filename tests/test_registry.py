"""Plugins are found, loaded when asked for, and kept apart."""

import os
import subprocess
import sys
import textwrap
import types
from pathlib import Path

import pytest
from torch import nn

import gan_blocks
from gan_blocks import PluginError, UnknownBlockError, block, hookimpl
from gan_blocks.registry import Registry


@block
class Triple(nn.Module):
    def forward(self, x):
        return 3 * x


@block
class MyLoss(nn.Module):
    def discriminator(self, real_logits, fake_logits):
        return fake_logits.mean() - real_logits.mean()

    def generator(self, fake_logits, real_logits=None):
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
    assert [e.name for e in registry.list("constraint") if e.plugin == "single"] == [
        "single/Bigger"
    ]

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
        (Triple, "mine", "the kind of Triple cannot be told from its methods: pass kind="),
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
        if entry.kind in ("loss", "divergence", "penalty", "constraint"):
            registry.register(entry.cls, name="again")
            assert registry.find(f"again/{entry.cls.__name__}").kind == entry.kind


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
    "newer": "hook_version = 2",
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
    "newer": "written for version 2 of the hooks",
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


def test_a_registered_class_fits_its_kind(registry):
    with pytest.raises(PluginError, match="Triple has no discriminator and no generator, so"):
        registry.register(Triple, name="mine", kind="loss")
    with pytest.raises(PluginError, match=r"Plain is no nn\.Module, so it is no layer"):
        registry.register(block(type("Plain", (), {})), name="mine", kind="layer")


def test_what_is_known_of_a_plugin_cannot_be_changed_from_outside(registry):
    registry.plugins()[0].status = "failed"
    assert registry.plugins()[0].status == "builtin"
