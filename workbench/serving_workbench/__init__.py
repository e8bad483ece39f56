"""Serve, prove and operate TensorFlow models from Python: the library below the notebook's magics.

>>> import serving_workbench as sw
>>> served = sw.serve(model, name="digits")  # doctest: +SKIP
>>> served.predict(x)  # doctest: +SKIP

Importing this package loads neither TensorFlow nor gRPC nor pandas: names are resolved when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from serving_workbench.comparison.checking import aa
    from serving_workbench.comparison.entry import compare
    from serving_workbench.comparison.live import compare_live
    from serving_workbench.comparison.mirrored import compare_mirrored
    from serving_workbench.comparison.result import CompareResult
    from serving_workbench.comparison.switchback import switchback
    from serving_workbench.comparison.tab.entry import ab
    from serving_workbench.deploy import serve
    from serving_workbench.errors import (
        CommandLineError,
        ControlError,
        DeployError,
        ExportError,
        LaunchError,
        LoadError,
        ModelNotServedError,
        PredictError,
        ProofError,
        PublishError,
        RecordError,
        RemoteKernelWarning,
        ServerNotRunningError,
        VersionSkewWarning,
        WorkbenchError,
        WorkbenchWarning,
    )
    from serving_workbench.handle import ServedModel, connect
    from serving_workbench.load.result import LoadResult
    from serving_workbench.load.testing import loadtest
    from serving_workbench.manage.panel import panel
    from serving_workbench.profiling.comparison import ProfileComparison
    from serving_workbench.profiling.entry import compare_profiles, profile
    from serving_workbench.profiling.result import ProfileResult
    from serving_workbench.profiling.tab.entry import profile_live
    from serving_workbench.replay_result import ReplayResult
    from serving_workbench.replaying import replay
    from serving_workbench.server import Server
    from serving_workbench.tables import Table
    from serving_workbench.tuning.entry import tune
    from serving_workbench.tuning.result import TuneResult
    from serving_workbench.verbs import (
        clean,
        config,
        follow_logs,
        instances,
        label,
        logs,
        predict,
        restart,
        rollback,
        status,
        stop,
        traffic,
        unload,
        warmup,
    )
    from serving_workbench.version_history import history

__all__ = [
    "CommandLineError",
    "CompareResult",
    "ControlError",
    "DeployError",
    "ExportError",
    "LaunchError",
    "LoadError",
    "LoadResult",
    "ModelNotServedError",
    "PredictError",
    "ProfileComparison",
    "ProfileResult",
    "ProofError",
    "PublishError",
    "RecordError",
    "RemoteKernelWarning",
    "ReplayResult",
    "ServedModel",
    "Server",
    "ServerNotRunningError",
    "Table",
    "TuneResult",
    "VersionSkewWarning",
    "WorkbenchError",
    "WorkbenchWarning",
    "aa",
    "ab",
    "clean",
    "compare",
    "compare_live",
    "compare_mirrored",
    "compare_profiles",
    "config",
    "connect",
    "follow_logs",
    "history",
    "instances",
    "label",
    "load_ipython_extension",
    "loadtest",
    "logs",
    "panel",
    "predict",
    "profile",
    "profile_live",
    "replay",
    "restart",
    "rollback",
    "serve",
    "status",
    "stop",
    "switchback",
    "traffic",
    "tune",
    "unload",
    "unload_ipython_extension",
    "warmup",
]

_HOME = {
    "serve": "deploy",
    "CompareResult": "comparison.result",
    "aa": "comparison.checking",
    "ab": "comparison.tab.entry",
    "compare": "comparison.entry",
    "compare_live": "comparison.live",
    "switchback": "comparison.switchback",
    "compare_mirrored": "comparison.mirrored",
    "ServedModel": "handle",
    "connect": "handle",
    "history": "version_history",
    "panel": "manage.panel",
    "LoadResult": "load.result",
    "loadtest": "load.testing",
    "ProfileComparison": "profiling.comparison",
    "ProfileResult": "profiling.result",
    "compare_profiles": "profiling.entry",
    "profile": "profiling.entry",
    "profile_live": "profiling.tab.entry",
    "ReplayResult": "replay_result",
    "replay": "replaying",
    "Server": "server",
    "Table": "tables",
    "tune": "tuning.entry",
    "TuneResult": "tuning.result",
    "clean": "verbs",
    "config": "verbs",
    "follow_logs": "verbs",
    "instances": "verbs",
    "label": "verbs",
    "logs": "verbs",
    "predict": "verbs",
    "restart": "verbs",
    "rollback": "verbs",
    "status": "verbs",
    "stop": "verbs",
    "traffic": "verbs",
    "unload": "verbs",
    "warmup": "verbs",
}
_NOTEBOOK_GROUP = "serving_workbench.notebook"


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def load_ipython_extension(ipython: Any) -> None:
    """Register the magics: what ``%load_ext serving_workbench`` calls.

    The magics live one floor above, in a package that this one does not import: it is found by its entry point.

    Raises
    ------
    WorkbenchError
        No installed package offers the magics.
    """
    _notebook_entry().load()(ipython)


def unload_ipython_extension(ipython: Any) -> None:
    """Take the magics back; running servers run on."""
    module = importlib.import_module(_notebook_entry().module)
    module.unload_ipython_extension(ipython)


def _notebook_entry() -> Any:
    from importlib.metadata import entry_points

    from serving_workbench.errors import WorkbenchError

    found = list(entry_points(group=_NOTEBOOK_GROUP))
    if not found:
        raise WorkbenchError(
            f"No installed package offers the notebook magics (entry point group '{_NOTEBOOK_GROUP}').",
            hint="Install the whole distribution, in the clone: pip install '.'",
        )
    return found[0]
