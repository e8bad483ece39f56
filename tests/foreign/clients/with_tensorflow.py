"""Runs clients that import TensorFlow, each in a fork of this process: the import, of some seconds, happens once.

Each line of the standard input is a job in JSON, [path of the script, its arguments, path for what it writes]; the
standard output and error of the script go there, and its exit code is a line of the standard output here. No thread
has begun when it forks, as nothing of TensorFlow was used yet.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import tensorflow  # noqa: F401


def _run(script: str, arguments: Sequence[str], written: str) -> NoReturn:
    code = 1
    try:
        target = os.open(written, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        for stream in (1, 2):
            os.dup2(target, stream)
        sys.argv = [script, *arguments]
        sys.path.insert(0, str(Path(script).parent))
        runpy.run_path(script, run_name="__main__")
        code = 0
    except BaseException:  # this process ends here, however the script does
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


print("ready", flush=True)
for line in sys.stdin:
    job = json.loads(line)
    child = os.fork()
    if child == 0:
        _run(*job)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
