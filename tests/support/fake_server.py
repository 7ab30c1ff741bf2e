"""A server that says what a test wants, on loopback; one thread for each connection.

It keeps the rules of protocol 3 as a server does: names, portals, an error that passes over everything
until the Sync, the transaction's status, the form that a Bind asks for. `SELECT 17` gives 17, `SELECT
$1::int4` its parameter, any other row holds 1. What it says instead is the test's to choose, in two places:

answer(sql): bytes in place of description, rows and end of a statement. A callable in place of bytes is
called with the socket, and the connection ends when it returns.
send(session, messages): called in place of sending, at the login and whenever the client waits. It sends
what it likes.
"""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType

__all__ = [
    "Answer",
    "Ended",
    "FakeServer",
    "Session",
    "command_complete",
    "data_row",
    "error",
    "message",
    "notice",
    "parameters",
    "ready",
    "reset",
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


def reset(client: socket.socket) -> None:
    """Ends a connection with an RST."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


_REPORTED = {
    "server_version": "15.0",
    "client_encoding": "UTF8",
    "server_encoding": "UTF8",
    "standard_conforming_strings": "on",
    "integer_datetimes": "on",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
}
PARAMETERS = parameters(**_REPORTED)
_INT4 = 23
_CANCEL, _SSL, _GSS = 80877102, 80877103, 80877104
_NEWEST = 3 << 16 | 2
_HAS_ROWS = re.compile(r"\s*(SELECT|VALUES|TABLE|WITH|SHOW|FETCH)\b", re.IGNORECASE)
_STATUS = {b"BEGIN": b"T", b"START": b"T", b"COMMIT": b"I", b"END": b"I", b"ROLLBACK": b"I", b"ABORT": b"I"}


class Ended(Exception):
    """Raised in `send` where the connection is to end, or when the client has ended it."""


class _Refused(Exception):
    """What the client asked cannot be done: an error, and nothing more until its Sync."""

    def __init__(self, code: str, words: str, routine: str = "exec") -> None:
        super().__init__(words)
        self.message = error(S="ERROR", V="ERROR", C=code, M=words, R=routine)


@dataclass
class _Statement:
    sql: str
    types: tuple[int, ...] = ()


@dataclass
class _Portal:
    statement: _Statement
    values: list[bytes | None] = field(default_factory=list)
    forms: tuple[int, ...] = ()
    result_forms: tuple[int, ...] = ()
    described: bool = False
    answer: Answer = None
    is_asked: bool = False  # answer() was

    @property
    def form(self) -> int:
        """Of the one column."""
        return self.result_forms[0] if self.result_forms else 0


class Session:
    """One connection, as the server keeps it; `number` counts from 1 over the server's life."""

    def __init__(self, server: FakeServer, client: socket.socket, number: int) -> None:
        self.socket = client
        self.number = number
        self.key = b""  # by which a cancel request names it
        self.is_open = False  # the login is over
        self.lock = threading.Lock()  # whoever sends
        self.asked: list[str] = []  # since it last sent
        self._server = server
        self._out: list[bytes] = []
        self._status = b"I"
        self._passes_over = False
        self._statements: dict[bytes, _Statement] = {}
        self._portals: dict[bytes, _Portal] = {}

    def log_in(self, version: int) -> None:
        if self._server.refusal is not None:
            self.socket.sendall(self._server.refusal)
            raise Ended
        if version > _NEWEST:
            self._out.append(message(b"v", struct.pack("!ii", _NEWEST, 0)))
        secret = b"four" if version == 3 << 16 else b"thirty-two bytes of no great use"
        self.key = struct.pack("!i", 4242 + self.number) + secret
        self._out.append(message(b"R", struct.pack("!i", 0)))
        self._out += [parameters(**{name: text}) for name, text in _REPORTED.items()]
        self._out += [message(b"K", self.key), ready()]
        self.flush()
        self.is_open = True

    def serve(self) -> None:
        while True:
            kind = _exactly(self.socket, 1)
            (length,) = struct.unpack("!i", _exactly(self.socket, 4))
            body = _exactly(self.socket, length - 4)
            if kind == b"X":
                return
            try:
                self._take(kind, body)
            except _Refused as refused:
                self._out.append(refused.message)
                self._fail()
                self._passes_over = kind != b"Q"
            if kind == b"Q":
                self._out.append(ready(self._status))
            if kind in (b"S", b"Q", b"H") and not self._has_more():
                self.flush()

    def flush(self) -> None:
        messages, self._out = self._out, []
        if not messages:
            return
        send = self._server.send
        with self.lock:
            if send is None:
                self.socket.sendall(b"".join(messages))
            else:
                send(self, messages)
            self.asked.clear()

    def _has_more(self) -> bool:
        """Requests of one packet are answered in one, so that `send` sees all that the client waits for."""
        try:
            return bool(self.socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except BlockingIOError:
            return False

    def _take(self, kind: bytes, body: bytes) -> None:
        if kind == b"S":
            self._passes_over = False
            if self._status == b"I":
                self._portals.clear()
            self._out.append(ready(self._status))
        elif self._passes_over:
            return
        elif kind == b"P":
            self._parse(body)
        elif kind == b"B":
            self._bind(body)
        elif kind == b"D":
            self._describe(body[:1], body[1:-1])
        elif kind == b"E":
            self._execute(self._portal(body.split(b"\0")[0]))
        elif kind == b"C":
            gone: dict[bytes, _Statement] | dict[bytes, _Portal]
            gone = self._statements if body[:1] == b"S" else self._portals
            gone.pop(body[1:-1], None)
            self._out.append(message(b"3"))
        elif kind == b"Q":
            self._run_script(body[:-1].decode("utf-8", "replace"))
        elif kind not in (b"H", b"d", b"c", b"f"):
            raise _Refused("08P01", f"invalid frontend message type {kind!r}")

    def _parse(self, body: bytes) -> None:
        name, sql, rest = body.split(b"\0", 2)
        if name and name in self._statements:
            words = f'prepared statement "{name.decode()}" already exists'
            raise _Refused("42P05", words, "StorePreparedStatement")
        text = sql.decode("utf-8", "replace")
        self._server.asked.append(text)
        self.asked.append(text)
        (count,) = struct.unpack_from("!h", rest)
        self._statements[name] = _Statement(text, struct.unpack_from(f"!{count}I", rest, 2))
        self._out.append(message(b"1"))

    def _bind(self, body: bytes) -> None:
        portal, name, rest = body.split(b"\0", 2)
        if name not in self._statements:
            words = f'prepared statement "{name.decode()}" does not exist'
            raise _Refused("26000", words, "FetchPreparedStatement")
        forms, at = _shorts(rest, 0)
        (count,) = struct.unpack_from("!h", rest, at)
        at += 2
        values: list[bytes | None] = []
        for _ in range(count):
            (length,) = struct.unpack_from("!i", rest, at)
            at += 4
            values.append(rest[at : at + length] if length >= 0 else None)
            at += max(length, 0)
        result_forms, _ = _shorts(rest, at)
        self._portals[portal] = _Portal(self._statements[name], values, forms, result_forms)
        self._out.append(message(b"2"))

    def _portal(self, name: bytes) -> _Portal:
        if name not in self._portals:
            raise _Refused("34000", f'portal "{name.decode()}" does not exist')
        return self._portals[name]

    def _describe(self, what: bytes, name: bytes) -> None:
        if what == b"P":
            portal = self._portal(name)
            portal.described = True
            given = self._answer(portal)
            if isinstance(given, bytes):
                self._out += [_description(given)] if given[:1] in (b"T", b"n") else []
            elif given is None:
                self._out.append(_columns(portal.statement.sql, portal.form))
            return
        if name not in self._statements:
            raise _Refused("26000", f'prepared statement "{name.decode()}" does not exist')
        sql = self._statements[name].sql
        count = max((int(one) for one in re.findall(r"\$(\d+)", sql)), default=0)
        types = (*self._statements[name].types, *[_INT4] * count)[:count]
        types = tuple(one or _INT4 for one in types)
        self._out.append(message(b"t", struct.pack(f"!h{count}I", count, *types)))
        given = self._server.answer(sql)
        if isinstance(given, bytes) and given[:1] in (b"T", b"n"):
            self._out.append(_as_text(_description(given)))
        else:
            self._out.append(_columns(sql, 0))

    def _answer(self, portal: _Portal) -> Answer:
        if not portal.is_asked and portal.statement.sql != "SELECT 1":
            portal.answer = self._server.answer(portal.statement.sql)
        portal.is_asked = True
        return portal.answer

    def _execute(self, portal: _Portal) -> None:
        given = self._answer(portal)
        if callable(given):
            self.flush()
            given(self.socket)
            raise Ended
        if given is not None:
            self._out.append(given[len(_description(given)) :])
            return
        self._run(portal)

    def _run(self, portal: _Portal) -> None:
        sql = portal.statement.sql
        word = (sql.split() or [""])[0].rstrip(";").upper().encode()
        if not sql.strip():
            self._out.append(message(b"I"))
            return
        if self._status == b"E" and word not in (b"ROLLBACK", b"ABORT", b"COMMIT", b"END"):
            raise _Refused("25P02", "current transaction is aborted")
        if _HAS_ROWS.match(sql):
            number = struct.pack("!i", _number(portal))
            shown = number if portal.form else str(_number(portal)).encode()
            self._out += [data_row([shown]), command_complete()]
            return
        if self._status == b"E" and word in (b"COMMIT", b"END"):
            word = b"ROLLBACK"
        self._status = _STATUS.get(word, self._status)
        found = re.match(r"\s*SET\s+(?:SESSION\s+)?(\w+)\s*(?:=|TO)\s*'?(\w+)", sql, re.IGNORECASE)
        if found and found[1] in _REPORTED:
            self._out.append(parameters(**{found[1]: found[2]}))
        self._out.append(command_complete(word))

    def _run_script(self, text: str) -> None:
        self._server.asked.append(text)
        self.asked.append(text)
        for sql in [one.strip() for one in text.split(";") if one.strip()] or [""]:
            portal = _Portal(_Statement(sql))
            given = self._answer(portal)
            if given is None and _HAS_ROWS.match(sql):
                self._out.append(_columns(sql, 0))
            elif isinstance(given, bytes):
                self._out.append(_description(given))
            self._execute(portal)

    def _fail(self) -> None:
        if self._status == b"T":
            self._status = b"E"


def _number(portal: _Portal) -> int:
    sql = portal.statement.sql
    if re.match(r"SELECT \$1\b", sql) and portal.values and portal.values[0] is not None:
        binary = (portal.forms * 2)[:1] == (1,)
        return int.from_bytes(portal.values[0], "big", signed=True) if binary else int(portal.values[0])
    found = re.match(r"SELECT (\d+)\b", sql)
    return int(found[1]) if found else 1


def _columns(sql: str, form: int) -> bytes:
    return row_description([(b"c", _INT4, form)]) if _HAS_ROWS.match(sql) else message(b"n")


def _description(given: bytes) -> bytes:
    """The answer's own, where it begins with one."""
    if given[:1] not in (b"T", b"n") or len(given) < 5:
        return b""
    return given[: 1 + struct.unpack("!i", given[1:5])[0]]


def _as_text(description: bytes) -> bytes:
    """A statement is described before its columns' form is known."""
    if description[-2:] == b"\0\1" and description[5:7] == b"\0\1":
        return description[:-1] + b"\0"
    return description


def _shorts(body: bytes, at: int) -> tuple[tuple[int, ...], int]:
    (count,) = struct.unpack_from("!h", body, at)
    return struct.unpack_from(f"!{count}h", body, at + 2), at + 2 + 2 * count


class FakeServer:
    """`with FakeServer(answer) as server: server.url`; `server.asked` lists what was parsed.

    refusal: what every login is answered with, and no more.
    cancelled: called with the session that a cancel request names.
    `send` may be changed while it runs.
    """

    def __init__(
        self,
        answer: Callable[[str], Answer] = lambda sql: None,
        refusal: bytes | None = None,
        send: Callable[[Session, list[bytes]], None] | None = None,
        cancelled: Callable[[Session], None] = lambda session: None,
    ) -> None:
        self.refusal = refusal
        self.answer = answer
        self.send = send
        self.asked: list[str] = []
        self.connections = 0
        self._cancelled = cancelled
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._open: dict[bytes, Session] = {}
        self._accepted: set[socket.socket] = set()
        self._failures: list[Exception] = []  # of the test's functions, or over what the client sent

    @property
    def url(self) -> str:
        return f"postgresql://u:pw@127.0.0.1:{self._listener.getsockname()[1]}/d"

    @property
    def sessions(self) -> list[Session]:
        return list(self._open.values())

    def __enter__(self) -> FakeServer:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes who accepts
        self._listener.close()
        for one in list(self._accepted):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        if kind is None and self._failures:
            raise self._failures[0]

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._accepted.add(client)
            threading.Thread(target=self._serve_safely, args=(client,), daemon=True).start()

    def _serve_safely(self, client: socket.socket) -> None:
        try:
            with contextlib.suppress(Ended, OSError), client:
                self._serve(client)
        except Exception as failure:
            self._failures.append(failure)
        finally:
            self._accepted.discard(client)

    def _serve(self, client: socket.socket) -> None:
        while True:
            (length,) = struct.unpack("!i", _exactly(client, 4))
            body = _exactly(client, length - 4)
            (code,) = struct.unpack("!i", body[:4])
            if code == _CANCEL:
                if session := self._open.get(body[4:]):
                    self._cancelled(session)
                return
            if code not in (_SSL, _GSS):
                break
            client.sendall(b"N")
        self.connections += 1
        session = Session(self, client, self.connections)
        session.log_in(code)
        self._open[session.key] = session
        try:
            session.serve()
        finally:
            del self._open[session.key]


def _exactly(client: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = client.recv(count - len(data))
        if not more:
            raise Ended
        data += more
    return data
