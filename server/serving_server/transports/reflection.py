"""gRPC's server reflection, v1 and v1alpha: which services there are, and the files that define them.

Tools such as grpcurl call a server with nothing but that. The descriptors are those of our private pool.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from serving_server.errors import StatusCode
from serving_server.transports import predict_codec as codec
from serving_server.transports.services import OpenStream, StreamCall, fail
from serving_server.wire.messages import message_class, pool

__all__ = ["REFLECTION_SERVICES", "Reflection"]

_PACKAGES: Final = ("grpc.reflection.v1", "grpc.reflection.v1alpha")

REFLECTION_SERVICES: Final = tuple(f"{package}.ServerReflection" for package in _PACKAGES)


class Reflection:
    """Both versions of the service.

    Parameters
    ----------
    services : sequence of str
        Full names of the services beside reflection itself.
    """

    def __init__(self, services: Sequence[str]) -> None:
        self._services = sorted((*services, *REFLECTION_SERVICES))

    @property
    def unary(self) -> Mapping[str, Any]:
        """None."""
        return {}

    @property
    def streaming(self) -> Mapping[str, OpenStream]:
        """Methods by path."""
        return {f"/{package}.ServerReflection/ServerReflectionInfo": self._opening(package) for package in _PACKAGES}

    def _opening(self, package: str) -> OpenStream:
        request = message_class(f"{package}.ServerReflectionRequest")
        response = message_class(f"{package}.ServerReflectionResponse")

        def open_call(call: StreamCall) -> _Conversation:
            return _Conversation(call, request, response, self._services)

        return open_call


class _Conversation:
    """One call: an answer to each message."""

    def __init__(self, call: StreamCall, request: Any, response: Any, services: Sequence[str]) -> None:
        self._call = call
        self._request = request
        self._response = response
        self._services = services

    def message(self, message: bytes | bytearray) -> None:
        try:
            request = codec.decode(self._request, bytes(message))
            response = self._response(valid_host=request.host, original_request=request)
            self._fill(request, response)
        except Exception as error:  # noqa: BLE001 - told to the client
            fail(self._call, error)
        else:
            self._call.send(response.SerializeToString())

    def end(self) -> None:
        self._call.finish()

    def cancel(self) -> None:
        """Do nothing: answers are made at once."""

    def _fill(self, request: Any, response: Any) -> None:
        kind = request.WhichOneof("message_request")
        try:
            if kind == "list_services":
                for name in self._services:
                    response.list_services_response.service.add(name=name)
            elif kind == "file_by_filename":
                _put(response, pool.FindFileByName(request.file_by_filename))
            elif kind == "file_containing_symbol":
                _put(response, _file_of(request.file_containing_symbol))
            elif kind == "file_containing_extension":
                asked = request.file_containing_extension
                extended = pool.FindMessageTypeByName(asked.containing_type)
                extension: Any = pool.FindExtensionByNumber(extended, asked.extension_number)
                _put(response, extension.file)
            elif kind == "all_extension_numbers_of_type":
                extended = pool.FindMessageTypeByName(request.all_extension_numbers_of_type)
                answer = response.all_extension_numbers_response
                answer.base_type_name = extended.full_name
                answer.extension_number.extend(sorted(each.number for each in pool.FindAllExtensions(extended)))
            else:
                _put_error(response, StatusCode.INVALID_ARGUMENT, "the message asks for nothing that is known here")
        except KeyError:
            _put_error(response, StatusCode.NOT_FOUND, f"{kind}: {getattr(request, kind)} is not known here".rstrip())


def _file_of(symbol: str) -> Any:
    """Return the file that defines a symbol; the pool does not look for methods by itself."""
    try:
        return pool.FindFileContainingSymbol(symbol)
    except KeyError:
        service, _, method = symbol.rpartition(".")
        found = pool.FindServiceByName(service)
        return found.methods_by_name[method].containing_service.file


def _put(response: Any, file: Any) -> None:
    """Answer with a file and all that it imports."""
    response.file_descriptor_response.file_descriptor_proto.extend(each.serialized_pb for each in _closure(file))


def _closure(file: Any) -> Iterable[Any]:
    found: dict[str, Any] = {}

    def add(each: Any) -> None:
        if each.name not in found:
            found[each.name] = each
            for imported in each.dependencies:
                add(imported)

    add(file)
    # The file itself first: some clients look at nothing else.
    return found.values()


def _put_error(response: Any, code: StatusCode, text: str) -> None:
    response.error_response.error_code = code
    response.error_response.error_message = text
