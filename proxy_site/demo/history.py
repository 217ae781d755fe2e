"""Two weeks of made-up calls for the demo's dashboards, written through the ledger like real ones. Once only."""

from __future__ import annotations

import math
import random
import time
from typing import Any

from keys.models import VirtualKey
from lib import json
from lib.ids import uuid7
from routing.models import Deployment
from usage import ledger, prices, records
from usage.event import AttemptNote, Tokens, UsageEvent
from usage.models import RequestRecord

DAYS, CALLS, BATCH = 14, 2800, 500
CLIENTS = ["GeminiCLI/0.61.0/gemini-2.5-flash (linux; x64)", "google-genai-sdk/3.4.0 gl-python/3.11", "curl/8.5.0"]
# Most calls are answered; some are not.
ENDS = [
    (200, "OK", "STOP"),
    (200, "OK", "MAX_TOKENS"),
    (429, "RESOURCE_EXHAUSTED", ""),
    (503, "UNAVAILABLE", ""),
    (499, "CANCELLED", ""),
]
WEIGHTS = [920, 30, 22, 14, 14]


def write() -> int:
    """How many calls were written: none when there is a history already."""
    if RequestRecord.objects.exists():
        return 0
    keys = list(VirtualKey.objects.select_related("organization", "team"))
    deployments = list(Deployment.objects.select_related("model", "connection"))
    chance = random.Random(1)
    now = int(time.time() * 1000)
    rows = []
    for at in sorted(moment(chance, now) for _ in range(CALLS)):
        rows.append(
            records.row(json.loads(json.dumps(event(chance, at, chance.choice(keys), chance.choice(deployments)))))
        )
    for begin in range(0, len(rows), BATCH):
        ledger.record(rows[begin : begin + BATCH])
    return len(rows)


def moment(chance: random.Random, now: int) -> int:
    """Unix milliseconds: more by day than by night, more lately than long ago."""
    while True:
        back = chance.triangular(60, DAYS * 86_400, 60)
        at = now - int(back * 1000)
        hour = at / 3_600_000 % 24
        if chance.random() < 0.25 + 0.75 * max(0.0, math.sin((hour - 6) / 24 * 2 * math.pi)):
            return at


def event(chance: random.Random, at: int, key: VirtualKey, deployment: Deployment) -> UsageEvent:
    http_status, status, finish_reason = chance.choices(ENDS, WEIGHTS)[0]
    answered = status == "OK"
    spent = Tokens(prompt=chance.randint(40, 9000), candidates=chance.randint(20, 1400)) if answered else Tokens()
    spent = Tokens(prompt=spent.prompt, candidates=spent.candidates, cached=chance.choice([0, 0, spent.prompt // 2]))
    provider = {"gemini": "google", "openai": "openai"}.get(deployment.connection.kind, "")
    card = prices.resolve(str(deployment.pk), provider, deployment.upstream_model, at / 1000)
    ttft = int(chance.lognormvariate(6.0, 0.45)) if answered else None
    total = (ttft or 30) + int(spent.candidates * chance.uniform(4, 11))
    name = f"{deployment.upstream_model} at {deployment.connection.name}"
    note = AttemptNote(
        str(deployment.pk), name, "fastest of two", "ok" if answered else "unavailable", 0, total, ttft, http_status
    )
    label: dict[str, Any] = {"team_id": str(key.team_id), "team": key.team.slug} if key.team else {}
    return UsageEvent(
        call_id=str(uuid7(at)),
        started_ms=at,
        organization_id=str(key.organization_id),
        organization=key.organization.slug,
        key_id=str(key.pk),
        key=key.name,
        action=chance.choice(["generateContent", "streamGenerateContent", "streamGenerateContent"]),
        model=deployment.model.name,
        requested_model=deployment.model.name,
        stream=True,
        deployment_id=str(deployment.pk),
        deployment=name,
        connection=deployment.connection.name,
        backend=deployment.connection.kind,
        upstream_model=deployment.upstream_model,
        http_status=http_status,
        status=status,
        finish_reason=finish_reason,
        tokens=spent,
        cost_nano=card.cost(spent) if card else None,
        price_version=card.version if card else "",
        ttft_ms=ttft,
        total_ms=total,
        attempts=(note,),
        client=chance.choice(CLIENTS),
        address="127.0.0.1",
        **label,
    )
