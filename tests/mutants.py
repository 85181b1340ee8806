"""Breaks the library on purpose, one small change at a time, and asks whether its tests notice.

    python tests/mutants.py losses divergences auxiliary --sample 300

The changes are those of cosmic-ray, as far as they can be right Python with numbers, and some of
this field's own: a mean for a sum, a missing detach. Each mutant is a copy of the package with one
change; a forked process runs the tests of its file on it, until the first failure. Survivors are
printed as a diff: either a test is missing, or the change changes nothing.
"""
# cosmic-ray is in an extra of its own, "mutation".
# pyright: reportMissingImports=false

import argparse
import ast
import difflib
import os
import random
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

# Imported once, before the processes fork; the package itself is not.
import hypothesis
import pytest
import scipy.optimize
import scipy.special  # noqa: F401
import torch.func
import torch.testing
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator
from tqdm import tqdm

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "gan_blocks"
TESTS = {
    "losses": ["test_losses.py"],
    "divergences": ["test_divergences.py", "test_losses.py"],
    "auxiliary": ["test_auxiliary.py", "test_schedules.py", "test_layers.py"],
    "layers": [
        "test_layers.py",
        "test_minibatch_layers.py",
        "test_image_layers.py",
        "test_distributed.py",
    ],
    "penalties": ["test_penalties.py", "test_critic_gradients.py", "test_schedules.py"],
    "constraints": ["test_weight_constraints.py"],
    "lipschitz": ["test_lipschitz.py"],
    "networks": ["test_networks.py", "test_image_networks.py"],
}
SHARED = {"penalties": [PACKAGE / "_input_gradient.py"]}
"""What stands outside of a subpackage and belongs to it."""
SWAPS = ["Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "Pow_Mul", "Add_Mul", "Mul_Add"]
COMPARISONS = ["Lt_LtE", "Lt_Gt", "LtE_Lt", "Gt_GtE", "Gt_Lt", "GtE_Gt", "Eq_NotEq", "NotEq_Eq"]
OPERATORS = [f"ReplaceBinaryOperator_{name}" for name in SWAPS]
OPERATORS += [f"ReplaceComparisonOperator_{name}" for name in COMPARISONS]
OPERATORS += ["ReplaceUnaryOperator_Delete_USub", "ReplaceUnaryOperator_Delete_Not", "AddNot"]
OPERATORS += ["NumberReplacer", "ReplaceTrueWithFalse", "ReplaceFalseWithTrue"]
OPERATORS += ["ReplaceAndWithOr", "ReplaceOrWithAnd", "ZeroIterationForLoop"]
OWN = [(".mean(", ".sum("), (".sum(", ".mean("), (".detach()", ""), ("torch.abs", "torch.square")]
OWN += [(".abs()", ""), (".square()", ""), ("(min=", "(max="), ("(max=", "(min="), (".sign()", "")]
LIMIT = 240
"""Seconds until a mutant that hangs counts as noticed."""


@dataclass(frozen=True)
class Mutant:
    """One file with one change."""

    file: Path
    source: str

    def diff(self) -> str:
        """The change, as a unified diff without context."""
        before = self.file.read_text(encoding="utf-8").splitlines()
        name = str(self.file.relative_to(ROOT))
        lines = list(difflib.unified_diff(before, self.source.splitlines(), name, name, n=0))
        return "\n".join(lines[2:])


def meaning(source: str) -> str:
    """The syntax tree without what the tests of one file are not about."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value = ast.Constant(None)  # a docstring
        if isinstance(node, ast.FunctionDef):
            node.returns = None
            node.decorator_list = []
            for argument in [*node.args.args, *node.args.kwonlyargs, node.args.vararg]:
                if argument:
                    argument.annotation = None
        if isinstance(node, ast.ClassDef):
            node.decorator_list = []
        if isinstance(node, ast.Assign | ast.AnnAssign):
            # Type aliases, and the annotations of attributes.
            name = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if isinstance(name, ast.Name) and name.id[0].isupper() and not name.id.isupper():
                node.value = ast.Constant(None)
            if isinstance(node, ast.AnnAssign):
                node.annotation = ast.Constant(None)
    return ast.dump(tree)


def mutants_of(file: Path) -> Iterator[Mutant]:
    """Every mutant that is a program and differs in its meaning."""
    source = file.read_text(encoding="utf-8")
    nodes = list(ast_nodes(get_ast(source)))
    candidates: list[str | None] = []
    for name in OPERATORS:
        operator = get_operator(f"core/{name}")()
        places = sum(len(list(operator.mutation_positions(node))) for node in nodes)
        candidates += [mutate_code(source, operator, i) for i in range(places)]
    for old, new in OWN:
        for match in re.finditer(re.escape(old), source):
            candidates.append(source[: match.start()] + new + source[match.end() :])
    seen = {meaning(source)}
    for mutated in candidates:
        try:
            what = meaning(mutated or source)
        except SyntaxError:
            continue
        if mutated and what not in seen:
            seen.add(what)
            yield Mutant(file, mutated)


def run_tests(mutant: Mutant, folder: str, subpackage: str) -> int:
    """In a forked process: 0 if no test noticed."""
    shutil.copytree(PACKAGE, Path(folder) / "gan_blocks")
    (Path(folder) / mutant.file.relative_to(ROOT)).write_text(mutant.source, encoding="utf-8")
    sys.path.insert(0, folder)
    os.chdir(ROOT)
    output = os.open(os.devnull, os.O_WRONLY)
    os.dup2(output, 1)
    os.dup2(output, 2)
    torch.set_num_threads(1)
    common = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    # It runs the installed package, in processes of its own.
    common += ["--deselect", "tests/test_distributed.py::test_two_processes_agree_with_one"]
    common += ["-W", "ignore::pytest.PytestAssertRewriteWarning", "--hypothesis-profile=mutants"]
    # That a test fails is enough to know; the smallest example takes long to find.
    phases = [hypothesis.Phase.explicit, hypothesis.Phase.generate]
    hypothesis.settings.register_profile("mutants", phases=phases, max_examples=40, deadline=None)
    # Compilation is slow, and no formula is wrong in it alone.
    blocks = re.findall(r"^class ([A-Z]\w+)\(", mutant.source, re.MULTILINE)
    wanted = f"({' or '.join(blocks)}) and not compile_fullgraph"
    conformance = [str(ROOT / "tests" / "test_conformance.py"), "-k", wanted]
    rounds = [conformance] if blocks else []
    rounds += [[str(ROOT / "tests" / name), "-k", "not compil"] for name in TESTS[subpackage]]
    for arguments in rounds:
        # 5: no test has the name of this file's class.
        if pytest.main([*common, *arguments]) not in (0, 5):
            return 1
    return 0


def survives(mutant: Mutant, subpackage: str) -> bool:
    """Whether all tests of its subpackage pass on a mutant."""
    with tempfile.TemporaryDirectory() as folder:
        child = os.fork()
        if child == 0:
            signal.alarm(LIMIT)
            code = 1
            try:
                code = run_tests(mutant, folder, subpackage)
            finally:
                os._exit(code)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def main() -> None:
    """Each subpackage's share of mutants that the tests notice, and the survivors."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("subpackages", nargs="+", choices=[*TESTS])
    parser.add_argument("--sample", type=int, default=300, help="mutants of each (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample (%(default)s)")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="(%(default)s)")
    options = parser.parse_args()
    for subpackage in options.subpackages:
        files = [*sorted((PACKAGE / subpackage).glob("*.py")), *SHARED.get(subpackage, [])]
        mutants = [mutant for file in files for mutant in mutants_of(file)]
        unchanged = Mutant(files[-1], files[-1].read_text(encoding="utf-8"))
        if not survives(unchanged, subpackage):
            sys.exit(f"the tests of {subpackage} fail on the unchanged package; mend them first")
        chosen = random.Random(options.seed).sample(mutants, min(options.sample, len(mutants)))
        survivors = 0
        with ThreadPoolExecutor(options.processes) as pool:
            results = pool.map(lambda m: survives(m, subpackage), chosen)  # noqa: B023
            for mutant, alive in zip(chosen, tqdm(results, total=len(chosen)), strict=True):
                if alive:
                    survivors += 1
                    tqdm.write(f"\n{mutant.file.relative_to(ROOT)}\n{mutant.diff()}")
        noticed = len(chosen) - survivors
        print(f"\n{subpackage}: {noticed} of {len(chosen)} noticed ({noticed / len(chosen):.1%})")
        print(f"of {len(mutants)} possible mutants", flush=True)


if __name__ == "__main__":
    main()
