"""Compile the .proto files of this folder into `descriptors.binpb` (developers only: needs grpcio-tools).

    python -m serving_server.wire.build

Also takes the definition of `tensorflow.ConfigProto` from the installed TensorFlow, into `session_config.binpb`: a
hundred messages that would be tedious to keep as text of ours. The results are committed, so that neither the server
nor a notebook needs protoc or TensorFlow's generated modules; `tests/server/test_wire.py` fails when they are out of
date.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

PROTOS = (
    "error_codes.proto",
    "tensorflow.proto",
    "tensorflow_serving.proto",
    "batching_parameters.proto",
    "serialized_examples.proto",
    "services.proto",
    "monitoring.proto",
    "health.proto",
    "profiler.proto",
    "reflection_v1.proto",
    "reflection_v1alpha.proto",
)


def compile_descriptors(protos: Sequence[str] = PROTOS, known: bytes = b"") -> bytes:
    """Return the serialized FileDescriptorSet of our files and their imports.

    Parameters
    ----------
    protos : sequence of str
        Names in this folder.
    known : bytes
        A serialized FileDescriptorSet of further files that they import.

    Raises
    ------
    RuntimeError
        When protoc reports an error; its text is on stderr.
    """
    folder = str(files("serving_server.wire") / "protos")
    well_known = str(files("grpc_tools") / "_proto")
    with TemporaryDirectory() as out:
        target = Path(out) / "descriptors.binpb"
        arguments = [
            f"-I{folder}",
            f"-I{well_known}",
            "--include_imports",
            f"--descriptor_set_out={target}",
        ]
        if known:
            imported = Path(out) / "known.binpb"
            imported.write_bytes(known)
            arguments.append(f"--descriptor_set_in={imported}")
        # In a process of its own: beside TensorFlow's protobuf, in one process, protoc ends with a segmentation fault.
        if subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *arguments, *protos], check=False).returncode:
            msg = "protoc failed; see its message above"
            raise RuntimeError(msg)
        return target.read_bytes()


#: Writes the file of `ConfigProto` and its imports, these first. In a process of its own: TensorFlow is imported in the
#: rooms that run models only.
_SESSION_CONFIG: Final = """
import sys
from google.protobuf import descriptor_pb2
from tensorflow.core.protobuf.config_pb2 import DESCRIPTOR

found = {}

def add(file):
    if file.name not in found:
        found[file.name] = None
        for imported in file.dependencies:
            add(imported)
        found[file.name] = found.pop(file.name)
        found[file.name] = descriptor_pb2.FileDescriptorProto()
        file.CopyToProto(found[file.name])
        found[file.name].ClearField("options")

add(DESCRIPTOR)
sys.stdout.buffer.write(descriptor_pb2.FileDescriptorSet(file=found.values()).SerializeToString())
"""


def session_config_descriptors() -> bytes:
    """Return the serialized FileDescriptorSet of `tensorflow.ConfigProto` as the installed TensorFlow has it.

    And of ``platform_config.proto``, which builds on it.
    """
    found = subprocess.run([sys.executable, "-c", _SESSION_CONFIG], check=True, stdout=subprocess.PIPE)
    return compile_descriptors(["platform_config.proto"], found.stdout)


def main() -> None:
    """Write the descriptor sets beside this file."""
    folder = Path(__file__).parent
    (folder / "descriptors.binpb").write_bytes(compile_descriptors())
    (folder / "session_config.binpb").write_bytes(session_config_descriptors())


if __name__ == "__main__":
    main()
