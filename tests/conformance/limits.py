"""The page of limits: each bound of a connection with its default, what happens beyond it, and the test that holds it.

Names, defaults and texts come from the classes that the server uses; only the tests are named here.
"""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from serving_server.http2.limits import Http2Limits
from serving_server.rest.http1_messages import Limits
from serving_server.transports.channel_arguments import ARGUMENTS

__all__ = ["LIMITS_FILE", "TESTS", "described", "limits_page"]

LIMITS_FILE: Final = Path(__file__).parent / "LIMITS.md"

_ABOUT: Final = """\
What one client may make the server hold, do or wait for. Who goes beyond a limit loses a request, a stream or the
connection, as said here, and never touches another connection. Limits with a channel argument are set by
`--grpc_channel_arguments` (`grpc.max_connection_age_ms=60000,...`); the others are constants of the classes named.
Where nothing else is said, the answer to what is beyond a limit of HTTP/2 is GOAWAY with ENHANCE_YOUR_CALM.

What is queued for a model is limited by its batching parameters (`max_enqueued_batches`, beyond it UNAVAILABLE), and
without batching by 16,384 requests.

Written by `python -m tests.conformance --write`; `tests/conformance/test_limits.py` fails when this page is old, or
when a limit has no test."""

_FLOW, _FRAMES, _GRPC, _LIMITS, _SERVER = (
    f"server/test_http2_{name}.py" for name in ("flow", "frames", "grpc", "limits", "server")
)
_REST: Final = "server/test_rest_http1.py"

#: Limits in bytes.
_SIZES: Final = re.compile(r"bytes|size|window|list|block|buffer")

#: The test that fails when a limit does not hold, by class and limit.
TESTS: Final[Mapping[type, Mapping[str, str]]] = {
    Http2Limits: {
        "max_concurrent_streams": f"{_LIMITS}::test_streams_beyond_the_limit_are_refused",
        "max_frame_size": f"{_FRAMES}::test_a_broken_rule_costs_the_connection",
        "max_header_list": f"{_LIMITS}::test_a_header_list_over_the_limit_costs_its_request",
        "max_header_block": f"{_LIMITS}::test_a_header_block_over_the_limit",
        "max_continuations": f"{_LIMITS}::test_continuations_over_the_limit",
        "max_message_bytes": f"{_LIMITS}::test_a_message_over_the_limit_is_refused_at_its_first_bytes",
        "max_unpacked_bytes": f"{_GRPC}::test_a_bomb_is_unpacked_in_steps_and_only_to_the_limit",
        "connection_window": f"{_FLOW}::test_data_beyond_the_connections_window",
        "stream_window": f"{_FLOW}::test_data_beyond_a_streams_window",
        "large_window": f"{_FLOW}::test_a_large_request_gets_its_windows_as_it_comes",
        "max_partial_bytes": f"{_FLOW}::test_incomplete_messages_hold_a_bounded_amount_and_the_oldest_goes_on",
        "max_held_bytes": f"{_FLOW}::test_the_window_stays_shut_while_messages_wait_for_answers",
        "max_queued_bytes": f"{_FLOW}::test_requests_wait_while_too_much_is_queued_for_the_peers_windows",
        "write_buffer": f"{_FLOW}::test_memory_stays_bounded_when_a_peer_does_not_read_its_socket",
        "resets_per_second": f"{_LIMITS}::test_a_flood",
        "pings_per_second": f"{_LIMITS}::test_a_flood",
        "settings_per_second": f"{_LIMITS}::test_a_flood",
        "empty_frames_per_second": f"{_LIMITS}::test_a_flood",
        "idle_frames_per_second": f"{_LIMITS}::test_a_flood",
        "preface_timeout": f"{_LIMITS}::test_a_client_that_does_not_begin",
        "handshake_timeout": f"{_SERVER}::test_a_handshake_that_does_not_end",
        "frame_timeout": f"{_LIMITS}::test_a_frame_or_block_that_does_not_end",
        "slow_sender_seconds": f"{_LIMITS}::test_a_request_that_does_not_grow",
        "slow_sender_bytes": f"{_LIMITS}::test_a_request_that_drips_is_too_slow_and_one_that_flows_is_not",
        "send_timeout": f"{_LIMITS}::test_a_peer_that_does_not_read_its_socket_is_dropped",
        "idle_timeout": f"{_LIMITS}::test_an_idle_connection_is_closed_in_order",
        "linger_timeout": f"{_LIMITS}::test_a_peer_that_stays_after_its_error_is_cut",
        "drain_ping_timeout": f"{_LIMITS}::test_a_peer_that_does_not_answer_the_last_ping_is_not_waited_for",
        "max_age": f"{_LIMITS}::test_an_old_connection_drains_and_is_cut_after_its_grace",
        "age_grace": f"{_LIMITS}::test_an_old_connection_drains_and_is_cut_after_its_grace",
        "keepalive_time": f"{_LIMITS}::test_a_silent_peer_is_pinged_and_dropped",
        "keepalive_timeout": f"{_LIMITS}::test_a_silent_peer_is_pinged_and_dropped",
    },
    Limits: {
        "max_header_bytes": f"{_REST}::test_refused_requests_are_told_why_behind_earlier_answers",
        "max_body_bytes": f"{_REST}::test_refused_requests_are_told_why_behind_earlier_answers",
        "max_unpacked_bytes": f"{_REST}::test_gzip_bodies_are_unpacked",
        "max_pipelined": f"{_REST}::test_no_more_than_the_allowed_number_of_pipelined_requests_run",
        "max_pipelined_bytes": f"{_REST}::test_no_more_than_the_allowed_bytes_of_pipelined_requests_are_held",
        "idle_timeout": f"{_REST}::test_time_limits",
        "receive_timeout": f"{_REST}::test_time_limits",
        "send_timeout": f"{_REST}::test_a_reader_that_stops_is_dropped_and_its_requests_wait",
        "linger_timeout": f"{_REST}::test_time_limits",
    },
}


def described(limits: type) -> dict[str, str]:
    """Return what the docstring of a class of limits says of each, by name; several may share a text."""
    text = inspect.getdoc(limits) or ""
    found: dict[str, str] = {}
    for names, body in re.findall(r"^([a-z_, ]+) : [^\n]+\n((?: {4}[^\n]+\n?)+)", text, re.MULTILINE):
        found |= dict.fromkeys(names.split(", "), " ".join(body.split()))
    return found


def _default(name: str, value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, float):
        return f"{value:,g} s"
    if not _SIZES.search(name):
        return f"{value:,}"
    for power, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if value >= 1 << power and value % (1 << power) == 0:
            return f"{value >> power} {unit}"
    return f"{value:,} bytes"


def limits_page() -> str:
    """Return the page as Markdown."""
    arguments = {field: name for name, (field, _) in ARGUMENTS.items()}
    lines = ["# Limits of connections", "", _ABOUT, ""]
    for title, limits in (("gRPC (HTTP/2)", Http2Limits), ("REST (HTTP/1.1)", Limits)):
        texts = described(limits)
        lines += [f"## {title}: `{limits.__module__}.{limits.__name__}`", ""]
        if limits is Http2Limits:
            lines += ["| limit | channel argument | default | beyond it | test |", "|---|---|--:|---|---|"]
        else:
            lines += ["| limit | default | beyond it | test |", "|---|--:|---|---|"]
        fields = dataclasses.fields(limits)
        for text, group in itertools.groupby(fields, lambda field: texts[field.name]):  # noqa: B023 - used at once
            together = list(group)
            cells = [[f"`{field.name}`" for field in together]]
            if limits is Http2Limits:
                cells.append([f"`{arguments[f.name]}`" if f.name in arguments else "" for f in together])
            cells.append([_default(field.name, field.default) for field in together])
            cells += [[text], list(dict.fromkeys(f"`{TESTS[limits][field.name]}`" for field in together))]
            lines.append("| " + " | ".join("<br>".join(cell) for cell in cells) + " |")
        lines.append("")
    return "\n".join(lines)
