"""The kept stamps as rows: how long each stage of a request took, and the batch that it ran in."""

from __future__ import annotations

import asyncio
import dataclasses
import heapq
import itertools
from collections.abc import Iterator
from time import perf_counter_ns, time_ns
from typing import Any, Final, NamedTuple

import orjson

from serving_server.errors import StatusCode
from serving_server.metrics.stages import REASONS
from serving_server.stamps.ring import AnsweredBatch, BatchStamps, FailedRequest, Stamps, whole_number

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
_LOOKED_AT: Final = 1000

_INT64_MAX: Final = 2**63 - 1

#: What is noted of most requests: no id, no pieces.
_NOTHING: Final[tuple[str | None, int]] = (None, 0)


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
    queue = round(queued * 1e9)
    # A request may join a batch that waits only for a thread.
    waits = (round(received * 1e9), queue, max(queue, batch.ready), batch.taken)
    ran = (batch.handed_over, batch.began, batch.began + batch.run, batch.came, batch.split)
    # Clocks of two processors may differ by some nanoseconds.
    ends = (*waits, *ran, round(encoding * 1e9), round(answered * 1e9))
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


def _number(fields: dict[str, str], name: str, least: int, most: int) -> int | None:
    text = fields.get(name)
    if text is None:
        return None
    digits = text.isascii() and text.isdigit() and len(text) <= len(str(most))
    return whole_number(int(text) if digits else text, name, least, most)


class _Row(NamedTuple):
    """One request that may be told: when it ended and how long it took, seconds; where it is kept."""

    ended: float
    took: float
    kept: AnsweredBatch | FailedRequest
    place: int


async def requests_json(stamps: Stamps, wish: Wish) -> bytes:
    """Return the JSON text of the rows that are wanted; makes them in small pieces, between which requests are served.

    An object with ``stages`` (names, in order), ``settings``, ``recorded`` (answered requests that are kept),
    ``failed`` (others that are kept), ``clock`` (the same moment by the stamps' clock and since 1970, nanoseconds),
    ``requests`` and ``batches``.
    """
    failed, answered = list(stamps.failed), list(stamps.batches)
    recorded = stamps.recorded
    chosen = await _choose(answered, failed, wish)
    # A request that ends while its batch runs knows of it only what there was: the batch's own stamps come first.
    of_failed = {request.batch.number for request in failed if request.batch is not None}
    whole = {kept.stamps.number: kept for kept in answered if kept.stamps.number in of_failed}
    batches: dict[int, tuple[BatchStamps, list[str]]] = {}  # by number: what its requests share, and their ids
    rows: list[bytes] = []
    for at in range(0, len(chosen), _CHUNK):
        made = []
        for row in chosen[at : at + _CHUNK]:
            kept = row.kept
            if isinstance(kept, AnsweredBatch):
                number = kept.stamps.number
                if number not in batches:
                    batches[number] = _shared(kept)
                made.append(_answered(kept, row.place))
            else:
                if kept.batch is not None and kept.batch.number not in batches:
                    same = whole.get(kept.batch.number)
                    batches[kept.batch.number] = (kept.batch, []) if same is None else _shared(same)
                made.append(_failed(kept))
        rows.append(orjson.dumps(made)[1:-1])
        await asyncio.sleep(0)
    for request in failed:
        if request.batch is not None and request.batch.number in batches:
            batches[request.batch.number][1].append(f"f{request.number}")
    told: list[bytes] = []
    shared = list(batches.values())
    for at in range(0, len(shared), _CHUNK):
        told.append(orjson.dumps([_batch(*each) for each in shared[at : at + _CHUNK]])[1:-1])
        await asyncio.sleep(0)
    head = {
        "stages": STAGES,
        "settings": dataclasses.asdict(stamps.settings),
        "recorded": recorded,
        "failed": len(failed),
        "clock": {"monotonic_ns": perf_counter_ns(), "unix_ns": time_ns()},
    }
    texts = [orjson.dumps(head)[:-1], b',"requests":[', b",".join(rows), b'],"batches":[', b",".join(told), b"]}"]
    return b"".join(texts)


def _shared(kept: AnsweredBatch) -> tuple[BatchStamps, list[str]]:
    return kept.stamps, [f"{kept.stamps.number}-{index}" for index in range(len(kept))]


async def _choose(batches: list[AnsweredBatch], failed: list[FailedRequest], wish: Wish) -> list[_Row]:
    """Return the wanted requests, in the order of the answer."""
    newest = heapq.merge(_backwards(batches), _failed_backwards(failed), key=lambda row: -row.ended)
    chosen: list[_Row] = []
    while looked := list(itertools.islice(newest, _LOOKED_AT)):
        more = [row for row in looked if _is_wanted(row, wish)]
        if wish.slowest is not None:
            chosen = heapq.nlargest(wish.slowest, chosen + more, key=lambda row: row.took)
        else:
            chosen += more
            if len(chosen) >= wish.limit:
                break
        await asyncio.sleep(0)
    chosen = chosen[: wish.limit]
    return chosen if wish.slowest is not None else chosen[::-1]


def _backwards(batches: list[AnsweredBatch]) -> Iterator[_Row]:
    """Yield the requests of batches, newest first."""
    for kept in reversed(batches):
        count, times = len(kept), kept.times
        for place in range(count - 1, -1, -1):
            ended = times[2 * count + place]
            yield _Row(ended, ended - times[place], kept, place)


def _failed_backwards(failed: list[FailedRequest]) -> Iterator[_Row]:
    for kept in reversed(failed):
        yield _Row(kept.ended, kept.ended - kept.received, kept, 0)


def _is_wanted(row: _Row, wish: Wish) -> bool:
    kept = row.kept
    batch: BatchStamps | None
    if isinstance(kept, AnsweredBatch):
        version, batch = kept.stamps.version, kept.stamps
        request_id = kept.noted.get(row.place, _NOTHING)[0]
    else:
        version, batch, request_id = kept.version, kept.batch, kept.request_id
    return (
        (wish.version is None or version == wish.version)
        and (wish.batch is None or (batch is not None and batch.number == wish.batch))
        and (wish.request_id is None or request_id == wish.request_id)
    )


def _answered(kept: AnsweredBatch, index: int) -> dict[str, Any]:
    stamps, rows, noted, times = kept.stamps, kept.rows, kept.noted, kept.times
    count = len(kept)
    received, queued, answered = times[index], times[count + index], times[2 * count + index]
    # Answers of a batch are written one after the other: the end of one is where the next begins.
    encoding = times[2 * count + index - 1] if index else stamps.split / 1e9
    passed = points(stamps, received, queued, encoding, answered)
    request_id, pieces = noted.get(index, _NOTHING)
    return {
        "id": f"{stamps.number}-{index}",
        "request_id": request_id,
        "status": StatusCode.OK.name,
        "batch": stamps.number,
        "version": stamps.version,
        "signature": stamps.signature,
        "rows": rows if isinstance(rows, int) else rows[index],
        "pieces": pieces,
        **_times(passed),
    }


def _failed(kept: FailedRequest) -> dict[str, Any]:
    batch = kept.batch
    if batch is None:  # decoded, then it waited for its batch to fill, and for a thread, until its end
        ready = min(max(kept.queued, kept.ready), kept.ended)
        times = (kept.received, kept.queued, ready, *[kept.ended] * (len(STAGES) - 2))
        ends = tuple(round(seconds * 1e9) for seconds in times)
        passed = Points(ends)
    else:
        passed = points(batch, kept.received, kept.queued, batch.split / 1e9, kept.ended)
    return {
        "id": f"f{kept.number}",
        "request_id": kept.request_id,
        "status": kept.status.name,
        "batch": None if batch is None else batch.number,
        "version": kept.version,
        "signature": kept.signature,
        "rows": kept.rows,
        "pieces": kept.pieces,
        **_times(passed),
    }


def _times(passed: Points) -> dict[str, Any]:
    return {
        "received_ns": passed.at[0],
        "total_us": passed.total / 1000,
        "stages_us": {name: nanoseconds / 1000 for name, nanoseconds in passed.stages()},
    }


def _batch(stamps: BatchStamps, mates: list[str]) -> dict[str, Any]:
    return {
        "batch": stamps.number,
        "version": stamps.version,
        "signature": stamps.signature,
        "reason": REASONS[stamps.reason],
        "lane": stamps.lane,
        "retried": stamps.retried,
        "requests": stamps.requests,
        "rows": stamps.rows,
        "padding_rows": stamps.padded_rows - stamps.rows,
        "mates": mates,
        "ready_ns": stamps.ready,
        "taken_ns": stamps.taken,
        "handed_over_ns": stamps.handed_over,
        "run_began_ns": stamps.began,
        "run_ended_ns": stamps.began + stamps.run,
        "came_ns": stamps.came,
    }
