"""Binds the workbench to Jupyter: magics in the kernel, an extension in the Jupyter server.

`%load_ext serving_workbench` ends up here, by the entry point ``serving_workbench.notebook``; so does the Jupyter
server, by the file ``etc/jupyter/jupyter_server_config.d/serving_jupyter.json`` that pip installs.
"""

from __future__ import annotations

from typing import Any

__all__ = ["load_ipython_extension", "unload_ipython_extension"]


def load_ipython_extension(ipython: Any) -> None:
    """Register the magics and their completion with an IPython shell; doing so again changes nothing."""
    # Here and not above: whoever only asks for the version or the Jupyter side needs no IPython.
    from serving_jupyter import completion, magics

    magics.install(ipython)
    completion.install(ipython)


def _jupyter_server_extension_points() -> list[dict[str, Any]]:
    """Tell the Jupyter server what to load; it looks for this name."""
    from serving_jupyter.extension.app import ServingExtension  # imports Jupyter's server, which no kernel needs

    return [{"module": "serving_jupyter.extension.app", "app": ServingExtension}]


def unload_ipython_extension(ipython: Any) -> None:
    """Take the magics and their completion back; servers run on, because they belong to no kernel."""
    from serving_jupyter import completion, magics

    completion.uninstall(ipython)
    magics.uninstall(ipython)
