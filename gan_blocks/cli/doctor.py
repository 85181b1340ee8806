"""`gan-blocks doctor`: what is installed here, and what is wrong with it."""

import importlib.metadata
import os
import platform
from typing import Annotated, Any

import torch
import typer
from rich.padding import Padding

import gan_blocks
from gan_blocks import _environment
from gan_blocks.cli._app import AsJson, console, print_json
from gan_blocks.cli.list import as_dict
from gan_blocks.registry import registry

VARIABLES = ("GAN_BLOCKS_PLUGINS", "GAN_BLOCKS_DISABLE_PLUGINS", "GAN_BLOCKS_TRACE")


def doctor(
    as_json: AsJson = False,
    traceback: Annotated[
        bool, typer.Option("--traceback", help="Say where each failed plugin failed.")
    ] = False,
) -> None:
    """Look at the installation: versions, devices, and whether every plugin loads."""
    plugins = registry.plugins(load=True)
    failed = [plugin for plugin in plugins if plugin.status == "failed"]
    described = [as_dict(plugin) for plugin in plugins]
    if traceback:
        for entry, plugin in zip(described, plugins, strict=True):
            entry["traceback"] = plugin.traceback
    listed = [name.strip() for name in os.environ.get("GAN_BLOCKS_PLUGINS", "").split(",")]
    absent = [n for n in listed if n and n not in [plugin.name for plugin in plugins]]
    notes = [f"GAN_BLOCKS_PLUGINS names {name!r}, which is not installed" for name in absent]
    if _environment.damaged:
        notes.append(
            "torch and pydantic load no extensions of theirs here, since the entry points of a package "
            f"cannot be read: {_environment.damaged}"
        )
    report: dict[str, Any] = {
        "ok": not failed,
        "versions": _versions(),
        "devices": _devices(),
        "environment": {name: os.environ.get(name) for name in VARIABLES},
        "plugins": described,
        "notes": notes,
    }
    if as_json:
        print_json(report)
    else:
        _print(report)
    raise typer.Exit(1 if failed else 0)


def _print(report: dict[str, Any]) -> None:
    out = console()
    for title in ("versions", "environment"):
        out.print(title, style="bold")
        for name, value in report[title].items():
            out.print(f"  {name}: {'not set' if value is None else value}")
    out.print("devices", style="bold")
    for device in report["devices"]:
        out.print(f"  {device}")
    out.print("plugins", style="bold")
    for plugin in report["plugins"]:
        packages, versions = plugin["package"].split(", "), plugin["version"].split(", ")
        where = " and ".join(f"{p} {v}".strip() for p, v in zip(packages, versions, strict=False))
        out.print(f"  {plugin['name']}: {plugin['status']}, {where}", overflow="fold")
        details = [plugin["error"], f"remedy: {plugin['remedy']}"] if plugin["error"] else []
        if plugin["changed_settings"]:
            settings = ", ".join(plugin["changed_settings"])
            details.append(f"changed while it was imported: {settings}")
        for detail in details:
            out.print(Padding(detail, (0, 0, 0, 4), expand=False), overflow="fold")
        if plugin.get("traceback"):
            out.print(plugin["traceback"], soft_wrap=True)
    failed = [plugin["name"] for plugin in report["plugins"] if plugin["status"] == "failed"]
    out.print()
    for note in report["notes"]:
        out.print(note, overflow="fold")
    out.print(f"{len(failed)} failed: {', '.join(failed)}" if failed else "everything works")


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "gan_blocks": gan_blocks.__version__}
    for package in ("torch", "pydantic", "pluggy", "typer"):
        try:
            versions[package] = importlib.metadata.version(package)
        except Exception:
            versions[package] = "unknown: its metadata is missing"
    versions["platform"] = platform.platform()
    return versions


def _devices() -> list[str]:
    devices = ["cpu"]
    try:
        for i in range(torch.cuda.device_count()):
            devices.append(f"cuda:{i} {torch.cuda.get_device_name(i)}")
        if torch.backends.mps.is_available():
            devices.append("mps")
    except Exception as error:  # a broken driver is a finding, too
        devices.append(f"unknown: {error}")
    return devices
