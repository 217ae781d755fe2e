"""manage.py explain --model M --key K: which deployment would answer, and why. Nobody is called."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import uuid
from dataclasses import asdict
from typing import Any

from asgiref.sync import async_to_sync
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db.models import F, Q

from keys import policy, reading
from keys.context import KeyContext
from keys.management import wording
from keys.models import KeySecret, VirtualKey
from lib.store import StoreDown, store
from routing import loading
from routing.explain import Row, explain
from routing.router import Hints
from routing.scores_redis import sharing


class Command(BaseCommand):
    help = "Explain which deployment would answer a call, without calling anybody."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--model", required=True, help="The name a client would ask for.")
        parser.add_argument("--key", required=True, help="A key's id or name.")
        parser.add_argument("--organization", metavar="SLUG", help="Whose key, when several have that name.")
        parser.add_argument("--action", choices=["generateContent", "streamGenerateContent"], default="generateContent")
        parser.add_argument("--prompt-tokens", type=int, default=0, metavar="N")
        parser.add_argument("--address", default="", help="The client's address; without it networks are not checked.")
        parser.add_argument("--json", action="store_true", help="Print a JSON object.")

    def handle(self, *args: Any, **options: Any) -> None:
        key = self._key(options["key"], options["organization"])
        context = self._context(key)
        catalog = loading.current()
        model = catalog.resolve(options["model"], context.organization_id)
        if model is None:
            raise CommandError(f"There is no model '{options['model']}' that {key.organization.name} could ask for.")
        refusal = self._refusal(context, model.name, options["action"], options["address"])
        live = async_to_sync(look)()
        hints = Hints(
            stream=options["action"] == "streamGenerateContent",
            prompt_tokens=options["prompt_tokens"],
            organization_id=context.organization_id,
            catalog=catalog,
            allows=lambda name: policy.allows_model(context, name),
        )
        rows = explain(model, hints)
        if options["json"]:
            told = {"model": model.name, "strategy": model.strategy, "refused": refusal, "live": live}
            self.stdout.write(json.dumps(told | {"deployments": [asdict(row) for row in rows]}))
            return
        self.stdout.write(f"Policy: {refusal or 'allowed'}")
        self.stdout.write(f"Model {model.name}, strategy {model.strategy}")
        if not live:
            self.stdout.write("No Redis: what the servers know of latency and failures cannot be seen from here.")
        for row in rows:
            self.stdout.write(line(row))
        if not rows:
            self.stdout.write("It has no enabled deployment.")

    def _key(self, text: str, slug: str | None) -> VirtualKey:
        keys = VirtualKey.objects.select_related("organization")
        if slug:
            keys = keys.filter(organization=wording.organization(slug))
        wanted = Q(name=text)
        with contextlib.suppress(ValueError):
            wanted |= Q(pk=uuid.UUID(text))
        found = list(keys.filter(wanted)[:2])
        if not found:
            raise CommandError(f"There is no key '{text}'; `manage.py listkeys` shows them.")
        if len(found) > 1:
            raise CommandError(f"Several organizations have a key '{text}'; say which with --organization.")
        return found[0]

    def _context(self, key: VirtualKey) -> KeyContext:
        """The key as a process would know it, by its newest live secret."""
        secret = (
            KeySecret.objects.filter(key=key).order_by(F("revoked_at").asc(nulls_first=True), "-created_at").first()
        )
        found = reading.load([secret.fingerprint]).get(secret.fingerprint) if secret else None
        if not isinstance(found, KeyContext):
            raise CommandError(f"The key {key.name} has no secret that could be used ({found or 'none was made'}).")
        return found

    def _refusal(self, context: KeyContext, model: str, action: str, address: str) -> str:
        """What policy says against the call, or nothing."""
        try:
            policy.check_action(context, action)
            policy.check_model(context, model)
            policy.check_key(context, address, time.time())
        except policy.Denied as denied:
            return "" if denied.reason == "network" and not address else f"refused: {denied.message}"
        return ""


async def look() -> bool:
    """Read the servers' state from Redis once. False when there is none to read from."""
    await store.open(settings.REDIS_URL)
    try:
        async with asyncio.timeout(5):
            await sharing.look(loading.current)
    except (StoreDown, TimeoutError):
        return False
    finally:
        await store.close()
    return True


def line(row: Row) -> str:
    place = f"{row.order}." if row.order else "-"
    latency = "not measured" if row.latency_ms is None else f"{row.latency_ms} ms"
    figures = f"{latency}, {row.in_flight} in flight, weight {row.weight}, priority {row.priority}"
    return f"{place:>3} {row.deployment}  [{row.state.replace('_', ' ')}]  {row.reason}  ({figures})"
