"""Second Gatehouse processes, as far as keys go: `python -m tests.keys.other_process`.

Each line of standard input begins one: a JSON object of its bus ("" for polling alone) and the seconds for which it may
serve what it cannot ask about. It is a fork of this one, which has loaded everything and remembers nothing. It then reads
secrets, a line each, and answers with the problem ("" when the key is known) and the milliseconds it took, until an empty
line ends it. Its cache lives so long that only a notice makes it ask again. Settings come from the environment.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time

import django
from django.db import connections


async def main(bus_url: str, stale: float) -> None:
    from keys import lookup, notices  # noqa: PLC0415 - Django is set up only now
    from lib import bus  # noqa: PLC0415 - as above

    keys = lookup.Lookup(fresh=3600.0, stale=stale)
    await bus.open(bus_url, notices.versions)
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


def begin() -> None:
    import keys.lookup  # noqa: PLC0415 - for all forks at once
    import keys.notices  # noqa: F401, PLC0415 - as above

    for line in iter(sys.stdin.readline, ""):
        if child := os.fork():
            print("ended", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        else:
            asyncio.run(main(**json.loads(line)))
            os._exit(0)


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "proxy_site.settings")
    django.setup()
    if pool := connections.settings["default"]["OPTIONS"].get("pool"):
        pool["timeout"] = 1  # second, not three: what is tested is not how long a lost database is waited for
    begin()
