"""Where the time of a load went, and what the first request paid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from serving_workbench.profiling.memory import in_words

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["sentences", "startup_frame"]

_COLUMNS: Final = ("step", "seconds", "share", "what")

#: What happens in each step, in words.
_WORDS: Final = {
    "fork": "a worker is forked from the process that has TensorFlow",
    "op libraries": "custom ops are loaded",
    "read graph": "saved_model.pb is read and made a graph",
    "restore variables": "variables are read",
    "initialize": "tables and the model's own initializers",
    "read model": "model.tflite is read",
    "read warmup": "recorded requests are read",
    "freeze": "variables become constants, and answers are compared with the original's",
    "warm up": "recorded requests are replayed",
    "hand over": "garbage is given back, lanes are opened",
    "answer": "the front hears of it",
}


def startup_frame(data: dict[str, Any]) -> pd.DataFrame:
    """Return a row per step of the load, in order: ``step``, ``seconds``, ``share`` of the load, ``what``."""
    import pandas as pd  # only for those who ask

    total = sum(ns for _, ns in data["steps"])
    rows = [
        {"step": name, "seconds": ns / 1e9, "share": ns / total if total else 0.0, "what": _WORDS.get(name, "")}
        for name, ns in data["steps"]
    ]
    return pd.DataFrame(rows, columns=pd.Index(_COLUMNS))


def sentences(data: dict[str, Any]) -> list[str]:
    """Return what is worth knowing of a load."""
    total = sum(ns for _, ns in data["steps"]) / 1e9
    name, ns = max(data["steps"], key=lambda each: each[1])
    longest = f"{name} ({_WORDS.get(name, name)}), {ns / 1e9:.2f} s ({100 * ns / 1e9 / total:.0f} %)"
    found = [f"The load took {total:.2f} s; the longest step was {longest}."]
    restored = dict(map(tuple, data["steps"])).get("restore variables")
    if restored and data["variable_bytes"]:
        speed = data["variable_bytes"] / (restored / 1e9)
        found.append(f"Variables: {in_words(data['variable_bytes'])} at {in_words(speed)}/s.")
    first, later = data["first_run_ns"], data["later_run_ns"]
    if first is None:
        found.append("No request has come yet.")
    elif later is not None:
        found.append(
            f"The first run took {first / 1e6:.2f} ms, later ones {later / 1e6:.2f} ms on average "
            f"({first / later:.1f} times)."
        )
        if data["warmup_records"] == 0 and first > 3 * later and first > 20e6:
            found.append("Its first client waited for that: record a warm-up with %serve warmup.")
    if data["warmup_records"] == 0:
        found.append("The version brings no recorded warm-up.")
    return found
