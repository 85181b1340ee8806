"""The README's configuration builds."""

import re
import tomllib
from pathlib import Path

from gan_blocks import build, registry

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_every_table_of_the_configuration_is_a_block():
    (text,) = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    config = tomllib.loads(text)
    specs = [config["loss"], config["matching"], config["mel"], *config["discriminators"]]
    assert len([build(spec, device="meta") for spec in specs]) == 6


def test_every_block_is_named():
    named = set(re.findall(r"^\| `(audio/\w+)`", README, re.MULTILINE))
    assert named == {entry.name for entry in registry.list() if entry.plugin == "audio"}
