"""How the versions of a model are loaded."""

from __future__ import annotations

import dataclasses
import os

from serving_server.session_options import SessionFlags, decide

__all__ = ["LoadOptions"]


@dataclasses.dataclass(frozen=True, slots=True)
class LoadOptions:
    """How the versions of a model are loaded.

    Attributes
    ----------
    tags : tuple of str
        Exact tag set of the MetaGraphDef.
    session : bytes
        A serialized `tensorflow.ConfigProto` (see `serving_server.session_options`).
    warmup : bool
        Replay warmup records before a version is AVAILABLE.
    freeze : bool
        Make variables constants where that is provably harmless.
    prefer_tflite : bool
        Run ``model.tflite`` where a version has one.
    op_libraries : tuple of str
        Shared libraries with custom ops, loaded before the model.
    lanes : int
        Runs at once per version when batching is off, at most 64.
    warmup_iterations : int
        How often each warmup record is replayed.
    check_method_names : bool
        Refuse warmup records for signatures that were not made for the method, as requests are.
    """

    tags: tuple[str, ...] = ("serve",)
    session: bytes = dataclasses.field(default_factory=lambda: decide(SessionFlags()).config)
    warmup: bool = True
    freeze: bool = True
    prefer_tflite: bool = False
    op_libraries: tuple[str, ...] = ()
    lanes: int = dataclasses.field(default_factory=lambda: os.cpu_count() or 1)
    warmup_iterations: int = 1
    check_method_names: bool = False
