"""What one call costs the spool and the ledger, in microseconds of CPU.

    python bench/ledger.py                    a PostgreSQL of its own, from the development wheels
    python bench/ledger.py --sqlite           the embedded default
    DATABASE_URL=... python bench/ledger.py   a server that is there (an empty database: tables are made and filled)

flight: open, start, finish, encode and append, in the process that serves calls. drain: spool to records and roll-ups,
the process's own CPU and, where we started the server, that of the server.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


def server_cpu(parent: int) -> float:
    """Seconds of CPU of a server and its children, the ended ones included."""
    total = 0.0
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent or int(entry.name) == parent:
            total += sum(int(fields[at]) for at in (11, 12)) / os.sysconf("SC_CLK_TCK")
    return total


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--sqlite", action="store_true")
    asked.add_argument("--calls", type=int, default=20_000)
    asked.add_argument("--batch", type=int, default=500, help="lines in the spool when it is drained")
    asked.add_argument("--keys", type=int, default=10)
    options = asked.parse_args()

    directory = Path(tempfile.mkdtemp(prefix="gatehouse-bench-"))
    os.environ["GATEHOUSE_DATA_DIR"] = str(directory)
    os.environ["DJANGO_SETTINGS_MODULE"] = "proxy_site.settings"
    servers, pid = None, 0
    if not options.sqlite and not os.environ.get("DATABASE_URL"):
        from tests.servers import Servers

        servers = Servers()
        os.environ["DATABASE_URL"], _ = servers.start(redis=False)
        pid = servers._running[0][0].pid
    try:
        measure(options, directory, pid)
    finally:
        if servers:
            servers.stop()


def measure(options: argparse.Namespace, directory: Path, pid: int) -> None:
    import django

    django.setup()
    from django.core.management import call_command
    from django.db import connection

    call_command("migrate", verbosity=0)
    from tests.usage.events import deployment, key
    from usage import flight, spool
    from usage.event import Tokens
    from usage.ledger import Drain
    from usage.models import RequestRecord, UsageBucket

    own = spool.open_in(directory / "spool")
    drain = Drain(own, 90)
    keys = [key(key_id=f"key-{i}", key_name=f"key {i}") for i in range(options.keys)]
    places = [deployment(id=f"deployment-{i}", version="1") for i in range(3)]
    tokens = Tokens(prompt=100, candidates=20)
    appended = drained = server = 0.0

    def one(number: int) -> None:
        with flight.open(
            keys[number % len(keys)],
            action="generateContent",
            model="gemini-2.5-flash",
            stream=True,
            client="bench/1.0",
        ) as call:
            call.reaching(random.choice(places))
            call.delivered(100)
            call.saw(tokens)
            call.finish(200, finish_reason="STOP")

    done = 0
    while done < options.calls:
        before = time.process_time()
        for number in range(options.batch):
            one(done + number)
        appended += time.process_time() - before
        done += options.batch
        before, before_server = time.process_time(), server_cpu(pid) if pid else 0.0
        drain.step()
        drained += time.process_time() - before
        server += server_cpu(pid) - before_server if pid else 0.0
    assert RequestRecord.objects.count() == done
    print(f"{connection.vendor}: {done} calls, drained {options.batch} at a time, {options.keys} keys, 3 deployments")
    print(f"  flight, both lines   {appended / done * 1e6:6.1f} us a call")
    print(f"  drain, this process  {drained / done * 1e6:6.1f} us a call")
    if pid:
        print(f"  drain, the server    {server / done * 1e6:6.1f} us a call")
    print(f"  buckets              {UsageBucket.objects.count()}")
    spool.close()


if __name__ == "__main__":
    main()
