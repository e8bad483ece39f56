"""The kept stamps as rows: how long each stage of a request took, and the batch that it ran in."""

from __future__ import annotations

import asyncio
import dataclasses
import heapq
import itertools
from collections.abc import Iterator, Sequence
from time import perf_counter_ns, time_ns
from typing import Any, Final, NamedTuple

import orjson

from serving_server.metrics.stages import REASONS
from serving_server.stamps.ring import BatchStamps, RequestStamps, Stamps, whole_number

__all__ = ["STAGES", "Points", "Wish", "points", "requests_json"]

#: What a request goes through, one after the other; together they are its time in the server. ``batch_wait``: its batch
#: was not full and not old enough, or the loop had not come to it; ``thread_wait``: no thread was free; ``handover``
#: and ``handback``: between front and worker; ``encode_wait``: answers of batch mates were written first.
STAGES: Final = (
    "decode",
    "batch_wait",
    "thread_wait",
    "assembly",
    "handover",
    "run",
    "handback",
    "split",
    "encode_wait",
    "encode",
)

#: Rows of one answer when nobody says, and at most.
_LIMIT: Final = 1000
_MAX_LIMIT: Final = 10_000

#: Rows that are made in one go (about 1 ms); then the loop looks after requests.
_CHUNK: Final = 200
#: The same for rows that are only looked at.
_LOOKED_AT: Final = 5000

_INT64_MAX: Final = 2**63 - 1


class Points(NamedTuple):
    """When a request passed the ends of its stages, and when it came: nanoseconds, never going back."""

    at: tuple[int, ...]

    @property
    def total(self) -> int:
        """From the request to its answer, nanoseconds."""
        return self.at[-1] - self.at[0]

    def stages(self) -> Iterator[tuple[str, int]]:
        """Yield the name and the nanoseconds of each stage."""
        return zip(STAGES, (stop - start for start, stop in itertools.pairwise(self.at)), strict=True)


def points(batch: BatchStamps, received: float, queued: float, encoding: float, answered: float) -> Points:
    """Return what a request passed.

    Parameters
    ----------
    batch : BatchStamps
    received, queued, encoding, answered : float
        Seconds: the request was there, was in its queue, its answer began to be written, was written.
    """
    *_, ready, taken, handed_over, began, run, came, split = batch
    queue = round(queued * 1e9)
    # A request may join a batch that waits only for a thread.
    passed = (round(received * 1e9), queue, max(queue, ready), taken, handed_over, began, began + run, came, split)
    # Clocks of two processors may differ by some nanoseconds.
    ends = (*passed, round(encoding * 1e9), round(answered * 1e9))
    return Points(tuple(itertools.accumulate(ends, max)))


@dataclasses.dataclass(frozen=True, slots=True)
class Wish:
    """Which rows are wanted.

    Attributes
    ----------
    limit : int
        Of the newest.
    slowest : int or None
        Instead, so many of those that took longest, slowest first.
    version, batch : int or None
    request_id : str or None
        Only these.
    """

    limit: int = _LIMIT
    slowest: int | None = None
    version: int | None = None
    batch: int | None = None
    request_id: str | None = None

    @classmethod
    def from_query(cls, fields: dict[str, str]) -> Wish:
        """Read a query string's fields, which have the attributes' names.

        Raises
        ------
        InvalidArgumentError
            Naming the field.
        """
        return cls(
            _number(fields, "limit", 1, _MAX_LIMIT) or _LIMIT,
            _number(fields, "slowest", 1, _MAX_LIMIT),
            _number(fields, "version", 0, _INT64_MAX),
            _number(fields, "batch", 1, _INT64_MAX),
            fields.get("request_id"),
        )

    def wants(self, request: RequestStamps) -> bool:
        """Whether a request is among those that are wanted."""
        batch = request[0]
        return (
            (self.version is None or batch[1] == self.version)
            and (self.batch is None or batch[0] == self.batch)
            and (self.request_id is None or request[6] == self.request_id)
        )


def _number(fields: dict[str, str], name: str, least: int, most: int) -> int | None:
    text = fields.get(name)
    if text is None:
        return None
    digits = text.isascii() and text.isdigit() and len(text) <= len(str(most))
    return whole_number(int(text) if digits else text, name, least, most)


async def requests_json(stamps: Stamps, wish: Wish) -> bytes:
    """Return the JSON text of the rows that are wanted; makes them in small pieces, between which requests are served.

    An object with ``stages`` (names, in order), ``settings``, ``recorded`` (requests in the ring), ``clock`` (the same
    moment by the stamps' clock and since 1970, nanoseconds), ``requests`` and ``batches``.
    """
    ring: Sequence[RequestStamps] = list(stamps.ring or ())
    start = _first_whole(ring) if stamps.ring is not None and len(ring) == stamps.ring.maxlen else 0
    chosen = await _choose(ring, start, wish)
    firsts: dict[int, int] = {}  # by batch: where its requests begin
    rows: list[bytes] = []
    for at in range(0, len(chosen), _CHUNK):
        made = []
        for index in chosen[at : at + _CHUNK]:
            number = ring[index][0][0]
            if number not in firsts:
                firsts[number] = _first_of_batch(ring, index)
            made.append(_request(ring, index, firsts[number]))
        rows.append(orjson.dumps(made)[1:-1])
        await asyncio.sleep(0)
    batches: list[bytes] = []
    begins = list(firsts.values())
    for at in range(0, len(begins), _CHUNK):
        batches.append(orjson.dumps([_batch(ring, first) for first in begins[at : at + _CHUNK]])[1:-1])
        await asyncio.sleep(0)
    head = {
        "stages": STAGES,
        "settings": dataclasses.asdict(stamps.settings),
        "recorded": len(ring),
        "clock": {"monotonic_ns": perf_counter_ns(), "unix_ns": time_ns()},
    }
    texts = [orjson.dumps(head)[:-1], b',"requests":[', b",".join(rows), b'],"batches":[', b",".join(batches), b"]}"]
    return b"".join(texts)


def _first_whole(ring: Sequence[RequestStamps]) -> int:
    """Return where the second batch begins: of the first one, the ring may have lost some. 0 when there is no other."""
    oldest = ring[0][0]
    return next((index for index, request in enumerate(ring) if request[0] is not oldest), 0)


async def _choose(ring: Sequence[RequestStamps], start: int, wish: Wish) -> list[int]:
    """Return the places of the wanted requests, in the order of the answer."""
    chosen: list[int] = []
    if wish.slowest is not None:
        for at in range(start, len(ring), _LOOKED_AT):
            more = [index for index in range(at, min(at + _LOOKED_AT, len(ring))) if wish.wants(ring[index])]
            chosen = heapq.nlargest(wish.slowest, chosen + more, key=lambda index: ring[index][3] - ring[index][1])
            await asyncio.sleep(0)
        return chosen[: wish.limit] if wish.limit < len(chosen) else chosen
    for looked, index in enumerate(range(len(ring) - 1, start - 1, -1), 1):
        if wish.wants(ring[index]):
            chosen.append(index)
            if len(chosen) == wish.limit:
                break
        if looked % _LOOKED_AT == 0:
            await asyncio.sleep(0)
    return chosen[::-1]


def _first_of_batch(ring: Sequence[RequestStamps], index: int) -> int:
    batch = ring[index][0]
    while index and ring[index - 1][0] is batch:
        index -= 1
    return index


def _request(ring: Sequence[RequestStamps], index: int, first: int) -> dict[str, Any]:
    batch, received, queued, answered, rows, pieces, request_id = ring[index]
    # Answers of a batch are written one after the other: the end of one is where the next begins.
    encoding = ring[index - 1][3] if index > first else batch[-1] / 1e9
    passed = points(batch, received, queued, encoding, answered)
    return {
        "id": f"{batch[0]}-{index - first}",
        "request_id": request_id,
        "batch": batch[0],
        "version": batch[1],
        "rows": rows,
        "pieces": pieces,
        "received_ns": passed.at[0],
        "total_us": passed.total / 1000,
        "stages_us": {name: nanoseconds / 1000 for name, nanoseconds in passed.stages()},
    }


def _batch(ring: Sequence[RequestStamps], first: int) -> dict[str, Any]:
    batch = ring[first][0]
    number, version, signature, reason, requests, rows, padded_rows, ready, taken, handed_over, began, run, came, _ = (
        batch
    )
    mates = itertools.takewhile(lambda index: ring[index][0] is batch, range(first, len(ring)))
    return {
        "batch": number,
        "version": version,
        "signature": signature,
        "reason": REASONS[reason],
        "requests": requests,
        "rows": rows,
        "padding_rows": padded_rows - rows,
        "mates": [f"{number}-{index - first}" for index in mates],
        "ready_ns": ready,
        "taken_ns": taken,
        "handed_over_ns": handed_over,
        "run_began_ns": began,
        "run_ended_ns": began + run,
        "came_ns": came,
    }
