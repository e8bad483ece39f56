"""What `%serve?` shows: examples, then every sub-command with its flags."""

from __future__ import annotations

from collections.abc import Mapping

from serving_workbench.commands import COMMANDS, Parser

__all__ = ["help_page"]

_SERVE = """\
Serve a model of this notebook to real gRPC and REST clients.

    %serve model                    export, load, prove that it answers as the model here does, switch over
    %serve model --name digits      the same under another name; once more: its next version
    %serve models/digits            a SavedModel's folder
    %serve {models["best"]}         any expression, in braces; also a variable named like a sub-command: %serve {status}
    handle = %serve model           keep the handle: handle.predict(x), handle.rest_url ...

    %serve status                   what is served, and in which state
    %serve logs -f                  the server's log, as it grows
    %serve history digits           all versions, with their notes and metrics: a DataFrame
    %serve rollback                 the version before answers again
    %serve load digits 1            an older version beside the one that answers
    %serve label digits stable=1    clients ask for 'stable' and get version 1
    %serve traffic digits 1=90 2=10         a tenth of the requests goes to version 2; --off: none
    %serve config digits max_batch_size=32      batching, changed while requests run
    %serve warmup digits            record live requests, to be replayed whenever that version is loaded
    %serve restart                  a new process with the same models
    %serve stop                     stop the server
    %serve clean                    remove what killed servers and deploys have left behind

    %predict digits X_test[:5]      ask it: see %predict?

Braces work in every argument: %serve rollback --to {best_version}. The server is a process of its own: an interrupt or
a restart of the kernel does not stop it, and another notebook finds it. A variable wins over a folder of the same name;
./model is the folder.
"""


def help_page(magic: str, parsers: Mapping[str, Parser]) -> str:
    """Return the help of a magic, which becomes its docstring."""
    examples = next((each.examples for each in COMMANDS if each.name == magic), "")
    top = _SERVE if magic == "serve" else examples
    return "\n".join([*([top] if top else []), *(parser.format_help() for parser in parsers.values())])
