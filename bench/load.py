"""What the drills on a real cluster share: clients that speak the protocol, load at a rate, the cluster.

All of it is one thread with one loop: a statement costs it some tenth of a millisecond, so that a drill asks for
hundreds of statements per second, which sleep in Postgres, and not for thousands that compute.
"""

import asyncio
import os
import random
import signal
import struct
import subprocess
import time

import contenders

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CLUSTER = os.path.join(ROOT, "conf", "demo", "cluster")
BINARY = os.path.join(ROOT, "build", "proxy", "pgsluice")


def message(kind, body):
    return kind + struct.pack("!i", len(body) + 4) + body


class Client(asyncio.Protocol):
    """One connection. `ask()` answers the SQLSTATE, "" when all was well, "lost" when there is no connection,
    "time-out" when the answer took too long, which ends the connection, as drivers do."""

    def __init__(self, user, tenant, database="postgres"):
        self.user, self.tenant, self.database = user, tenant, database
        self.buffer, self.code, self.answer = b"", "", None
        self.lost = False

    def connection_made(self, transport):
        self.transport = transport
        words = ["user", self.user, "database", self.database, "application_name", self.tenant, ""]
        body = struct.pack("!i", 196608) + b"\0".join(w.encode() for w in words) + b"\0"
        transport.write(struct.pack("!i", len(body) + 4) + body)
        self.answer = asyncio.get_running_loop().create_future()

    def data_received(self, data):
        self.buffer += data
        while len(self.buffer) >= 5:
            size = 1 + struct.unpack_from("!i", self.buffer, 1)[0]
            if len(self.buffer) < size:
                return
            kind, body = self.buffer[:1], self.buffer[5:size]
            self.buffer = self.buffer[size:]
            if kind == b"E":
                self.code = next(f[1:] for f in body.split(b"\0") if f[:1] == b"C").decode()
            elif kind == b"Z":
                self.settle(self.code)

    def connection_lost(self, _why):
        self.lost = True
        self.settle(self.code or "lost")

    def settle(self, code):
        if self.answer and not self.answer.done():
            self.answer.set_result(code)

    def too_late(self):
        self.lost = True
        self.settle("time-out")
        self.transport.abort()

    async def answered(self, timeout=None):
        """The SQLSTATE of what was sent last; the first time, of the login."""
        alarm = timeout and asyncio.get_running_loop().call_later(timeout, self.too_late)
        try:
            return await self.answer
        finally:
            if alarm:
                alarm.cancel()

    async def ask(self, sql, timeout=None):
        if self.lost:
            return "lost"
        self.code = ""
        self.answer = asyncio.get_running_loop().create_future()
        self.transport.write(message(b"Q", sql.encode() + b"\0"))
        return await self.answered(timeout)


async def log_in(port, tenant, database="postgres", timeout=None):
    """A client, and the SQLSTATE of its login."""
    _, client = await asyncio.get_running_loop().create_connection(
        lambda: Client("postgres", tenant, database), "127.0.0.1", port)
    return client, await client.answered(timeout)


async def connect(port, tenant, count, database="postgres"):
    """`count` clients that have logged in."""
    gate = asyncio.Semaphore(32)

    async def one():
        async with gate:
            client, code = await log_in(port, tenant, database)
            if code:
                raise RuntimeError(f"login refused: {code}")
            return client

    return list(await asyncio.gather(*(one() for _ in range(count))))


async def arrivals(rate, seconds):
    """Moments at which somebody asks, at a rate, whether or not others have been answered (open loop)."""
    due = time.monotonic()
    end = due + seconds
    while due < end:
        pause = due - time.monotonic()
        if pause > 0:
            await asyncio.sleep(pause)
        yield due
        due += random.expovariate(rate) if rate > 0 else seconds


class Load:
    """Statements at a rate. Latency counts from the moment at which the statement was due."""

    def __init__(self, clients, statement):
        self.idle = list(clients)
        self.clients = clients
        self.statement = statement
        self.done = []  # (due, seconds from due, seconds from sent, SQLSTATE)
        self.tasks = set()
        self.queue = []

    async def run(self, rate, seconds):
        start = time.monotonic()
        async for due in arrivals(rate, seconds):
            self.queue.append(due)
            self.pump()
        return start

    def pump(self):
        while self.queue and self.idle:
            task = asyncio.ensure_future(self.one(self.idle.pop(), self.queue.pop(0)))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def one(self, client, due):
        sent = time.monotonic()
        code = await client.ask(self.statement)
        now = time.monotonic()
        self.done.append((due, now - due, now - sent, code))
        if not client.lost:
            self.idle.append(client)
            self.pump()

    async def settle(self):
        self.queue.clear()  # what nobody has sent
        while self.tasks:
            await asyncio.wait(set(self.tasks))

    def between(self, start, end):
        return [one for one in self.done if start <= one[0] < end]


def served(found):
    return [one for one in found if one[3] == ""]


def percentile(values, q):
    values = sorted(values)
    return values[min(len(values) - 1, int(q * len(values)))] if values else float("nan")


async def capacity(clients, statement, seconds):
    """Statements per second that these clients get done, one after another; they are closed then."""
    count, end = 0, time.monotonic() + seconds

    async def go(client):
        nonlocal count
        while time.monotonic() < end:
            if await client.ask(statement) == "":
                count += 1

    start = time.monotonic()
    await asyncio.gather(*(go(client) for client in clients))
    for client in clients:
        client.transport.close()
    return count / (time.monotonic() - start)


async def ready(port, database="postgres"):
    """Returns when somebody serves there."""
    deadline = time.monotonic() + 20
    while True:
        try:
            client, _ = await log_in(port, "ready", database)
            if await client.ask("select 1") == "":
                client.transport.close()
                return
        except OSError:
            pass
        if time.monotonic() > deadline:
            raise RuntimeError("nobody serves")
        await asyncio.sleep(0.05)


class Cluster:
    """A primary, its `port`, and replicas, `nodes` of all as host:port, in a folder of its own."""

    def __init__(self, folder, replicas=0, apart=False):
        self.folder = os.path.join(folder, "cluster")
        os.mkdir(self.folder)
        out = self.order("start", str(replicas), "trust", *(["apart"] if apart else []))
        rows = [line.split() for line in out.splitlines()]
        self.port = int(rows[0][1])
        self.nodes = [f"{row[2] if len(row) > 2 else '127.0.0.1'}:{row[1]}" for row in rows]

    def order(self, what, *more):
        return subprocess.run([CLUSTER, what, self.folder, *more], capture_output=True, text=True,
                              check=True).stdout

    def stop(self):
        subprocess.run([CLUSTER, "stop", self.folder], check=False, capture_output=True)

    def restart_primary(self):
        """Stops it as if it crashed, and starts it again two seconds later."""
        for order in ("stop", "restart"):
            self.order(order, "primary")
            time.sleep(2 if order == "stop" else 0)

    def signal(self, node, number):
        """To all processes of a node, its postmaster first, so that it replaces none."""
        with open(os.path.join(self.folder, node, "postmaster.pid"), encoding="ascii") as file:
            postmaster = int(file.readline())
        for pid in contenders.process_tree(postmaster):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass

    def kill(self, node):
        """As a machine dies whose network lives on: connections are reset, new ones refused."""
        self.signal(node, signal.SIGKILL)


def free_port():
    return int(subprocess.run([CLUSTER, "ports", "1"], capture_output=True, text=True, check=True).stdout)


class Proxy:
    """pgsluice with one worker in front of `nodes`, with `more` configuration behind [metrics]."""

    def __init__(self, binary, folder, nodes, more):
        self.port = free_port()
        self.metrics = free_port()
        path = os.path.join(folder, f"pgsluice-{self.port}.toml")
        servers = ", ".join(f'"{node}"' for node in nodes)
        with open(path, "w", encoding="utf-8") as file:
            file.write(f"""\
workers = 1
[listen]
address = "127.0.0.1"
port = {self.port}
max_client_connections = 20000
[auth]
method = "trust"
[cluster.main]
servers = [{servers}]
monitor_user = "postgres"
[database."*"]
cluster = "main"
[metrics]
port = {self.metrics}
{more}""")
        self.log = open(path + ".log", "wb")
        self.process = subprocess.Popen([binary, path], stdin=subprocess.DEVNULL, stdout=self.log,
                                        stderr=self.log)

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(3)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()
