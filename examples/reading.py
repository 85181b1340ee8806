"""Reads what the user wrote: config file, plugin files, optimisers and device.

Nothing here is about GANs. Each error says where it is and what to do.
"""

import difflib
import importlib.util
import json
import os
import sys
import tomllib
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from accelerate.utils import patch_environment
from pydantic import AfterValidator, BaseModel, ValidationError
from torch import nn

import gan_blocks
from data import UsageError
from gan_blocks.presets import OptimizerSettings
from stopping import Terminated
from watch import Collapsed

Model = TypeVar("Model", bound=BaseModel)


def make_optimizer(
    spec: dict[str, Any], parameters: Iterable[nn.Parameter]
) -> torch.optim.Optimizer:
    """The optimiser that a table `{name = "Adam", lr = 1e-3, ...}` describes.

    Parameters that a network has frozen are left out. A schedule has its value of step 0.
    """
    try:
        return OptimizerSettings(spec).build([p for p in parameters if p.requires_grad])
    except (TypeError, ValueError, LookupError) as error:
        raise UsageError(str(error)) from error


def schedules_in(value: Any, place: str) -> Iterator[tuple[str, int]]:
    """The schedules in the settings of an optimizer: their places, and after how many steps they end."""
    if isinstance(value, dict) and "steps" in value:
        yield f"{place} ({value['block']})", value["steps"]
    elif isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from schedules_in(item, f"{place}.{key}")


def _check_optimizer(spec: dict[str, Any]) -> dict[str, Any]:
    dummy = nn.Parameter(torch.zeros(2, 2))
    dummy.grad = torch.zeros_like(dummy)
    try:
        # The step finds optimisers that need a closure or a sparse gradient.
        make_optimizer(spec, [dummy]).step()
    except UsageError as error:
        raise ValueError(str(error)) from None
    except (TypeError, ValueError, RuntimeError, LookupError, AttributeError) as error:
        raise ValueError(f"torch.optim.{spec['name']} cannot step: {error}") from None
    return spec


OptimizerSpec = Annotated[dict[str, Any], AfterValidator(_check_optimizer)]
"""A field that holds an optimiser's name and arguments, which were tried on a dummy."""


def register_plugins(paths: Any, folder: Path) -> None:
    """Import the files and register their blocks, which specs may then name.

    Args:
        paths: As they stand in the config, not checked yet.
        folder: Where relative paths start.
    """
    files = [folder / p for p in paths if isinstance(p, str)] if isinstance(paths, list) else []
    for file in files:
        try:
            if [other.stem for other in files].count(file.stem) > 1:
                raise ValueError(f"two plugins are named {file.stem}")
            spec = importlib.util.spec_from_file_location(file.stem, file)
            if spec is None or spec.loader is None:
                raise ImportError("it is no Python file")
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            gan_blocks.registry.register(module, name=file.stem)
        except (Exception, SystemExit) as error:  # whatever the code of the file raises
            raise UsageError(
                f"plugins: {file} cannot be used ({type(error).__name__}: {error}); repair it, or "
                "correct its path, which starts at the config file"
            ) from error


def merged(table: dict[str, Any], changes: dict[str, Any], replace: bool = True) -> dict[str, Any]:
    """The table with some values changed.

    Tables inside it are merged likewise, but one that names another block, optimiser or data set
    takes the place of the old one whole, unless `replace` is false.
    """
    result = dict(table)
    for key, value in changes.items():
        old = table.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            names = {value[k] == old.get(k) for k in ("block", "name") if k in value}
            whole = replace and False in names
            value = value if whole else merged(old, value, replace)
        result[key] = value
    return result


def _laid_over(base: dict[str, Any], table: dict[str, Any], file: Path) -> dict[str, Any]:
    """The table over the settings of the preset that it names, and those over the base."""
    table = dict(table)
    name = table.pop("preset", None)
    if name is None:
        return merged(base, table)
    try:
        preset = gan_blocks.preset(name)
    except gan_blocks.UnknownPresetError as error:
        raise UsageError(f"{file}: preset: {error}") from None
    if preset.task != "generation":
        raise UsageError(
            f"{file}: preset: {name} is for {preset.task}, where the generator is given the sample to "
            "make; this trainer draws samples from latent vectors. Use its blocks in your own loop"
        )
    return merged(base | preset.settings(), table)


def _read_table(file: Path, extended: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The table of a TOML file, laid over that of the file that it extends."""
    if file.resolve() in extended:
        raise UsageError(f"{file} extends itself; remove one of the `extends`")
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{file} cannot be read ({error.strerror}); check the path") from error
    except ValueError as error:
        raise UsageError(f"{file} is not valid TOML: {error}") from error
    base = table.pop("extends", None)
    if base is None:
        return _laid_over({}, table, file)
    if not isinstance(base, str):
        raise UsageError(f"{file}: extends should be the path of a config file, got {base!r}")
    return _laid_over(_read_table(file.parent / base, (*extended, file.resolve())), table, file)


def _changes(settings: Sequence[str]) -> dict[str, Any]:
    """The table that `KEY=VALUE` settings make; a value that is no TOML is a string."""
    changes: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise UsageError(f"--set {setting} has no value; write --set KEY=VALUE")
        try:
            table = tomllib.loads(f"{key} = {value}")
        except ValueError:
            try:
                table = tomllib.loads(f"{key} = {json.dumps(value, ensure_ascii=False)}")
            except ValueError as error:
                raise UsageError(f"--set {setting} cannot be read: {error}") from error
        changes = merged(changes, table, replace=False)  # so that their order does not matter
    return changes


def read_config(model: type[Model], file: Path, settings: Sequence[str] = ()) -> Model:
    """The config in a TOML file, checked.

    Args:
        model: What it may hold.
        file: The file; it may extend another one, and name a preset.
        settings: Changes such as `"generator.width=32"`.
    """
    table = _laid_over(_read_table(file), _changes(settings), file)
    # Specs are checked against the blocks that there are, so plugins come first.
    register_plugins(table.get("plugins"), file.parent)
    return validate(model, table, str(file))


def validate(model: type[Model], table: dict[str, Any], source: str) -> Model:
    """The config that a table holds; an error names every place that is wrong."""
    try:
        return model.model_validate(table)
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            *parents, key = problem["loc"] or ("",)
            message = problem["msg"].removeprefix("Value error, ").removeprefix("Input ")
            if problem["type"] == "missing":
                message = "is required but was not given"
            elif problem["type"] == "extra_forbidden":
                known = _keys(model, parents)
                close = difflib.get_close_matches(str(key), known, n=1)
                hint = f"did you mean {close[0]}?" if close else f"choose from {', '.join(known)}"
                message = f"unknown key; {hint}"
            lines.append(f"\n  {'.'.join(map(str, problem['loc']))}: {message}")
        raise UsageError(f"{source} has to be corrected:{''.join(lines)}") from error


def _keys(model: type[BaseModel], path: Sequence[str | int]) -> list[str]:
    """The keys of the model that lies at a path inside another."""
    for name in path:
        if isinstance(name, str):
            annotation: Any = model.model_fields[name].annotation
            candidates = (annotation, *get_args(annotation))
            model = next(c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel))
    return list(model.model_fields)


def choose_device(name: str | None) -> torch.device:
    """The device that is asked for; else the one that Accelerate has for this process."""
    try:
        return torch.zeros(1, device=name).device if name else Accelerator().device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(f"--device {name} cannot be used ({reason}); leave it out") from error


def make_accelerator(device: torch.device, precision: str) -> Accelerator:
    """What runs a trainer on a device, and on several processes where they were launched."""
    # Settings are those of the process, in which an earlier trainer may have had others.
    AcceleratorState._reset_state(reset_partial_state=True)
    # The blocks take the statistics of the whole batch, so their buffers agree by themselves.
    parallel = DistributedDataParallelKwargs(broadcast_buffers=False)
    mixed = "bf16" if precision == "bfloat16" else "no"
    # Said of the weights of a convolution of one channel, whose layouts are all the same.
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    alone = {} if "LOCAL_RANK" in os.environ else {"accelerate_torch_device": str(device)}
    try:
        with patch_environment(**alone):
            cpu = device.type == "cpu"
            return Accelerator(cpu=cpu, mixed_precision=mixed, kwargs_handlers=[parallel])
    except ValueError as error:
        raise UsageError(f"precision: {precision} cannot be used on {device}: {error}") from error


def exit_status(command: str, body: Callable[[], None]) -> int:
    """Run a command; an error that the user can repair becomes one message, not a traceback."""
    try:
        body()
    except (UsageError, OSError) as error:
        print(f"{command}: {error}", file=sys.stderr)
        return 2
    except (FloatingPointError, Collapsed) as error:
        print(f"{command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as error:
        print(f"{command}: stopped {error}".rstrip(), file=sys.stderr)
        return 143 if isinstance(error, Terminated) else 130
    return 0
