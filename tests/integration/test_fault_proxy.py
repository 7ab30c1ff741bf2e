"""The fault proxy itself: a fault in the wrong place would prove nothing about the pool."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections.abc import Iterator

import pytest

from support.certificate import Certificate
from support.fault_proxy import Action, Direction, Fault, FaultProxy
from support.wait import wait_until

READY = b"Z" + struct.pack("!i", 5) + b"I"
ROW = b"D" + struct.pack("!ih", 6, 0)
STARTUP = struct.pack("!ii", 8, 196608)


class Peer:
    """A server of one session: collects what it gets, sends what the test says."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.got = bytearray()
        self.ended = ""
        self.line: socket.socket | None = None
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        self.line, _ = self._listener.accept()
        try:
            while data := self.line.recv(4096):
                self.got += data
            self.ended = "end"
        except ConnectionResetError:
            self.ended = "reset"

    def send(self, data: bytes) -> None:
        wait_until(lambda: self.line).sendall(data)

    def close(self) -> None:
        self._listener.close()
        if self.line is not None:
            self.line.close()


@pytest.fixture
def peer() -> Iterator[Peer]:
    peer = Peer()
    yield peer
    peer.close()


@pytest.fixture
def line(peer: Peer) -> Iterator[tuple[FaultProxy, socket.socket]]:
    with (
        FaultProxy("127.0.0.1", peer.port) as proxy,
        socket.create_connection((proxy.host, proxy.port), timeout=5.0) as client,
    ):
        client.sendall(STARTUP)
        wait_until(lambda: bytes(peer.got) == STARTUP)
        yield proxy, client


def read_all(client: socket.socket) -> bytes:
    return b"".join(iter(lambda: client.recv(4096), b""))


def test_cut_passes_exactly_the_bytes_before_it_and_then_ends_orderly(peer, line):
    proxy, client = line
    proxy.sessions[0].arm(Fault.at_byte(Action.CUT, Direction.TO_CLIENT, 10))
    peer.send(ROW + ROW)
    assert read_all(client) == (ROW + ROW)[:10]
    wait_until(lambda: peer.ended == "end")


def test_end_lets_the_server_finish_what_it_says(peer, line):
    proxy, client = line
    proxy.sessions[0].arm(Fault.at_byte(Action.END, Direction.TO_SERVER, 3))
    client.sendall(READY)
    wait_until(lambda: peer.ended == "end")
    assert bytes(peer.got) == STARTUP + READY[:3]
    peer.send(ROW)
    peer.close()
    assert read_all(client) == ROW


def test_reset_passes_the_bytes_before_it_and_then_resets_both_sides(peer, line):
    proxy, client = line
    proxy.sessions[0].arm(Fault.before(Action.RESET, b"Z"))
    peer.send(ROW + ROW + READY)
    got = b""
    with pytest.raises(ConnectionResetError):
        while data := client.recv(4096):
            got += data
    assert got == ROW + ROW
    wait_until(lambda: peer.ended == "reset")


def test_cut_at_byte_zero_to_the_server_waits_for_the_first_byte_and_keeps_it(peer, line):
    proxy, client = line
    session = proxy.sessions[0]
    session.arm(Fault.at_byte(Action.CUT, Direction.TO_SERVER, 0))
    peer.send(READY)
    assert client.recv(100) == READY
    assert not session.fired.is_set()
    client.sendall(b"Q")
    assert session.fired.wait(5.0)
    assert read_all(client) == b""
    wait_until(lambda: peer.ended == "end")
    assert bytes(peer.got) == STARTUP


def test_messages_are_found_however_they_are_split(peer, line):
    proxy, client = line
    proxy.sessions[0].arm(Fault.after(Action.CUT, b"D", nth=2))
    for byte in ROW + READY + ROW:
        peer.send(bytes([byte]))
    peer.send(b"never")
    assert read_all(client) == ROW + READY + ROW
    counted = proxy.traffic(Direction.TO_CLIENT).messages
    assert counted[b"D"] == 2
    assert counted[b"Z"] == 1


def test_swallow_closes_nothing_and_passes_nothing_either_way(peer, line):
    proxy, client = line
    session = proxy.sessions[0]
    session.arm(Fault.after(Action.SWALLOW, b"Z"))
    peer.send(READY + ROW)
    assert client.recv(100) == READY
    client.sendall(b"lost")
    wait_until(lambda: session.traffic(Direction.TO_SERVER).size == len(STARTUP) + 4)
    client.settimeout(0.1)
    with pytest.raises(TimeoutError):
        client.recv(100)
    assert bytes(peer.got) == STARTUP
    assert peer.ended == ""


SYNC = b"S" + struct.pack("!i", 4)


@pytest.mark.parametrize("action", [Action.DIE, Action.DIE_RESET])
def test_one_that_dies_passes_on_what_the_client_says_until_it_is_answered(peer, line, action):
    proxy, client = line
    peer.send(READY)
    assert client.recv(100) == READY
    session = proxy.sessions[0]
    session.arm(Fault.at_byte(action, Direction.TO_SERVER, 2))
    client.sendall(SYNC + SYNC)
    wait_until(lambda: bytes(peer.got) == STARTUP + SYNC + SYNC)
    peer.send(READY)
    assert not session.closed.wait(0.1)
    peer.send(READY)
    if action is Action.DIE:
        assert read_all(client) == b""
        wait_until(lambda: peer.ended == "end")
    else:
        with pytest.raises(ConnectionResetError):
            read_all(client)
        wait_until(lambda: peer.ended == "reset")


@pytest.mark.parametrize("action", [Action.DEAF, Action.MUTE])
def test_half_a_black_hole_passes_one_direction(peer, line, action):
    proxy, client = line
    session = proxy.sessions[0]
    session.strike(action)
    client.sendall(SYNC)
    peer.send(READY)
    wait_until(lambda: all(session.traffic(way).size > 0 for way in Direction))
    client.settimeout(0.1)
    if action is Action.DEAF:
        assert client.recv(100) == READY
        assert bytes(peer.got) == STARTUP
    else:
        wait_until(lambda: bytes(peer.got) == STARTUP + SYNC)
        with pytest.raises(TimeoutError):
            client.recv(100)


@pytest.mark.parametrize("says_goodbye", [False, True])
def test_one_that_ends_tls_finds_messages_and_says_goodbye_or_not(peer, says_goodbye):
    certificate = Certificate()
    trusting = ssl.create_default_context(cafile=str(certificate.certificate))
    trusting.check_hostname = False
    try:
        with (
            FaultProxy(
                "127.0.0.1", peer.port, tls_context=certificate.context(), says_goodbye=says_goodbye
            ) as proxy,
            socket.create_connection((proxy.host, proxy.port), timeout=5.0) as line,
        ):
            line.sendall(struct.pack("!ii", 8, 80877103))
            assert line.recv(1) == b"S"
            with trusting.wrap_socket(line, suppress_ragged_eofs=False) as client:
                client.sendall(STARTUP)
                wait_until(lambda: bytes(peer.got) == STARTUP)
                proxy.sessions[0].arm(Fault.after(Action.CUT, b"Z"))
                peer.send(ROW + READY + ROW)
                assert client.recv(100) == ROW + READY
                if says_goodbye:
                    assert client.recv(100) == b""
                else:
                    with pytest.raises(ssl.SSLEOFError):
                        client.recv(100)
    finally:
        certificate.close()


def test_stall_keeps_the_bytes_until_resume(peer, line):
    proxy, client = line
    session = proxy.sessions[0]
    session.arm(Fault.at_byte(Action.STALL, Direction.TO_CLIENT, 3))
    peer.send(READY)
    assert client.recv(100) == READY[:3]
    assert session.fired.wait(5.0)
    proxy.resume()
    assert client.recv(100) == READY[3:]


def test_once_ready_counts_from_the_first_ready_for_query(peer):
    with FaultProxy("127.0.0.1", peer.port) as proxy:
        proxy.plan(0, Fault.at_byte(Action.CUT, Direction.TO_CLIENT, 2, once_ready=True))
        with socket.create_connection((proxy.host, proxy.port), timeout=5.0) as client:
            client.sendall(STARTUP)
            peer.send(ROW + READY + ROW)
            assert read_all(client) == ROW + READY + ROW[:2]


def test_refused_and_accepted_again_on_the_same_port(peer, line):
    proxy, client = line
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((proxy.host, proxy.port), timeout=5.0)
    peer.send(READY)
    assert client.recv(100) == READY
    proxy.resume()
    socket.create_connection((proxy.host, proxy.port), timeout=5.0).close()


def test_a_reset_by_the_server_reaches_the_client_as_a_reset(peer, line):
    _, client = line
    assert peer.line is not None
    peer.line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.line.shutdown(socket.SHUT_RD)
    peer.line.close()
    with pytest.raises(ConnectionResetError):
        read_all(client)


def test_a_real_session_passes_and_negotiation_is_understood(server, proxy):
    first, *rest = (
        struct.pack("!ii", 8, 80877103),
        struct.pack("!ii", 8 + 33, 196608) + b"user\0postgres\0database\0postgres\0\0",
    )
    with socket.create_connection((proxy.host, proxy.port), timeout=5.0) as client:
        client.sendall(first)
        assert client.recv(1) == b"N"
        client.sendall(rest[0])
        wait_until(lambda: proxy.traffic(Direction.TO_CLIENT).messages[b"Z"] == 1)
        assert proxy.traffic(Direction.TO_CLIENT).messages[b"R"] == 1
    wait_until(lambda: not proxy.sessions)
