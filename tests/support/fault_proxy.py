"""A TCP proxy that breaks the network on demand, at an exact byte or protocol message.

It stands between a pool and its server, runs in a thread of its own, and so serves blocking and asyncio tests
alike::

    with FaultProxy(server.host, server.port) as proxy:
        pool = open_pool(server.url.replace(str(server.port), str(proxy.port)))
        proxy.sessions[0].arm(Fault.before(Action.RESET, b"D"))        # now, for this connection
        proxy.plan(3, Fault.at_byte(Action.CUT, Direction.TO_SERVER, 17))  # for the fourth to come in
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import socket
import ssl
import struct
import termios
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

from pqpool.throwaway import free_port
from support.wire import SSL_REQUEST, Direction, Mark, MarkKind, MessageParser, SessionWire, Traffic

__all__ = ["Action", "Direction", "Fault", "FaultProxy", "Planner", "ProxiedConnection", "Traffic"]

_T = TypeVar("_T")
_CALL_LIMIT = 10.0
_QUIET = 0.02
_DEATH_LIMIT = 5.0


class Action(Enum):
    """What happens when a fault is due. Past its place nothing is forwarded, but where it says so."""

    CUT = "cut"  # an orderly end: FIN to both sides
    END = "end"  # the server hears an orderly end; its answers to what it heard still pass, then its own end
    RESET = "reset"  # RST to both sides
    DIE = "die"  # answers vanish, what the client says still passes; FIN when the server is done
    DIE_RESET = "die-reset"  # the same with RST
    SWALLOW = "swallow"  # a black hole: bytes vanish, nothing is closed
    DEAF = "deaf"  # half of one: what the client says vanishes, what the server says passes
    MUTE = "mute"  # the other half: what the server says vanishes
    STALL = "stall"  # bytes are kept back until resume()


@dataclass(frozen=True)
class Fault:
    """One fault of one connection, with its exact place in one direction's stream, counted from arming.

    With `once_ready` the count begins only after the first ReadyForQuery, i.e. once the session stands.
    """

    action: Action
    direction: Direction
    byte: int | None = None
    message: bytes = b""
    nth: int = 1
    kind: MarkKind = MarkKind.END
    once_ready: bool = False

    @staticmethod
    def at_byte(action: Action, direction: Direction, byte: int, *, once_ready: bool = False) -> Fault:
        """Forwards exactly `byte` bytes, then strikes at once; with 0, when the next byte would pass."""
        return Fault(action, direction, byte=byte, once_ready=once_ready)

    @staticmethod
    def before(
        action: Action,
        message: bytes,
        nth: int = 1,
        direction: Direction = Direction.TO_CLIENT,
        *,
        once_ready: bool = False,
    ) -> Fault:
        """Strikes when the nth message of this type arrives, forwarding nothing of it."""
        return Fault(action, direction, None, message, nth, MarkKind.START, once_ready)

    @staticmethod
    def after(
        action: Action,
        message: bytes,
        nth: int = 1,
        direction: Direction = Direction.TO_CLIENT,
        *,
        once_ready: bool = False,
    ) -> Fault:
        """Strikes as soon as the nth message of this type is forwarded whole."""
        return Fault(action, direction, None, message, nth, MarkKind.END, once_ready)


class _Armed:
    """A fault on its way: how much is still to pass."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self._counting = not fault.once_ready
        self._left = fault.nth if fault.byte is None else fault.byte

    def place_in(self, direction: Direction, size: int, marks: list[Mark]) -> int | None:
        """The offset in this chunk at which to strike; None if not here."""
        begin = 0
        if not self._counting:
            ready = [mark.offset for mark in marks if mark.type == b"Z" and mark.kind is MarkKind.END]
            if direction is not Direction.TO_CLIENT or not ready:
                return None
            self._counting = True
            begin = ready[0]
        if direction is not self.fault.direction:
            return None
        if self.fault.byte is not None:
            passing = size - begin
            if self._left == 0:
                return begin if passing else None
            if passing >= self._left:
                return begin + self._left
            self._left -= passing
            return None
        for mark in marks:
            if (mark.type, mark.kind) == (self.fault.message, self.fault.kind) and mark.offset >= begin:
                self._left -= 1
                if self._left == 0:
                    return mark.offset
        return None


Planner = Callable[[int], Fault | None]


class ProxiedConnection:
    """One connection through the proxy. Its public members may be used from any thread."""

    def __init__(self, proxy: FaultProxy, index: int, client: socket.socket) -> None:
        self.index = index
        self.fired = threading.Event()
        self.closed = threading.Event()
        self._proxy = proxy
        self._client = client
        self._server = socket.socket()
        self._server.setblocking(False)
        self._wire = SessionWire()
        self._parsers = {way: MessageParser(way, self._wire) for way in Direction}
        self._armed: _Armed | None = None
        self._tls: _TlsEnd | None = None
        self._swallowed: set[Direction] = set()
        self._last_bytes = 0.0
        self._dying: asyncio.Task[None] | None = None
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._task: asyncio.Task[None] | None = None

    @property
    def is_cancel_request(self) -> bool:
        """Whether this is a cancel request's short connection, not a session."""
        return self._wire.is_cancel

    def traffic(self, direction: Direction) -> Traffic:
        """What came in so far in a direction, including what a fault then kept back."""
        return self._parsers[direction].traffic.copy()

    def arm(self, fault: Fault) -> None:
        """Counts from the next byte on; replaces a fault that has not struck."""
        self._proxy.call(lambda: self._arm(fault))

    def disarm(self) -> None:
        self._proxy.call(lambda: setattr(self, "_armed", None))

    def strike(self, action: Action) -> None:
        """Lets the fault happen now, between two bytes."""
        self._proxy.call(lambda: self._strike(action))

    def resume(self) -> None:
        """Lets a stalled connection go on."""
        self._proxy.call(self._flowing.set)

    def _arm(self, fault: Fault) -> None:
        self.fired.clear()
        self._armed = _Armed(fault)

    def _strike(self, action: Action) -> None:
        self._armed = None
        self.fired.set()
        if action is Action.STALL:
            self._flowing.clear()
            return
        if action in (Action.MUTE, Action.DEAF):
            self._swallowed.add(Direction.TO_CLIENT if action is Action.MUTE else Direction.TO_SERVER)
            return
        if action in (Action.DIE, Action.DIE_RESET):
            self._swallowed.add(Direction.TO_CLIENT)
            self._dying = asyncio.ensure_future(self._die(action))
            return
        if action is Action.END:
            self._swallowed.add(Direction.TO_SERVER)
            with contextlib.suppress(OSError):
                self._server.shutdown(socket.SHUT_WR)
            return
        self._swallowed.update(Direction)
        self._flowing.set()
        if action is Action.CUT:
            # Only the sending side: closing a socket with bytes unread would send RST instead of FIN.
            self._end_client()
            with contextlib.suppress(OSError):
                self._server.shutdown(socket.SHUT_WR)
        elif action is Action.RESET:
            _reset_on_close(self._client)
            _reset_on_close(self._server)
            if self._task is not None:
                self._task.cancel()

    async def _die(self, action: Action) -> None:
        """Ends when everything that was said to the server has been answered, as far as can be seen."""
        loop = asyncio.get_running_loop()
        for _ in range(int(_DEATH_LIMIT / _QUIET)):
            if loop.time() > self._last_bytes + _QUIET and not self._owes():
                break
            await asyncio.sleep(_QUIET)
        self._strike(Action.CUT if action is Action.DIE else Action.RESET)

    def _owes(self) -> bool:
        """Whether the server has still to answer a Sync or a query; encrypted, nobody can tell."""
        said = self._parsers[Direction.TO_SERVER].traffic.messages
        heard = self._parsers[Direction.TO_CLIENT].traffic.messages
        return not self._wire.is_opaque and said[b"S"] + said[b"Q"] >= heard[b"Z"]

    def _end_client(self) -> None:
        with contextlib.suppress(OSError):
            if self._tls is not None and self._proxy.says_goodbye:
                self._tls.say_goodbye()
            self._client.shutdown(socket.SHUT_WR)

    async def serve(self, address: tuple[str, int], delay: float) -> None:
        self._task = asyncio.current_task()
        loop = asyncio.get_running_loop()
        pumps: list[asyncio.Task[None]] = []
        try:
            await asyncio.sleep(delay)
            await loop.sock_connect(self._server, address)
            self._server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._proxy.tls_context is not None:
                self._tls = await _TlsEnd.begin(self._client, self._proxy.tls_context)
            pumps = [asyncio.create_task(self._pump(way)) for way in Direction]
            await asyncio.gather(*pumps)
        except OSError:
            _reset_on_close(self._client)
            _reset_on_close(self._server)
        except asyncio.CancelledError:
            pass
        finally:
            if self._dying is not None:
                pumps.append(self._dying)
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            self._client.close()
            self._server.close()
            self.closed.set()

    async def _pump(self, direction: Direction) -> None:
        loop = asyncio.get_running_loop()
        target = self._server if direction is Direction.TO_SERVER else self._client
        parser = self._parsers[direction]
        while data := await self._read(direction):
            self._last_bytes = loop.time()
            marks = parser.feed(data)
            await self._flowing.wait()
            if direction in self._swallowed:
                continue
            place = self._armed.place_in(direction, len(data), marks) if self._armed else None
            if place is not None and self._armed is not None:
                await self._send(target, data[:place])
                data = data[place:]
                action = self._armed.fault.action
                if action is Action.RESET:
                    self._swallowed.update(Direction)
                    await _until_sent(target)
                self._strike(action)
                await self._flowing.wait()
            if direction not in self._swallowed:
                await self._send(target, data)
        await self._flowing.wait()
        if direction in self._swallowed:
            return
        if direction is Direction.TO_CLIENT:
            self._end_client()
        else:
            with contextlib.suppress(OSError):
                self._server.shutdown(socket.SHUT_WR)

    async def _read(self, direction: Direction) -> bytes:
        loop = asyncio.get_running_loop()
        if direction is Direction.TO_CLIENT:
            return await loop.sock_recv(self._server, 65536)
        if self._tls is not None:
            return await self._tls.read()
        return await loop.sock_recv(self._client, 65536)

    async def _send(self, target: socket.socket, data: bytes) -> None:
        if not data:
            return
        if target is self._client and self._tls is not None:
            await self._tls.send(data)
        else:
            await asyncio.get_running_loop().sock_sendall(target, data)


class _TlsEnd:
    """The server's end of a client's TLS, for a proxy that ends it. A client that asks for none has none."""

    def __init__(self, line: socket.socket, context: ssl.SSLContext) -> None:
        self._line = line
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._session = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._plain: bytes | None = None

    @classmethod
    async def begin(cls, line: socket.socket, context: ssl.SSLContext) -> _TlsEnd:
        end = cls(line, context)
        loop = asyncio.get_running_loop()
        first = b""
        while len(first) < 8 and (data := await loop.sock_recv(line, 8 - len(first))):
            first += data
        if first != struct.pack("!ii", 8, SSL_REQUEST):
            end._plain = first  # a cancel request, which libpq sends unencrypted
            return end
        await loop.sock_sendall(line, b"S")
        while True:
            try:
                end._session.do_handshake()
                await end._flush()
                return end
            except ssl.SSLWantReadError:
                await end._flush()
                await end._fill()

    async def read(self) -> bytes:
        if self._plain is not None:
            first, self._plain = self._plain, b""
            return first or await asyncio.get_running_loop().sock_recv(self._line, 65536)
        while True:
            try:
                return self._session.read(65536)
            except ssl.SSLWantReadError:
                await self._flush()
                if not await self._fill():
                    return b""
            except ssl.SSLZeroReturnError:
                return b""

    async def send(self, data: bytes) -> None:
        if self._plain is not None:
            await asyncio.get_running_loop().sock_sendall(self._line, data)
            return
        self._session.write(data)
        await self._flush()

    def say_goodbye(self) -> None:
        """TLS's close_notify."""
        if self._plain is None:
            with contextlib.suppress(ssl.SSLError):
                self._session.unwrap()
            self._line.send(self._outgoing.read())

    async def _fill(self) -> bytes:
        data = await asyncio.get_running_loop().sock_recv(self._line, 65536)
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()
        return data

    async def _flush(self) -> None:
        if self._outgoing.pending:
            await asyncio.get_running_loop().sock_sendall(self._line, self._outgoing.read())


class FaultProxy:
    """The proxy: listens on a loopback port from `start` to `close`. Thread-safe.

    A client's TLS passes through it, as bytes that tell nothing. With `tls_context` the proxy ends it and
    speaks plainly to the server, so that faults find their messages; `says_goodbye`: its orderly ends begin
    with close_notify.
    """

    host = "127.0.0.1"

    def __init__(
        self,
        host: str,
        port: int,
        *,
        tls_context: ssl.SSLContext | None = None,
        says_goodbye: bool = False,
    ) -> None:
        self._target = (host, port)
        self.tls_context = tls_context
        self.says_goodbye = says_goodbye
        self._listener: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._connections: list[ProxiedConnection] = []
        self._serving: set[asyncio.Task[None]] = set()
        self._plans: dict[int, Fault] = {}
        self._planner: Planner | None = None
        self._delay = 0.0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)
        self.port = 0

    def __enter__(self) -> FaultProxy:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def start(self) -> None:
        self._thread.start()
        self._await(self._listen())

    def close(self) -> None:
        """Resets every connection and ends the thread."""
        if not self._thread.is_alive():
            return
        self._await(self._shut())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CALL_LIMIT)
        self._loop.close()

    def url(self, server_url: str) -> str:
        """A server's URL, led through this proxy."""
        parts = urlsplit(server_url)
        account = parts.netloc.rpartition("@")[0]
        return urlunsplit(parts._replace(netloc=f"{account}@{self.host}:{self.port}"))

    @property
    def connections(self) -> list[ProxiedConnection]:
        """Every connection in the order they came in, also the ended ones and cancel requests."""
        return list(self._connections)

    @property
    def sessions(self) -> list[ProxiedConnection]:
        """The open connections without cancel requests."""
        return [one for one in self._connections if not one.closed.is_set() and not one.is_cancel_request]

    def traffic(self, direction: Direction) -> Traffic:
        """The sum over all connections so far."""
        total = Traffic()
        for connection in self.connections:
            total += connection.traffic(direction)
        return total

    def plan(self, index: int, fault: Fault) -> None:
        """Arms the connection of this number (0 is the first one ever) as soon as it comes in."""
        self._plans[index] = fault

    def plan_next(self, fault: Fault) -> None:
        self.call(lambda: self._plans.update({len(self._connections): fault}))

    def plan_each(self, planner: Planner | None) -> None:
        """Asks `planner(index)` for the fault of each connection to come that has no plan."""
        self._planner = planner

    def arm_all(self, fault: Fault) -> None:
        """Arms every open session."""
        for session in self.sessions:
            session.arm(fault)

    def strike_all(self, action: Action) -> None:
        """Lets the fault happen now to every open session."""
        for session in self.sessions:
            session.strike(action)

    def refuse(self) -> None:
        """Refuses connections from now on, as a closed port does; the standing ones go on."""
        self._await(self._unlisten())

    def delay_connects(self, seconds: float) -> None:
        """Accepts connections to come, but leaves them waiting that long for the server's first word."""
        self._delay = seconds

    def resume(self) -> None:
        """Undoes refuse, delay_connects and every stall, and forgets all plans."""
        self._delay = 0.0
        self._plans.clear()
        self._planner = None
        self._await(self._listen())
        for session in self.sessions:
            session.resume()

    def call(self, function: Callable[[], _T]) -> _T:
        """Runs a function between two steps of the proxy, and waits for it."""

        async def step() -> _T:
            return function()

        return self._await(step())

    def _await(self, work: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_CALL_LIMIT)

    async def _listen(self) -> None:
        if self._listener is not None:
            return
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((self.host, self.port or free_port()))
        listener.listen(1024)
        listener.setblocking(False)
        self.port = listener.getsockname()[1]
        self._listener = listener
        self._accepting = asyncio.create_task(self._accept(listener))

    async def _unlisten(self) -> None:
        if self._listener is None or self._accepting is None:
            return
        self._accepting.cancel()
        await asyncio.gather(self._accepting, return_exceptions=True)
        self._listener.close()
        self._listener = None

    async def _shut(self) -> None:
        await self._unlisten()
        for connection in self._connections:
            if not connection.closed.is_set():
                connection._strike(Action.RESET)
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            client, _ = await loop.sock_accept(listener)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = ProxiedConnection(self, len(self._connections), client)
            fault = self._plans.pop(connection.index, None)
            if fault is None and self._planner is not None:
                fault = self._planner(connection.index)
            if fault is not None:
                connection._arm(fault)
            self._connections.append(connection)
            task = asyncio.create_task(connection.serve(self._target, self._delay))
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)


def _reset_on_close(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def _until_sent(end: socket.socket) -> None:
    """Waits until the peer's kernel has all bytes: a reset discards what is still to be sent."""
    for _ in range(1000):
        unsent = struct.unpack("i", fcntl.ioctl(end, termios.TIOCOUTQ, b"\0\0\0\0"))[0]
        if unsent == 0:
            return
        await asyncio.sleep(0.001)
