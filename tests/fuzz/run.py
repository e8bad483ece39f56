"""Fuzz one target: `python -m tests.fuzz.run --target http2 --seconds 600`.

Needs `atheris` (`pip install atheris`; Linux and macOS). New inputs that reach new code are kept in a folder of the
system's temporary one; an input that breaks a rule is written to `tests/fuzz/corpus/<target>/`, where the tests run it.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.fuzz.corpus import CORPUS, TARGETS

#: An input that takes longer, in seconds, is a hang.
_TIMEOUT = 10
#: A process that grows beyond this, in MiB, leaks.
_MEMORY = 1500


def _dictionary(tokens: list[bytes], place: Path) -> Path:
    """Write tokens in libFuzzer's format."""
    place.write_text("".join('"' + "".join(f"\\x{byte:02x}" for byte in token) + '"\n' for token in tokens))
    return place


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", choices=sorted(TARGETS), required=True)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--runs", type=int, default=-1, help="stop after so many inputs (default: by time only)")
    parser.add_argument("--max-bytes", type=int, default=4096, help="largest input")
    options = parser.parse_args()

    import atheris

    with atheris.instrument_imports(include=["serving_server", "hpack"]):
        harness: Any = importlib.import_module(TARGETS[options.target])
    work = Path(tempfile.gettempdir()) / f"serving-fuzz-{options.target}"
    work.mkdir(exist_ok=True)
    for seed in harness.SEEDS:
        (work / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)
    findings = CORPUS / options.target
    findings.mkdir(parents=True, exist_ok=True)
    arguments = [
        sys.argv[0],
        f"-max_total_time={options.seconds}",
        f"-runs={options.runs}",
        f"-max_len={options.max_bytes}",
        f"-timeout={_TIMEOUT}",
        f"-rss_limit_mb={_MEMORY}",
        f"-artifact_prefix={findings}/",
        f"-dict={_dictionary(harness.TOKENS, work.with_suffix('.dict'))}",
        "-print_final_stats=1",
        str(work),
        str(findings),
    ]
    mutate = getattr(harness, "mutate", None)
    if mutate is None:
        atheris.Setup(arguments, harness.check)
    else:

        def custom(data: bytes, max_size: int, seed: int) -> bytes:
            return bytes(mutate(data, max_size, random.Random(seed), atheris.Mutate))

        atheris.Setup(arguments, harness.check, custom_mutator=custom)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
