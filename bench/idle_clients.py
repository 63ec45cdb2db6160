"""Opens many Postgres clients that log in, run one statement each, and then do nothing.

Speaks just enough of the protocol for a server that trusts them: start-up, one simple query.
"""

import asyncio
import resource
import struct

PARALLEL_LOGINS = 64  # as an application's pools would come up; more only overflows listen queues


def allow_files(count):
    """Raises this process's limit of open files to `count`, as far as the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count:
        limit = count if hard == resource.RLIM_INFINITY else min(count, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, limit), hard))


def _startup(user, database):
    body = struct.pack("!i", 196608)  # protocol 3.0
    for word in ("user", user, "database", database):
        body += word.encode() + b"\0"
    body += b"\0"
    return struct.pack("!i", len(body) + 4) + body


def _query(text):
    body = text.encode() + b"\0"
    return b"Q" + struct.pack("!i", len(body) + 4) + body


async def _until_ready(reader):
    while True:
        kind, length = struct.unpack("!ci", await reader.readexactly(5))
        body = await reader.readexactly(length - 4)
        if kind == b"E":
            fields = [f[1:].decode(errors="replace") for f in body.split(b"\0") if f]
            raise ConnectionError("server says: " + " ".join(fields))
        if kind == b"R" and body != b"\0\0\0\0":
            raise ConnectionError("server asks for a password; these clients only know trust")
        if kind == b"Z":
            return


async def log_in(port, user, database):
    """A client that has logged in and run one statement; its connection is as long as the writer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=4096)
    writer.write(_startup(user, database))
    await _until_ready(reader)
    writer.write(_query("select 1"))
    await _until_ready(reader)
    return writer


async def _hold(port, count, user, database, measure, settle_seconds):
    gate = asyncio.Semaphore(PARALLEL_LOGINS)

    async def guarded():
        async with gate:
            return await log_in(port, user, database)

    tasks = [asyncio.ensure_future(guarded()) for _ in range(count)]
    try:
        # Keeping the writers keeps the sockets.
        writers = await asyncio.wait_for(asyncio.gather(*tasks), timeout=60 + count / 50)
        await asyncio.sleep(settle_seconds)
        result = measure()
        for writer in writers:
            writer.write(b"X\0\0\0\4")
            writer.close()
        return result
    finally:
        for task in tasks:
            task.cancel()


def while_idle(port, count, user, database, measure, settle_seconds=1.0):
    """Returns what `measure()` returns while `count` idle clients are connected."""
    allow_files(count + 500)
    return asyncio.run(_hold(port, count, user, database, measure, settle_seconds))
