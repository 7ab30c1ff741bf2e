"""PostgreSQL's message framing, as far as the fault proxy needs it: where each message begins and ends.

https://www.postgresql.org/docs/current/protocol-message-formats.html
"""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import dataclass, field
from enum import Enum

SSL_REQUEST = 80877103
_GSS_REQUEST = 80877104
_CANCEL_REQUEST = 80877102


class Direction(Enum):
    TO_SERVER = "to server"
    TO_CLIENT = "to client"


class MarkKind(Enum):
    START = "start"
    END = "end"


@dataclass(frozen=True)
class Mark:
    """A message's border: START lies before its first byte, END after its last. Untyped messages are b""."""

    offset: int
    kind: MarkKind
    type: bytes


@dataclass
class Traffic:
    """`size` is in bytes; `reads` counts recv calls, one per packet where each waits for its answer."""

    reads: int = 0
    size: int = 0
    messages: Counter[bytes] = field(default_factory=Counter)

    def copy(self) -> Traffic:
        return Traffic(self.reads, self.size, Counter(self.messages))

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(self.reads + other.reads, self.size + other.size, self.messages + other.messages)

    def __sub__(self, earlier: Traffic) -> Traffic:
        return Traffic(self.reads - earlier.reads, self.size - earlier.size, self.messages - earlier.messages)


@dataclass
class SessionWire:
    """What both directions of one connection must know of each other."""

    is_cancel: bool = False
    is_opaque: bool = False  # encrypted: messages can no longer be told apart
    awaiting_negotiation: int = 0  # answers of one bare byte that the server still owes


class MessageParser:
    """Splits one direction's bytes into messages, however they come in pieces."""

    def __init__(self, direction: Direction, wire: SessionWire) -> None:
        self.traffic = Traffic()
        self._direction = direction
        self._wire = wire
        self._typed = direction is Direction.TO_CLIENT
        self._header = bytearray()
        self._body_left = 0
        self._type = b""

    def feed(self, data: bytes) -> list[Mark]:
        """The borders in this chunk, in order, as offsets into it."""
        self.traffic.reads += 1
        self.traffic.size += len(data)
        marks: list[Mark] = []
        at = 0
        while at < len(data) and not self._wire.is_opaque:
            if self._body_left:
                step = min(self._body_left, len(data) - at)
                at += step
                self._body_left -= step
                if self._body_left == 0:
                    self._end(marks, at)
                continue
            if not self._header:
                if self._direction is Direction.TO_CLIENT and self._wire.awaiting_negotiation:
                    self._wire.awaiting_negotiation -= 1
                    self._wire.is_opaque = data[at : at + 1] != b"N"
                    at += 1
                    continue
                self._type = data[at : at + 1] if self._typed else b""
                marks.append(Mark(at, MarkKind.START, self._type))
            wanted = 5 if self._typed else 8
            step = min(wanted - len(self._header), len(data) - at)
            self._header += data[at : at + step]
            at += step
            if len(self._header) == wanted:
                self._begin_body()
                if self._body_left == 0:
                    self._end(marks, at)
        return marks

    def _begin_body(self) -> None:
        if self._typed:
            self._body_left = struct.unpack("!i", self._header[1:])[0] - 4
        else:
            size, code = struct.unpack("!ii", self._header)
            self._body_left = size - 8
            if code in (SSL_REQUEST, _GSS_REQUEST):
                self._wire.awaiting_negotiation += 1
            elif code == _CANCEL_REQUEST:
                self._wire.is_cancel = True
            else:
                self._typed = True
        self._header.clear()

    def _end(self, marks: list[Mark], at: int) -> None:
        marks.append(Mark(at, MarkKind.END, self._type))
        self.traffic.messages[self._type] += 1
