"""Load a SavedModel as TensorFlow Serving does: TF1-style loader, one graph, one Session, for TF1 and TF2 alike.

Errors leave as `ServingError` with TensorFlow Serving's codes and texts where it has them.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf import config_pb2

# `tf.compat.v1.saved_model.loader.load` is this class behind a deprecation notice that no user of ours can act on.
from tensorflow.python.saved_model.loader_impl import SavedModelLoader

from serving_server.errors import (
    FailedPreconditionError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    ServingError,
    StatusCode,
    UnimplementedError,
)
from serving_server.place import Place, RemotePath
from serving_server.signatures import INIT_SIGNATURES, Signature
from serving_server.tensors import Array
from serving_server.wire.messages import SignatureDefMap
from serving_server.worker import files
from serving_server.worker.freeze import Frozen, freeze, frozen_callable
from serving_server.worker.runner import Runnable
from serving_server.worker.startup import Stopwatch
from serving_server.worker.statefulness import keeps_feeds

__all__ = ["Model", "as_serving_error", "check_folder", "load_op_libraries"]


def as_serving_error(error: Exception) -> ServingError:
    """Return the error that clients see for whatever TensorFlow raised."""
    if isinstance(error, ServingError):
        return error
    if isinstance(error, tf.errors.OpError):
        return ServingError(error.message, StatusCode(error.error_code))
    if isinstance(error, MemoryError):
        return ServingError("the worker has no memory for this batch", StatusCode.RESOURCE_EXHAUSTED)
    if isinstance(error, PermissionError):
        return PermissionDeniedError(f"cannot read {error.filename}: {error.strerror}")
    if isinstance(error, UnicodeDecodeError):
        # TensorFlow quotes input in its error, which then cannot become a `str`; its code is lost on the way.
        return InvalidArgumentError(bytes(error.object).decode("utf-8", "replace"))
    if isinstance(error, (TypeError, ValueError)):
        return InvalidArgumentError(str(error))
    return InternalError(f"{type(error).__name__}: {error}")


def check_folder(path: Path) -> None:
    """Say what is wrong with a version folder before TensorFlow says it in its own way."""
    if (path / "export.meta").exists():
        raise UnimplementedError("Session Bundle is deprecated and removed.")
    graphs = [path / "saved_model.pb", path / "saved_model.pbtxt"]
    try:
        found = [graph for graph in graphs if graph.exists()]
        entries = sorted(entry.name for entry in path.iterdir())
        variables = path / "variables"
        inside = sorted(variables.iterdir()) if variables.is_dir() else []
    except PermissionError as error:
        mode = oct(Path(error.filename).stat().st_mode & 0o7777)
        msg = f"cannot read {error.filename}: permission denied (mode {mode}); the server needs r-x on every folder"
        raise PermissionDeniedError(msg) from error
    except FileNotFoundError:
        raise NotFoundError(f"version folder {path} is gone") from None
    if not found:
        there = f"it holds {', '.join(entries[:8])}" if entries else "it is empty"
        hint = f"{there}; is a copy still under way? Copy into a hidden folder beside it and rename"
        raise _no_saved_model(path, hint)
    # A model without variables may come with an empty folder for them: TensorFlow 1's builder always makes it.
    if inside and variables / "variables.index" not in inside:
        raise _no_index(variables)
    for file in (*found, *inside):
        try:
            file.open("rb").close()
        except PermissionError:
            mode = oct(file.stat().st_mode & 0o7777)
            msg = f"cannot read {file}: permission denied (mode {mode}); chmod +r it for the server's user"
            raise PermissionDeniedError(msg) from None


def check_remote(path: RemotePath) -> None:
    """Say what is missing where a URI says, before TensorFlow says it in its own way."""
    if files.exists(path / "export.meta"):
        raise UnimplementedError("Session Bundle is deprecated and removed.")
    entries = files.names(path)
    if not {"saved_model.pb", "saved_model.pbtxt"} & set(entries):
        there = f"there is {', '.join(entries[:8])}" if entries else "there is nothing"
        raise _no_saved_model(path, f"{there}; is an upload still under way?")
    inside = files.names(path / "variables") if "variables" in entries else []
    if inside and "variables.index" not in inside:
        raise _no_index(path / "variables")


def _no_saved_model(path: Place, hint: str) -> NotFoundError:
    return NotFoundError(
        "Specified file path does not appear to contain a SavedModel bundle (should have a file called "
        f"`saved_model.pb`)\nSpecified file path: {path}\n({hint})"
    )


def _no_index(variables: Place) -> FailedPreconditionError:
    msg = f"{variables} has no variables.index: the SavedModel is incomplete; is a copy still under way?"
    return FailedPreconditionError(msg)


def load_op_libraries(paths: Sequence[str]) -> None:
    """Make the ops, and the file systems, in shared libraries known to this process.

    Raises
    ------
    FailedPreconditionError
        Naming the library that TensorFlow refuses: not a library, or built for another TensorFlow.
    """
    for path in paths:
        try:
            tf.load_op_library(path)
            # The mark of a file system (tensorflow/c/experimental/filesystem/filesystem_interface.h).
            if hasattr(ctypes.CDLL(path), "TF_InitPlugin"):
                tf.experimental.register_filesystem_plugin(path)
        except (tf.errors.OpError, RuntimeError) as error:
            raise FailedPreconditionError(f"custom op library {path} cannot be loaded: {error}") from error


class Model:
    """A loaded SavedModel.

    Parameters
    ----------
    path : Path or RemotePath
        The version folder.
    tags : sequence of str
        Exact tag set of the MetaGraphDef.
    session_config : bytes
        A serialized `tensorflow.ConfigProto` (see `serving_server.session_options`).
    watch : Stopwatch, optional
        Its laps: ``read graph``, ``restore variables``, ``initialize``.

    Raises
    ------
    ServingError
        When it cannot be loaded, naming the folder.
    """

    def __init__(self, path: Place, tags: Sequence[str], session_config: bytes, watch: Stopwatch | None = None) -> None:
        watch = watch or Stopwatch()
        if isinstance(path, Path):
            check_folder(path)
        else:
            check_remote(path)
        self.graph = tf.Graph()
        self.frozen: Frozen | None = None
        self._frozen_tensors: set[str] = set()
        self._lock = threading.Lock()
        self._runnables: dict[tuple[tuple[str, ...], tuple[str, ...]], tuple[Runnable, bool]] = {}
        self.config = config_pb2.ConfigProto.FromString(session_config)
        self.session = tf.compat.v1.Session(graph=self.graph, config=self.config)
        try:
            with self.graph.as_default():
                # What the loader's `load` does, in its steps; it would read the file twice.
                loader = SavedModelLoader(str(path))
                saver, _ = loader.load_graph(self.graph, list(tags))
                watch.lap("read graph")
                loader.restore_variables(self.session, saver)
                watch.lap("restore variables")
                loader.run_init_ops(self.session, list(tags))
                self._meta_graph = loader.get_meta_graph_def_from_tags(list(tags))
                watch.lap("initialize")
        except Exception as error:
            self.session.close()
            known = as_serving_error(error)
            if isinstance(error, RuntimeError) and "MetaGraphDef associated with tags" in str(error):
                known = NotFoundError(
                    "Could not find meta graph def matching supplied tags: "
                    f"{{ {' '.join(tags)} }}. To inspect available tag-sets in the SavedModel, please use the "
                    "SavedModel CLI: `saved_model_cli`"
                )
            raise type(known)(f"{known.message} (loading {path})", known.code) from error

    def signature_defs(self) -> Any:
        """Return the `SignatureDefMap` of all signatures of the MetaGraphDef, defaults included."""
        signatures = SignatureDefMap()
        for name, definition in self._meta_graph.signature_def.items():
            signatures.signature_def[name].ParseFromString(definition.SerializeToString())
        return signatures

    @property
    def restore_op(self) -> str:
        """Name of the op that restores all variables; empty when there are none."""
        return str(self._meta_graph.saver_def.restore_op_name)

    def freeze(self, signatures: Mapping[str, Signature], samples: Mapping[str, Sequence[dict[str, Array]]]) -> Frozen:
        """Answer from a graph with constants in place of variables, where `worker.freeze` can prove it equal.

        Called once, before any `runnable`. When every signature is frozen the original's variables are given back.
        """
        frozen = freeze(self.session, self.config, signatures, samples)
        self.adopt(frozen, signatures)
        if frozen.session is not None and not set(signatures) - set(frozen.signatures) - INIT_SIGNATURES:
            self.session.close()
        return frozen

    def adopt(self, frozen: Frozen, signatures: Mapping[str, Signature]) -> None:
        """Answer the signatures that `frozen` covers from it, from now on."""
        with self._lock:
            self._runnables.clear()
        self.frozen = frozen
        for name in frozen.signatures:
            signature = signatures[name]
            for spec in (*signature.inputs.values(), *signature.outputs.values()):
                self._frozen_tensors.add(spec.tensor_name)

    def traced(self, feeds: Sequence[str], fetches: Sequence[str]) -> Callable[..., Any]:
        """Return a function from arrays to the `RunMetadata` of a run with full trace, in which they are computed.

        Each call of this makes another one, which of a frozen signature holds the weights once more.

        Raises
        ------
        ServingError
            When the graph has no such tensor.
        """
        options = config_pb2.RunOptions(trace_level=config_pb2.RunOptions.FULL_TRACE)
        try:
            if self.frozen is not None and self._frozen_tensors.issuperset((*feeds, *fetches)):
                made = frozen_callable(self.frozen.session, feeds, fetches, options)
            else:
                callable_options = config_pb2.CallableOptions(feed=feeds, fetch=fetches, run_options=options)
                made = self.session._make_callable_from_options(callable_options)
        except Exception as error:
            raise as_serving_error(error) from error

        def run(*arrays: Any) -> Any:
            metadata = config_pb2.RunMetadata()
            made(*arrays, run_metadata=metadata)
            return metadata

        return run

    def runnable(self, feeds: Sequence[str], fetches: Sequence[str]) -> tuple[Runnable, bool]:
        """Return a function from arrays (in the order of `feeds`) to arrays, and whether it may keep its feeds.

        It holds no lock and releases the GIL while the graph runs; any thread may call it. Made once per pair.

        Raises
        ------
        ServingError
            When the graph has no such tensor.
        """
        key = (tuple(feeds), tuple(fetches))
        with self._lock:
            found = self._runnables.get(key)
            if found is None:
                frozen = self.frozen is not None and self._frozen_tensors.issuperset((*feeds, *fetches))
                try:
                    # The public `make_callable` adds 80 us of Python per call; this is what it is built on.
                    if self.frozen is not None and frozen:
                        made = self.frozen.made.get(key) or frozen_callable(self.frozen.session, *key)
                    else:
                        options = config_pb2.CallableOptions(feed=key[0], fetch=key[1])
                        made = self.session._make_callable_from_options(options)
                except Exception as error:
                    raise as_serving_error(error) from error
                found = self._runnables[key] = (made, not frozen and keeps_feeds(self.graph, key[1]))
            return found
