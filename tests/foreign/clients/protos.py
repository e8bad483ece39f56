"""Writes the .proto files of TensorFlow Serving's services, and all that they import, below the folder in argv[1].

`tensorflow-serving-api` has no such files but, in its generated modules, all that they said. What protobuf itself
defines is left out, as every implementation brings it along.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)
from tensorflow_serving.apis import model_service_pb2, prediction_service_pb2

OUT = Path(sys.argv[1])

#: TYPE_INT64 -> int64
SCALARS = {
    number: name.removeprefix("TYPE_").lower()
    for name, number in FieldDescriptorProto.Type.items()
    if name not in {"TYPE_MESSAGE", "TYPE_ENUM", "TYPE_GROUP"}
}


def type_of(field: FieldDescriptorProto) -> str:
    """Return the type's name."""
    return SCALARS.get(field.type) or field.type_name


#: What stands in front of a field that is neither in a oneof nor plain.
LABELS = {
    FieldDescriptorProto.LABEL_REPEATED: "repeated ",
    FieldDescriptorProto.LABEL_REQUIRED: "required ",
    FieldDescriptorProto.LABEL_OPTIONAL: "optional ",
}


def field_line(field: FieldDescriptorProto, maps: dict[str, DescriptorProto], *, proto2: bool) -> str:
    """Return a field's definition."""
    entry = maps.get(field.type_name.rpartition(".")[2])
    if entry is not None:
        key, value = entry.field
        kind = f"map<{type_of(key)}, {type_of(value)}>"
    else:
        plain = field.label == FieldDescriptorProto.LABEL_OPTIONAL and not field.proto3_optional
        in_oneof = field.HasField("oneof_index")
        kind = ("" if plain and (in_oneof or not proto2) else LABELS[field.label]) + type_of(field)
    return f"{kind} {field.name} = {field.number};"


def enum_lines(enum: EnumDescriptorProto) -> Iterator[str]:
    """Yield an enum's lines."""
    yield f"enum {enum.name} {{"
    if enum.options.allow_alias:
        yield "option allow_alias = true;"
    yield from (f"{value.name} = {value.number};" for value in enum.value)
    yield "}"


def message_lines(message: DescriptorProto, *, proto2: bool) -> Iterator[str]:
    """Yield a message's lines."""
    maps = {nested.name: nested for nested in message.nested_type if nested.options.map_entry}
    yield f"message {message.name} {{"
    for enum in message.enum_type:
        yield from enum_lines(enum)
    for nested in message.nested_type:
        if nested.name not in maps:
            yield from message_lines(nested, proto2=proto2)
    choices: dict[int, list[str]] = {}
    for field in message.field:
        line = field_line(field, maps, proto2=proto2)
        if field.HasField("oneof_index") and not field.proto3_optional:
            choices.setdefault(field.oneof_index, []).append(line)
        else:
            yield line
    for index, lines in choices.items():
        yield from (f"oneof {message.oneof_decl[index].name} {{", *lines, "}")
    yield "}"


def file_lines(file: FileDescriptorProto) -> Iterator[str]:
    """Yield a file's lines."""
    assert not file.extension, file.name
    syntax = file.syntax or "proto2"
    yield from (f'syntax = "{syntax}";', f"package {file.package};")
    yield from (f'import "{name}";' for name in file.dependency)
    for enum in file.enum_type:
        yield from enum_lines(enum)
    for message in file.message_type:
        yield from message_lines(message, proto2=syntax == "proto2")
    for service in file.service:
        methods = (f"rpc {m.name}({m.input_type}) returns ({m.output_type});" for m in service.method)
        yield from (f"service {service.name} {{", *methods, "}")


def write(files: Iterable[Any]) -> None:
    """Write these and what they import."""
    for file in files:
        path = OUT / file.name
        if file.name.startswith("google/protobuf/") or path.exists():
            continue
        definition = FileDescriptorProto()
        file.CopyToProto(definition)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(file_lines(definition)) + "\n")
        write(file.dependencies)


write([prediction_service_pb2.DESCRIPTOR, model_service_pb2.DESCRIPTOR])
