"""Imported before torch, so that one damaged package does not stop everything.

torch and pydantic read the entry points of all packages when they are imported, and fail if a single
one cannot be read. Then they are told not to look, so that `gan-blocks doctor` can name the package.
"""

import importlib.metadata
import os

damaged = ""
"""Why the entry points of this environment cannot be read; empty if they can."""

try:
    importlib.metadata.entry_points()
except Exception as error:
    damaged = f"{type(error).__name__}: {error}"
    os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
