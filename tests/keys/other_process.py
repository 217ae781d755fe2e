"""A second Gatehouse process, as far as keys go: `python -m tests.keys.other_process`.

Reads secrets from standard input, a line each, and answers with the problem ("" when the key is known) and the
milliseconds it took. Its cache lives so long that only a notice makes it ask again. Settings come from the
environment; BUS_REDIS_URL is where its bus listens ("" for polling alone).
"""

from __future__ import annotations

import asyncio
import os
import sys
import time

import django


async def main() -> None:
    from keys import lookup, notices  # noqa: PLC0415 - Django is set up only now
    from lib import bus  # noqa: PLC0415 - as above

    keys = lookup.Lookup(fresh=3600.0, stale=float(os.environ.get("STALE_SECONDS", "7200")))
    await bus.open(os.environ["BUS_REDIS_URL"], notices.versions)
    await keys.open()
    print("ready", flush=True)
    while line := (await asyncio.to_thread(sys.stdin.readline)).strip():
        if line == "!suspect":  # as after a lost connection to the bus
            keys.invalidate()
            print("done", flush=True)
            continue
        began = time.perf_counter()
        caller = await keys.find(line, "header", "127.0.0.1")
        print(caller.problem or "known", round((time.perf_counter() - began) * 1000), flush=True)
    await keys.close()
    await bus.close()


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "proxy_site.settings")
    django.setup()
    asyncio.run(main())
