"""What a profile says, in sentences: what is worth knowing first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from serving_workbench.profiling import memory, startup
from serving_workbench.profiling.operations import FRAMEWORK, short_name

if TYPE_CHECKING:
    from serving_workbench.profiling.result import ProfileResult

__all__ = ["advice", "percent"]

#: From which share of the run an op, or a type of ops, is worth a sentence.
_LARGE: Final = 0.3

#: From which share on the framework is.
_MUCH_FRAMEWORK: Final = 0.25

#: From which share of its time in the server a request's wait in the queue is.
_LONG_WAIT: Final = 0.3

#: Seconds that the server traces own runs at most (`serving_server.worker.op_profile`).
_MOST_TRACED: Final = 5.0

#: By which factor a row must be cheaper in a larger batch.
_CHEAPER: Final = 1.2


def percent(share: float) -> str:
    """Return a share in whole percent; small ones with a digit."""
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.1f} %"


def advice(result: ProfileResult) -> list[str]:
    """Return sentences, the most telling first."""
    found = []
    if result.memory_data is not None:
        found += memory.sentences(
            result.memory_data["profile"],
            result.memory_fit,
            available=result.memory_data["available_bytes"],
            batching=result.memory_data["batching"],
        )
    if result.startup_data is not None:
        found += startup.sentences(result.startup_data)
    if result.ops_data is not None:
        of_ops = [*_ops(result), *_sizes(result, result.ops_data), *_rows(result.ops_data)]
        found = [*_waiting(result.stages or {}), *of_ops, *found]
    # What may break the server comes first.
    return sorted(found, key=lambda sentence: not sentence.startswith("WARNING"))


def _waiting(stages: dict[str, float]) -> list[str]:
    for_batch, for_thread = stages.get("batch_wait", 0.0), stages.get("thread_wait", 0.0)
    if for_batch + for_thread < _LONG_WAIT:
        return []
    parts = f"{percent(for_batch)} for the batch to fill, {percent(for_thread)} for a thread"
    whole = percent(for_batch + for_thread)
    return [f"{whole} of the last requests' time in the server is queue wait ({parts}): see %tune."]


def _ops(result: ProfileResult) -> list[str]:
    ops = result.ops[result.ops["name"] != FRAMEWORK]
    if not result.runs:
        return ["No run was seen: nothing asked the model meanwhile."]
    if ops.empty:
        return [f"TensorFlow's tracer saw {result.runs} runs and no op in them."]
    found = []
    top = ops.iloc[0]
    types = result.types[result.types["type"] != FRAMEWORK]
    most = types.iloc[0]
    if top["share"] >= _LARGE:
        found.append(f"{percent(top['share'])} of the run is one {top['type']}: {short_name(top['name'])}.")
    if most["share"] >= _LARGE and most["ops"] > 1:
        found.append(f"{percent(most['share'])} of the run is {most['type']}, in {most['ops']:.0f} ops.")
    if not found:
        found.append(
            f"No op stands out: the first, {short_name(top['name'])} ({top['type']}), takes {percent(top['share'])}."
        )
    rest = float(result.ops.loc[result.ops["name"] == FRAMEWORK, "share"].sum())
    if rest >= _MUCH_FRAMEWORK:
        found.append(
            f"{percent(rest)} of the run is TensorFlow's own, between ops that are short: larger batches share it."
        )
    return found


def _sizes(result: ProfileResult, data: dict[str, Any]) -> list[str]:
    sizes = result.batch_sizes
    found = []
    if len(sizes) > 1:
        first, best = sizes.iloc[0], sizes.iloc[int(sizes["us_per_row"].argmin())]
        factor = first["us_per_row"] / best["us_per_row"]
        costs = f"{best['us_per_row']:,.0f} us a row against {first['us_per_row']:,.0f}"
        if factor >= _CHEAPER:
            found.append(
                f"A batch of {best['rows']:.0f} costs {factor:.1f} times less per row than one of {first['rows']:.0f} "
                f"({costs}): see %tune."
            )
        else:
            found.append(f"Larger batches are hardly cheaper per row ({costs}): batching gains little.")
    failed: dict[str, Any] | None = data.get("failed")
    if failed is not None:
        found.append(f"A batch of {failed['rows']} fails: {failed['message'].splitlines()[0]}")
    return found


def _rows(data: dict[str, Any]) -> list[str]:
    found = []
    if data["events_left_out"]:
        found.append(
            f"Tables are of all calls of ops; traces for Perfetto have the first {len(data['events']):,}, "
            f"{data['events_left_out']:,} were left out."
        )
    if data["source"] == "live":
        found.append("Runs of live requests were watched; their sizes are whatever clients sent.")
        return found
    asked, limit = data.get("asked", 0), data.get("traced_seconds", 0.0)  # files of earlier versions have none
    if data["batches"] < asked:
        more = "seconds=" if limit < _MOST_TRACED else "busy=, or a smaller batch_size=,"
        found.append(
            f"Of {asked} runs, {data['batches']} were traced in the {limit:g} s for them: a larger {more} makes room."
        )
    if not data["batched"]:
        found.append("The signature has no batch dimension: requests cannot share a run.")
    if not data["frozen"]:
        found.append("The signature is not frozen: each run reads its variables; the server's log tells why.")
    if data["source"] == "drawn":
        found.append("The rows were drawn to fit the signature; where times depend on values, give some: data=X[:8].")
    return found
