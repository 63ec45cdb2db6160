"""psycopg 3 with its defaults: it prepares a statement on the server at its fifth execution."""
import os
import sys
import threading

import psycopg

CLIENTS = int(os.environ.get("CLIENTS", "8"))
ROUNDS = int(os.environ.get("ROUNDS", "20"))
problems = []


def check(condition, text):
    if not condition:
        raise AssertionError(text)


def client(number):
    first = number * 50
    with psycopg.connect("") as connection:
        # A transaction each, with the same statements often enough to be prepared.
        for n in range(ROUNDS):
            with connection.transaction():
                connection.execute(
                    "update driver_accounts set balance = balance + %s, owner = %s where id = %s",
                    (n, f"psycopg3-{number}", first + n % 50))
                row = connection.execute("select owner, balance from driver_accounts where id = %s",
                                         (first + n % 50,)).fetchone()
                check(row[0] == f"psycopg3-{number}", f"{row} is not ours")
        connection.commit()
        total = connection.execute(
            "select sum(balance) from driver_accounts where id between %s and %s",
            (first, first + 49)).fetchone()[0]
        check(total == sum(range(ROUNDS)), f"balance {total}")
        connection.rollback()

        # Autocommit reads and writes in turn: what was written is read.
        connection.autocommit = True
        for n in range(ROUNDS):
            connection.execute("update driver_accounts set balance = %s where id = %s", (n, first))
            got = connection.execute("select balance from driver_accounts where id = %s",
                                     (first,)).fetchone()[0]
            check(got == n, f"wrote {n}, read {got}")
            # The text differs between clients: names must not be mixed up.
            answer = connection.execute(f"select %s::int + {number}", (n,)).fetchone()[0]
            check(answer == n + number, f"{answer} is somebody else's")

        # Errors, and life after them.
        try:
            connection.execute("insert into driver_accounts values (%s, 'x', 0)", (first,))
            check(False, "a duplicate key was accepted")
        except psycopg.errors.UniqueViolation:
            pass
        try:
            with connection.transaction():
                connection.execute("update driver_accounts set balance = -1 where id = %s",
                                   (first,))
                connection.execute("select 1/0")
        except psycopg.errors.DivisionByZero:
            pass
        got = connection.execute("select balance from driver_accounts where id = %s",
                                 (first,)).fetchone()[0]
        check(got == ROUNDS - 1, "a rolled back write is visible")

        # Server-side cursor, pipeline, COPY, executemany, binary results.
        with connection.transaction():
            with connection.cursor(name="named") as cursor:
                cursor.execute("select generate_series(1, 250)")
                check(sum(row[0] for row in cursor) == 250 * 251 // 2, "named cursor")
        with connection.pipeline():
            cursors = [connection.execute("select %s::int", (n,)) for n in range(20)]
        check([cursor.fetchone()[0] for cursor in cursors] == list(range(20)), "pipeline")
        with connection.transaction():
            connection.execute("create temp table loaded (a int, b text) on commit drop")
            with connection.cursor() as cursor:
                with cursor.copy("copy loaded from stdin") as copy:
                    for n in range(500):
                        copy.write_row((n, f"row {n}"))
                cursor.executemany("insert into loaded values (%s, %s)",
                                   [(n, "more") for n in range(20)])
                cursor.execute("select count(*) from loaded")
                check(cursor.fetchone()[0] == 520, "copy")
        with connection.cursor(binary=True) as cursor:
            cursor.execute("select %s::bytea", (b"\0\1\2",))
            check(cursor.fetchone()[0] == b"\0\1\2", "binary")


def guarded(number):
    try:
        client(number)
    except BaseException as error:  # every way to fail is a failure of this client
        problems.append(f"client {number}: {type(error).__name__}: {error}")


threads = [threading.Thread(target=guarded, args=(number,)) for number in range(CLIENTS)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
if problems:
    sys.exit("\n".join(problems))
print(f"ok psycopg {psycopg.__version__} clients={CLIENTS} rounds={ROUNDS}")
