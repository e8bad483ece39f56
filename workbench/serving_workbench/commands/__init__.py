"""The commands, each defined once: `%serve status` in a notebook is `serving-workbench status` in a terminal.

To add one, write a module with a `Command` (its arguments, and a function that calls the library) and name it in
`COMMANDS`. The magic, its help and completion, and the command of the terminal come from that. A command whose `magic`
is its own name becomes a magic of its own: ``Command("loadtest", ..., magic="loadtest")`` is `%loadtest`.
"""

from __future__ import annotations

from serving_workbench.commands import (
    cleaning,
    comparing,
    configuring,
    deploying,
    loading,
    looking,
    mirroring,
    panelling,
    predicting,
    profiling,
    ramping,
    remembering,
    splitting,
    stopping,
    tuning,
    versions,
    warming,
)
from serving_workbench.commands.command import Command, Place
from serving_workbench.commands.parser import Argument, Deferred, Parser, did_you_mean

__all__ = ["COMMANDS", "Argument", "Command", "Deferred", "Parser", "Place", "did_you_mean"]

#: In the order of the help pages.
COMMANDS: tuple[Command, ...] = (
    deploying.SERVE,
    looking.STATUS,
    looking.LOGS,
    panelling.PANEL,
    remembering.HISTORY,
    versions.ROLLBACK,
    versions.LABEL,
    versions.LOAD,
    versions.UNLOAD,
    splitting.TRAFFIC,
    ramping.RAMP,
    mirroring.MIRROR,
    configuring.CONFIG,
    warming.WARMUP,
    stopping.RESTART,
    stopping.STOP,
    cleaning.CLEAN,
    predicting.PREDICT,
    loading.LOADTEST,
    tuning.TUNE,
    comparing.AB,
    profiling.PROFILE,
)
