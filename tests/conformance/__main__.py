"""`python -m tests.conformance [--write] [--run]`."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from tests.conformance.limits import LIMITS_FILE, limits_page
from tests.conformance.table import FILE, SECTIONS, markdown, summary


def main() -> int:
    """Print the table, write it, or run what it names."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"write {FILE.name} and {LIMITS_FILE.name}")
    parser.add_argument("--run", action="store_true", help="run every test that the table names")
    arguments = parser.parse_args()
    if arguments.write:
        FILE.write_text(markdown(), "utf-8")
        LIMITS_FILE.write_text(limits_page(), "utf-8")
    else:
        print(markdown())
    print(summary(), file=sys.stderr)
    if not arguments.run:
        return 0
    tests = Path(__file__).parent.parent
    named = sorted({str(tests / test) for rows in SECTIONS.values() for row in rows for test in row.tests})
    return subprocess.run([sys.executable, "-m", "pytest", *named], check=False, cwd=tests.parent).returncode


if __name__ == "__main__":
    sys.exit(main())
