#!/usr/bin/env python3
"""Prints what pgsluice's /metrics say happened between two moments, for conf/demo/run.

    table.py save URL FILE             keeps the metrics of this moment
    table.py ready URL COUNT           exit 0 when COUNT nodes are up, one of them primary
    table.py nodes BEFORE AFTER [BETWEEN...]
                                       a line per node; exit 1 unless reads were served by every
                                       replica and no write by any. The lag is the highest in any.
    table.py tenants BEFORE AFTER SECONDS
                                       a line per tenant
"""

import re
import sys
import urllib.request

CLASSES = ("read", "write", "transaction", "session", "ddl", "empty")
CHANGING = ("write", "ddl")
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
LINE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)(?: \d+)?$")


def fetch(url):
    with urllib.request.urlopen(url, timeout=5) as answer:
        return answer.read().decode()


def parse(text):
    """{name: [(labels, value)]}"""
    families = {}
    for line in text.splitlines():
        match = LINE.match(line)
        if match:
            name, labels, value = match.groups()
            families.setdefault(name, []).append((dict(LABEL.findall(labels or "")), float(value)))
    return families


def grown(before, after, name):
    """[(labels, increase)] of a counter."""
    old = {tuple(sorted(labels.items())): value for labels, value in before.get(name, [])}
    return [(labels, value - old.get(tuple(sorted(labels.items())), 0))
            for labels, value in after.get(name, [])]


def quantile(buckets, q):
    """From {upper bound: cumulative count}, interpolated inside the bucket; None when empty."""
    edges = sorted(buckets.items())
    if not edges or edges[-1][1] <= 0:
        return None
    wanted = q * edges[-1][1]
    low_bound, low_count = 0.0, 0.0
    for bound, count in edges:
        if count >= wanted:
            if bound == float("inf"):
                return low_bound
            share = (wanted - low_count) / (count - low_count) if count > low_count else 1.0
            return low_bound + share * (bound - low_bound)
        low_bound, low_count = bound, count
    return low_bound


def by_label(before, after, label):
    """{label value: {"classes": {class: count}, "failed": count, "buckets": {...}}}"""
    rows = {}

    def row(labels):
        return rows.setdefault(labels.get(label, ""), {
            "classes": dict.fromkeys(CLASSES, 0), "failed": 0, "buckets": {}, "roles": {}})

    for labels, count in grown(before, after, "pgsluice_statements_total"):
        if count <= 0:
            continue
        into = row(labels)
        kind, role = labels.get("class", ""), labels.get("role", "")
        into["classes"][kind] = into["classes"].get(kind, 0) + count
        into["roles"].setdefault(role, {}).setdefault(kind, 0)
        into["roles"][role][kind] += count
        if labels.get("outcome") == "failed":
            into["failed"] += count
    for labels, count in grown(before, after, "pgsluice_statement_duration_seconds_bucket"):
        buckets = row(labels)["buckets"]
        bound = float(labels["le"])
        buckets[bound] = buckets.get(bound, 0) + count
    return rows


def milliseconds(seconds):
    return "-" if seconds is None else f"{seconds * 1000:.2f} ms"


def print_table(lines):
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    for number, line in enumerate(lines):
        print("  " + "  ".join(cell.ljust(widths[i]) if i < 2 else cell.rjust(widths[i])
                               for i, cell in enumerate(line)).rstrip())
        if number == 0:
            print("  " + "  ".join("-" * width for width in widths))


def nodes(before, after, between):
    role = {labels["node"]: labels["role"] for labels, value in after.get("pgsluice_node_role", [])
            if value == 1}
    lag = {}
    for moment in (*between, after):
        for labels, value in moment.get("pgsluice_node_lag_seconds", []):
            lag[labels["node"]] = max(value, lag.get(labels["node"], 0))
    served = by_label(before, after, "node")
    reads = sum(row["classes"]["read"] for row in served.values()) or 1
    known = sorted(set(role), key=lambda node: (role[node] != "primary", node))

    lines = [["node", "role", "worst lag", *CLASSES[:5], "share of reads", "P50", "P99"]]
    for node in known:
        row = served.get(node, {"classes": dict.fromkeys(CLASSES, 0), "buckets": {}})
        counts = row["classes"]
        lines.append([node, role[node],
                      f"{lag[node] * 1000:.0f} ms" if role[node] == "replica" and node in lag else "-",
                      *(f"{counts[kind]:.0f}" for kind in CLASSES[:5]),
                      f"{100 * counts['read'] / reads:.1f} %",
                      milliseconds(quantile(row["buckets"], 0.50)),
                      milliseconds(quantile(row["buckets"], 0.99))])
    print_table(lines)

    problems = []
    replicas = [node for node in known if role[node] == "replica"]
    if len(replicas) < 2:
        problems.append(f"{len(replicas)} replicas are known, not two")
    for node in replicas:
        row = served.get(node)
        if row is None or row["classes"]["read"] == 0:
            problems.append(f"replica {node} served no read")
    for node, row in served.items():
        as_replica = row["roles"].get("replica", {})
        changes = sum(as_replica.get(kind, 0) for kind in CHANGING)
        if role.get(node) == "replica":
            changes = sum(row["classes"][kind] for kind in CHANGING)
        if changes:
            problems.append(f"replica {node} was sent {changes:.0f} statements that write")
    for text in problems:
        print("  PROBLEM: " + text)
    return 1 if problems else 0


def tenants(before, after, seconds):
    limit = {labels["tenant"]: value for labels, value in after.get("pgsluice_tenant_rate_limit", [])}
    lines = [["tenant", "limit", "statements", "per second", "failed", "P50", "P99"]]
    for tenant, row in sorted(by_label(before, after, "tenant").items()):
        count = sum(row["classes"].values())
        if not tenant or count == 0:
            continue
        allowed = limit.get(tenant, 0)
        lines.append([tenant, f"{allowed:.0f} per second" if allowed else "none", f"{count:.0f}",
                      f"{count / seconds:.0f}", f"{row['failed']:.0f}",
                      milliseconds(quantile(row["buckets"], 0.50)),
                      milliseconds(quantile(row["buckets"], 0.99))])
    print_table(lines)
    return 0


def ready(families, count):
    up = [labels for labels, value in families.get("pgsluice_node_up", []) if value == 1]
    roles = [labels["role"] for labels, value in families.get("pgsluice_node_role", []) if value == 1]
    return len(up) == count and roles.count("primary") == 1 and roles.count("replica") == count - 1


def load(path):
    with open(path, encoding="utf-8") as file:
        return parse(file.read())


def main(arguments):
    match arguments:
        case ["save", url, path]:
            with open(path, "w", encoding="utf-8") as file:
                file.write(fetch(url))
            return 0
        case ["ready", url, count]:
            try:
                return 0 if ready(parse(fetch(url)), int(count)) else 1
            except OSError:
                return 1
        case ["nodes", before, after, *between]:
            return nodes(load(before), load(after), [load(path) for path in between])
        case ["tenants", before, after, seconds]:
            return tenants(load(before), load(after), float(seconds))
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
