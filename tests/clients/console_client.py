"""The admin console through psycopg 3, psycopg2 and asyncpg with their defaults: transactions of their own
making, extended queries, binary results."""
import asyncio
import os

import asyncpg
import psycopg
import psycopg2


def check(condition, text):
    if not condition:
        raise AssertionError(text)


def commands_of(rows):
    return [row[0] for row in rows if row[0].startswith("SHOW ") and row[0] != "SHOW FDS"]


def with_psycopg3():
    for autocommit in (False, True):
        with psycopg.connect("", autocommit=autocommit) as connection:
            commands = commands_of(connection.execute("SHOW HELP").fetchall())
            check(len(commands) > 20, f"{commands}")
            for command in commands:
                as_text = connection.execute(command).description
                for prepare in (False, True):
                    cursor = connection.cursor(binary=True)
                    rows = cursor.execute(command, prepare=prepare).fetchall()
                    check([c.name for c in cursor.description] == [c.name for c in as_text], command)
                    for row in rows:
                        for column, value in zip(cursor.description, row):
                            kind = int if column.type_code == 20 else str
                            check(value is None or isinstance(value, kind), f"{command} {column.name} {value!r}")
            lists = dict(connection.cursor(binary=True).execute("SHOW LISTS").fetchall())
            check(lists["workers"] == 2 and lists["used_clients"] >= 1, f"{lists}")
            connection.rollback()
            with connection.transaction():
                try:
                    with connection.transaction():
                        connection.execute("SHOW POLS")
                    check(False, "SHOW POLS was answered")
                except psycopg.errors.SyntaxError as error:
                    check("SHOW POOLS" in str(error), f"{error}")
                check(connection.execute("SHOW VERSION").fetchone()[0].startswith("pgsluice"), "version")
            try:
                connection.execute("SHOW POOLS WHERE database = %s", ("app",))
                check(False, "a parameter was taken")
            except psycopg.errors.FeatureNotSupported:
                connection.rollback()


def with_psycopg2():
    connection = psycopg2.connect("")
    cursor = connection.cursor()
    cursor.execute("SHOW HELP")
    for command in commands_of(cursor.fetchall()):
        cursor.execute(command)
        check(cursor.description, command)
    connection.commit()
    try:
        cursor.execute("SELECT * FROM pg_class")
        check(False, "pg_class was answered")
    except psycopg2.errors.SyntaxError:
        connection.rollback()
    connection.set_session(autocommit=True)
    cursor.execute("SELECT 1; SHOW VERSION")
    check(cursor.fetchone()[0].startswith("pgsluice"), "several statements")
    connection.close()


async def with_asyncpg():
    connection = await asyncpg.connect(database=os.environ["PGDATABASE"])
    for command in commands_of(await connection.fetch("SHOW HELP")):
        await connection.fetch(command)
    check(await connection.fetchval("SELECT 1") == 1, "select 1")
    check((await connection.fetchrow("SHOW LISTS"))[0] == "databases", "the first of many rows")
    async with connection.transaction():
        # In pieces of two rows: the portal is suspended in between.
        names = [row["name"] async for row in connection.cursor("SHOW MEM", prefetch=2)]
    whole = [row["name"] for row in await connection.fetch("SHOW MEM")]
    check(names == whole and len(whole) > 4, f"{names} {whole}")
    try:
        await connection.fetch("SHOW NOTHING")
        check(False, "SHOW NOTHING was answered")
    except asyncpg.PostgresSyntaxError:
        pass
    await connection.reset()
    check(await connection.fetchval("SHOW VERSION"), "after a reset")
    await connection.close()


with_psycopg3()
with_psycopg2()
asyncio.run(with_asyncpg())
print("ok console")
