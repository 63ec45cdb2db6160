"""psycopg2 with its defaults: simple protocol, an implicit BEGIN before the first statement."""
import io
import os
import sys
import threading

import psycopg2
import psycopg2.errors
import psycopg2.extras

CLIENTS = int(os.environ.get("CLIENTS", "8"))
ROUNDS = int(os.environ.get("ROUNDS", "20"))
problems = []


def check(condition, text):
    if not condition:
        raise AssertionError(text)


def client(number):
    first = number * 50
    connection = psycopg2.connect("")
    cursor = connection.cursor()
    for n in range(ROUNDS):
        cursor.execute(
            "update driver_accounts set balance = balance + %s, owner = %s where id = %s",
            (n, f"psycopg2-{number}", first + n % 50))
        cursor.execute("select owner from driver_accounts where id = %s", (first + n % 50,))
        check(cursor.fetchone()[0] == f"psycopg2-{number}", "somebody else's row")
        connection.commit()
    cursor.execute("select sum(balance) from driver_accounts where id between %s and %s",
                   (first, first + 49))
    check(cursor.fetchone()[0] == sum(range(ROUNDS)), "balance")
    connection.rollback()

    try:
        cursor.execute("update driver_accounts set balance = -1 where id = %s", (first,))
        cursor.execute("select 1/0")
        check(False, "no error")
    except psycopg2.errors.DivisionByZero:
        connection.rollback()

    with connection:
        with connection.cursor("named") as named:
            named.execute("select generate_series(1, 250)")
            check(sum(row[0] for row in named) == 250 * 251 // 2, "named cursor")
    with connection:
        cursor.execute("create temp table loaded (a int, b text) on commit drop")
        rows = io.StringIO("".join(f"{n}\trow {n}\n" for n in range(500)))
        cursor.copy_expert("copy loaded from stdin", rows)
        psycopg2.extras.execute_values(cursor, "insert into loaded values %s",
                                       [(n, "more") for n in range(20)])
        cursor.execute("select count(*) from loaded")
        check(cursor.fetchone()[0] == 520, "copy")

    connection.autocommit = True
    for n in range(ROUNDS):
        cursor.execute("update driver_accounts set balance = %s where id = %s", (n, first))
        cursor.execute("select balance from driver_accounts where id = %s", (first,))
        got = cursor.fetchone()[0]
        check(got == n, f"wrote {n}, read {got}")
    connection.set_client_encoding("LATIN1")  # session state: it must follow this client
    for n in range(5):
        cursor.execute("show client_encoding")
        check(cursor.fetchone()[0] == "LATIN1", "client_encoding was lost")
    connection.close()


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
print(f"ok psycopg2 {psycopg2.__version__} clients={CLIENTS} rounds={ROUNDS}")
