"""Which server is meant: as an argument says, else the environment, else the one called ``default``."""

from __future__ import annotations

import os
from typing import Final

__all__ = ["DEFAULT_INSTANCE", "INSTANCE_VARIABLE", "chosen_instance"]

DEFAULT_INSTANCE: Final = "default"
#: For all notebooks of a Jupyter server, or all programs of a shell.
INSTANCE_VARIABLE: Final = "SERVING_WORKBENCH_INSTANCE"


def chosen_instance(given: str | None = None) -> str:
    """Return the instance name that is meant; an empty one is none."""
    return given or os.environ.get(INSTANCE_VARIABLE) or DEFAULT_INSTANCE
