"""Compile the .proto files of this folder into `descriptors.binpb` (developers only: needs grpcio-tools).

    python -m serving_server.wire.build

The result is committed, so that neither the server nor a notebook needs protoc or TensorFlow's generated modules;
`tests/server/test_wire.py` fails when it is out of date.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory

PROTOS = ("error_codes.proto", "tensorflow.proto", "tensorflow_serving.proto")


def compile_descriptors() -> bytes:
    """Return the serialized FileDescriptorSet of all our files and their imports.

    Raises
    ------
    RuntimeError
        When protoc reports an error; its text is on stderr.
    """
    from grpc_tools import protoc  # a build-time package only

    folder = str(files("serving_server.wire") / "protos")
    well_known = str(files("grpc_tools") / "_proto")
    with TemporaryDirectory() as out:
        target = Path(out) / "descriptors.binpb"
        arguments = [
            "protoc",
            f"-I{folder}",
            f"-I{well_known}",
            "--include_imports",
            f"--descriptor_set_out={target}",
        ]
        if protoc.main([*arguments, *PROTOS]) != 0:
            msg = "protoc failed; see its message above"
            raise RuntimeError(msg)
        return target.read_bytes()


def main() -> None:
    """Write the descriptor set beside this file."""
    (Path(__file__).parent / "descriptors.binpb").write_bytes(compile_descriptors())


if __name__ == "__main__":
    main()
