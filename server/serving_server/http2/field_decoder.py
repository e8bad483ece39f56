"""HPACK decoding (RFC 7541) around the `hpack` package's table and Huffman code.

The package's own decoder copies the rest of a block for each literal and builds an object per field, 20 µs for the 8
fields of a gRPC request. That is paid again and again by clients whose deadline differs in each request (all of Go's):
each changes the table, so that no block can be remembered. This loop takes a quarter of it; a test compares the two on
generated blocks.
"""

from __future__ import annotations

from typing import Final

from hpack.exceptions import HPACKError
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

from serving_server.http2.frames import ConnectionFault, ErrorCode

__all__ = ["Field", "FieldDecoder"]

Field = tuple[bytes, bytes]

_STATIC: Final[tuple[Field, ...]] = ((b"", b""), *HeaderTable.STATIC_TABLE)
_STATIC_END: Final = len(_STATIC)

#: SETTINGS_HEADER_TABLE_SIZE of ours: the default, as we never send it.
_MAX_TABLE: Final = 4096

#: Longest encoding of an integer: no length or index needs more, and more would only make work.
_MAX_INTEGER_BYTES: Final = 5

#: What each field costs beside its name and value.
_OVERHEAD: Final = 32


def _broken(text: str) -> ConnectionFault:
    return ConnectionFault(ErrorCode.COMPRESSION_ERROR, f"a header block {text}")


def _integer(block: bytes, position: int, limit: int) -> tuple[int, int]:
    """Return the integer whose prefix, all ones, is `limit`, and the position behind it (section 5.1)."""
    value = limit
    for index in range(1, _MAX_INTEGER_BYTES + 1):
        byte = block[position + index]
        value += (byte & 0x7F) << 7 * (index - 1)
        if byte < 0x80:
            return value, position + index + 1
    raise _broken("with an integer that is too long")


def _string(block: bytes, position: int) -> tuple[bytes, int]:
    """Return a string literal and the position behind it (section 5.2)."""
    first = block[position]
    length = first & 0x7F
    if length == 0x7F:
        length, position = _integer(block, position, 0x7F)
    else:
        position += 1
    stop = position + length
    if stop > len(block):
        raise _broken("that ends inside a string")
    text = block[position:stop]
    return (decode_huffman(text) if first & 0x80 else text), stop


class FieldDecoder:
    """Decodes the blocks of one connection, in order.

    Parameters
    ----------
    max_size : int
        Of a decoded list, as SETTINGS_MAX_HEADER_LIST_SIZE counts.

    Attributes
    ----------
    changed : bool
        The table has changed since the owner set this to False.
    """

    def __init__(self, max_size: int) -> None:
        self._table = HeaderTable()
        self._max_size = max_size
        self.changed = False

    def _entry(self, index: int) -> Field:
        if 0 < index < _STATIC_END:
            return _STATIC[index]
        entries = self._table.dynamic_entries
        if not 0 <= index - _STATIC_END < len(entries):
            raise _broken(f"with the index {index}, which is not in the table")
        return entries[index - _STATIC_END]

    def decode(self, block: bytes) -> list[Field]:
        """Return the fields of a block.

        Raises
        ------
        ConnectionFault
            COMPRESSION_ERROR for a broken block, ENHANCE_YOUR_CALM for a list that is too large: either way the table
            is no longer the peer's.
        """
        try:
            return self._decode(block)
        except IndexError:
            raise _broken("that ends inside a field") from None
        except HPACKError as error:
            raise _broken(f"with a bad string: {error}") from None

    def _decode(self, block: bytes) -> list[Field]:
        fields: list[Field] = []
        position, end, size = 0, len(block), 0
        while position < end:
            first = block[position]
            if first >= 0x80:  # indexed field
                index = first & 0x7F
                if index < 0x7F:
                    position += 1
                else:
                    index, position = _integer(block, position, 0x7F)
                field = self._entry(index)
            elif first & 0xE0 == 0x20:  # change of the table's size
                if fields:
                    raise _broken("that changes the table's size behind a field")
                position = self._resize(block, position)
                continue
            else:
                enters = first & 0x40
                limit = 0x3F if enters else 0x0F
                index = first & limit
                if index < limit:
                    position += 1
                else:
                    index, position = _integer(block, position, limit)
                if index:
                    name = self._entry(index)[0]
                else:
                    name, position = _string(block, position)
                value, position = _string(block, position)
                field = (name, value)
                if enters:
                    self.changed = True
                    self._table.add(name, value)
            fields.append(field)
            size += len(field[0]) + len(field[1]) + _OVERHEAD
            if size > self._max_size:
                raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, f"a header list of over {self._max_size} bytes")
        return fields

    def _resize(self, block: bytes, position: int) -> int:
        size = block[position] & 0x1F
        if size < 0x1F:
            position += 1
        else:
            size, position = _integer(block, position, 0x1F)
        if size > _MAX_TABLE:
            raise _broken(f"that makes the table {size} bytes large")
        self.changed = True
        self._table.maxsize = size
        return position
