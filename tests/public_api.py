"""The public interface as one document, compared with `public_api.json` by the tests.

python tests/public_api.py --write
"""

import inspect
import json
import sys
from pathlib import Path
from typing import Any

import gan_blocks
from gan_blocks import distributed, errors, hookspecs, labels, precision, testing, types
from gan_blocks.cli import app
from gan_blocks.registry import registry
from gan_blocks.testing import CHECKS, strategies

HERE = Path(__file__).parent / "public_api.json"


def public_api() -> dict[str, Any]:
    """Every name that others may use, with what they may count on."""
    document = {
        "hooks": sorted(name for name in vars(hookspecs) if name.startswith("gan_blocks_")),
        "hook_version": hookspecs.HOOK_VERSION,
        "names": {
            "gan_blocks": sorted(gan_blocks.__all__),
            "gan_blocks.testing": sorted(testing.__all__),
            "gan_blocks.testing.strategies": _defined(strategies),
            "gan_blocks.distributed": _defined(distributed),
            "gan_blocks.precision": _defined(precision),
            "gan_blocks.labels": _defined(labels),
            "gan_blocks.types": sorted(n for n in vars(types) if n[0].isupper()),
        },
        "errors": {
            name: [base.__name__ for base in cls.__mro__[1:-1]]
            for name, cls in sorted(vars(errors).items())
            if inspect.isclass(cls) and issubclass(cls, Exception | Warning)
        },
        "checks": sorted(CHECKS),
        "commands": _commands(),
        "blocks": {
            entry.name: {"kind": entry.kind, "formerly": list(entry.former_names)}
            | {"promises": entry.blueprint.capabilities.as_dict()}
            | {"arguments": entry.schema().get("properties", {})}
            | {"required": entry.schema().get("required", [])}
            for entry in registry.list()
            if entry.plugin == "builtin"
        },
    }
    return json.loads(json.dumps(document))


def _defined(module: Any) -> list[str]:
    """The public functions and classes that a module itself defines."""
    return sorted(
        name
        for name, value in vars(module).items()
        if name[0] != "_" and getattr(value, "__module__", None) == module.__name__
    )


def _commands() -> dict[str, list[str]]:
    """Each command with its arguments and options."""
    import typer

    group: Any = typer.main.get_command(app)
    return {
        name: sorted(option for p in command.params for option in (p.opts or [p.name]))
        for name, command in sorted(group.commands.items())
    }


if __name__ == "__main__":
    text = json.dumps(public_api(), indent=1, ensure_ascii=False) + "\n"
    if "--write" in sys.argv:
        HERE.write_text(text, encoding="utf-8")
    else:
        print(text, end="")
