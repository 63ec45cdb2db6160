"""What is compared: each contender's configuration, its processes, and what they use.

A contender is started in its own folder on a free port, serves the same primary (and replicas, where
it knows what to do with them) with the same authentication (trust), over TCP on the loopback, and is
stopped by the process id that was started here.
"""

import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.request

TICKS = os.sysconf("SC_CLK_TCK")
DATABASE = "bench"
USER = "postgres"
CLIENTS = 32
SERVERS = 16  # server connections that a pooler may use
START_SECONDS = 20


class Failed(Exception):
    """A contender could not do what it was asked; the text says what and where its log is."""


def unprivileged():
    """What makes subprocess.Popen drop root, for programs that refuse to run as root."""
    return {"user": "postgres", "group": "postgres", "extra_groups": []} if os.getuid() == 0 else {}


def give_to_postgres(path):
    if os.getuid() == 0:
        entry = pwd.getpwnam("postgres")
        os.chown(path, entry.pw_uid, entry.pw_gid)


def _stat_fields(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
        return file.read().rsplit(")", 1)[1].split()  # [0] is the state, field 3 of proc(5)


def process_tree(root):
    """`root` and all that descend from it."""
    children = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                children.setdefault(int(_stat_fields(name)[1]), []).append(int(name))
            except (OSError, IndexError):
                continue  # gone in between
    found, todo = [], [root]
    while todo:
        pid = todo.pop()
        found.append(pid)
        todo += children.get(pid, [])
    return found


def cpu_seconds(root):
    """User and system time of `root`, all its threads, and its children, the dead ones included."""
    ticks = 0
    for pid in process_tree(root):
        try:
            fields = _stat_fields(pid)
        except OSError:
            continue
        ticks += sum(int(f) for f in fields[11:15])  # utime, stime, cutime, cstime
    return ticks / TICKS


def memory_bytes(pids):
    """Proportional set size: pages that processes share count once in the sum."""
    total = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
                total += int(re.search(r"^Pss:\s+(\d+) kB", file.read(), re.M).group(1)) * 1024
        except (OSError, AttributeError):
            continue
    return total


class Contender:
    """One program under measurement. `ports` is {"primary": port, "replicas": [port, ...]}."""

    name = ""
    program = ""
    forks_per_client = False
    max_idle_clients = 1_000_000  # more than this many it cannot hold, by its nature

    def __init__(self, folder, ports, new_port):
        self.folder = os.path.join(folder, self.name)
        self.ports = ports
        self.port = new_port()
        self.process = None
        os.makedirs(self.folder, exist_ok=True)
        give_to_postgres(self.folder)

    def database(self, _row):
        """The database name that a row connects to."""
        return DATABASE

    def available(self):
        return shutil.which(self.program) is not None

    def version(self):
        out = subprocess.run([self.program, "--version"], capture_output=True, text=True, check=False)
        return (out.stdout + out.stderr).strip().splitlines()[0]

    def command(self):
        raise NotImplementedError

    def write(self, file_name, text):
        path = os.path.join(self.folder, file_name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        give_to_postgres(path)
        return path

    def start(self, drop_root=False):
        self.log_path = os.path.join(self.folder, "log")
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder,
                start_new_session=True, **(unprivileged() if drop_root else {}))
        deadline = time.monotonic() + START_SECONDS
        while True:
            if self.ended():
                raise Failed(f"{self.name} ended at start:\n{self.log_tail()}")
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError as error:
                if time.monotonic() > deadline:
                    raise Failed(f"{self.name} does not listen:\n{self.log_tail()}") from error
                time.sleep(0.05)

    def stop(self):
        if self.process is None:
            return
        self.process.send_signal(self.stop_signal())
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            for pid in reversed(process_tree(self.process.pid)):
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            self.process.wait()
        self.process = None

    def stop_signal(self):
        return signal.SIGTERM

    def ended(self):
        """Has it ended although nobody stopped it?"""
        return self.process is not None and self.process.poll() is not None

    def log_tail(self):
        if self.process is None:
            return ""
        with open(self.log_path, encoding="utf-8", errors="replace") as file:
            return "".join(file.readlines()[-8:]).rstrip()

    def cpu(self):
        return cpu_seconds(self.process.pid)

    def memory(self):
        return memory_bytes(process_tree(self.process.pid))

    def memory_without_clients(self):
        """What of `memory()` is there before any client is; called before they connect."""
        return self.memory()


class Direct(Contender):
    """No proxy: the primary itself."""

    name = "direct"

    def __init__(self, folder, ports, new_port):
        super().__init__(folder, ports, lambda: ports["primary"])

    def available(self):
        return True

    def version(self):
        return "Postgres itself"

    def start(self, drop_root=False):
        pass

    def cpu(self):
        return None

    max_idle_clients = 0


class Pgsluice(Contender):
    """Ours, with one worker, splitting reads and writes over the primary and its replicas.

    Its pools are per node. So that a read row has SERVERS connections in all, as the others have, the
    read rows use a second database name whose pools are divided among the replicas.
    """

    name = "pgsluice"
    binary = ""  # set by compare
    READS = "bench_reads"
    READ_ROWS = ("select-simple", "select-extended", "select-prepared", "result-1mb", "rate")

    def __init__(self, folder, ports, new_port):
        super().__init__(folder, ports, new_port)
        self.metrics_port = new_port()

    def available(self):
        return os.access(self.binary, os.X_OK)

    def version(self):
        out = subprocess.run([self.binary, "--version"], capture_output=True, text=True, check=False)
        return ((out.stdout + out.stderr).strip().splitlines() or ["pgsluice"])[0]

    def database(self, row):
        return self.READS if row in self.READ_ROWS else DATABASE

    def command(self):
        nodes = [self.ports["primary"], *self.ports["replicas"]]
        servers = ", ".join(f'"127.0.0.1:{port}"' for port in nodes)
        path = self.write("pgsluice.toml", f"""\
workers = 1

[listen]
address = "127.0.0.1"
port = {self.port}

[auth]
method = "trust"

[pool]
mode = "transaction"
size = {SERVERS}

[cluster.main]
servers = [{servers}]
monitor_user = "{USER}"

[database.{DATABASE}]
cluster = "main"

[database.{self.READS}]
cluster = "main"
dbname = "{DATABASE}"
pool_size = {SERVERS // len(self.ports["replicas"])}

[metrics]
address = "127.0.0.1"
port = {self.metrics_port}
""")
        return [self.binary, path]

    def reads_by_node(self):
        """Statements of class read that each node has served: {(role, node): count}."""
        url = f"http://127.0.0.1:{self.metrics_port}/metrics"
        with urllib.request.urlopen(url, timeout=5) as answer:
            text = answer.read().decode()
        counts = {}
        for labels, value in re.findall(r"^pgsluice_statements_total\{([^}]*)\} (\S+)", text, re.M):
            label = dict(re.findall(r'(\w+)="([^"]*)"', labels))
            if label.get("class") == "read":
                key = (label.get("role", ""), label.get("node", ""))
                counts[key] = counts.get(key, 0) + float(value)
        return counts


class Pgbouncer(Contender):
    """Debian's pgbouncer before the primary, transaction mode.

    That version knows no prepared statements in transaction mode, so the row that uses them goes
    through a second database name in session mode, with one server per client.
    """

    name = "pgbouncer"
    program = "pgbouncer"
    SESSION = "bench_session"

    def database(self, row):
        return self.SESSION if row == "select-prepared" else DATABASE

    def databases(self):
        server = f"host=127.0.0.1 port={self.ports['primary']} dbname={DATABASE}"
        return f"""\
{DATABASE} = {server} pool_mode=transaction pool_size={SERVERS}
{self.SESSION} = {server} pool_mode=session pool_size={CLIENTS}
"""

    def command(self):
        users = self.write("users", f'"{USER}" ""\n')
        path = self.write("pgbouncer.ini", f"""\
[databases]
{self.databases()}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {self.port}
unix_socket_dir =
auth_type = trust
auth_file = {users}
max_client_conn = 8000
log_connections = 0
log_disconnections = 0
""")
        return ["pgbouncer", *(["-u", "postgres"] if os.getuid() == 0 else []), path]


class Pgpool(Contender):
    """Debian's pgpool2, splitting reads and writes over the primary and its replicas.

    It holds one process and one connection to every node per client, so it gets one of each for every
    client of the bench; with SERVERS of them half of the clients would wait for the whole run.
    """

    name = "pgpool2"
    program = "pgpool"
    forks_per_client = True
    PROCESSES = 2 * CLIENTS
    max_idle_clients = PROCESSES

    def __init__(self, folder, ports, new_port):
        super().__init__(folder, ports, new_port)
        self.pcp_port = new_port()

    def command(self):
        backends = ""
        for i, port in enumerate([self.ports["primary"], *self.ports["replicas"]]):
            backends += f"backend_hostname{i} = '127.0.0.1'\nbackend_port{i} = {port}\n"
            backends += f"backend_weight{i} = {0 if i == 0 else 1}\n"
            backends += f"backend_flag{i} = 'DISALLOW_TO_FAILOVER'\n"
        path = self.write("pgpool.conf", f"""\
backend_clustering_mode = 'streaming_replication'
listen_addresses = '127.0.0.1'
port = {self.port}
unix_socket_directories = '{self.folder}'
socket_dir = '{self.folder}'
pcp_listen_addresses = '127.0.0.1'
pcp_port = {self.pcp_port}
pcp_socket_dir = '{self.folder}'
wd_ipc_socket_dir = '{self.folder}'
pid_file_name = '{self.folder}/pid'
logdir = '{self.folder}'
{backends}enable_pool_hba = off
num_init_children = {self.PROCESSES}
max_pool = 2
load_balance_mode = on
sr_check_user = '{USER}'
sr_check_database = 'postgres'
sr_check_period = 5
health_check_period = 0
""")
        pcp = self.write("pcp.conf", "")
        hba = self.write("pool_hba.conf", "")
        return [shutil.which("pgpool"), "-n", "-f", path, "-F", pcp, "-a", hba]

    def start(self, drop_root=True):
        super().start(drop_root)

    def stop_signal(self):
        return signal.SIGINT  # its "fast" shutdown

    def memory_without_clients(self):
        # Its processes exist before their clients do, but for their sake.
        return memory_bytes([self.process.pid])


class Haproxy(Contender):
    """Debian's haproxy relaying TCP to the primary, one thread. One server connection per client."""

    name = "haproxy"
    program = "haproxy"
    max_idle_clients = 250  # each takes a server connection, and those are bounded

    def command(self):
        path = self.write("haproxy.cfg", f"""\
global
  nbthread 1
  maxconn 8000
defaults
  mode tcp
  timeout connect 5s
  timeout client 1h
  timeout server 1h
listen bench
  bind 127.0.0.1:{self.port}
  server primary 127.0.0.1:{self.ports['primary']}
""")
        return ["haproxy", "-db", "-f", path]

    def version(self):
        out = subprocess.run(["haproxy", "-v"], capture_output=True, text=True, check=False)
        return " ".join(out.stdout.splitlines()[0].split()[:3])


ALL = {kind.name: kind for kind in (Direct, Pgsluice, Pgbouncer, Pgpool, Haproxy)}
