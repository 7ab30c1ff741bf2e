"""What a hostile server makes of the proper answers: a grammar of deviations, at random from a seed.

One kind is left out, because no client can notice it: a stream that is a proper answer to what was asked,
with other rows than the statement's own. `is_a_lie` knows these.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from random import Random

from support.fake_server import (
    Ended,
    Session,
    command_complete,
    data_row,
    error,
    message,
    notice,
    parameters,
    ready,
    reset,
    row_description,
)

__all__ = ["Hostile", "is_a_lie"]

_ASYNCHRONOUS = b"NSA"


# ---- what a client that checks everything takes for an answer ----


def _frames(stream: bytes) -> Iterator[tuple[bytes, bytes, int]]:
    """Type, body and place, as far as the lengths make sense."""
    at = 0
    while at + 5 <= len(stream):
        (length,) = struct.unpack_from("!i", stream, at + 1)
        if length < 4 or at + 1 + length > len(stream):
            return
        yield stream[at : at + 1], stream[at + 5 : at + 1 + length], at
        at += 1 + length


def _columns(body: bytes) -> list[bytes] | None:
    """Type and format of each column of a RowDescription; None where it is malformed."""
    found, at = [], 2
    if len(body) < 2:
        return None
    for _ in range(max(0, struct.unpack_from("!h", body)[0])):
        end = body.find(b"\0", at)
        if end < 0 or end + 19 > len(body):
            return None
        found.append(body[end + 7 : end + 11] + body[end + 17 : end + 19])
        at = end + 19
    return found if at == len(body) else None


def _is_row(body: bytes, columns: int) -> bool:
    if len(body) < 2 or struct.unpack_from("!h", body)[0] != columns:
        return False
    at = 2
    for _ in range(columns):
        if at + 4 > len(body):
            return False
        (length,) = struct.unpack_from("!i", body, at)
        if length < -1:
            return False
        at += 4 + max(length, 0)
    return at == len(body)


def _read(honest: list[bytes], stream: bytes) -> tuple[bool, int | None]:
    """Whether the stream is a proper answer with wrong rows; and where the message stands that ends it."""
    due = [(kind, body) for one in honest for kind, body, _ in _frames(one)]
    place = 0
    rows: list[bytes] = []
    is_foreign = False
    for kind, body, at in _frames(stream):
        if kind in _ASYNCHRONOUS:
            continue
        if place == len(due):
            return False, None
        wanted, proper = due[place]
        if kind == b"E":
            while due[place][0] != b"Z":
                place += 1
            rows, is_foreign = [], False
        elif wanted in b"DC":
            if kind == b"D":
                if not _is_row(body, 1):
                    return False, None
                rows.append(body)
            elif kind in b"CI":
                while due[place][0] != b"C":
                    place += 1
                own = list(itertools.takewhile(lambda one: one[0] == b"D", reversed(due[:place])))
                is_foreign |= rows != [one for _, one in own]
                rows = []
                place += 1
            else:
                return False, None
        elif kind == wanted == b"T":
            if (columns := _columns(body)) is None:
                return False, None
            is_foreign |= columns != _columns(proper)
            place += 1
        elif kind in b"Tn" and wanted in b"Tn":
            is_foreign = True
            place += 1
        elif kind == wanted == b"Z":
            if body not in (b"I", b"T", b"E"):
                return False, None
            if is_foreign:
                return True, None
            place += 1
            if place == len(due):
                return False, at
        elif kind == wanted and len(body) == len(proper):
            place += 1
        else:
            return False, None
    return False, None


def is_a_lie(honest: list[bytes], stream: bytes) -> bool:
    """Whether it is a proper answer to what was asked, with other rows than those of the statement."""
    return _read(honest, stream)[0]


# ---- messages ----


def _text(random: Random, longest: int = 40) -> bytes:
    return bytes(random.choice(b"abcXYZ \n\x1b\"'\\\xe9\xff\xc3%") for _ in range(random.randrange(longest)))


def _error(random: Random) -> bytes:
    fields: dict[str, str | bytes] = {"S": "ERROR", "V": "ERROR", "C": "22000", "M": "m"}
    for _ in range(random.randrange(4)):
        fields[random.choice("SVCMDHPpqWstcdnFLRxyz1")] = random.choice(
            [b"", _text(random), b"m" * random.choice([1, 1000, 70_000]), b"99999999999999999999", b"-1"]
        )
    if random.random() < 0.3:
        fields["C"] = random.choice(["57P01", "0A000", "26000", "42P05", "25006", "57014", "40001", "XX000"])
        fields["R"] = random.choice(
            [
                "ProcessInterrupts",
                "RevalidateCachedQuery",
                "FetchPreparedStatement",
                "StorePreparedStatement",
                "PreventCommandIfReadOnly",
            ]
        )
    if random.random() < 0.2:
        fields["S"] = fields["V"] = random.choice(["FATAL", "PANIC", "WARNING", "", "?"])
    for _ in range(random.choice([0, 0, 0, 1, 2, 4])):
        fields.pop(random.choice(list(fields)), None)
    made = error(**fields)
    return made if random.random() < 0.8 else message(b"E", made[5 : 5 + random.randrange(len(made))])


def _notice(random: Random) -> bytes:
    return notice(S="NOTICE", V="NOTICE", C="00000", M=_text(random, random.choice([10, 100, 9000])))


def _parameter(random: Random) -> bytes:
    known = [
        {"client_encoding": random.choice(["LATIN1", "SQL_ASCII", "UTF8", "EUC_JP", "nonsense", ""])},
        {"standard_conforming_strings": random.choice(["off", "on", ""])},
        {"DateStyle": random.choice(["German", "SQL, DMY", "", "ISO, MDY"])},
        {"IntervalStyle": random.choice(["sql_standard", "iso_8601", ""])},
        {"integer_datetimes": "off"},
        {"server_version": random.choice(["7.0", "99.9", "x", "", "15"])},
        {"server_encoding": "LATIN1"},
        {"in_hot_standby": random.choice(["on", "off"])},
        {"default_transaction_read_only": random.choice(["on", "off"])},
        {"is_superuser": "x" * 5000},
        {f"made.up{random.randrange(1000)}": "v"},
    ]
    odd = [message(b"S"), message(b"S", b"x"), message(b"S", b"x\0"), message(b"S", b"\0\0"), b"\xff\0\xff\0"]
    if random.random() < 0.2:
        return odd[random.randrange(4)] if random.random() < 0.8 else message(b"S", odd[4])
    return parameters(**random.choice(known))


def _description(random: Random) -> bytes:
    column = (b"c", random.choice([23, 25, 16, 20, 1700, 0, -1]), random.choice([0, 1, 2, -1]))
    made = row_description([column] * random.choice([0, 1, 1, 2, 3, 1700]))
    count = struct.pack("!h", random.choice([-1, 0, 1, 2, 32767]))
    return made if random.random() < 0.5 else message(b"T", count + made[7:])


def _row(random: Random) -> bytes:
    made = data_row([random.choice([None, b"66", b"", struct.pack("!i", 66)])] * random.choice([0, 1, 1, 2]))
    count = struct.pack("!h", random.choice([-1, 0, 1, 2, 32767]))
    return made if random.random() < 0.5 else message(b"D", count + made[7:])


def _authentication(random: Random) -> bytes:
    code = random.choice([0, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 77, -1])
    return message(
        b"R", struct.pack("!i", code) + random.choice([b"", b"salt", b"SCRAM-SHA-256\0\0", b"r=x"])
    )


def _copy(random: Random) -> bytes:
    columns = random.choice([0, 1, 3, -1, 32767])
    body = struct.pack("!bh", random.choice([0, 1, 9]), columns) + b"\0\0" * random.choice([0, 1, 3])
    return message(random.choice([b"G", b"H", b"W"]), body) + random.choice(
        [b"", message(b"d", b"x\n") + message(b"c"), message(b"d", b"x" * 100)]
    )


_MESSAGES: list[Callable[[Random], bytes]] = [
    _error,
    _notice,
    _parameter,
    _description,
    _row,
    _authentication,
    _copy,
    lambda random: ready(random.choice([b"I", b"T", b"E", b"?", b"", b"II"])),
    lambda random: command_complete(
        random.choice([b"SELECT 1", b"", b"COPY 1", b"\xff", b"x" * 70, b"BEGIN"])
    ),
    lambda random: message(
        random.choice([b"n", b"s", b"I", b"1", b"2", b"3", b"c"]), random.choice([b"", b"x"])
    ),
    lambda random: message(b"t", struct.pack("!hI", random.choice([0, 1, -1, 32767]), 23)),
    lambda random: message(
        b"A", struct.pack("!i", 1) + random.choice([b"channel\0payload\0", b"x", b"x\0", b"\0\0"])
    ),
    lambda random: message(b"K", struct.pack("!ii", random.choice([1, -1, 2**31 - 1]), 1)),
    lambda random: message(b"v", struct.pack("!ii", 3 << 16, random.choice([0, 1, -1, 2**30])) + b"_pq_.x\0"),
    lambda random: message(b"V", struct.pack("!i", random.choice([-1, 0, 4, 2**30])) + b"four"),
    lambda random: message(bytes([random.randrange(256)]), _text(random)),
    lambda random: bytes(random.randrange(256) for _ in range(random.randrange(1, 30))),
]


def _any(random: Random) -> bytes:
    return random.choice(_MESSAGES)(random)


# ---- deviations: of a list of messages, and of one of them ----


def _insert(random: Random, stream: list[bytes]) -> None:
    stream.insert(random.randrange(len(stream) + 1), _any(random))


def _drop(random: Random, stream: list[bytes]) -> None:
    del stream[random.randrange(len(stream))]


def _double(random: Random, stream: list[bytes]) -> None:
    at = random.randrange(len(stream))
    stream.insert(random.randrange(at, len(stream)), stream[at])


def _swap(random: Random, stream: list[bytes]) -> None:
    one, other = random.randrange(len(stream)), random.randrange(len(stream))
    stream[one], stream[other] = stream[other], stream[one]


def _repeat(random: Random, stream: list[bytes]) -> None:
    """From some message on, again; often the whole answer."""
    stream += stream[random.choice([0, 0, random.randrange(len(stream))]) :]


def _stop(random: Random, stream: list[bytes]) -> None:
    del stream[random.randrange(len(stream)) :]


def _storm(random: Random, stream: list[bytes]) -> None:
    kind = _any(random)
    stream.insert(random.randrange(len(stream) + 1), kind * min(500, 200_000 // max(1, len(kind))))


def _notices_between(random: Random, stream: list[bytes]) -> None:
    kinds: list[Callable[[Random], bytes]] = [
        _notice,
        _parameter,
        lambda random: message(b"A", b"\0\0\0\1c\0p\0"),
    ]
    kind = random.choice(kinds)
    stream[:] = [piece for one in stream for piece in (kind(random), one)]


def _bend(random: Random, stream: list[bytes]) -> None:
    at = random.randrange(len(stream))
    stream[at] = random.choice(_BENDS)(random, stream[at])


def _wrong_length(random: Random, one: bytes) -> bytes:
    right = len(one) - 1
    wrong = [0, 1, 2, 3, -1, -(2**31), 2**31 - 1, 2**30, 2**30 + 1, 0x7FFFFFF0, 100_000]
    near = [right - 1, right + 1, right + random.randrange(2, 40), random.randrange(right + 1)]
    return one[:1] + struct.pack("!i", random.choice(wrong + near * 3)) + one[5:]


def _other_body(random: Random, one: bytes) -> bytes:
    """Of another length, which the message tells rightly."""
    body = one[5:]
    cut = body[: random.randrange(len(body) + 1)]
    return message(one[:1], random.choice([cut, body[1:], body + b"\0", body + _text(random), b""]))


def _other_count(random: Random, one: bytes) -> bytes:
    """As it would be in a RowDescription, a DataRow, a ParameterDescription."""
    wrong = struct.pack("!h", random.choice([-1, -32768, 0, 2, 3, 1664, 32767]))
    return one[:5] + wrong + one[7:]


def _other_value_length(random: Random, one: bytes) -> bytes:
    wrong = struct.pack("!i", random.choice([-2, -(2**31), 2**31 - 1, 2**30, 0, 1, 3, 5, 100]))
    return one[:7] + wrong + one[11:] if one[:1] == b"D" else _other_count(random, one)


def _other_byte(random: Random, one: bytes) -> bytes:
    at = random.randrange(len(one))
    return one[:at] + bytes([random.randrange(256)]) + one[at + 1 :]


_BENDS: list[Callable[[Random, bytes], bytes]] = [
    _wrong_length,
    _wrong_length,
    _other_body,
    _other_count,
    _other_value_length,
    _other_byte,
    lambda random, one: bytes([random.randrange(256)]) + one[1:],
    lambda random, one: one.replace(b"\0", b"x", 1),
]
_DEVIATIONS: list[Callable[[Random, list[bytes]], None]] = [
    *[_insert, _bend] * 5,
    *[_drop, _double, _swap, _repeat, _notices_between] * 2,
    _stop,
    _storm,
]


class Hostile:
    """`FakeServer(send=hostile, cancelled=hostile.cancelled)`, until `is_over`."""

    def __init__(self, seed: int) -> None:
        self.is_over = False
        self.said: deque[str] = deque(maxlen=200)  # for whoever looks into a failure
        self._seed = seed
        self._randoms: dict[int, Random] = {}
        self._mood = Random(seed)
        self._on_cancel = self._mood.choice(["end", "end", "error", "error", "nothing"])
        self._rate = self._mood.choice([0.2, 0.5, 0.9])
        self._login_rate = self._mood.choice([0.0, 0.1, 0.4])

    def __call__(self, session: Session, messages: list[bytes]) -> None:
        if self.is_over:
            return session.socket.sendall(b"".join(messages))
        random = self._randoms.setdefault(session.number, Random(f"{self._seed} {session.number}"))
        if random.random() > (self._rate if session.is_open else self._login_rate):
            return session.socket.sendall(b"".join(messages))
        stream, end = self._deviate(random, messages, session.is_open)
        self._deliver(random, session, stream, end)
        if random.random() < 0.1:
            self._speak_later(random, session)

    def cancelled(self, session: Session) -> None:
        if self._on_cancel == "end":
            session.socket.shutdown(socket.SHUT_RDWR)
        elif self._on_cancel == "error":
            self._speak(session, error(S="ERROR", V="ERROR", C="57014", M="canceling statement") + ready())

    def _deviate(self, random: Random, messages: list[bytes], is_open: bool) -> tuple[bytes, int | None]:
        if any(one[:1] == b"E" for one in messages):
            return b"".join(messages), None
        stream = list(messages)
        for _ in range(random.choice([0, 1, 1, 1, 2, 3])):
            if stream:
                random.choice(_DEVIATIONS)(random, stream)
        made = b"".join(stream)
        lie, end = _read(messages, made) if is_open else (False, None)
        if lie:
            return b"".join(messages), None
        return made, end

    def _deliver(self, random: Random, session: Session, stream: bytes, end: int | None) -> None:
        """In one piece or several, whole or not. What comes behind the answer's end goes with its end."""
        last = len(stream) if end is None else end
        way = random.choice(
            ["whole", "whole", "whole", "bytes", "pieces", "pieces", "finish", "reset", "stall"]
        )
        self.said.append(f"session {session.number}, {way}: {stream[:1000]!r}")
        client = session.socket
        if way == "bytes" and last < 400:
            for at in range(last):
                client.sendall(stream[at : at + 1])
                time.sleep(random.choice([0, 0, 0.0005]))
            client.sendall(stream[last:])
        elif way in ("finish", "reset", "stall"):
            client.sendall(stream[: random.randrange(last + 1)])
            if way == "stall":
                return
            if way == "reset":
                reset(client)
            raise Ended
        else:
            cuts = sorted(random.randrange(last + 1) for _ in range(3)) if way == "pieces" else []
            for begin, stop in itertools.pairwise([0, *cuts, len(stream)]):
                client.sendall(stream[begin:stop])
                if stop != len(stream):
                    time.sleep(random.choice([0, 0.001, 0.02]))

    def _speak_later(self, random: Random, session: Session) -> None:
        """One message while nobody has asked, or before the next answer."""
        timer = threading.Timer(random.choice([0, 0.002, 0.02]), self._speak, (session, _any(random)))
        timer.daemon = True
        timer.start()

    def _speak(self, session: Session, words: bytes) -> None:
        with session.lock, contextlib.suppress(OSError):
            session.socket.sendall(words)
            self.said.append(f"session {session.number}, unasked: {words[:200]!r}")
