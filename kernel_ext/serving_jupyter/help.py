"""What `%serve?` shows: what it does, examples, its flags."""

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
    %serve panel                    the same live, with buttons
    %serve logs -f                  the server's log, as it grows
    %serve history digits           all versions, with their notes and metrics: a DataFrame
    %serve rollback                 the version before answers again
    %serve load digits 1            an older version beside the one that answers; %serve unload: not any more
    %serve label digits stable=1    clients ask for 'stable' and get version 1
    %serve traffic digits 1=90 2=10             a tenth of the requests goes to version 2; --off: none
    %serve ramp digits 2 1% 10% 50%             more and more of them, and none when it is worse than allowed
    %serve mirror digits 2                      copies of requests: version 2 answers, and nobody gets it
    %serve config digits max_batch_size=32      batching, changed while requests run
    %serve warmup digits            record live requests, to be replayed whenever that version is loaded
    %serve restart                  a new process with the same models
    %serve stop                     stop the server
    %serve clean                    remove what killed servers and deploys have left behind
    %serve ramp --help              all about one of these

    %predict digits X_test[:5]      ask it; also %loadtest, %tune, %ab and %profile, each with its own page: %tune?

Braces work in every argument: %serve rollback --to {best_version}. The server is a process of its own: an interrupt or
a restart of the kernel does not stop it, and another notebook finds it. A variable wins over a folder of the same name;
./model is the folder.
"""


def help_page(magic: str, parsers: Mapping[str, Parser]) -> str:
    """Return the help of a magic, which becomes its docstring: what it does, examples, flags."""
    command = next((each for each in COMMANDS if each.name == magic), None)
    if command is None:
        return "\n".join(parser.format_help() for parser in parsers.values())
    top = _SERVE if magic == "serve" else command.examples
    if top.startswith(" "):
        top = f"{command.summary}\n\n{top}"
    # Sub-commands have pages of their own.
    return f"{top}\n{next(iter(parsers.values())).format_help()}"
