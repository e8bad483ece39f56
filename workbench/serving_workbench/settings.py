"""What a served model is set to: its version policy and its batching, shown and changed while requests run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serving_workbench.errors import WorkbenchError
from serving_workbench.tables import Table

if TYPE_CHECKING:
    from serving_workbench.handle import ServedModel

__all__ = ["BATCHING_PARAMETERS", "batching_of", "change_settings", "policy_of", "policy_text", "settings_table"]

#: Those of the server's `BatchingParameters`; what they mean is said there.
BATCHING_PARAMETERS = (
    "max_batch_size",
    "batch_timeout_micros",
    "max_enqueued_batches",
    "num_batch_threads",
    "allowed_batch_sizes",
    "pad_variable_length_inputs",
    "enable_large_batch_splitting",
    "max_execution_batch_size",
    "skip_timeout_when_idle",
    "gather_when_busy_micros",
)
_WRAPPED = (
    "max_batch_size",
    "batch_timeout_micros",
    "max_enqueued_batches",
    "num_batch_threads",
    "max_execution_batch_size",
    "enable_large_batch_splitting",
)
#: A file of batching parameters has a few lines; this is another file by mistake.
_MAX_FILE_BYTES = 1 << 20


def policy_of(text: str | Mapping[str, Any]) -> dict[str, Any]:
    """Return a version policy as the control channel takes it.

    Parameters
    ----------
    text : str or mapping
        ``"latest"``, ``"latest:2"``, ``"all"``, ``"specific:1,3"`` or ``"1,3"``; a mapping is returned as it is.

    Raises
    ------
    WorkbenchError
    """
    if isinstance(text, Mapping):
        return dict(text)
    kind, _, rest = str(text).partition(":")
    if not rest and kind.replace(",", "").isdecimal():
        kind, rest = "specific", kind
    numbers = [int(each) for each in rest.split(",")] if rest and _are_numbers(rest) else []
    if kind == "all" and not rest:
        return {"all": {}}
    if kind == "latest" and (not rest or len(numbers) == 1):
        return {"latest": {"num_versions": numbers[0] if numbers else 1}}
    if kind == "specific" and numbers:
        return {"specific": {"versions": numbers}}
    raise WorkbenchError(f"{text!r} is no version policy.", hint="Give latest, latest:N, all, or versions as 1,2.")


def _are_numbers(text: str) -> bool:
    return all(each.isdecimal() for each in text.split(","))


def policy_text(policy: Mapping[str, Any]) -> str:
    """Return a policy in words."""
    if "specific" in policy:
        return f"pinned to {', '.join(map(str, policy['specific']['versions']))}"
    if "latest" in policy:
        count = policy["latest"].get("num_versions", 1)
        return "latest version" if count == 1 else f"latest {count} versions"
    return "all versions"


def batching_of(wish: object) -> dict[str, Any] | None:
    """Return batching parameters as the control channel takes them; None turns batching off.

    Parameters
    ----------
    wish : str, Path, mapping, bool or None
        ``"on"`` or True: the defaults; ``"off"``, False or None: none; a mapping of parameters; else the path of a
        file in the text format of ``tensorflow.serving.BatchingParameters``, as ``--batching_parameters_file``.

    Raises
    ------
    WorkbenchError
        Naming the file, and its line.
    """
    if isinstance(wish, Mapping):
        return dict(wish)
    if wish is True or wish == "on":
        return {}
    if wish is None or wish is False or wish == "off":
        return None
    if not isinstance(wish, str | os.PathLike):
        raise WorkbenchError(
            f"batching takes a file, a dict of parameters, True or False, not a {type(wish).__name__}."
        )
    return _read_file(Path(wish).expanduser())


def _read_file(path: Path) -> dict[str, Any]:
    from google.protobuf import text_format  # not for the help page, which names the parameters

    from serving_server.wire import messages

    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE_BYTES)
        message = text_format.Parse(data.decode(), messages.BatchingParameters())
    except OSError as error:
        raise WorkbenchError(
            f"Cannot read the batching parameters '{path}': {error.strerror}.",
            hint="Give 'on', 'off' or a file in the text format of --batching_parameters_file.",
        ) from error
    except (UnicodeDecodeError, text_format.ParseError) as error:
        raise WorkbenchError(
            f"'{path}' holds no batching parameters: {' '.join(str(error).split())[:200]}.",
            hint="A line is such as: max_batch_size { value: 32 }",
        ) from error
    values = {name: getattr(message, name).value for name in _WRAPPED if message.HasField(name)}
    if message.allowed_batch_sizes:
        values["allowed_batch_sizes"] = list(message.allowed_batch_sizes)
    if message.pad_variable_length_inputs:
        values["pad_variable_length_inputs"] = True
    return values


def change_settings(
    served: ServedModel, *, policy: Any = None, batching: object = ..., parameters: Mapping[str, Any] | None = None
) -> None:
    """Change a model's policy and batching; see `serving_workbench.verbs.config`.

    Raises
    ------
    WorkbenchError
        What was given means nothing. Nothing has changed.
    ControlError
        A parameter is unknown or out of range, and named. Nothing has changed.
    """
    wanted_policy = None if policy is None else policy_of(policy)
    wanted = ... if batching is ... else batching_of(batching)
    if wanted is None and parameters:
        raise WorkbenchError(f"Batching cannot be off and have {next(iter(parameters))}.")
    server, control, name = served.server, served.server.control, served.name
    # The batching first: it is what may be refused.
    if wanted is not ...:
        # All of it, as by a file at the start of a server: what is not given gets its default.
        whole = None if wanted is None else {**wanted, **(parameters or {})}
        base_path = served.describe()["base_path"]
        server.ask(lambda: control.put_model(name, base_path, batching=whole))
    elif parameters:
        server.set_batching(name, **parameters)
    if wanted_policy is not None:
        server.ask(lambda: control.put_policy(name, wanted_policy))
        server.ask(lambda: control.poll(name))


def settings_table(model: Mapping[str, Any]) -> Table:
    """Return one row per setting of a model as the control channel describes it."""
    labels = ", ".join(f"{label} = {version}" for label, version in sorted(model["labels"].items()))
    rows = [
        {"setting": "base_path", "value": model["base_path"]},
        {"setting": "policy", "value": policy_text(model["policy"])},
        {"setting": "labels", "value": labels or None},
    ]
    if model["batching"] is None:
        rows.append({"setting": "batching", "value": "off"})
    else:
        rows += [{"setting": key, "value": _value_text(value)} for key, value in model["batching"].items()]
    data = {key: model[key] for key in ("name", "base_path", "policy", "labels", "batching")}
    return Table(rows, ("setting", "value"), model["name"], data)


def _value_text(value: object) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or None
    return None if value is None else str(value)
