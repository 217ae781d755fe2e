"""How long the console waits on a big history: every page and every piece of chart data, as a superuser and as an
organization's admin, and a CSV export in constant memory. Its PostgreSQL and Valkey are its own.

    python -m bench.size [--rows 10000000] [--days 400] [--keep DIR] [--only WORD] [--times 20]

--keep: the data stays there and is used again by the next run; without it, it goes when the run ends. Beside the times,
the CPU a page takes in the server and in the database is told, which means something on a busy machine, too.
"""

from __future__ import annotations

import argparse
import http.client
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from bench.processes import ROOT, cpu, free_port, manage, memory, process, wait_for
from tests.servers import NOBODY, Servers, _postgres_answers

WARM = 2  # times each page is asked before it counts
EXPORT = 1_000_000  # rows
FLAGS = {  # nothing is kept from a crash; shared_buffers as one would set them for this much
    "listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off", "synchronous_commit": "off",
    "full_page_writes": "off", "wal_level": "minimal", "max_wal_senders": "0", "max_wal_size": "8GB",
    "shared_buffers": "1GB", "autovacuum": "off",
}  # fmt: skip
STOP_SECONDS = 120


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--rows", type=int, default=10_000_000)
    asked.add_argument("--days", type=int, default=400)
    asked.add_argument("--keep", type=Path)
    asked.add_argument("--only", default="", help="Addresses with this word; no export.")
    asked.add_argument("--times", type=int, default=20, help="Each page is asked for, when it is warm.")
    options = asked.parse_args()
    home = options.keep.resolve() if options.keep else Path(tempfile.mkdtemp(prefix="gatehouse-size-"))
    home.mkdir(parents=True, exist_ok=True)
    home.chmod(0o755)
    servers = Servers()
    try:
        with postgres(home / "postgres", servers) as database:
            _, redis = servers.start(postgres=False)
            port = free_port()
            variables = {
                "DATABASE_URL": database, "REDIS_URL": redis, "GATEHOUSE_DATA_DIR": str(home / "data"), "PORT": str(port),
                "LOG_LEVEL": "WARNING", "DJANGO_SETTINGS_MODULE": "proxy_site.settings",
                "GATEHOUSE_RETENTION_DAYS": str(options.days + 100),
            }  # fmt: skip
            manage(variables, "init")
            os.environ |= variables
            run(options, port, home)
    finally:
        servers.stop()
        if not options.keep:
            shutil.rmtree(home, ignore_errors=True)


@contextmanager
def postgres(data: Path, servers: Servers) -> Iterator[str]:
    """A PostgreSQL over these files, made when they are not there; its URL."""
    user = NOBODY if os.geteuid() == 0 else None
    binaries = servers._postgres_tree(user) / "bin"
    if not data.exists():
        data.mkdir(mode=0o700)
        if user:
            shutil.chown(data, user)
        subprocess.run(
            [str(binaries / "initdb"), "-D", str(data), "-U", "gatehouse", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"],
            user=user, cwd="/", env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"}, check=True, capture_output=True,
        )  # fmt: skip
    port = free_port()
    flags = [part for name, value in FLAGS.items() for part in ("-c", f"{name}={value}")]
    with (servers.directory / "postgres.log").open("ab") as log:
        child = subprocess.Popen(
            [binaries / "postgres", "-D", data, "-p", str(port), *flags], user=user, cwd="/", stdout=log, stderr=log
        )
    try:
        wait_for(port, child)
        while not _postgres_answers(port):
            time.sleep(0.05)
        yield f"postgresql://gatehouse@127.0.0.1:{port}/postgres"
    finally:
        child.send_signal(signal.SIGINT)
        child.wait(STOP_SECONDS)


def run(options: argparse.Namespace, port: int, home: Path) -> None:
    import django

    django.setup()
    from django.db import connection

    from bench import size_pages
    from usage.models import RequestRecord

    if not RequestRecord.objects.exists():
        fill(options.rows, options.days)
    tell_size()
    people = size_pages.sessions()
    asked = {who: list(size_pages.pages(who)) for who in people}
    connection.close()
    line = [sys.executable, "manage.py", "serve", "--port", str(port), "--workers", "1"]
    database = int((home / "postgres" / "postmaster.pid").read_text().split()[0])
    with process(line, port, log=home / "serve.log") as child:
        for who, cookie in people.items():
            wanted = [each for each in asked[who] if options.only in each[0]]
            measure(who, wanted, cookie, port, (child.pid, database), options.times)
        if not options.only:
            export(people["superuser"], port, child.pid)


# ── data ──


def fill(rows: int, days: int) -> None:
    from django.db import connection

    from bench import history

    end = datetime.now(UTC).replace(second=0, microsecond=0)
    began = time.monotonic()
    history.make_world(end - timedelta(days=days))
    written = buckets = 0
    for day, count in history.write_calls(rows, days, end):
        written += count
        buckets += history.write_rollups(day, minutes=history.keeps_minutes(day, end))
        print(f"\r{written:,} calls, {buckets:,} roll-ups, {time.monotonic() - began:.0f} s", end="", flush=True)
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE")
        cursor.execute("CHECKPOINT")
    print(f"\r{written:,} calls, {buckets:,} roll-ups, {time.monotonic() - began:.0f} s")


def tell_size() -> None:
    """Rows and disk of what grows."""
    from django.db import connection

    with connection.cursor() as cursor:
        for name, like in (("calls", "usage_requestrecord%"), ("roll-ups", "usage_usagebucket%")):
            cursor.execute(
                "SELECT coalesce(sum(reltuples), 0), sum(pg_table_size(oid)), sum(pg_indexes_size(oid)) FROM pg_class"
                " WHERE relkind = 'r' AND relname LIKE %s",
                [like],
            )
            rows, table, indexes = cursor.fetchone()
            print(
                f"{name}: {int(rows):,} rows, {int(table or 0) / 1e9:.2f} GB, indexes {int(indexes or 0) / 1e9:.2f} GB"
            )


# ── pages ──


def measure(who: str, asked: list[tuple[str, int]], cookie: str, port: int, pids: tuple[int, int], times: int) -> None:
    """asked: (address, milliseconds to meet). pids: the server's and the database's."""
    print(f"{who}: p50, p95, CPU of server and database; ms")
    slow = 0
    for path, limit in asked:
        for _ in range(WARM):
            get(path, cookie, port)
        before = [cpu(pid) for pid in pids]
        answers = [get(path, cookie, port) for _ in range(times)]
        used = [1000 * (cpu(pid) - was) / times for pid, was in zip(pids, before, strict=True)]
        took = sorted(elapsed for _status, _size, elapsed in answers)
        high = took[math.ceil(0.95 * times) - 1]
        slow += high > limit
        status, size, _ = answers[-1]
        note = ("" if status == 200 else f"  HTTP {status}") + (f"  over {limit}" if high > limit else "")
        print(
            f"  {took[times // 2]:6.0f} {high:6.0f} {used[0]:5.0f} {used[1]:5.0f} {size / 1000:5.0f} kB  {path}{note}",
            flush=True,
        )
    print(f"{who}: {len(asked)} addresses, {slow} slow")


def get(path: str, cookie: str, port: int) -> tuple[int, int, float]:
    """(HTTP status, bytes, milliseconds)."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    before = time.perf_counter()
    connection.request("GET", path, headers={"Cookie": cookie})
    response = connection.getresponse()
    body = response.read()
    took = (time.perf_counter() - before) * 1000
    connection.close()
    return response.status, len(body), took


# ── export ──


def export(cookie: str, port: int, pid: int) -> None:
    """A CSV of a million requests (or all there are), with the server's memory watched."""
    before = peak = memory(pid)
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.1):
            peak = max(peak, memory(pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    began = time.monotonic()
    connection.request("GET", "/admin/usage/requests.csv?from=2001-01-01", headers={"Cookie": cookie})
    response = connection.getresponse()
    rows = size = 0
    while rows <= EXPORT and (piece := response.read(65_536)):
        rows += piece.count(b"\n")
        size += len(piece)
    took = time.monotonic() - began
    connection.close()
    done.set()
    watcher.join()
    print(
        f"export: {rows - 1:,} rows, {size / 1e6:.0f} MB in {took:.0f} s ({rows / took:,.0f} rows a second);"
        f" the server's memory {before / 1e6:.0f} MB before, at most {(peak - before) / 1e6:.0f} MB more"
    )


if __name__ == "__main__":
    os.chdir(ROOT)
    main()
