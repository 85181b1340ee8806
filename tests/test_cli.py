"""What the command line prints, and with which exit code."""

import doctest
import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import jsonschema
import pytest
from torch import nn
from typer.testing import CliRunner

import gan_blocks
from gan_blocks import block, registry
from gan_blocks._plugins import KINDS
from gan_blocks.cli import app
from gan_blocks.testing import Case, names_of_checks

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.usefixtures("registry_as_it_was")


def run(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


def unwrapped(text: str) -> str:
    """The text without what a terminal adds: words and their parts on new lines."""
    return "".join(text.split())


# --- list ----------------------------------------------------------------------------------------


def test_list_names_every_block_with_package_version_and_status(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    result = run("list")
    assert result.exit_code == 0
    lines = [line.split() for line in result.stdout.splitlines()]
    for entry in gan_blocks.registry.list():
        if entry.plugin == "builtin":
            version = gan_blocks.__version__
            assert [entry.kind, entry.name, "gan_blocks", version, "builtin"] in lines


def test_list_of_a_kind_is_json_for_programs():
    blocks = json.loads(run("list", "loss", "--json").stdout)["blocks"]
    assert {block["kind"] for block in blocks} == {"loss"}
    assert "HingeLoss" in [block["name"] for block in blocks]


def test_list_finds_text_in_names_and_summaries():
    blocks = json.loads(run("list", "--text", "WASSERSTEIN", "--json").stdout)["blocks"]
    assert "WassersteinLoss" in [block["name"] for block in blocks]
    assert all("wasserstein" in f"{b['name']} {b['summary']}".lower() for b in blocks)
    result = run("list", "--text", "no such text", "--json")
    assert json.loads(result.stdout)["blocks"] == []
    assert "no block has 'no such text'" in result.stderr


# --- any width -----------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", ["20", "50", "79", "80", "200"])
def test_list_and_doctor_fit_the_terminal_and_cut_nothing(columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    for command in ("list", "doctor"):
        result = run(command)
        assert max(map(len, result.stdout.splitlines())) <= int(columns), command
        assert "…" not in result.stdout
    if int(columns) >= 50:
        assert all(entry.name in run("list").stdout for entry in gan_blocks.registry.list())


@pytest.mark.parametrize("columns", ["30", "50", "120"])
def test_show_and_validate_cut_nothing(columns, monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", columns)
    entry = registry.find("SpectralNorm")
    shown = unwrapped(run("show", "SpectralNorm").stdout)
    assert unwrapped(entry.cls.__doc__ or "") in shown
    file = tmp_path / "broken.toml"
    file.write_text('block = "HingLoss"\n')
    result = run("validate", str(file))
    assert unwrapped(f"{file}:1:1: block: unknown block 'HingLoss'; did you mean") in unwrapped(
        result.stdout
    )


@pytest.mark.parametrize("command", [["list"], ["show", "KL"], ["schema", "loss"], ["doctor"]])
def test_a_terminal_without_unicode_is_no_reason_to_fail(command):
    code = f"import sys; sys.argv[1:] = {command!r}; from gan_blocks.cli import app; app()"
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii", "COLUMNS": "50"},
        capture_output=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.decode("ascii")


# --- show ----------------------------------------------------------------------------------------


def test_show_prints_arguments_limits_and_source():
    printed = run("show", "GradientPenalty").stdout
    assert "GradientPenalty(weight=10.0, target=1.0, one_sided=False, combine='sum')" in printed
    assert "weight: number at least 0, default 10.0" in printed
    assert "one_sided: boolean, default false" in printed
    assert "arXiv:1704.00028" in printed
    assert "divergence: a divergence, required" in run("show", "FDivergenceLoss").stdout
    printed = run("show", "LeCamRegularizer").stdout
    assert (
        "  depends on the batch: the averages of the logits include the batch at hand\n" in printed
    )
    assert "  belongs to the critic's loss, compares logits\n" in printed
    assert "the loss of either side" in run("show", "OrthogonalRegularizer").stdout
    assert "  moves in forward, in training mode\n" in run("show", "ConditionalBatchNorm2d").stdout
    assert "output_shape: list of integer above 0" in run("show", "MLPGenerator").stdout


def test_show_as_json_has_formula_source_and_capabilities():
    document = json.loads(run("show", "GradientPenalty", "--json").stdout)
    assert any(r"\nabla" in formula for formula in document["formulas"])
    assert "arXiv:1704.00028" in document["reference"]
    assert document["capabilities"]["double_backward"] is True
    assert document["signature"].startswith("GradientPenalty(weight=10.0")
    assert document["schema"]["properties"]["weight"]["minimum"] == 0


def test_every_built_in_block_shows_a_source_or_a_formula():
    for entry in registry.list():
        if entry.plugin == "builtin":
            document = json.loads(run("show", entry.name, "--json").stdout)
            assert document["reference"] or document["formulas"] or entry.kind == "auxiliary"


def test_unknown_names_exit_with_2_and_a_hint():
    result = run("show", "HingLoss")
    assert (result.exit_code, "did you mean HingeLoss?" in result.stderr) == (2, True)
    for command in ("list", "schema"):
        result = run(command, "loses")
        assert (result.exit_code, "did you mean loss?" in result.stderr) == (2, True)
    assert run("no-such-command").exit_code == 2
    assert run("list", "--no-such-option").exit_code == 2


# --- schema --------------------------------------------------------------------------------------


def test_schema_of_all_kinds_accepts_a_spec_of_each():
    schema = json.loads(run("schema").stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    validator.validate({"block": "HingeLoss"})
    validator.validate({"block": "FDivergenceLoss", "divergence": {"block": "KL"}})
    validator.validate({"block": "R1Penalty", "gamma": 2})
    assert not validator.is_valid({"block": "R1Penalty", "gamma": -2})
    assert not validator.is_valid({"block": "NoSuchLoss"})


@pytest.mark.parametrize("kind", KINDS)
def test_schema_of_a_kind_is_the_registrys(kind):
    assert json.loads(run("schema", kind).stdout) == registry.json_schema(kind)


# --- validate ------------------------------------------------------------------------------------

BROKEN = {
    "a.toml": """\
# A config of several tables.
[loss]
block = "HingLoss"

[generator]
block = "MLPGenerator"
latent_dim = -2
output_shape = [1, 8.5]
wdth = 3

[[penalties]]
block = "R1Penalty"
[[penalties]]
block = "Lazy"
penalty = { block = "R1Penalty", gamma = -1 }
""",
    "a.json": """\
{"loss": {
"block": "HingLoss"},
 "generator": {"block": "MLPGenerator",


     "latent_dim": -2,
     "output_shape": [1, 8.5],
     "wdth": 3},
 "penalties": [{"block": "R1Penalty"},

   {"block": "Lazy",
   "penalty": {"block": "R1Penalty",
     "gamma": -1}}]
}
""",
    "a.yaml": """\
loss:
    block: HingLoss
generator:
    block: MLPGenerator
    latent_dim: -2
    output_shape: [1, 8.5]
    wdth: 3
penalties:
  - block: R1Penalty
  - block: Lazy
    penalty:
        {block: R1Penalty, gamma: -1}
""",
}

PROBLEMS = ["loss.block", "generator.latent_dim", "generator.output_shape.1", "generator.wdth"]
PROBLEMS += ["penalties.1.penalty.gamma"]
LINES = {
    "a.toml": [3, 7, 8, 9, 15],
    "a.json": [2, 6, 7, 8, 13],
    "a.yaml": [2, 5, 6, 7, 12],
}


@pytest.mark.parametrize("name", BROKEN)
def test_validate_tells_every_problem_with_its_line(name, tmp_path):
    if name == "a.yaml":
        pytest.importorskip("yaml")
    (tmp_path / name).write_text(BROKEN[name])
    result = run("validate", str(tmp_path / name), "--json")
    assert result.exit_code == 1
    (report,) = json.loads(result.stdout)["files"]
    assert report["specs"] == 4
    found = [(".".join(map(str, p["path"])), p["line"]) for p in report["problems"]]
    assert found == list(zip(PROBLEMS, LINES[name], strict=True))
    printed = run("validate", str(tmp_path / name)).stdout
    assert f"{name}: 4 specs, 5 problems" in printed


def test_a_valid_spec_or_config_exits_with_0(tmp_path):
    (tmp_path / "a.json").write_text('{"block": "HingeLoss"}')
    (tmp_path / "empty.toml").write_text("steps = 3\n")
    result = run("validate", str(tmp_path / "a.json"), str(tmp_path / "empty.toml"))
    assert (result.exit_code, "1 spec, 0 problems" in result.stdout) == (0, True)
    configs = sorted(map(str, (ROOT / "examples" / "configs").glob("*.toml")))
    result = run("validate", *configs, "--json")
    document = json.loads(result.stdout)
    assert (result.exit_code, document["ok"], len(document["files"])) == (0, True, len(configs))


def test_a_file_without_a_spec_has_not_passed(tmp_path):
    (tmp_path / "a.toml").write_text("steps = 3\n")
    result = run("validate", str(tmp_path / "a.toml"))
    assert (result.exit_code, "there is no spec" in result.stderr) == (1, True)


def test_an_error_of_syntax_has_its_place(tmp_path):
    (tmp_path / "a.toml").write_text('[loss]\nblock = "HingeLoss\n')
    result = run("validate", str(tmp_path / "a.toml"))
    assert (result.exit_code, "a.toml:2:" in result.stdout) == (1, True)


def test_a_spec_of_another_kind_is_refused(tmp_path):
    (tmp_path / "a.toml").write_text('block = "HingeLoss"\n')
    assert run("validate", str(tmp_path / "a.toml"), "--kind", "loss").exit_code == 0
    result = run("validate", str(tmp_path / "a.toml"), "--kind", "penalty")
    assert (result.exit_code, "is a loss, but a penalty is wanted" in result.stdout) == (1, True)
    assert run("validate", str(tmp_path / "a.toml"), "--kind", "nonsense").exit_code == 2


def test_what_is_nested_in_an_unknown_block_is_checked_too(tmp_path):
    (tmp_path / "a.toml").write_text(
        'block = "Lasy"\npenalty = { block = "R1Penalty", gamma = -1 }\n'
    )
    (report,) = json.loads(run("validate", str(tmp_path / "a.toml"), "--json").stdout)["files"]
    assert [p["path"] for p in report["problems"]] == [["block"], ["penalty", "gamma"]]


def test_blocks_in_a_file_of_ones_own_are_known_with_plugin(tmp_path):
    (tmp_path / "own.py").write_text(
        "from torch import nn\n"
        "from gan_blocks import block\n"
        "@block\n"
        "class Own(nn.Module):\n"
        "    def __init__(self, scale: float = 1.0) -> None: super().__init__()\n"
        "    def discriminator(self, real_logits, fake_logits): return fake_logits.mean()\n"
        "    def generator(self, fake_logits, *, real_logits=None): return fake_logits.mean()\n"
    )
    config = tmp_path / "a.toml"
    config.write_text('plugins = ["own.py"]\n[loss]\nblock = "own/Own"\nscale = 2.0\n')
    result = run("validate", str(config))
    assert result.exit_code == 1
    assert "no plugin named 'own' is installed" in result.stdout
    assert "if it is in a file of your own, add --plugin own.py\n" in result.stdout
    result = run("validate", str(config), "--plugin", str(tmp_path / "own.py"))
    assert (result.exit_code, "1 spec, 0 problems" in result.stdout) == (0, True)
    # The plugin is there: what is wrong now is the spec alone.
    config.write_text('[loss]\nblock = "own/Own"\nscale = "2"\n[other]\nblock = "own/Owm"\n')
    result = run("validate", str(config), "--plugin", str(tmp_path / "own.py"))
    assert result.exit_code == 1
    assert "loss.scale: should be a valid number, got '2'" in result.stdout
    assert "unknown block 'own/Owm'; did you mean own/Own?\n" in result.stdout
    result = run("validate", str(config), "--plugin", str(tmp_path / "absent.py"))
    assert (result.exit_code, "there is no plugin, package" in result.stderr) == (2, True)


def test_yaml_numbers_that_yaml_reads_as_text_get_a_hint(tmp_path):
    pytest.importorskip("yaml")
    (tmp_path / "a.yaml").write_text("block: R1Penalty\ngamma: 1e-4\n")
    result = run("validate", str(tmp_path / "a.yaml"))
    assert (result.exit_code, "1.0e-04" in result.stdout) == (1, True)


def test_no_file_or_another_suffix_is_wrong_use(tmp_path):
    (tmp_path / "a.txt").write_text("")
    for name in ("a.txt", "absent.toml", "."):
        result = run("validate", str(tmp_path / name))
        assert (result.exit_code, bool(result.stderr)) == (2, True), name
    assert run("validate").exit_code == 2


# --- check ---------------------------------------------------------------------------------------

MODULE = """
from torch import Tensor, nn
from gan_blocks import block
from gan_blocks.testing import Case
from gan_blocks.types import PositiveInt

@block(double_backward=True)
class Doubled(nn.Module):
    '''Twice its input.'''
    def forward(self, x):
        if not isinstance(x, Tensor) or not x.is_floating_point():
            raise TypeError(f"x should be a floating-point tensor, got {type(x).__name__}")
        return 2 * x

@block
class Needy(nn.Module):
    def __init__(self, size: PositiveInt) -> None:
        super().__init__()
    def forward(self, x):
        return x

@block
class Bare(nn.Module):
    def __init__(self, size: PositiveInt = 1) -> None:
        super().__init__()
    def forward(self, x):
        return x

from gan_blocks import hookimpl
@hookimpl
def gan_blocks_layers():
    return [Doubled, Needy, Bare]

cases = [
    Case({"block": "NAME/Doubled"}, inputs=lambda make: (make(3, 2),), reference=REFERENCE,
         expected_failures=EXPECTED)
]
"""


def plugin(folder: Path, name: str, reference="lambda block, x: x + x", expected="{}") -> str:
    file = folder / f"{name}.py"
    source = MODULE.replace("NAME", name).replace("REFERENCE", reference)
    file.write_text(source.replace("EXPECTED", expected))
    return str(file)


def results(*arguments: str) -> dict[tuple[str, str], tuple[str, str]]:
    rows = json.loads(run("check", *arguments, "--json").stdout)["results"]
    return {(row["block"], row["check"]): (row["outcome"], row["reason"]) for row in rows}


def test_check_of_a_right_plugin_passes_and_says_what_it_skips(tmp_path):
    file = plugin(tmp_path, "right")
    result = run("check", file)
    assert result.exit_code == 0, result.stdout
    found = results(plugin(tmp_path, "right_too"))
    assert found["right_too/Doubled", "literal_reference"] == ("pass", "")
    assert found["right_too/Doubled", "double_backward"] == ("pass", "")
    assert found["right_too/Doubled", "autocast"] == (
        "skip",
        "not claimed: @block(autocast=True)",
    )
    assert found["right_too/Bare", "spec_round_trip"] == ("pass", "")
    assert found["right_too/Bare", "gradient"] == ("skip", "the plugin has no case for it")
    outcome, reason = found["right_too/Needy", "spec_round_trip"]
    assert (outcome, "it needs size" in reason) == ("skip", True)
    case = Case({"block": "right/Doubled"}, lambda make: (), reference=lambda block: block)
    ran = {name for (block, name), (o, _) in found.items() if "Doubled" in block and o == "pass"}
    assert ran == set(names_of_checks(case))


def test_check_of_a_wrong_plugin_fails_with_the_broken_promise(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "50")
    result = run("check", plugin(tmp_path, "wrong", reference="lambda block, x: 3 * x"))
    assert result.exit_code == 1
    assert "wrong/Doubled breaks literal_reference" in result.stdout
    assert "1 failed" in result.stdout


def test_an_expected_failure_is_told_with_its_reason(tmp_path):
    expected = '{"literal_reference": "the reference is of another sign"}'
    found = results(plugin(tmp_path, "known", "lambda block, x: -x", expected))
    reason = "expected to fail: the reference is of another sign"
    assert found["known/Doubled", "literal_reference"] == ("skip", reason)


def test_cases_of_another_file_and_a_choice_of_checks(tmp_path):
    file = plugin(tmp_path, "apart")
    cases = tmp_path / "cases_of_apart.py"
    cases.write_text(
        "from gan_blocks.testing import Case\n"
        "ROWS = [Case({'block': 'apart/Bare'}, lambda make: (make(2),), lambda b, x: x)]\n"
    )
    found = results(file, "--cases", f"{cases}:ROWS", "--only", "spec_round_trip")
    assert {block for block, _ in found} == {"apart/Bare", "apart/Doubled", "apart/Needy"}
    assert {name for _, name in found} == {"spec_round_trip"}
    result = run("check", file, "--only", "literal_refrence")
    assert (result.exit_code, "did you mean literal_reference?" in result.stderr) == (2, True)


def test_a_block_that_no_hook_returns_is_named(tmp_path, monkeypatch):
    assert run("new-plugin", "forgetful", "--directory", str(tmp_path / "it")).exit_code == 0
    package = tmp_path / "it" / "gan_blocks_forgetful"
    (package / "extra.py").write_text(
        "from gan_blocks import block\n\n\n@block(compile=True)\nclass Extra:\n    pass\n"
    )
    result = run("check", str(tmp_path / "it"), "--only", "spec_round_trip")
    assert result.exit_code == 0
    assert "gan_blocks_forgetful.extra.Extra is decorated with @block, but no" in result.stderr
    monkeypatch.chdir(tmp_path)
    (tmp_path / "it").rename(tmp_path / "gan-blocks-absent")
    assert "gan-blocks check gan-blocks-absent" in run("check", "absent").stderr


@pytest.mark.parametrize(
    ("cases", "text"),
    [
        ("cases = 3", "should be a list of cases, got 3"),
        ("cases = [3]", "is no gan_blocks.testing.Case"),
        ("def cases(): raise OSError('gone')", "OSError: gone"),
        ("cases = 'no_such_module:CASES'", "no plugin, package, module"),
        ("cases = 'gan_blocks:NO_CASES'", "gan_blocks has no NO_CASES"),
        ("def cases(): yield 1 / 0", "the attribute cases of rubbish: ZeroDivisionError"),
        ("def cases(): raise SystemExit(0)", "the attribute cases of rubbish: SystemExit: 0"),
        ("cases = type('R', (), {'__repr__': lambda self: 1 / 0})()", "list of cases, got <R>"),
        (
            "def cases(): return [Case({'blok': 'X'}, len, len)]",
            "a case cannot be made: spec should",
        ),
    ],
)
def test_cases_that_are_none_are_wrong_use(cases, text, tmp_path):
    file = Path(plugin(tmp_path, "rubbish"))
    file.write_text(f"{file.read_text()}\n{cases}\n")
    result = run("check", str(file))
    assert (result.exit_code, text in result.stderr) == (2, True), result.stderr


def test_what_cannot_be_checked_is_wrong_use(tmp_path):
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    (tmp_path / "empty.py").write_text("")
    (tmp_path / "broken.py").write_text("raise SystemExit(3)")
    for target, text in {
        "no_such_thing": "there is no plugin, package, module or folder 'no_such_thing'",
        str(tmp_path): "has no [project.entry-points.gan_blocks]",
        str(tmp_path / "empty.py"): "adds no block",
        str(tmp_path / "broken.py"): "cannot be imported: SystemExit: 3",
    }.items():
        result = run("check", target)
        assert (result.exit_code, text in result.stderr) == (2, True), result.stderr


@pytest.mark.parametrize("target", [".", "./plain", "plain", "plain/"])
def test_folder_without_a_project_is_told_to_have_none(target, tmp_path, monkeypatch):
    (tmp_path / "plain").mkdir()
    monkeypatch.chdir(tmp_path)
    result = run("check", target)
    assert result.exit_code == 2
    assert f"the folder {target!r} has no pyproject.toml" in result.stderr


def test_folder_that_is_a_module_needs_no_project(tmp_path, monkeypatch):
    (tmp_path / "bare_package").mkdir()
    (tmp_path / "bare_package" / "__init__.py").write_text(MODULE.partition("cases =")[0])
    monkeypatch.chdir(tmp_path)
    result = run("check", "bare_package")
    assert (result.exit_code, "bare_package/Doubled" in result.stdout) == (0, True), result.stderr


@pytest.mark.parametrize(
    ("points", "text"),
    [
        ('wrong = "has_no_plug:plug"', "has_no_plug:plug: there is no plug"),
        ('wrong = " has_no_plug : __doc__.plug"', "__doc__.plug: there is no plug"),
        ("wrong = 3", "should be a table of lines such as name = \"module\", got {'wrong': 3}"),
        ('wrong = ""', "should be a table of lines"),
    ],
)
def test_entry_points_that_lead_nowhere_are_wrong_use(points, text, tmp_path):
    (tmp_path / "pyproject.toml").write_text(f"[project.entry-points.gan_blocks]\n{points}\n")
    (tmp_path / "has_no_plug.py").write_text('"Nothing."')
    result = run("check", str(tmp_path))
    assert (result.exit_code, text in result.stderr) == (2, True), result.stderr


def test_wrong_case_is_told_once_with_its_place_and_stops_no_other(tmp_path):
    file = Path(plugin(tmp_path, "mixed"))
    lines = file.read_text().splitlines()
    lines += ["SPEC = cases[0].spec", "cases += ["]
    lines += ["  Case(SPEC, lambda make: make(3, 2), lambda block, x: x, note='bare'),"]
    lines += ["  Case(SPEC, lambda make: (make(3),), lambda block, x: exit(3), note='exits'),", "]"]
    file.write_text("\n".join(lines))
    result = run("check", str(file), "--json")
    rows = [row for row in json.loads(result.stdout)["results"] if row["outcome"] == "fail"]
    assert [(row["case"], row["check"]) for row in rows] == [
        ("mixed/Doubled-bare", "-"),
        ("mixed/Doubled-exits", "literal_reference"),
    ]
    assert rows[0]["reason"].startswith(f"the case at {file}:{len(lines) - 2} is wrong: mixed/")
    assert "a comma is missing" in rows[0]["reason"]
    assert rows[1]["reason"] == "mixed/Doubled-exits breaks literal_reference: SystemExit: 3"


# --- programs, completion, doctor --------------------------------------------------------------


@block
class Loud(nn.Module):
    """A layer of a notebook."""

    def forward(self, x):
        return x


def test_a_registered_block_has_its_place_in_the_list():
    registry.register(Loud, name="notebook", kind="layer")
    blocks = json.loads(run("list", "layer", "--json").stdout)["blocks"]
    (found,) = [block for block in blocks if block["name"] == "notebook/Loud"]
    assert (found["package"], found["status"]) == ("in process", "registered")


def completions(words: str) -> list[str]:
    shell = {"_GAN_BLOCKS_COMPLETE": "complete_bash", "COMP_WORDS": words}
    result = subprocess.run(
        [sys.executable, "-c", "from gan_blocks.cli import app; app(prog_name='gan-blocks')"],
        env=os.environ | shell | {"COMP_CWORD": str(len(words.split(" ")) - 1)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return result.stdout.split()


def test_the_shell_completes_blocks_and_kinds():
    assert completions("gan-blocks show Hing") == ["HingeLoss"]
    assert completions("gan-blocks list l") == ["layer", "loss"]
    assert "doctor" in completions("gan-blocks do")


GOOD = """
print("NOISE")
from torch import nn
from gan_blocks import block, hookimpl
@block
class Good(nn.Module):
    "A good block."
    def forward(self, x):
        return x
@hookimpl
def gan_blocks_layers():
    return [Good]
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A good plugin, one that fails and one that changes a setting."""
    site = tmp_path_factory.mktemp("site")
    setting = "\nimport torch\ntorch.set_default_dtype(torch.float64)\n"
    sources = {"good": GOOD, "broken": "import no_such_package", "setting": GOOD + setting}
    for name, source in sources.items():
        info = site / f"dist_{name}-2.1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: dist-{name}\nVersion: 2.1\n")
        (info / "entry_points.txt").write_text(f"[gan_blocks]\n{name} = module_{name}\n")
        (site / f"module_{name}.py").write_text(textwrap.dedent(source))
    return site


def command(site: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    code = f"import sys; sys.argv[1:] = {list(arguments)!r}; from gan_blocks.cli import app; app()"
    return subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": f"{site}{os.pathsep}{ROOT}"} | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_doctor_tells_what_failed_why_and_what_to_do(site):
    result = command(site, "doctor", "--json", GAN_BLOCKS_PLUGINS="good,broken,setting")
    assert result.returncode == 1
    report = json.loads(result.stdout)
    assert report["ok"] is False
    assert report["environment"]["GAN_BLOCKS_PLUGINS"] == "good,broken,setting"
    assert {"python", "torch", "gan_blocks", "pydantic", "pluggy"} <= report["versions"].keys()
    assert report["devices"][0] == "cpu"
    plugins = {plugin["name"]: plugin for plugin in report["plugins"]}
    assert plugins["broken"] == {
        "name": "broken",
        "package": "dist-broken",
        "version": "2.1",
        "status": "failed",
        "error": "ModuleNotFoundError: No module named 'no_such_package'",
        "remedy": "install no_such_package, which it needs",
        "changed_settings": [],
    }
    assert plugins["good"]["status"] == "loaded"
    assert plugins["setting"]["changed_settings"] == ["torch's default dtype"]


def test_doctor_is_readable_on_a_narrow_terminal(site):
    result = command(site, "doctor", "--traceback", COLUMNS="50")
    assert result.returncode == 1
    words = unwrapped(result.stdout)
    assert "remedy:installno_such_package,whichitneeds" in words
    assert "Traceback" in result.stdout
    assert "broken" in result.stdout.splitlines()[-1]
    assert not result.stderr.startswith("Traceback")


def test_doctor_is_content_when_the_broken_plugin_is_switched_off(site):
    result = command(site, "doctor", GAN_BLOCKS_PLUGINS="good, god")
    assert result.returncode == 0
    assert "GAN_BLOCKS_PLUGINS names 'god', which is not installed" in result.stdout
    assert "everything works" in result.stdout


def test_list_holds_what_works_and_names_what_does_not(site):
    result = command(site, "list", "--json")
    assert result.returncode == 0
    document = json.loads(result.stdout)  # the plugin's own print is not in it
    assert "NOISE" in result.stderr
    found = {block["name"]: block for block in document["blocks"]}
    good = (found["good/Good"]["package"], found["good/Good"]["version"])
    assert good == ("dist-good", "2.1")
    assert result.stderr.count("dist-broken 2.1 failed to load") == 1
    printed = command(site, "list", COLUMNS="100").stdout
    assert ["-", "broken/...", "dist-broken", "2.1", "failed"] in [
        line.split() for line in printed.splitlines()
    ]


NOISY = """
import os, subprocess, sys, threading, time
print("NOISE by Python")
sys.__stdout__.write("NOISE by the first stdout\\n")
sys.__stdout__.flush()
os.write(1, b"NOISE below Python\\n")
subprocess.run([sys.executable, "-c", "print('NOISE of a child')"], check=True)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1); print('NOISE of a late child')"])
def go_on():
    while True:
        os.write(1, b"NOISE of a thread\\n")
        print("NOISE of a thread", flush=True)
        time.sleep(0.001)
threading.Thread(target=go_on, daemon=True).start()
"""


@pytest.mark.parametrize(
    "words",
    [
        ["list"],
        ["show", "good/Good"],
        ["schema", "layer"],
        ["validate", "spec.toml"],
        ["check", "good"],
        ["doctor"],
        ["new-plugin", "other"],
    ],
)
def test_json_stays_json_whatever_a_plugin_prints(words, tmp_path):
    info = tmp_path / "dist_good-2.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: dist-good\nVersion: 2.1\n")
    (info / "entry_points.txt").write_text("[gan_blocks]\ngood = module_good\n")
    (tmp_path / "module_good.py").write_text(NOISY + GOOD)
    (tmp_path / "spec.toml").write_text('block = "good/Good"\n')
    code = (
        f"import sys; sys.argv[1:] = {[*words, '--json']!r}; from gan_blocks.cli import app; app()"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    json.loads(result.stdout)
    if words[0] != "new-plugin":
        for source in ("by Python", "below Python", "of a child", "of a late child", "of a thread"):
            assert f"NOISE {source}" in result.stderr, source


@pytest.mark.parametrize("closing", ["2>&-", ">&-", "| head -1"])
def test_a_closed_stream_is_no_reason_for_a_traceback(closing, site):
    code = "import sys; sys.argv[1:] = ['list']; from gan_blocks.cli import app; app()"
    result = subprocess.run(
        f'"{sys.executable}" -c "{code}" {closing}',
        shell=True,
        env=os.environ | {"PYTHONPATH": f"{site}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    assert "Exception ignored" not in result.stderr
    assert result.stdout.startswith("" if closing == ">&-" else "kind")


def test_check_of_a_plugin_that_fails_to_load_fails(site):
    result = command(site, "check", "broken")
    assert (result.returncode, "no_such_package" in result.stderr) == (1, True)
    assert "Traceback" not in result.stderr


def test_a_plugin_is_imported_only_by_commands_that_need_it(site):
    assert "NOISE" not in command(site, "show", "HingeLoss").stderr
    assert "NOISE" in command(site, "show", "good/Good").stderr


# --- the page ------------------------------------------------------------------------------------


PAGE = """
import json, sys
from typer.testing import CliRunner
from gan_blocks.cli import app
commands = json.loads(sys.argv[1])
print("RESULT" + json.dumps([CliRunner().invoke(app, words).output for words in commands]))
"""


def test_the_page_shows_what_the_commands_print(tmp_path):
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    shown = re.findall(r"^```console\n\$ (\S+) (.*)\n((?s:.*?))^```$", text, re.MULTILINE)
    commands = [(words, wanted) for name, words, wanted in shown if name == "gan-blocks"]
    for name, file, content in shown:
        if name == "cat":
            (tmp_path / file).write_text(content)
    result = subprocess.run(
        [sys.executable, "-c", PAGE, json.dumps([words.split() for words, _ in commands])],
        env=os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "80", "CUDA_VISIBLE_DEVICES": ""},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert result.returncode == 0, result.stderr
    outputs = json.loads(result.stdout.partition("RESULT")[2])
    assert {words.split()[0] for words, _ in commands} == set(COMMANDS)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    for (words, wanted), output in zip(commands, outputs, strict=True):
        if words.startswith("validate"):
            assert output == wanted
        assert doctest.OutputChecker().check_output(wanted, output, flags), f"{words}\n{output}"


COMMANDS = [str(command.name) for command in app.registered_commands]


def test_every_command_has_a_section_help_and_json():
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (\S+)$", text, re.MULTILINE) == COMMANDS
    for name in COMMANDS:
        result = run(name, "--help")
        assert (result.exit_code, "--json" in result.stdout) == (0, True), name
