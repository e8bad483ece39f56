"""Which targets there are, and the inputs that broke a rule once."""

from __future__ import annotations

from pathlib import Path
from typing import Final

__all__ = ["CORPUS", "TARGETS", "saved"]

#: One folder for each target.
CORPUS: Final = Path(__file__).parent / "corpus"

TARGETS: Final = {
    "http1": "tests.fuzz.fuzz_http1",
    "http2": "tests.fuzz.fuzz_http2",
    "json": "tests.fuzz.fuzz_json",
    "predict": "tests.fuzz.fuzz_predict_message",
}


def saved(target: str) -> dict[str, bytes]:
    """Return the kept inputs of a target, by file name."""
    return {path.name: path.read_bytes() for path in sorted((CORPUS / target).glob("*")) if path.is_file()}
