"""The client's side of requests, joined with the server's stamps by their ids.

``client_encode | transport_out | the server's stages | transport_back | client_decode`` is what a client waits for. It
lies on one clock when the server is on this machine; of a server with another clock only the client's own times and the
sum of both transports are known. Transport is all between the client's library being handed a request and the server
having the whole of it, and back: sockets, but also threads and event loops that were busy with something else.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from serving_workbench.client_stamps import ClientStamp

__all__ = ["COLUMNS", "client_columns", "joined", "whole_path"]

#: Of a frame, microseconds.
COLUMNS: Final = (
    "client_encode_us",
    "transport_out_us",
    "transport_back_us",
    "client_decode_us",
    "transport_us",
    "client_total_us",
)

_NAN: Final = float("nan")

Row = Mapping[str, Any]


def joined(rows: Sequence[Row], stamps: Iterable[ClientStamp], *, one_clock: bool) -> list[dict[str, Any]]:
    """Return rows with the client's side as ``client``: `COLUMNS` and ``begun_ns``; None where it is not known.

    Parameters
    ----------
    rows : sequence of mapping
        Requests of the server's answer.
    stamps : iterable of ClientStamp
    one_clock : bool
        The server's times are on the stamps' clock.
    """
    by_id: defaultdict[str, list[ClientStamp]] = defaultdict(list)
    for stamp in stamps:
        by_id[stamp.request_id].append(stamp)
    if not one_clock:
        # Users may give an id to several requests, and no times tell which is which.
        given = Counter(row["request_id"] for row in rows)
        by_id = defaultdict(list, {each: found for each, found in by_id.items() if given[each] == 1})
    return [{**row, "client": _client(row, by_id.get(row["request_id"], ()), one_clock=one_clock)} for row in rows]


def _client(row: Row, stamps: Sequence[ClientStamp], *, one_clock: bool) -> dict[str, float] | None:
    if one_clock:
        # Of several with one id it is the one whose client waited while it was in the server.
        received = row["received_ns"] / 1e9
        written = received + row["total_us"] / 1e6
        stamps = [stamp for stamp in stamps if stamp.begun <= written and received <= stamp.decoded]
    if len(stamps) != 1:
        return None
    (stamp,) = stamps
    out = back = _NAN
    if one_clock:
        received_us = row["received_ns"] / 1e3
        out = received_us - 1e6 * stamp.sent
        back = 1e6 * stamp.answered - (received_us + row["total_us"])
    values = (
        1e6 * (stamp.sent - stamp.begun),
        out,
        back,
        1e6 * (stamp.decoded - stamp.answered),
        1e6 * (stamp.answered - stamp.sent) - row["total_us"],
        1e6 * (stamp.decoded - stamp.begun),
    )
    return {**dict(zip(COLUMNS, values, strict=True)), "begun_ns": round(1e9 * stamp.begun)}


def client_columns(rows: Iterable[Row]) -> dict[str, list[float]]:
    """Return the columns of a frame: NaN where nothing is known."""
    unknown = dict.fromkeys(COLUMNS, _NAN)
    sides = [row["client"] or unknown for row in rows]
    return {name: [side[name] for side in sides] for name in COLUMNS}


def whole_path(row: Row, stages: Sequence[str]) -> list[tuple[str, float]]:
    """Return names and microseconds of all that a request went through, as far as they lie on one clock."""
    own = [(name, float(row["stages_us"][name])) for name in stages]
    client = row["client"]
    if client is None or math.isnan(client["transport_out_us"]):
        return own
    first, there, back, last = ((name.removesuffix("_us"), client[name]) for name in COLUMNS[:4])
    return [first, there, *own, back, last]
