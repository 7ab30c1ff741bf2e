"""The ways to have an effect: inserts by every kind of statement, and effects that no rollback undoes.

Each takes the numbers of the effects that it is asked for, and enters them in the ledger as it was told.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from pqpool import Connection, ConnectionPoolManager
from proofs.ledger import Label, Ledger, Wrong

__all__ = ["INSERTS", "INTERRUPTED", "OUTSIDE", "SCHEMA", "Way", "number_of"]

SCHEMA = """
CREATE TABLE effects (number bigint);
CREATE FUNCTION add_effect(number bigint) RETURNS bigint LANGUAGE plpgsql
    AS 'BEGIN INSERT INTO effects VALUES (number); RETURN number; END';
CREATE FUNCTION add_first(number bigint) RETURNS bigint LANGUAGE sql
    AS 'INSERT INTO effects VALUES (number); SELECT number';
CREATE FUNCTION draw_and_rest(sequence text) RETURNS bigint LANGUAGE plpgsql
    AS 'DECLARE drawn bigint; BEGIN drawn := nextval(sequence); PERFORM pg_sleep(0.03); RETURN drawn; END';
"""

Run = Callable[[Connection, range], Awaitable[None]]


@dataclass(frozen=True)
class Way:
    name: str
    run: Run
    size: int = 1  # effects of one call
    in_transaction: bool = False

    async def do(self, pool: ConnectionPoolManager, ledger: Ledger, label: Label, numbers: range) -> bool:
        """On a lease of its own; whether it was done."""
        phase = Phase()
        try:
            async with pool.acquire() as connection:
                await self.do_on(connection, numbers, phase)
        except Exception as error:
            ledger.failed(label, numbers, error, is_undone=phase.is_before_commit)
            return False
        ledger.done(label, numbers)
        return True

    async def do_on(self, connection: Connection, numbers: range, phase: Phase) -> None:
        if not self.in_transaction:
            await self.run(connection, numbers)
            return
        phase.is_before_commit = True
        async with connection.transaction():
            await self.run(connection, numbers)
            phase.is_before_commit = False


@dataclass
class Phase:
    is_before_commit: bool = False


def number_of(answer: object, number: int) -> None:
    if answer != number:
        raise Wrong(f"asked for {number}, got {answer!r}")


async def _insert(connection: Connection, numbers: range) -> None:
    tag = await connection.execute("INSERT INTO effects VALUES ($1)", numbers[0])
    if tag != "INSERT 0 1":
        raise Wrong(f"an INSERT was answered with {tag!r}")


async def _literal(connection: Connection, numbers: range) -> None:
    await connection.execute(f"INSERT INTO effects VALUES ({numbers[0]})")


async def _wide(connection: Connection, numbers: range) -> None:
    """More than a packet, and more than a socket's buffer takes at once."""
    await connection.execute(
        "INSERT INTO effects SELECT $1::bigint WHERE length($2::text) > 0", numbers[0], "x" * 300_000
    )


async def _returning(connection: Connection, numbers: range) -> None:
    text = "INSERT INTO effects VALUES ($1) RETURNING number"
    number_of(await connection.fetchval(text, numbers[0]), numbers[0])


async def _cte(connection: Connection, numbers: range) -> None:
    text = "WITH new AS (INSERT INTO effects VALUES ($1) RETURNING number) SELECT number FROM new"
    number_of(await connection.fetchval(text, numbers[0]), numbers[0])


async def _function(connection: Connection, numbers: range) -> None:
    number_of(await connection.fetchval("SELECT add_effect($1::bigint)", numbers[0]), numbers[0])


async def _sql_function(connection: Connection, numbers: range) -> None:
    number_of(await connection.fetchval("SELECT add_first($1::bigint) AS n", numbers[0]), numbers[0])


async def _executemany(connection: Connection, numbers: range) -> None:
    await connection.executemany("INSERT INTO effects VALUES ($1)", [(number,) for number in numbers])


async def _script(connection: Connection, numbers: range) -> None:
    await connection.execute("; ".join(f"INSERT INTO effects VALUES ({number})" for number in numbers))


async def _second(connection: Connection, numbers: range) -> None:
    """Not the lease's first statement: nothing stands in front of it."""
    number_of(await connection.fetchval("SELECT $1::bigint", numbers[0]), numbers[0])
    await _insert(connection, numbers)


async def _read_then_insert(connection: Connection, numbers: range) -> None:
    number_of(await connection.fetchval("SELECT $1::bigint", numbers[0]), numbers[0])
    await _returning(connection, numbers)


INSERTS = {
    way.name: way
    for way in (
        Way("insert", _insert),
        Way("literal", _literal),
        Way("wide", _wide),
        Way("returning", _returning),
        Way("cte", _cte),
        Way("function", _function),
        Way("sql-function", _sql_function),
        Way("second", _second),
        Way("transaction", _insert, in_transaction=True),
        Way("read-then-insert", _read_then_insert, in_transaction=True),
        Way("executemany", _executemany, size=3),
        Way("script", _script, size=3),
    )
}


# ---- outside effects: s_1, s_2, … are sequences; counted by how far each went ----


async def _nextval(connection: Connection, numbers: range) -> None:
    number_of(await connection.fetchval(f"SELECT nextval('s_{numbers[0]}')"), 1)


async def _nextval_as_parameter(connection: Connection, numbers: range) -> None:
    number_of(await connection.fetchval("SELECT nextval($1::text::regclass)", f"s_{numbers[0]}"), 1)


async def _setval(connection: Connection, numbers: range) -> None:
    """Sets one more than is there, or begins with 1."""
    name = f"s_{numbers[0]}"
    text = f"SELECT setval('{name}', CASE WHEN is_called THEN last_value + 1 ELSE 1 END) FROM {name}"
    number_of(await connection.fetchval(text), 1)


async def _notify(connection: Connection, numbers: range) -> None:
    await connection.execute("SELECT pg_notify('effects', $1::text)", str(numbers[0]))


async def _notify_command(connection: Connection, numbers: range) -> None:
    await connection.execute(f"NOTIFY effects, '{numbers[0]}'")


async def _dblink(connection: Connection, numbers: range) -> None:
    text = f"SELECT add_elsewhere({numbers[0]}::bigint)"
    number_of(await connection.fetchval(text), numbers[0])


async def _dblink_direct(connection: Connection, numbers: range) -> None:
    text = "SELECT dblink_exec(where_else(), 'INSERT INTO effects VALUES (' || $1::bigint || ')')"
    if await connection.fetchval(text, numbers[0]) != "INSERT 0 1":
        raise Wrong("dblink's insert was answered otherwise")


async def _draw_and_rest(connection: Connection, numbers: range) -> None:
    text = "SELECT draw_and_rest($1::text)"
    number_of(await connection.fetchval(text, f"s_{numbers[0]}"), 1)


INTERRUPTED = Way("draw-and-rest", _draw_and_rest)
"""Its effect stands while it can still be ended."""

OUTSIDE = {
    way.name: way
    for way in (
        Way("nextval", _nextval),
        Way("nextval-parameter", _nextval_as_parameter),
        Way("setval", _setval),
        Way("notify", _notify),
        Way("notify-command", _notify_command),
        Way("dblink", _dblink),
        Way("dblink-direct", _dblink_direct),
    )
}
