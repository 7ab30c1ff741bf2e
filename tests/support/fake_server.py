"""A server that says what no real one would, on loopback; one thread for each connection.

It answers every statement with one row that holds 1, except where `answer(sql)` gives other bytes for the
description and execution of a statement. A callable in place of bytes is called with the socket, and the
connection ends when it returns.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from types import TracebackType

__all__ = [
    "Answer",
    "FakeServer",
    "command_complete",
    "data_row",
    "error",
    "message",
    "notice",
    "ready",
    "row_description",
    "value",
]

Answer = bytes | Callable[[socket.socket], None] | None


def message(kind: bytes, body: bytes = b"") -> bytes:
    return kind + struct.pack("!i", len(body) + 4) + body


def row_description(columns: Sequence[tuple[bytes, int, int]]) -> bytes:
    """Of (name, type, format) triples."""
    body = struct.pack("!h", len(columns))
    for name, oid, form in columns:
        body += name + b"\0" + struct.pack("!ihihih", 0, 0, oid, -1, -1, form)
    return message(b"T", body)


def data_row(values: Sequence[bytes | None]) -> bytes:
    body = struct.pack("!h", len(values))
    for one in values:
        body += struct.pack("!i", -1) if one is None else struct.pack("!i", len(one)) + one
    return message(b"D", body)


def command_complete(tag: bytes = b"SELECT 1") -> bytes:
    return message(b"C", tag + b"\0")


def ready(status: bytes = b"I") -> bytes:
    return message(b"Z", status)


def _fields(**fields: str | bytes) -> bytes:
    body = b""
    for code, text in fields.items():
        body += code.encode() + (text if isinstance(text, bytes) else text.encode()) + b"\0"
    return body + b"\0"


def error(**fields: str | bytes) -> bytes:
    return message(b"E", _fields(**fields))


def notice(**fields: str | bytes) -> bytes:
    return message(b"N", _fields(**fields))


def value(oid: int, data: bytes, form: int = 1) -> bytes:
    return row_description([(b"c", oid, form)]) + data_row([data]) + command_complete()


def parameters(**values: str) -> bytes:
    return b"".join(message(b"S", f"{name}\0{text}\0".encode()) for name, text in values.items())


PARAMETERS = parameters(
    server_version="15.0",
    client_encoding="UTF8",
    server_encoding="UTF8",
    standard_conforming_strings="on",
    integer_datetimes="on",
    DateStyle="ISO, MDY",
    IntervalStyle="postgres",
)
_INT4 = 23
_CANCEL, _SSL, _GSS = 80877102, 80877103, 80877104


class _Ended(Exception):
    pass


class FakeServer:
    """`with FakeServer(answer) as server: server.url`; `server.asked` lists what was parsed.

    refusal: what every login is answered with, and no more.
    """

    def __init__(
        self, answer: Callable[[str], Answer] = lambda sql: None, refusal: bytes | None = None
    ) -> None:
        self._refusal = refusal
        self.asked: list[str] = []
        self.connections = 0
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._open: list[socket.socket] = []

    @property
    def url(self) -> str:
        return f"postgresql://u:pw@127.0.0.1:{self._listener.getsockname()[1]}/d"

    def __enter__(self) -> FakeServer:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._listener.close()
        for one in self._open:
            with contextlib.suppress(OSError):
                one.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._open.append(client)
            threading.Thread(target=self._serve_safely, args=(client,), daemon=True).start()

    def _serve_safely(self, client: socket.socket) -> None:
        with contextlib.suppress(_Ended, OSError), client:
            self._serve(client)

    def _serve(self, client: socket.socket) -> None:
        while True:
            (length,) = struct.unpack("!i", _exactly(client, 4))
            (code,) = struct.unpack("!i", _exactly(client, length - 4)[:4])
            if code == _CANCEL:
                return
            if code not in (_SSL, _GSS):
                break
            client.sendall(b"N")
        self.connections += 1
        if self._refusal is not None:
            client.sendall(self._refusal)
            return
        key = struct.pack("!ii", 4242 + self.connections, 99)
        client.sendall(message(b"R", struct.pack("!i", 0)) + PARAMETERS + message(b"K", key) + ready())
        statements: dict[bytes, str] = {}
        bound, out = "", b""
        while True:
            kind = _exactly(client, 1)
            (length,) = struct.unpack("!i", _exactly(client, 4))
            body = _exactly(client, length - 4)
            if kind == b"X":
                return
            if kind == b"P":
                name, sql = body.split(b"\0")[:2]
                statements[name] = sql.decode("utf-8", "replace")
                self.asked.append(statements[name])
                out += message(b"1")
            elif kind == b"B":
                bound = statements.get(body.split(b"\0")[1], "")
                out += message(b"2")
            elif kind == b"D" and body[:1] == b"S":
                out += message(b"t", struct.pack("!h", 0)) + row_description([(b"c", _INT4, 0)])
            elif kind == b"E":
                given = self._answer(bound) if bound != "SELECT 1" else None
                if callable(given):
                    client.sendall(out)
                    given(client)
                    return
                out += value(_INT4, struct.pack("!i", 1)) if given is None else given
            elif kind == b"S":
                client.sendall(out + ready())
                out = b""
            elif kind == b"C":
                out += message(b"3")


def _exactly(client: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = client.recv(count - len(data))
        if not more:
            raise _Ended
        data += more
    return data
