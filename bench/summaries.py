"""How long dashboards wait: 400 days of roll-ups, a PostgreSQL of its own (or --sqlite).

    python bench/summaries.py [--sqlite] [--days 400] [--names 20]

names: combinations of key, model and deployment that are in use in every quarter of an hour.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--sqlite", action="store_true")
    asked.add_argument("--days", type=int, default=400)
    asked.add_argument("--names", type=int, default=20)
    options = asked.parse_args()
    os.environ["GATEHOUSE_DATA_DIR"] = tempfile.mkdtemp(prefix="gatehouse-bench-")
    os.environ["DJANGO_SETTINGS_MODULE"] = "proxy_site.settings"
    servers = None
    if not options.sqlite and not os.environ.get("DATABASE_URL"):
        from tests.servers import Servers

        servers = Servers()
        os.environ["DATABASE_URL"], _ = servers.start(redis=False)
    try:
        measure(options.days, options.names)
    finally:
        if servers:
            servers.stop()


def fill(days: int, names: int, end: datetime) -> None:
    """The buckets that steady traffic leaves behind."""
    from django.db import transaction

    from usage import rollups
    from usage.rollups import DAY, QUARTER, Bucket

    def bucket(number: int) -> Bucket:
        made = Bucket(("Acme", "search", f"key {number % 10}", "", f"place {number % 4}", "openai"))
        made.sums = [5, 5, 0, 0, 500, 0, 0, 0, 100, 0, 10_000, 4_000, 1_000, 5]
        made.total[12] = made.ttft[6] = 5
        return made

    last = int(end.timestamp())
    for day in range(last - days * DAY, last, DAY):
        found = {}
        for number in range(names):
            status = "OK" if number % 10 else "UNAVAILABLE"
            key = ("o", "t", f"key-{number % 10}", f"model-{number % 5}", f"d-{number % 4}", "generateContent", status)
            for start in range(day, day + DAY, QUARTER):
                found[(QUARTER, start, *key, str(number))] = bucket(number)
            found[(DAY, day, *key, str(number))] = bucket(number)
        with transaction.atomic():
            rollups.upsert(found)


def measure(days: int, names: int) -> None:
    import django

    django.setup()
    from django.core.management import call_command
    from django.db import connection

    from usage import summaries
    from usage.models import UsageBucket
    from usage.summaries import Filters, Period

    call_command("migrate", verbosity=0)
    end = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    fill(days, names, end)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    print(f"{connection.vendor}: {UsageBucket.objects.count()} buckets, {days} days, {names} names")
    all_ = Filters(organizations=None)
    berlin = ZoneInfo("Europe/Berlin")
    for span in (7, 30, min(days, 400)):
        period = Period(end - timedelta(days=span), end)
        local = Period(period.start.astimezone(berlin), end, berlin)
        questions: dict[str, Callable[[], object]] = {
            "overview cards, with the period before": lambda p=period: summaries.overview(p, all_),
            "spend a day by model": lambda p=period: summaries.series(p, all_, "spend", "model"),
            "spend a day by model, Berlin": lambda p=local: summaries.series(p, all_, "spend", "model"),
            "outcomes and TTFT a day": lambda p=period: summaries.outcomes(p, all_),
            "outcomes and TTFT a day, Berlin": lambda p=local: summaries.outcomes(p, all_),
            "explore p95 by key and model": lambda p=period: summaries.explore(p, all_, "p95_ms", "key", "model"),
            "top keys": lambda p=period: summaries.top_keys(p, all_),
            "recent errors": lambda p=period: summaries.recent_errors(p, all_),
            "deployments": lambda p=period: summaries.deployments(p, all_),
        }
        print(f"  {span} days")
        for name, ask in questions.items():
            took = []
            for _ in range(3):
                before = time.perf_counter()
                ask()
                took.append(time.perf_counter() - before)
            print(f"    {name:42} {min(took) * 1000:8.0f} ms")


if __name__ == "__main__":
    main()
