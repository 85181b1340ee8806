"""The documentation is complete, its examples run, and the built site needs no network."""

import ast
import json
import re
import runpy
import subprocess
import sys
import tomllib
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

import gan_blocks
from gan_blocks import registry
from gan_blocks.cli.validate import _specs
from gan_blocks.hookspecs import CHANGES, HOOKS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [*sorted(DOCS.rglob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
BUILT_IN = [entry for entry in gan_blocks.registry.list() if entry.plugin == "builtin"]
PROMISES = {
    "double_backward": "differentiated twice",
    "compile": "compiles",
    "autocast": "autocast",
    "distributed": "distributed",
    "batch_dependent": "depends on the batch",
    "moves_in_forward": "moves in forward",
}


def page_of(entry) -> str:
    """`losses/hinge_loss`: the kind, and the name with underscores between its words."""
    folder = HOOKS[entry.kind].removeprefix("gan_blocks_")
    between_words = r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])"
    return f"{folder}/{re.sub(between_words, '_', entry.name).lower()}"


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_every_built_in_block_has_one_page_and_every_page_a_block():
    folder = DOCS / "blocks"
    pages = {str(p.relative_to(folder).with_suffix("")) for p in folder.glob("*/*.md")}
    indices = {page for page in pages if page.endswith("/index")}
    assert pages - indices == {page_of(entry) for entry in BUILT_IN}


@pytest.mark.parametrize("entry", BUILT_IN, ids=lambda entry: entry.name)
def test_the_page_of_a_block_is_its_docstring_and_what_else_it_is_called(entry):
    text = (DOCS / "blocks" / f"{page_of(entry)}.md").read_text(encoding="utf-8")
    assert text.startswith(f"# {entry.name}\n\nAlso known as: ")
    assert re.findall(r"^::: (\S+)$", text, re.MULTILINE)[0] == f"gan_blocks.{entry.name}"


def test_the_table_of_blocks_says_what_each_block_promises():
    text = (DOCS / "blocks" / "index.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[`(\w+)`\]\((\S+)\.md\) \|.*\| (.+) \|$", text, re.MULTILINE)
    expected = []
    for entry in BUILT_IN:
        record = entry.blueprint.capabilities.as_dict()
        promises = [words for name, words in PROMISES.items() if record[name]]
        expected.append((entry.name, page_of(entry), ", ".join(promises) or "-"))
    assert sorted(rows) == sorted(expected)


def test_the_table_of_auxiliary_terms_says_what_each_declares():
    text = (DOCS / "blocks" / "index.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[`(\w+)`\]\(auxiliary/.* \| (\w+) \| (\w+) \| [^|]+ \|$", text, re.M)
    declared = [(entry.name, entry.blueprint.capabilities) for entry in BUILT_IN]
    assert sorted(rows) == sorted((n, c.side, c.compares) for n, c in declared if c.side)


def test_the_message_to_a_plugin_of_version_1_has_an_item_for_each_row_of_the_page():
    table = (DOCS / "moving_a_plugin.md").read_text(encoding="utf-8").partition("|---|")[2]
    rows = [line for line in table.split("\n\n")[0].splitlines()[1:] if line.startswith("|")]
    assert len(rows) == len(CHANGES)


def test_every_public_name_is_in_the_documentation():
    text = "\n".join(page.read_text(encoding="utf-8") for page in DOCS.rglob("*.md"))
    assert [n for n in gan_blocks.__all__ if not re.search(rf"\b{n}\b", text)] == []


def test_the_page_of_the_trainer_has_every_key_of_its_config():
    tree = ast.parse((ROOT / "examples" / "config.py").read_text(encoding="utf-8"))
    config = next(n for n in ast.walk(tree) if isinstance(n, ast.ClassDef) and n.name == "Config")
    keys = {
        item.target.id
        for item in config.body
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
    }
    text = (DOCS / "trainer.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) == keys


def test_every_test_that_a_page_names_is_there():
    named = {
        match
        for page in PAGES
        for match in re.findall(r"(tests/[\w/]+\.py)::(\w+)", page.read_text(encoding="utf-8"))
    }
    assert named
    missing = [
        f"{file}::{name}"
        for file, name in named
        if f"def {name}(" not in (ROOT / file).read_text(encoding="utf-8")
    ]
    assert missing == []


READERS = {"toml": tomllib.loads, "yaml": yaml.safe_load, "json": json.loads}


# The tutorial's page is made from a script, which tests/test_tutorial.py runs.
@pytest.mark.parametrize("page", [p for p in PAGES if p.name != "tutorial.md"], ids=relative)
def test_every_python_block_of_a_page_is_run(page):
    """A mistyped fence would hide a block. Files that are shown, not written, have tests elsewhere.

    Configs are read, and the specs in them built.
    """
    fence = re.compile(
        r"^(?P<mark>`{3,}|~{3,})(?P<language>.*)\n(?P<body>(?s:.*?))^(?P=mark)$", re.MULTILINE
    )
    text = page.read_text(encoding="utf-8")
    blocks = list(fence.finditer(text))
    assert len(re.findall(r"^\s*(?:`{3}|~{3})", text, re.MULTILINE)) == 2 * len(blocks)
    shown = [b for b in blocks if re.fullmatch(r'--8<-- "\S+"\n', b["body"])]
    for each in blocks:
        if each["language"] in READERS:
            for _, spec in _specs(READERS[each["language"]](each["body"])):
                registry.normalise(spec)
    others = ("console", "text", *READERS)
    to_run = [b for b in blocks if b not in shown and b["language"] not in others]
    assert {b["language"] for b in to_run} <= {"python"}
    document = runpy.run_path(str(ROOT / "conftest.py"))["pages"].parse(page)
    starts = [example.region.start for example in document]
    assert all(any(b.start() <= start < b.end() for start in starts) for b in to_run)


@pytest.mark.parametrize("page", sorted((DOCS / "coming_from").glob("*.md")), ids=relative)
def test_what_a_page_for_newcomers_calls_ours_can_be_written_so(page):
    """The second column of the table of names: classes and calls, with arguments that exist."""
    table = page.read_text(encoding="utf-8").split("| Ours |", 1)[1].split("\n\n", 1)[0]
    cells = [row.split("|")[2] for row in table.splitlines()[2:]]
    ours = [span for cell in cells for span in re.findall("`(.+?)`", cell)]
    assert len(ours) > 9
    for expression in ours:
        eval(expression, vars(gan_blocks).copy())


class References(HTMLParser):
    """What a page makes a browser fetch, and its text outside code."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.text = ""
        self.inside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag in ("code", "pre", "script", "style"):
            self.inside.append(tag)
        if tag != "a" and values.get("rel") != "canonical":
            self.fetched += [
                values[key] or "" for key in ("src", "srcset", "href") if key in values
            ]

    def handle_endtag(self, tag: str) -> None:
        if self.inside and self.inside[-1] == tag:
            self.inside.pop()

    def handle_data(self, data: str) -> None:
        if not self.inside:
            self.text += data


def test_the_site_builds_without_a_warning_needs_no_network_and_shows_every_formula(tmp_path):
    """One test, because the site takes some seconds to build."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr

    elsewhere = re.compile(r"(?i)\s*(?:[a-z]+:)?//")
    for file in tmp_path.rglob("*.html"):
        page, html = References(), file.read_text(encoding="utf-8")
        page.feed(html)
        assert [x for x in page.fetched if elsewhere.match(x)] == [], file
        assert not re.search(r"\$|\\[a-zA-Z(\[]", page.text), f"{file}: a formula is not rendered"
        assert 'class="arithmatex"' not in html, f"{file}: a formula is not converted"
        assert ">>>" not in page.text, f"{file}: an example is not shown as code"
    assert "<math" in (tmp_path / "blocks" / "losses" / "hinge_loss.html").read_text("utf-8")

    for sheet in tmp_path.rglob("*.css"):
        text = sheet.read_text(encoding="utf-8")
        assert not re.search(r"(?:@import|url\()\s*['\"]?(?:https?:)?//", text), sheet
