"""A matrix of hostile plugins: installed distributions, and what the host does with each of them.

All of them lie in one site folder beside a good plugin. Whatever one of them does, the built-in
blocks and the good plugin work on.
"""

import json
import os
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@dataclass
class Hostile:
    """A distribution, and what becomes of it.

    Args:
        source: Its module.
        status: The state that it ends in.
        reason: A part of the error, or of the settings that it changed.
        entry_points: `entry_points.txt`; `NAME` is its name and `MODULE` its module.
        metadata: `METADATA`.
        builds: A block of it that can be built all the same.
    """

    source: str
    reason: str = ""
    status: str = "failed"
    entry_points: str | bytes = "[gan_blocks]\nNAME = MODULE\n"
    metadata: str | bytes | None = "Metadata-Version: 2.1\nName: dist-NAME\nVersion: 1.5\n"
    builds: str = ""


HEADER = """
from torch import nn
import torch
import gan_blocks
from gan_blocks import HingeLoss, block, hookimpl, registry
"""

BLOCK = (
    HEADER
    + """
@block
class Plain(nn.Module):
    def __init__(self, size: int = 1) -> None:
        super().__init__()
    def forward(self, x):
        return x
@hookimpl
def gan_blocks_layers():
    return [Plain]
"""
)


def hook(body: str, name: str = "gan_blocks_layers") -> str:
    """A plugin with one hook."""
    return f"{BLOCK}\n@hookimpl\ndef {name}():\n{textwrap.indent(textwrap.dedent(body), '    ')}\n"


MATRIX = {
    # The import fails.
    "syntax_error": Hostile("def (:", "SyntaxError"),
    "raises": Hostile("raise RuntimeError('at import')", "RuntimeError: at import"),
    "exits": Hostile("import sys; sys.exit(3)", "SystemExit: 3"),
    "exits_silently": Hostile("raise SystemExit", "SystemExit"),
    "base_exception": Hostile(
        "class Odd(BaseException): pass\nraise Odd('no Exception')", "Odd: no Exception"
    ),
    "error_without_a_message": Hostile(
        "class Mute(Exception):\n    def __str__(self): raise ValueError\nraise Mute",
        "Mute: its message cannot be printed",
    ),
    "long_message": Hostile("raise RuntimeError('line\\n' * 9000)", "RuntimeError: line line"),
    "skips_itself": Hostile("import pytest; pytest.skip('x', allow_module_level=True)", "Skipped"),
    "missing_dependency": Hostile(
        "import no_such_package.part", "install no_such_package, which it needs"
    ),
    "missing_module": Hostile(
        "",
        "pip install --force-reinstall dist-missing_module",
        entry_points="[gan_blocks]\nNAME = not_there_at_all\n",
    ),
    "missing_attribute": Hostile(
        BLOCK, "no attribute 'plugin'", entry_points="[gan_blocks]\nNAME = MODULE:plugin\n"
    ),
    "no_reference": Hostile(
        BLOCK,
        "its entry point 'not a module!' is no module",
        entry_points="[gan_blocks]\nNAME = not a module!\n",
    ),
    "recursion": Hostile("def f(): f()\nf()", "RecursionError"),
    "out_of_memory": Hostile("raise MemoryError", "MemoryError"),
    "warning_as_error": Hostile(
        "import warnings\nwith warnings.catch_warnings():\n"
        "    warnings.simplefilter('error')\n    warnings.warn('deprecated')",
        "UserWarning: deprecated",
    ),
    "argument_of_no_config_file": Hostile(
        HEADER + "@block\nclass Bad(nn.Module):\n"
        "    def __init__(self, weight: torch.Tensor) -> None: super().__init__()",
        "weight: <class 'torch.Tensor'> cannot stand in a config file",
    ),
    "argument_without_a_type": Hostile(
        HEADER + "@block\nclass Bad(nn.Module):\n"
        "    def __init__(self, weight) -> None: super().__init__()",
        "the argument 'weight' has no type",
    ),
    "open_arguments": Hostile(
        HEADER + "@block\nclass Bad(nn.Module):\n"
        "    def __init__(self, **anything: int) -> None: super().__init__()",
        "has no place in a spec; name each",
    ),
    # The hooks fail.
    "no_hook": Hostile("x = 1", "has no hook: mark a function such as gan_blocks_losses"),
    "not_a_module": Hostile(
        "plugin = 3", "has no hook", entry_points="[gan_blocks]\nNAME = MODULE:plugin\n"
    ),
    "hook_raises": Hostile(hook("raise RuntimeError('in the hook')"), "RuntimeError: in the hook"),
    "hook_exits": Hostile(hook("raise SystemExit('bye')"), "SystemExit: bye"),
    "hook_returns_a_number": Hostile(hook("return 3"), "should return a list of classes: 3"),
    "hook_returns_a_string": Hostile(
        hook("return 'Plain'"), "should return a list of classes: 'Plain'"
    ),
    "hook_returns_a_class": Hostile(hook("return Plain"), "should return a list of classes"),
    "hook_returns_names": Hostile(hook("return ['Plain']"), "returns 'Plain', which is no class"),
    "hook_returns_an_instance": Hostile(
        hook("return [Plain()]"), "returns Plain(size=1), which is no class"
    ),
    "hook_returns_none_in_a_list": Hostile(hook("return [Plain, None]"), "None, which is no class"),
    "hook_stops_midway": Hostile(
        hook("yield Plain\nraise RuntimeError('midway')"), "RuntimeError: midway"
    ),
    "hook_never_ends": Hostile(
        hook("import itertools\nreturn itertools.repeat(Plain)"), "more than 10000 classes"
    ),
    "hook_wants_arguments": Hostile(
        BLOCK + "@hookimpl\ndef gan_blocks_losses(config): return []", "config"
    ),
    "unknown_hook": Hostile(
        BLOCK + "@hookimpl\ndef gan_blocks_loses(): return []", "did you mean gan_blocks_losses?"
    ),
    "newer_hooks": Hostile("hook_version = 3", "was written for version 3 of the hooks"),
    "older_hooks": Hostile(
        "hook_version = 1\n" + BLOCK,
        'gan_blocks.authoring.check_tensor; see the page "Moving a plugin from 1 to 2", docs/moving_a_',
    ),
    "older_declarations": Hostile(
        HEADER + "@block(batch_dependent=True)\nclass Old(nn.Module):\n"
        "    def forward(self, x): return x",
        'got True; see the page "Moving a plugin from 1 to 2", docs/moving_a_plugin.md',
    ),
    "needs_a_newer_gan_blocks": Hostile(
        BLOCK,
        "it needs gan_blocks >= 99, and this is 0.1.0 update gan_blocks",
        metadata="Metadata-Version: 2.1\nName: dist-NAME\nVersion: 1.5\n"
        "Requires-Dist: torch\nRequires-Dist: gan-blocks >=99, <100\n",
    ),
    "hook_version_of_rubbish": Hostile(
        "hook_version = object()\n" + BLOCK, "was written for version <object"
    ),
    # The classes are none.
    "no_block": Hostile(hook("return [nn.Linear]"), "decorate Linear with @block"),
    "forged_block": Hostile(
        HEADER + "class Forged(nn.Module):\n    __block__ = HingeLoss.__block__\n"
        "@hookimpl\ndef gan_blocks_layers(): return [Forged]",
        "decorate Forged with @block",
    ),
    "false_block": Hostile(
        HEADER + "class Forged(nn.Module):\n    __block__ = 3\n"
        "@hookimpl\ndef gan_blocks_layers(): return [Forged]",
        "decorate Forged with @block",
    ),
    "two_of_a_name": Hostile(
        hook("return [Plain, block(type('Plain', (Plain,), {}))]"), "two blocks named Plain"
    ),
    "two_kinds": Hostile(
        BLOCK + "@hookimpl\ndef gan_blocks_networks(): return [Plain]",
        "has Plain as layer and as network",
    ),
    "wrong_kind": Hostile(
        BLOCK + "@hookimpl\ndef gan_blocks_losses(): return [Plain]",
        "Plain has no discriminator, so it is no loss; expected loss.discriminator(real_logits, "
        'fake_logits); see the page "Moving a plugin from 1 to 2"',
    ),
    "no_call": Hostile(
        HEADER + "@block\nclass Nothing: pass\n"
        "@hookimpl\ndef gan_blocks_penalties(): return [Nothing]",
        "Nothing has no call of its own, so it is no penalty; expected penalty(critic, real, fake, gen",
    ),
    "penalty_without_generator": Hostile(
        HEADER + "@block\nclass Old:\n    def __call__(self, critic, real, fake): pass\n"
        "@hookimpl\ndef gan_blocks_penalties(): return [Old]",
        "Old is called as (critic, real, fake), so it is no penalty; expected penalty(critic, real, f",
    ),
    "term_without_a_side": Hostile(
        HEADER + "@block\nclass Term(nn.Module):\n    def forward(self, real, fake): pass\n"
        "@hookimpl\ndef gan_blocks_auxiliary(): return [Term]",
        "Term does not say which side's loss it belongs to and what it compares: add @block(side=\"gen",
    ),
    "term_of_another_call": Hostile(
        HEADER + "@block(side='critic', compares='logits')\nclass Term(nn.Module):\n"
        "    def forward(self, module): pass\n@hookimpl\ndef gan_blocks_auxiliary(): return [Term]",
        "Term is called as (module), so it is no auxiliary; expected auxiliary(real_logits, fake_log",
    ),
    "name_with_a_slash": Hostile(
        hook("return [block(type('other/Plain', (nn.Module,), {}))]"), "is no class name"
    ),
    "default_of_no_config_file": Hostile(
        HEADER + "@block\nclass Bad(nn.Module):\n"
        "    def __init__(self, size: int = object()) -> None: super().__init__()\n"
        "    def forward(self, x): return x\n"
        "@hookimpl\ndef gan_blocks_layers(): return [Bad]",
        "its arguments have no JSON Schema",
    ),
    "docstring_that_raises": Hostile(
        HEADER
        + "class Meta(type):\n    @property\n    def __doc__(cls): raise OSError('no page')\n"
        "@block\nclass Bad(metaclass=Meta):\n    def __call__(self, module): pass\n"
        "@hookimpl\ndef gan_blocks_constraints(): return [Bad]",
        "OSError: no page",
    ),
    # The metadata is wrong.
    "builtin": Hostile(BLOCK, "the name 'builtin' is reserved"),
    "slash": Hostile(BLOCK, "'a/b'", entry_points="[gan_blocks]\na/b = MODULE\n"),
    "twice": Hostile(
        BLOCK,
        "twice claim the name 'twice'",
        entry_points="[gan_blocks]\nNAME = MODULE\nNAME = MODULE:other\n",
    ),
    "contested": Hostile(BLOCK, "both claim the name 'contested'"),
    "rival": Hostile(
        BLOCK,
        "both claim the name 'contested'",
        entry_points="[gan_blocks]\ncontested = MODULE\n",
    ),
    "binary_entry_points": Hostile(
        BLOCK, "its entry points cannot be read", entry_points=b"[gan_blocks]\n\xff\xfe = \xfa\n"
    ),
    "broken_entry_points": Hostile(
        BLOCK, "its entry points cannot be read", entry_points="[gan_blocks]\nno equals sign\n"
    ),
    "no_metadata": Hostile(BLOCK, status="loaded", metadata=None, builds="Plain"),
    "binary_metadata": Hostile(BLOCK, status="loaded", metadata=b"Name: \xff\xfe", builds="Plain"),
    # They work, and do harm.
    "prints": Hostile("print('NOISE')\n" + BLOCK, status="loaded", builds="Plain"),
    "warns": Hostile(
        "import warnings\nwarnings.warn('NOISE')\n" + BLOCK, status="loaded", builds="Plain"
    ),
    "default_dtype": Hostile(
        BLOCK + "torch.set_default_dtype(torch.float64)",
        "torch's default dtype",
        "loaded",
        builds="Plain",
    ),
    "default_device": Hostile(
        BLOCK + "torch.set_default_device('meta')",
        "torch's default device",
        "loaded",
        builds="Plain",
    ),
    "seed": Hostile(
        BLOCK + "torch.manual_seed(0)\nimport random\nrandom.seed(0)", "", "loaded", builds="Plain"
    ),
    "grad_mode": Hostile(
        BLOCK + "torch.set_grad_enabled(False)", "torch's gradient mode", "loaded", builds="Plain"
    ),
    "deterministic": Hostile(
        BLOCK + "torch.use_deterministic_algorithms(True)",
        "torch's deterministic algorithms",
        "loaded",
        builds="Plain",
    ),
    "settings_and_failure": Hostile(
        "import torch\ntorch.set_grad_enabled(False)\nraise RuntimeError('after a change')",
        "RuntimeError: after a change",
    ),
    "replaces_built_ins": Hostile(
        BLOCK + "class Evil:\n    @hookimpl\n    def gan_blocks_losses(self): return []\n"
        "registry.register_builtin(Evil())",
        "the built-in blocks are registered already",
    ),
    "empties_the_registry": Hostile(
        BLOCK + "registry._entries.clear()", "AttributeError: 'mappingproxy' object"
    ),
    "hook_of_another_name": Hostile(
        BLOCK + "class Other(Plain): pass\nOther = block(Other)\n"
        "@hookimpl(specname='gan_blocks_networks')\ndef mine(): return [Other]",
        status="loaded",
        builds="Other",
    ),
    "wrapped_hook": Hostile(
        BLOCK + "@hookimpl(wrapper=True)\ndef gan_blocks_losses():\n    yield\n    return 3",
        "TypeError",
    ),
    "claims_a_built_in_class": Hostile(
        hook("return [HingeLoss]", "gan_blocks_losses"), status="loaded", builds="HingeLoss"
    ),
    "takes_the_name_of_another": Hostile(
        BLOCK + "registry.register(Plain, name='good', kind='layer')",
        "belongs to the installed package dist-good 1.0",
    ),
    "pluggy_of_its_own": Hostile(
        BLOCK + "import pluggy\nmanager = pluggy.PluginManager('gan_blocks')\n"
        "manager.register(object(), name='NAME')",
        status="loaded",
        builds="Plain",
    ),
    "builds_itself_at_import": Hostile(
        BLOCK + "gan_blocks.build({'block': 'builds_itself_at_import/Plain'})",
        "has no blocks before its import ends",
    ),
    "lists_at_import": Hostile(
        "import gan_blocks\nassert len(gan_blocks.registry.list()) > 50\n" + BLOCK,
        status="loaded",
        builds="Plain",
    ),
    "builds_another_at_import": Hostile(
        "import gan_blocks\nassert gan_blocks.build({'block': 'good/Good'})\n" + BLOCK,
        status="loaded",
        builds="Plain",
    ),
    "starts_a_thread": Hostile(
        BLOCK + "import threading\n"
        "threading.Thread(target=lambda: registry.list(), daemon=True).start()",
        status="loaded",
        builds="Plain",
    ),
    "lazy_attributes": Hostile(
        BLOCK + "def __getattr__(name): raise RuntimeError(name)\n",
        "RuntimeError: hook_version",
    ),
}

GOOD = """
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


def install(site: Path, name: str, plugin: Hostile, package: str = "") -> None:
    """Write what pip would leave in a site folder."""

    def filled(text: str | bytes) -> bytes:
        if isinstance(text, bytes):
            return text
        return text.replace("NAME", name).replace("MODULE", f"module_{name}").encode()

    info = site / f"dist_{name}-1.5.dist-info"
    info.mkdir(parents=True)
    (info / "entry_points.txt").write_bytes(filled(plugin.entry_points))
    if plugin.metadata is not None:
        (info / "METADATA").write_bytes(filled(plugin.metadata))
    (site / f"module_{name}.py").write_bytes(filled(plugin.source))


def install_good(site: Path) -> None:
    metadata = "Metadata-Version: 2.1\nName: dist-good\nVersion: 1.0\n"
    install(site, "good", Hostile(GOOD, metadata=metadata))


def start(site: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(site), str(ROOT)])
    return subprocess.run(
        [sys.executable, *command],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


VISIT = """
import json, sys
import torch
import gan_blocks
from gan_blocks import GanBlocksError, build, registry

def works():
    loss = build({"block": "HingeLoss"})
    critic = torch.ones(3, requires_grad=True)
    return (
        isinstance(loss, gan_blocks.HingeLoss)
        and float(loss.discriminator(critic, -torch.ones(3))) == 0
        and critic.exp().requires_grad
        and gan_blocks.to_spec(loss)["block"] == "HingeLoss"
        and repr(build({"block": "good/Good", "size": 3})) == "Good(size=3)"
    )

visits = {}
for name, block in json.loads(sys.argv[1]).items():
    said = ""
    try:
        said = repr(build({"block": f"{name}/{block}"}))
    except GanBlocksError as error:
        said = str(error)
    # Nothing is put back by the library, and the next plugin is to meet the usual settings. To set them
    # imports triton, which reads all entry points.
    torch.set_default_dtype(torch.float32)
    torch.set_grad_enabled(True)
    if torch.get_default_device().type != "cpu":
        torch.set_default_device(None)
    if torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(False)
    visits[name] = {"said": said, "works": works()}
names = [entry.name for entry in registry.list()]
schema = len(json.dumps(registry.json_schema("layer")))
infos = [
    {"name": i.name, "status": i.status, "package": i.package, "version": i.version, "error": i.error,
     "remedy": i.remedy, "changed": ", ".join(i.changed)}
    for i in registry.plugins()
]
print("RESULT" + json.dumps({"visits": visits, "names": names, "infos": infos, "schema": schema}))
"""


UNREADABLE = {"binary_entry_points", "broken_entry_points"}
# torch and pydantic read all entry points of the environment, and one that cannot be read stops them
# too, unless they are told not to look.
WITHOUT_PLUGINS = {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0", "PYDANTIC_DISABLE_PLUGINS": "__all__"}


def visit(site: Path, names: set[str], **environment: str):
    """What one process meets that asks for a block of each plugin in turn."""
    install_good(site)
    for name in sorted(names):
        install(site, name, MATRIX[name])
    blocks = json.dumps({name: MATRIX[name].builds or "Plain" for name in sorted(names)})
    done = start(site, "-c", VISIT, blocks, **environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.split("RESULT")[1])


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("site")


@pytest.fixture(scope="module")
def result(site, tmp_path_factory):
    both = visit(site, MATRIX.keys() - UNREADABLE)
    other = visit(tmp_path_factory.mktemp("unreadable"), UNREADABLE, **WITHOUT_PLUGINS)
    both["visits"] |= other["visits"]
    both["infos"] += [i for i in other["infos"] if i["name"] not in ("builtin", "good")]
    return both


def is_of(info: dict[str, str], name: str) -> bool:
    """Whether a report is about this distribution."""
    packages = info["package"].split(", ")
    return f"dist-{name}" in packages or any(f"module_{name})" in each for each in packages)


@pytest.mark.parametrize("name", MATRIX)
def test_a_hostile_plugin_harms_nobody_and_is_reported(name, result):
    plugin, visit = MATRIX[name], result["visits"][name]
    assert visit["works"], "a built-in or the good plugin no longer works"
    if plugin.builds:
        assert visit["said"].startswith(f"{plugin.builds}(")
    infos = [info for info in result["infos"] if is_of(info, name)]
    assert len(infos) == 1, "it is reported once"
    (info,) = infos
    assert info["status"] == plugin.status, info
    assert plugin.reason in f"{info['changed']} {info['error']} {info['remedy']}"
    if plugin.metadata is not None and not isinstance(plugin.metadata, bytes):
        assert (f"dist-{name}" in info["package"], "1.5" in info["version"]) == (True, True)
    if plugin.status == "failed":
        assert info["error"]
        assert info["remedy"], "a failure comes with what to do about it"
        assert len(info["error"]) < 600
        assert "\n" not in info["error"]


def test_the_list_and_the_schema_hold_what_works(result):
    names = set(result["names"])
    assert {"HingeLoss", "good/Good", "prints/Plain", "no_metadata/Plain"} <= names
    working = {name for name, plugin in MATRIX.items() if plugin.status == "loaded"} | {"good"}
    assert {name.partition("/")[0] for name in names if "/" in name} == working
    assert result["schema"] > 1000


def test_the_matrix_is_large():
    assert len(MATRIX) >= 25


SETTINGS = """
import json, random, torch, gan_blocks
torch.manual_seed(7)
gan_blocks.build({"block": "setting/Plain"})
(info,) = [info for info in gan_blocks.registry.plugins() if info.name == "setting"]
print(json.dumps([
    str(torch.get_default_dtype()), torch.is_grad_enabled(), torch.initial_seed(), list(info.changed)
]))
"""


def test_what_an_import_changes_is_told_and_stays(tmp_path):
    changes = "torch.set_default_dtype(torch.float64); torch.set_grad_enabled(False)\n"
    install(tmp_path, "setting", Hostile(BLOCK + changes + "torch.manual_seed(3)\n"))
    done = start(tmp_path, "-c", SETTINGS)
    assert json.loads(done.stdout) == [
        "torch.float64",
        False,
        3,
        ["torch's default dtype", "torch's gradient mode"],
    ], done.stderr


THREADS = """
import threading, time, torch, gan_blocks
drawn, going = [], threading.Event()
def draw():
    while not going.is_set():
        drawn.append(float(torch.rand(())))
def change():
    time.sleep(0.2)
    torch.set_default_dtype(torch.float64)
threads = [threading.Thread(target=draw), threading.Thread(target=change)]
for thread in threads:
    thread.start()
gan_blocks.build({"block": "slow/Plain"})
dtype = torch.get_default_dtype()
going.set()
for thread in threads:
    thread.join()
(info,) = [info for info in gan_blocks.registry.plugins() if info.name == "slow"]
print(len(set(drawn)) > 0.99 * len(drawn), len(drawn) > 100, dtype, info.status, info.changed)
"""


def test_other_threads_keep_their_random_numbers_and_settings_while_a_plugin_loads(tmp_path):
    install(tmp_path, "slow", Hostile("import time\ntime.sleep(0.6)\n" + BLOCK))
    done = start(tmp_path, "-c", THREADS)
    assert done.stdout == 'True True torch.float64 loaded ("torch\'s default dtype",)\n', (
        done.stderr
    )


def test_a_plugin_that_empties_sys_path_is_named_where_another_cannot_be_imported(tmp_path):
    install_good(tmp_path)
    install(tmp_path, "empties", Hostile(BLOCK + "import sys\nsys.path.clear()\n"))
    code = """
import gan_blocks
print(gan_blocks.build({"block": "empties/Plain"}))
try:
    gan_blocks.build({"block": "good/Good"})
except gan_blocks.UnknownBlockError as error:
    print(error)
print([info.changed for info in gan_blocks.registry.plugins() if info.name == "empties"])
"""
    built, failure, changed = start(tmp_path, "-c", code).stdout.splitlines()
    assert built == "Plain(size=1)"
    assert "No module named 'module_good'" in failure
    assert (
        "it is not at fault: the plugin empties of dist-empties 1.5 has taken the folder" in failure
    )
    assert "reinstall" not in failure
    assert changed == "[('sys.path',)]"


@pytest.mark.parametrize("text", [b"[gan_blocks]\n\xff\xfe = \xfa\n", b"[gan_blocks]\nno equals\n"])
def test_doctor_names_a_package_whose_entry_points_stop_torch_itself(text, tmp_path):
    install_good(tmp_path)
    install(tmp_path, "damaged", Hostile(BLOCK, entry_points=text))
    code = "import sys; sys.argv[1:] = ['doctor', '--json']; from gan_blocks.cli import app; app()"
    done = start(tmp_path, "-c", code)
    report = json.loads(done.stdout)
    plugins = {plugin["name"]: plugin for plugin in report["plugins"]}
    assert plugins["good"]["status"] == "loaded"
    assert "its entry points cannot be read" in plugins["dist-damaged"]["error"]
    assert "torch and pydantic load no extensions of theirs here" in report["notes"][0]
    assert done.returncode == 1


def test_a_package_that_is_twice_on_the_path_is_one(tmp_path):
    """An old copy behind a new one, as an editable install beside a wheel."""
    for folder in ("first", "second"):
        install_good(tmp_path / folder)
    code = "import gan_blocks; print(gan_blocks.build({'block': 'good/Good'}))"
    done = start(
        tmp_path / "first",
        "-c",
        f"import sys; sys.path.append({str(tmp_path / 'second')!r}); {code}",
    )
    assert done.stdout == "Good(size=1)\n", done.stderr


def test_an_interrupt_interrupts_and_the_plugin_loads_the_next_time(tmp_path):
    interrupted = "import builtins\nif not hasattr(builtins, 'again'):\n    builtins.again = 1\n"
    install(tmp_path, "slow", Hostile(interrupted + "    raise KeyboardInterrupt\n" + BLOCK))
    code = """
import gan_blocks
try:
    gan_blocks.build({"block": "slow/Plain"})
except KeyboardInterrupt:
    print("interrupted")
print(gan_blocks.build({"block": "slow/Plain"}))
"""
    assert start(tmp_path, "-c", code).stdout == "interrupted\nPlain(size=1)\n"
