"""What the stages of many requests say: where most of the time is, and what usually helps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from serving_workbench.profiling.requests import RequestProfile

__all__ = ["KINDS", "advice", "kind_of"]

#: Stages by what a user can do about them; names as of `serving_server.stamps.rows.STAGES`.
KINDS: Final = {
    "decode": "codec",
    "encode": "codec",
    "batch_wait": "wait for a fuller batch",
    "thread_wait": "wait for a free thread",
    "assembly": "batch assembly and split",
    "split": "batch assembly and split",
    "handover": "between processes",
    "handback": "between processes",
    "encode_wait": "wait for batch mates' answers",
    "run": "run",
}

#: From which share of the time a kind is worth a sentence.
_LARGE: Final = 0.3

_WORDS: Final = {
    "codec": "messages are read and written: larger requests over gRPC, or fewer rows of text, cost less per row",
    "wait for a fuller batch": "requests wait for mates: a shorter batch_timeout_micros would let them go, see %tune",
    "wait for a free thread": "batches wait for a thread: more num_batch_threads, larger batches or fewer requests, "
    "see %tune",
    "batch assembly and split": "rows are put together and apart: large rows; smaller batches need less of it",
    "between processes": "a batch is handed to its worker and back; the model is small, or the processors are busy",
    "wait for batch mates' answers": "answers of one batch are written one after the other: smaller batches",
    "run": "TensorFlow runs: %profile tells which ops",
}


def kind_of(stage: str) -> str:
    """Return what kind of time a stage is; its own name when nothing is known about it."""
    return KINDS.get(stage, stage)


def advice(profile: RequestProfile) -> list[str]:
    """Return sentences about what takes 30 % of the requests' time and more, the largest first."""
    failed = profile.frame.loc[profile.frame["status"] != "OK", "status"].value_counts()
    codes = ", ".join(f"{count} {code}" for code, count in failed.items())
    told = [f"{failed.sum()} of {len(profile)} requests failed ({codes}); the rest is of the others."] if codes else []
    if len(profile) == failed.sum():
        return told or ["No request was answered yet, or stamps are switched off."]
    shares = profile.by_stage()["share"].groupby(kind_of).sum().sort_values(ascending=False)
    found = told + [
        f"{100 * share:.0f} % of the time in the server is {kind}: {_WORDS.get(str(kind), 'a stage of its own')}."
        for kind, share in shares.items()
        if share >= _LARGE
    ]
    if found == told:
        first, second = (f"{kind} ({100 * share:.0f} %)" for kind, share in shares.head(2).items())
        found.append(f"No stage stands out; the largest are {first} and {second}.")
    padding = profile.batches["padding_rows"].sum() / max(1, (profile.batches[["rows", "padding_rows"]].sum()).sum())
    if padding >= _LARGE:
        found.append(f"{100 * padding:.0f} % of the rows that ran are padding: more allowed_batch_sizes, see %tune.")
    return found
