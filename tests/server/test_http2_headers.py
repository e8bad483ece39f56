"""HPACK against the `hpack` package, and what is remembered of requests."""

from __future__ import annotations

from typing import Any

import hpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving_server.http2 import grpc_status
from serving_server.http2.field_decoder import FieldDecoder
from serving_server.http2.frames import ConnectionFault, ErrorCode, header_frames
from serving_server.http2.headers import HeaderReader, RequestHead

names = st.sampled_from([b"x-a", b"x-b", b":path", b"content-type", b"cookie", b"x" * 130, b"te"])
values = st.one_of(st.sampled_from([b"", b"1", b"application/grpc", b"trailers"]), st.binary(max_size=400))
field_lists = st.lists(st.tuples(names, values, st.booleans()), max_size=12)
rounds = st.lists(st.tuples(field_lists, st.booleans(), st.sampled_from([None, None, 0, 50, 200, 4096])), max_size=12)


@settings(max_examples=300, deadline=None)
@given(rounds=rounds)
def test_what_an_encoder_writes_is_read_as_it_was(rounds: list[Any]) -> None:
    encoder, decoder = hpack.Encoder(), FieldDecoder(10**6)
    for fields, huffman, table in rounds:
        if table is not None:
            encoder.header_table_size = table
        block = encoder.encode([(name, value, secret) for name, value, secret in fields], huffman=huffman)
        assert decoder.decode(block) == [(name, value) for name, value, _ in fields]


@settings(max_examples=500, deadline=None)
@given(rounds=rounds, damage=st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), max_size=3))
def test_damage_is_seen_as_hpack_sees_it(rounds: list[Any], damage: list[tuple[int, int]]) -> None:
    encoder, decoder, reference = hpack.Encoder(), FieldDecoder(3000), hpack.Decoder(3000)
    for fields, huffman, table in rounds:
        if table is not None:
            encoder.header_table_size = table
        block = bytearray(encoder.encode([(name, value) for name, value, _ in fields], huffman=huffman))
        for place, byte in damage:
            if block:
                block[place % len(block)] = byte
        try:
            wanted = [tuple(field) for field in reference.decode(bytes(block), raw=True)]
        except hpack.OversizedHeaderListError:
            with pytest.raises(ConnectionFault, match="ENHANCE_YOUR_CALM"):
                decoder.decode(bytes(block))
            return
        except (hpack.HPACKError, IndexError):
            with pytest.raises(ConnectionFault) as fault:
                decoder.decode(bytes(block))
            # A block may be both too long and broken further on; each decoder stops at what it meets first.
            assert fault.value.code in {ErrorCode.COMPRESSION_ERROR, ErrorCode.ENHANCE_YOUR_CALM}
            return
        assert decoder.decode(bytes(block)) == wanted


def test_a_request_that_differs_by_its_deadline_alone_is_checked_once_and_is_right() -> None:
    reader, encoder = HeaderReader(10_000), hpack.Encoder()
    plain = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/p"), (b"content-type", b"application/grpc")]
    for index in range(20):
        path = b"/p" if index < 10 else b"/q"
        fields = [(n, path if n == b":path" else v) for n, v in plain] + [(b"grpc-timeout", b"%dm" % (index + 1))]
        head = reader.request(encoder.encode(fields))
        fresh = RequestHead(fields)
        for name in RequestHead.__slots__:
            if name not in {"route", "special", "size"}:
                assert getattr(head, name) == getattr(fresh, name), name
        if index in {0, 10}:  # new: the connection decides what becomes of it
            assert head.route is None
            head.route = path
        assert head.route == path
        assert head.timeout == pytest.approx((index + 1) / 1000)


def test_a_wrong_or_repeated_deadline_is_not_taken_for_a_known_request() -> None:
    reader, encoder = HeaderReader(10_000), hpack.Encoder()
    fields = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/p")]
    good = reader.request(encoder.encode([*fields, (b"grpc-timeout", b"1S")]))
    good.route = object()
    assert reader.request(encoder.encode([*fields, (b"grpc-timeout", b"x")])).bad_timeout
    assert reader.request(encoder.encode([*fields, (b"grpc-timeout", b"2S")])).route is good.route
    assert reader.request(encoder.encode(fields)).timeout is None
    twice = [*fields, (b"grpc-timeout", b"2S"), (b"grpc-timeout", b"3S")]
    assert reader.request(encoder.encode(twice)).route is None


def test_what_is_remembered_is_bounded() -> None:
    reader = HeaderReader(10_000)
    start = b"\x83\x86\x04\x02/p"
    for index in range(1000):
        reader.request(start + grpc_status.literal(b"x", b"%d" % index))
        reader.request(start + grpc_status.literal(b"y", b"%d" % index) + grpc_status.literal(b"grpc-timeout", b"1S"))
    assert len(reader.known) <= 256
    assert len(reader._checked) <= 256
    long = start + grpc_status.literal(b"x", b"v" * 3000)
    reader.request(long)
    assert long not in reader.known


@pytest.mark.parametrize("length", [0, 1, 126, 127, 128, 254, 255, 16_510, 16_511])
@pytest.mark.parametrize("name", [b"x-name", 8, 31, 61])
def test_literals_that_we_write(name: bytes | int, length: int) -> None:
    value = bytes(b % 90 + 33 for b in range(length))
    ((found, read),) = hpack.Decoder().decode(grpc_status.literal(name, value), raw=True)
    assert read == value
    assert found == (name if isinstance(name, bytes) else hpack.table.HeaderTable.STATIC_TABLE[name - 1][0])


@pytest.mark.parametrize("size", [0, 1, 16_384, 16_385, 40_000])
def test_long_header_blocks_are_continued(size: int) -> None:
    data = header_frames(1, bytes(size), 1, 16_384)
    assert len(data) == size + 9 * max(1, -(-size // 16_384))
    assert data[4] & 1  # END_STREAM is the first frame's


@given(text=st.text(max_size=300), limit=st.integers(0, 500))
def test_status_messages(text: str, limit: int) -> None:
    from urllib.parse import unquote_to_bytes

    whole = grpc_status.encode_message(text, 10**6)
    assert unquote_to_bytes(whole) == text.encode("utf-8", "replace")
    cut = grpc_status.encode_message(text, limit)
    assert len(cut) <= max(limit, 0)
    assert whole.startswith(cut)
    assert text.encode("utf-8", "replace").startswith(unquote_to_bytes(cut))
