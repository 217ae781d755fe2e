"""Two weeks of made-up calls for the demo's dashboards, written through the ledger like real ones. Once only."""

from __future__ import annotations

import math
import random
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from keys.models import KeySecret, VirtualKey
from keys.policy import matches
from lib import json
from lib.ids import uuid7
from routing.models import Deployment
from routing.note import Note
from usage import ledger, prices, records
from usage.event import Tokens, UsageEvent
from usage.models import RequestRecord

DAYS, CALLS, BATCH = 14, 2800, 500
CLIENTS = ["GeminiCLI/0.61.0/gemini-2.5-flash (linux; x64)", "google-genai-sdk/3.4.0 gl-python/3.11", "curl/8.5.0"]
SHARES = {"demo": 3, "search-web": 8, "support-bot": 5, "ci": 2}  # of the calls, by name of the key
PEOPLE = 12  # end users of keys that tell them


@dataclass(frozen=True, slots=True)
class End:
    """How a call ended: what the client was told, and what was heard from the provider."""

    weight: int
    http_status: int
    status: str
    finish_reason: str = ""
    outcome: str = "ok"
    error: str = ""


ENDS = (
    End(920, 200, "OK", "STOP"),
    End(30, 200, "OK", "MAX_TOKENS"),
    End(
        20, 429, "RESOURCE_EXHAUSTED", "", "rate_limited", "The provider takes no more calls just now. Try again in 20 s."
    ),
    End(9, 503, "UNAVAILABLE", "", "unavailable", "The model is overloaded. Try again later."),
    End(5, 504, "DEADLINE_EXCEEDED", "", "timeout", "No answer came within 60 s."),
    End(6, 400, "INVALID_ARGUMENT", "", "refused", "generationConfig.temperature must be between 0 and 2."),
    End(10, 499, "CANCELLED", "", "cancelled", "The client hung up before the answer was complete."),
)  # fmt: skip
RETRIED = 0.04  # of the answered calls, after another deployment of the model had failed
REASONS = ["faster of two", "faster of two", "the only one", "explores"]


def write(calls: int = CALLS) -> int:
    """How many calls were written: none when there is a history already."""
    if RequestRecord.objects.exists():
        return 0
    keys = list(VirtualKey.objects.select_related("organization", "team").order_by("name"))
    deployments = list(
        Deployment.objects.select_related("model", "connection").order_by("model__name", "upstream_model")
    )
    chance = random.Random(1)
    now = int(time.time() * 1000)
    shares = [SHARES.get(key.name, 1) for key in keys]
    rows = []
    for at in sorted(moment(chance, now) for _ in range(calls)):
        key = chance.choices(keys, shares)[0]
        fitting = [each for each in deployments if may(key, each.model.name)]
        told = json.dumps(event(chance, at, key, chance.choice(fitting), deployments))
        rows.append(records.row(json.loads(told)))
    for begin in range(0, len(rows), BATCH):
        ledger.record(rows[begin : begin + BATCH])
    for key in keys:
        latest = RequestRecord.objects.filter(key_id=str(key.pk)).order_by("-pk").values_list("started_at", flat=True)
        for used in latest[:1]:
            VirtualKey.objects.filter(pk=key.pk).update(last_used_at=used)
            KeySecret.objects.filter(key=key).update(last_used_at=used)
    VirtualKey.objects.update(created_at=datetime.fromtimestamp(now / 1000 - DAYS * 86_400, UTC))
    return len(rows)


def may(key: VirtualKey, model: str) -> bool:
    """Whether this key's patterns let it use the model."""
    allowed = key.allowed_models is None or any(matches(pattern, model) for pattern in key.allowed_models)
    return allowed and not any(matches(pattern, model) for pattern in key.denied_models)


def moment(chance: random.Random, now: int) -> int:
    """Unix milliseconds: more by day than by night, more lately than long ago."""
    while True:
        back = chance.triangular(60, DAYS * 86_400, 60)
        at = now - int(back * 1000)
        hour = at / 3_600_000 % 24
        if chance.random() < 0.25 + 0.75 * max(0.0, math.sin((hour - 6) / 24 * 2 * math.pi)):
            return at


def event(
    chance: random.Random, at: int, key: VirtualKey, deployment: Deployment, others: list[Deployment]
) -> UsageEvent:
    end = chance.choices(ENDS, [each.weight for each in ENDS])[0]
    streamed = chance.random() < 0.7
    spent = tokens(chance, end)
    provider = {"gemini": "google", "openai": "openai"}.get(deployment.connection.kind, "")
    card = prices.resolve(str(deployment.pk), provider, deployment.upstream_model, at / 1000)
    ttft = int(chance.lognormvariate(6.0, 0.45)) if spent.candidates else None
    took = (ttft or 30) + int((spent.candidates + spent.thoughts) * chance.uniform(4, 11))
    spare = next((each for each in others if each.model_id == deployment.model_id and each != deployment), None)
    failed = [missed(chance, spare)] if spare and end.status == "OK" and chance.random() < RETRIED else []
    waited = sum(note.duration_ms for note in failed)
    note = Note(
        str(deployment.pk),
        str(deployment),
        "the next one" if failed else chance.choice(REASONS),
        end.outcome,
        waited,
        took,
        ttft,
        {"cancelled": 200, "timeout": None}.get(end.outcome, end.http_status),
        "" if end.outcome in ("ok", "cancelled") else end.error,
    )
    label: dict[str, Any] = {"team_id": str(key.team_id), "team": key.team.slug} if key.team else {}
    if key.name == "support-bot":
        label["label"] = f"customer-{chance.randint(1, PEOPLE):02}"
    return UsageEvent(
        call_id=str(uuid7(at)),
        started_ms=at,
        organization_id=str(key.organization_id),
        organization=key.organization.slug,
        key_id=str(key.pk),
        key=key.name,
        action="streamGenerateContent" if streamed else "generateContent",
        model=deployment.model.name,
        requested_model=deployment.model.name,
        stream=streamed,
        deployment_id=str(deployment.pk),
        deployment=str(deployment),
        connection=deployment.connection.name,
        backend=deployment.connection.kind,
        upstream_model=deployment.upstream_model,
        http_status=end.http_status,
        status=end.status,
        error=end.error,
        finish_reason=end.finish_reason,
        tokens=spent,
        cost_nano=card.cost(spent) if card else None,
        price_version=card.version if card else "",
        ttft_ms=waited + ttft if ttft is not None and streamed else None,
        total_ms=waited + took,
        attempts=(*failed, note),
        client=chance.choice(CLIENTS),
        address="127.0.0.1",
        **label,
    )


def tokens(chance: random.Random, end: End) -> Tokens:
    """What a call used; one that was left, the half of it."""
    if end.status not in ("OK", "CANCELLED"):
        return Tokens()
    prompt, said = chance.randint(40, 9000), chance.randint(20, 1400)
    cached = chance.choice([0, 0, prompt // 2])
    thoughts = max(0, chance.randint(-900, 900))  # half of them do not think
    left = end.status == "CANCELLED"
    return Tokens(prompt=prompt, candidates=said // 2 if left else said, cached=cached, thoughts=thoughts)


def missed(chance: random.Random, deployment: Deployment) -> Note:
    """A deployment that failed before its first byte, so that another one answered."""
    took, words = chance.randint(40, 900), "The model is overloaded. Try again later."
    return Note(str(deployment.pk), str(deployment), "faster of two", "unavailable", 0, took, None, 503, words)
