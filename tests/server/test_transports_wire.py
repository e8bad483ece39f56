"""Both gRPC transports get the same odd requests, byte by byte: they answer alike, or differ as the table here says."""

from __future__ import annotations

import contextlib
import gzip
import zlib
from collections.abc import Iterator

import numpy as np
import pytest

from serving_server.tensors import to_proto
from serving_server.wire import messages
from tests.foreign.raw import Answer, RawConnection, framed, headers
from tests.servers import TRANSPORTS, SharedServer


def _message(model: str = "half_plus_two") -> bytes:
    request = messages.PredictRequest()
    request.model_spec.name = model
    request.inputs["x"].CopyFrom(to_proto(np.float32([1])))
    return bytes(request.SerializeToString())


_GOOD = _message()
_PACKED = gzip.compress(_GOOD, mtime=0)

Connections = dict[str, RawConnection]


@pytest.fixture
def connections(both_servers: dict[str, SharedServer]) -> Iterator[Connections]:
    """One connection to each transport."""
    with contextlib.ExitStack() as stack:
        yield {
            transport: stack.enter_context(RawConnection(server.grpc_endpoint))
            for transport, server in both_servers.items()
        }


def _ask(connection: RawConnection, fields: list[tuple[str, str]], body: bytes | None) -> Answer:
    answer = connection.answer(connection.request(fields, body))
    assert not connection.goaway
    return answer


def _is_right(answer: Answer) -> bool:
    if answer.grpc_status != "0" or not answer.data:
        return False
    response = messages.PredictResponse.FromString(answer.data[5:])
    return list(response.outputs["y"].float_val) == [3.5]


ALIKE = {
    "right": (headers(), framed(_GOOD)),
    "+proto": (headers(content_type="application/grpc+proto"), framed(_GOOD)),
    "parameter": (headers(content_type="application/grpc;x=1"), framed(_GOOD)),
    "capitals": (headers(content_type="Application/GRPC"), framed(_GOOD)),
    "https": (headers(_scheme="https"), framed(_GOOD)),
    "gzip": (headers(grpc_encoding="gzip"), framed(_PACKED, 1)),
    "deflate": (headers(grpc_encoding="deflate"), framed(zlib.compress(_GOOD), 1)),
    "gzip announced only": (headers(grpc_encoding="gzip"), framed(_GOOD)),
    "no gzip": (headers(grpc_encoding="gzip"), framed(_GOOD, 1)),
    "gzip cut": (headers(grpc_encoding="gzip"), framed(_PACKED[:-6], 1)),
    "gzip and more": (headers(grpc_encoding="gzip"), framed(_PACKED + b"xx", 1)),
    "two gzip members": (headers(grpc_encoding="gzip"), framed(_PACKED + _PACKED, 1)),
    "flag without encoding": (headers(), framed(_GOOD, 1)),
    "flag with identity": (headers(grpc_encoding="identity"), framed(_GOOD, 1)),
    "empty message": (headers(), framed(b"")),
    "two messages": (headers(), framed(_GOOD) * 2),
    "a byte behind the message": (headers(), framed(_GOOD) + b"\0"),
    "unknown method": (headers("/tensorflow.serving.PredictionService/Nope"), framed(_GOOD)),
    "method in other letters": (headers("/tensorflow.serving.PredictionService/predict"), framed(_GOOD)),
    "unknown service": (headers("/a.B/C"), framed(_GOOD)),
    "short path": (headers("/"), framed(_GOOD)),
    "path without a slash": (headers("abc"), framed(_GOOD)),
    "query": (headers("/tensorflow.serving.PredictionService/Predict?x=1"), framed(_GOOD)),
    "method of later": (headers("/tensorflow.serving.PredictionService/Classify"), framed(_GOOD)),
    "timeout of no number": (headers(grpc_timeout="abc"), framed(_GOOD)),
    "timeout without unit": (headers(grpc_timeout="10"), framed(_GOOD)),
    "timeout below zero": (headers(grpc_timeout="-1S"), framed(_GOOD)),
    "timeout of nine digits": (headers(grpc_timeout="123456789S"), framed(_GOOD)),
    "timeout of 11,000 years": (headers(grpc_timeout="99999999H"), framed(_GOOD)),
    "deadline over": (headers(grpc_timeout="0n"), framed(_GOOD)),
    "binary metadata": (headers(x_bin="AAA"), framed(_GOOD)),
    "letters of all kinds in the text": (headers(), framed(_message("modèle %\U0001f600\n"))),
}


@pytest.mark.parametrize("case", ALIKE)
def test_odd_requests_are_answered_alike(connections: Connections, case: str) -> None:
    own, stock = (_ask(connections[name], *ALIKE[case]) for name in TRANSPORTS)
    assert own == stock
    for connection in connections.values():
        assert _is_right(_ask(connection, headers(), framed(_GOOD))), "the connection suffered"


def test_a_deadline_that_passes_while_the_graph_runs(
    connections: Connections, both_servers: dict[str, SharedServer]
) -> None:
    """The text differs by what notices first: the clock of the calls or that of the batches."""
    request = messages.PredictRequest()
    request.inputs["x"].CopyFrom(to_proto(np.float32([1])))
    request.inputs["steps"].CopyFrom(to_proto(np.int32([3000])))
    for transport, connection in connections.items():
        request.model_spec.name = both_servers[transport].serve("slow")
        answer = _ask(connection, headers(grpc_timeout="20m"), framed(request.SerializeToString()))
        assert (answer.http_status, answer.grpc_status) == ("200", "4")
        assert answer.grpc_message in {"Deadline Exceeded", "Timed out waiting for notification"}


INTERNAL_ERROR, PROTOCOL_ERROR = 2, 1

#: request, own answer (HTTP status, gRPC status) or reset, grpcio's; and why ours is not the same.
DIFFERENT = {
    "JSON": (headers(content_type="application/json"), framed(_GOOD), ("415", "2"), "right"),  # as gRPC's protocol says
    "no content-type": (headers(content_type=None), framed(_GOOD), ("415", "2"), "right"),
    "grpcfoo": (headers(content_type="application/grpcfoo"), framed(_GOOD), ("415", "2"), "right"),
    "GET": (headers(_method="GET"), None, ("405", "2"), INTERNAL_ERROR),  # a browser's user sees why
    "PUT": (headers(_method="PUT"), framed(_GOOD), ("405", "2"), INTERNAL_ERROR),
    # A proxy may turn Host into nothing; RFC 9113 8.3.1 makes :authority optional.
    "no authority": (headers(_authority=None), framed(_GOOD), "right", INTERNAL_ERROR),
    "no te": (headers(te=None), framed(_GOOD), "right", INTERNAL_ERROR),  # curl and load generators leave it out
    "te: gzip": (headers(te="gzip"), framed(_GOOD), PROTOCOL_ERROR, ("200", "13")),  # RFC 9113 8.2.2: malformed
    # gRPC's compression.md: UNIMPLEMENTED, with the list of what there is.
    "snappy": (headers(grpc_encoding="snappy"), framed(_GOOD), ("200", "12"), ("200", "13")),
    "flag 2": (headers(), framed(_GOOD, 2), ("200", "13"), ("200", "3")),  # grpcio hands an empty message on
    # Nobody but Call.metadata unpacks it, and Predict does not ask.
    "binary metadata of no base64": (headers(x_bin="!!!"), framed(_GOOD), "right", ("200", "13")),
    # grpcio never answers these; a client without a deadline would wait for ever.
    "no body": (headers(), None, ("200", "13"), "silence"),
    "no message": (headers(), b"", ("200", "13"), "silence"),
    "message cut": (headers(), framed(_GOOD)[:-1], ("200", "13"), "silence"),
    "prefix cut": (headers(), b"\0\0", ("200", "13"), "silence"),
}


@pytest.mark.parametrize("case", DIFFERENT)
def test_what_is_answered_differently_is_known(connections: Connections, case: str) -> None:
    fields, body, *wanted = DIFFERENT[case]
    for transport, outcome in zip(TRANSPORTS, wanted, strict=True):
        connection = connections[transport]
        stream = connection.request(fields, body)
        if outcome == "silence":
            # There is nothing to wait for but the answer to what is sent behind it.
            assert _is_right(_ask(connection, headers(), framed(_GOOD)))
            assert not connection.answers[stream].ended
            continue
        answer = connection.answer(stream)
        assert not connection.goaway
        if outcome == "right":
            assert _is_right(answer), answer
        elif isinstance(outcome, int):
            assert answer.reset == outcome, answer
        else:
            assert (answer.http_status, answer.grpc_status) == outcome, answer
        # grpcio's header table keeps the broken `te`: it answers all that follows on the connection in the same way.
        if transport == "own":
            assert _is_right(_ask(connection, headers(), framed(_GOOD))), "the connection suffered"
