"""asyncpg with its defaults: every statement is a named prepared statement, kept in a cache."""
import asyncio
import os
import sys

import asyncpg

CLIENTS = int(os.environ.get("CLIENTS", "8"))
ROUNDS = int(os.environ.get("ROUNDS", "20"))


def check(condition, text):
    if not condition:
        raise AssertionError(text)


async def client(number):
    first = number * 50
    connection = await asyncpg.connect()
    for n in range(ROUNDS):
        async with connection.transaction():
            await connection.execute(
                "update driver_accounts set balance = balance + $1, owner = $2 where id = $3",
                n, f"asyncpg-{number}", first + n % 50)
            row = await connection.fetchrow(
                "select owner, balance from driver_accounts where id = $1", first + n % 50)
            check(row["owner"] == f"asyncpg-{number}", "somebody else's row")
    total = await connection.fetchval(
        "select sum(balance)::bigint from driver_accounts where id between $1 and $2",
        first, first + 49)
    check(total == sum(range(ROUNDS)), f"balance {total}")

    # Each client prepares other texts under the names that the driver counts up.
    own = await connection.prepare(f"select $1::int + {number}")
    for n in range(ROUNDS):
        check(await own.fetchval(n) == n + number, "somebody else's statement")
        await connection.execute("update driver_accounts set balance = $1 where id = $2", n, first)
        got = await connection.fetchval("select balance from driver_accounts where id = $1", first)
        check(got == n, f"wrote {n}, read {got}")

    try:
        await connection.execute("insert into driver_accounts values ($1, 'x', 0)", first)
        check(False, "a duplicate key was accepted")
    except asyncpg.UniqueViolationError:
        pass
    try:
        async with connection.transaction():
            await connection.execute("update driver_accounts set balance = -1 where id = $1", first)
            await connection.fetchval("select 1 / $1::int", 0)
    except asyncpg.DivisionByZeroError:
        pass
    got = await connection.fetchval("select balance from driver_accounts where id = $1", first)
    check(got == ROUNDS - 1, "a rolled back write is visible")

    async with connection.transaction():
        cursor = connection.cursor("select generate_series(1, 250)", prefetch=20)
        values = [record[0] async for record in cursor]
        check(sum(values) == 250 * 251 // 2, "cursor")
    async with connection.transaction():
        await connection.execute("create temp table loaded (a int, b text) on commit drop")
        await connection.copy_records_to_table(
            "loaded", records=[(n, f"row {n}") for n in range(500)])
        await connection.executemany("insert into loaded values ($1, $2)",
                                     [(n, "more") for n in range(20)])
        check(await connection.fetchval("select count(*) from loaded") == 520, "copy")
    # Types that the driver looks up in the catalogue by itself.
    check(await connection.fetchval("select $1::int[]", [1, 2, 3]) == [1, 2, 3], "array")
    try:
        await connection.fetchval("select pg_sleep(30)", timeout=0.3)  # the driver sends a cancel
        check(False, "no timeout")
    except asyncio.TimeoutError:
        pass
    check(await connection.fetchval("select 1") == 1, "after the cancel")
    await connection.close()


async def pooled():
    """The driver's own pool resets each connection that comes back to it."""
    async with asyncpg.create_pool(min_size=2, max_size=4) as pool:
        async def one(n):
            async with pool.acquire() as connection:
                check(await connection.fetchval("select $1::int", n) == n, "pool")
        await asyncio.gather(*(one(n) for n in range(ROUNDS)))


async def main():
    results = await asyncio.gather(*(client(number) for number in range(CLIENTS)), pooled(),
                                   return_exceptions=True)
    problems = [f"client {n}: {type(result).__name__}: {result}"
                for n, result in enumerate(results) if isinstance(result, BaseException)]
    if problems:
        sys.exit("\n".join(problems))
    print(f"ok asyncpg {asyncpg.__version__} clients={CLIENTS} rounds={ROUNDS}")


asyncio.run(main())
