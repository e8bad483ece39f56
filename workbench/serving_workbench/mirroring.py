"""Copies of live requests that another version answers too, as the server tells of them and as users read it."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from serving_server.tensors import to_array
from serving_server.wire.messages import TensorProto
from serving_workbench.control import ControlClient
from serving_workbench.tables import Table

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["mirror_table", "mirror_text", "pairs_frame"]

_COLUMNS = ("requests", "count", "of those seen")


def mirror_table(name: str, mirror: Mapping[str, Any] | None) -> Table:
    """Return what became of a model's requests as a table; ``.data`` is the control channel's whole answer."""
    if mirror is None:
        return Table([], _COLUMNS, f"{name}: no request is copied to another version")
    seen, shadow = mirror["seen"], mirror["version"]
    counts = {
        "that could be copied": seen,
        "chosen, and answered by the primary": mirror["chosen"],
        f"answered by version {shadow} too": mirror["answered"],
        f"that failed in version {shadow}": mirror["failed"],
        "dropped for want of room": mirror["dropped"],
        "discarded at the end": mirror["discarded"],
        "waiting or running": mirror["waiting"] + mirror["running"],
    }
    if mirror["active"]:
        shown = f"{name}: {mirror_text(mirror)}; the oldest copy is {1e3 * mirror['lag_seconds']:,.0f} ms behind"
    else:
        shown = f"{name}: {mirror_text(mirror)}"
    rows = [
        {"requests": what, "count": count, "of those seen": f"{100 * count / seen:.3g} %" if seen else None}
        for what, count in counts.items()
    ]
    return Table(rows, _COLUMNS, shown, dict(mirror))


def mirror_text(mirror: Mapping[str, Any] | None) -> str:
    """Return a mirror in a line; empty when there never was one."""
    if not mirror:
        return ""
    share = f"{100 * mirror['fraction']:.3g} % of the requests"
    if mirror["active"]:
        return f"{share} are copied to version {mirror['version']}"
    reason = (mirror["ended"] or {}).get("reason", "unknown")
    return f"{share} were copied to version {mirror['version']} until: {reason}"


def pairs_frame(control: ControlClient, name: str, after: int = 0) -> pd.DataFrame:
    """Return all pairs with numbers above `after` that the server remembers; see `ServedModel.mirrored`."""
    import pandas as pd  # only for those who ask

    columns = ["number", "time", "api", "signature", "primary", "shadow", "primary_ms", "shadow_ms", "waited_ms"]
    columns += ["inputs", "primary_outputs", "shadow_outputs", "error"]
    return pd.DataFrame([_row(pair) for pair in _all(control, name, after)], columns=pd.Index(columns))


def _all(control: ControlClient, name: str, after: int) -> Iterator[dict[str, Any]]:
    while True:
        pairs = control.mirrored(name, after)["pairs"]
        if not pairs:
            return
        yield from pairs
        after = pairs[-1]["number"]


def _row(pair: Mapping[str, Any]) -> dict[str, Any]:
    primary, shadow = pair["primary"], pair["shadow"]
    error = shadow["error"]
    return {
        **{field: pair[field] for field in ("number", "time", "api", "signature")},
        "primary": primary["version"],
        "shadow": shadow["version"],
        "primary_ms": 1000 * primary["seconds"],
        "shadow_ms": 1000 * shadow["seconds"],
        "waited_ms": 1000 * pair["waited"],
        "inputs": _arrays(pair["inputs"]),
        "primary_outputs": _arrays(primary["outputs"]),
        "shadow_outputs": _arrays(shadow["outputs"]),
        "error": None if error is None else f"{error['code']}: {error['message']}",
    }


def _arrays(encoded: Mapping[str, str] | None) -> dict[str, Any] | None:
    if encoded is None:
        return None
    return {alias: to_array(TensorProto.FromString(base64.b64decode(text))) for alias, text in encoded.items()}
