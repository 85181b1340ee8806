"""Where the keys of TOML, JSON and YAML files stand."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gan_blocks.cli._documents import NoReader, Unreadable, read

TOML = '''
# "not" = [ a = key ]
title = "a # no comment, \\" no end" # block = 1
"quoted.key" = 1
dotted.key.'of three' = 2
text = """
[not.a.table]
no = "key" \\""" still text"""
literal = \'\'\'
[[neither]] '\'\'\'\'
dates = [1979-05-27 07:32:00, 1979-05-27T07:32:00Z]

[table]
key = { inner = [1, { deep = true }], other = "}" } # }
[table . "sub table"]
array = [
    "]", # ]
    [ 1, 2,
      3 ],
]

[[fruit]]
name = "apple"
[fruit.physical]
colour = "red"
[[fruit.variety]]
name = "red delicious"
[[fruit.variety]]
name = "granny smith"
[[fruit]]
name = "banana"
[[fruit.variety]]
name = "plantain"
'''

PLACES = {
    ("title",): (3, 1),
    ("quoted.key",): (4, 1),
    ("dotted", "key", "of three"): (5, 1),
    ("text",): (6, 1),
    ("literal",): (9, 1),
    ("dates", 1): (11, 31),
    ("table",): (13, 1),
    ("table", "key", "inner", 1, "deep"): (14, 23),
    ("table", "key", "other"): (14, 39),
    ("table", "sub table"): (15, 1),
    ("table", "sub table", "array", 0): (17, 5),
    ("table", "sub table", "array", 1, 2): (19, 7),
    ("fruit", 0, "name"): (23, 1),
    ("fruit", 0, "physical", "colour"): (25, 1),
    ("fruit", 0, "variety", 1, "name"): (29, 1),
    ("fruit", 1): (30, 1),
    ("fruit", 1, "variety", 0, "name"): (33, 1),
}


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8", newline="")
    return path


def paths(value, path=()):
    yield path
    if isinstance(value, dict | list):
        for key, child in value.items() if isinstance(value, dict) else enumerate(value):
            yield from paths(child, (*path, key))


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_toml_keys_stand_where_they_are_written(tmp_path, end):
    document = read(write(tmp_path, "a.toml", TOML.replace("\n", end)))
    assert {path: document.place(path) for path in PLACES} == PLACES
    assert set(PLACES) <= set(paths(document.value)), "the table above is wrong itself"


def test_every_key_of_the_example_has_a_place_of_its_own(tmp_path):
    document = read(write(tmp_path, "a.toml", TOML))
    lines = TOML.splitlines()
    for path in paths(document.value):
        if path and isinstance(path[-1], str):
            line, column = document.place(path)
            assert path[-1].strip('"') in lines[line - 1][column - 1 :], path


KEYS = st.text(max_size=5)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=12,
)


@given(VALUES, st.sampled_from([None, 0, 3]))
def test_json_keys_stand_where_they_are_written(tmp_path_factory, value, indent):
    """What stands at the place of a key is that key; at the place of an item, that item."""
    text = json.dumps(value, indent=indent)
    document = read(write(tmp_path_factory.mktemp("json"), "a.json", text))
    assert document.value == value
    assert document.findings == []
    for path in paths(value):
        line, column = document.place(path)
        there = "\n".join(text.split("\n")[line - 1 :])[column - 1 :]
        found, _ = json.JSONDecoder().raw_decode(there)
        item = value
        for key in path:
            item = item[key]
        assert found == (path[-1] if path and isinstance(path[-1], str) else item)


@pytest.mark.parametrize(("name", "text"), [("a.json", "{\n"), ("a.toml", "\nx = \n")])
def test_the_place_of_a_syntax_error(tmp_path, name, text):
    with pytest.raises(Unreadable) as caught:
        read(write(tmp_path, name, text))
    assert caught.value.place.line == 2


def test_unreadable_files_say_why(tmp_path):
    (tmp_path / "a.toml").write_bytes(b"x = 1\ny = '\xff'\n")
    with pytest.raises(Unreadable, match="UTF-8") as caught:
        read(tmp_path / "a.toml")
    assert caught.value.place == (2, 6)
    with pytest.raises(Unreadable, match="nested too deeply"):
        read(write(tmp_path, "a.json", 100_000 * "[" + 100_000 * "]"))
    with pytest.raises(Unreadable, match="digits"):
        read(write(tmp_path, "a.json", 5000 * "1"))
    with pytest.raises(NoReader, match="the suffix should be"):
        read(write(tmp_path, "a.txt", ""))


def test_keys_written_twice_are_found(tmp_path):
    (finding,) = read(write(tmp_path, "a.json", '{"a": {"b": 1,\n "b": 2}}')).findings
    assert (finding.place, finding.path) == ((2, 2), ("a", "b"))
    with pytest.raises(Unreadable, match="overwrite"):
        read(write(tmp_path, "a.toml", "a = 1\na = 2\n"))


def test_yaml_keys_stand_where_they_are_written(tmp_path):
    pytest.importorskip("yaml")
    text = "a: &x {b: 1}\nlist:\n  - c: 2\n    d: *x\n  - [3, 4]\ne: 1\ne: 2\n"
    document = read(write(tmp_path, "a.yaml", text))
    assert document.place(("a", "b")) == (1, 8)
    assert document.place(("list", 0, "d")) == (4, 5)
    assert document.place(("list", 1, 1)) == (5, 9)
    assert [f.place for f in document.findings] == [(7, 1)]
    with pytest.raises(Unreadable) as caught:
        read(write(tmp_path, "b.yml", "a: 1\nb: [\n"))
    assert caught.value.place.line == 3


def test_yaml_that_contains_itself_is_no_endless_loop(tmp_path):
    pytest.importorskip("yaml")
    assert read(write(tmp_path, "a.yaml", "&a {b: *a}")).place(("b", "b", "b")) == (1, 5)


def test_yaml_without_its_reader_is_a_clear_message(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "yaml", None)
    with pytest.raises(NoReader, match="pip install pyyaml"):
        read(write(tmp_path, "a.yaml", "a: 1"))
