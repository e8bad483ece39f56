"""Handles opened and closed again and again: nothing of them stays in this process, nor in the system."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from pathlib import Path

import psutil

import serving_workbench as sw
from tests.servers import wait_until


def test_a_hundred_handles_leave_no_descriptor_thread_or_process(
    warm: str, name: str, source: Callable[..., Path], tmp_path: Path
) -> None:
    served = sw.serve(source("half_plus_two"), name, instance=warm, root=tmp_path, progress=False)
    served.close()
    process = psutil.Process()

    def cycle() -> None:
        handle = sw.connect(name, warm)
        assert isinstance(handle, sw.ServedModel)
        assert handle.predict([2.0]).tolist() == [3.0]
        assert handle.status()
        handle.close()
        handle.close()

    def held() -> tuple[int, int, int]:
        gc.collect()
        return process.num_fds(), threading.active_count(), len(process.children(recursive=True))

    def threads() -> int:
        return int(process.num_threads())  # those of gRPC's core too, which come and go as it likes

    for _ in range(5):
        cycle()
    before, threads_before = held(), threads()
    for _ in range(100):
        cycle()

    def nothing_more() -> bool:
        return all(now <= then for now, then in zip(held(), before, strict=True))

    wait_until(nothing_more, 60, lambda: f"{held()} descriptors, threads and processes, {before} before")
    wait_until(lambda: threads() <= threads_before + 2, 30, lambda: f"{threads()} threads, {threads_before} before")
    served.server.control.delete_model(name)
