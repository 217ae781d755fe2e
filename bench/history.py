"""A history of a given size: a world of organizations, keys and models, made-up calls in it, and their roll-ups.

The rows are made by the database itself, a day a statement: millions take minutes. They are what the ledger would have
written (tests/usage/test_history.py): ids that carry the time, costs by the prices that hold, attempts that add up.
PostgreSQL only.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import connection

from keys import audit
from keys.audit import Actor
from keys.issue import issue
from keys.models import Limit, Membership, Organization, Team, User, VirtualKey
from routing.models import Connection, Deployment, PublicModel
from usage import histogram, partitions, prices, rollups
from usage.models import PriceOverride
from usage.partitions import Month

ORGANIZATIONS, TEAMS, KEYS, MODELS, DEPLOYMENTS = 5, 2, 200, 12, 20  # TEAMS: of each organization
OWN = 3  # of the models belong to the first organization, the others are everyone's
SLOTS = 10  # of a key: which deployment a call of it goes to
BUSY = 12  # keys in each quarter of an hour
WITH_USERS, USERS = 10, 20  # every tenth key names its end users, so many
KINDS = ("gemini", "openai", "anthropic", "azure_openai")
ACTOR = Actor(name="history", source="command")


@dataclass(frozen=True, slots=True)
class World:
    """admin: an administrator of the first organization. superuser: the platform's."""

    superuser: User
    admin: User


# ── the world ──


def make_world(since: datetime, *, keys: int = KEYS, events: int = 2_000) -> World:
    """Everything calls refer to, with prices from `since` on. events: further entries of the audit log."""
    chance = random.Random(6)
    superuser = User.objects.create_superuser(email="size-root@example.org", password=None)
    organizations = [_organization(number) for number in range(ORGANIZATIONS)]
    admin = User.objects.create_user(email="size-admin@example.org", password=None, is_staff=True)
    Membership.objects.create(user=admin, organization=organizations[0], role=Membership.Role.ADMIN)
    _catalog(organizations[0], since)
    made = [_key(number, organizations[number % ORGANIZATIONS], admin) for number in range(keys)]
    for number in range(events):
        changed = {"expires_at": [None, f"2030-01-{number % 28 + 1:02d}"]}
        audit.record(ACTOR, "key.changed", chance.choice(made), changed)
    return World(superuser, admin)


def _organization(number: int) -> Organization:
    found = Organization.objects.create(slug=f"size-{number}", name=f"Organization {number}")
    for each in range(TEAMS):
        Team.objects.create(organization=found, slug=f"team-{each}", name=f"Team {each} of {number}")
    Limit.objects.create(organization=found, metric="spend", period="month", amount=1_000_000)
    return found


def _catalog(first: Organization, since: datetime) -> None:
    """Models, the first ones with two deployments each, at prices of their own."""
    connections = [Connection.objects.create(name=f"size-{kind}", kind=kind) for kind in KINDS]
    for number in range(MODELS):
        owner = first if number >= MODELS - OWN else None
        model = PublicModel.objects.create(name=f"model-{number}", organization=owner)
        for each in range(2 if number < DEPLOYMENTS - MODELS else 1):
            place = connections[(number + each) % len(KINDS)]
            made = Deployment.objects.create(model=model, connection=place, upstream_model=f"upstream-{number}-{each}")
            PriceOverride.objects.create(
                deployment_id=str(made.pk),
                valid_from=since - timedelta(days=2),
                input=number + 1,
                output=3 * number + 4,
            )


def _key(number: int, organization: Organization, owner: User) -> VirtualKey:
    teams = list(organization.teams.order_by("slug"))
    team = teams[number // ORGANIZATIONS % TEAMS] if number % 3 else None
    owned = owner if not number % ORGANIZATIONS and not number % 4 else None
    key, _secret = issue(organization=organization, name=f"key-{number}", team=team, owner=owned, actor=ACTOR)
    if number % 2:
        Limit.objects.create(key=key, metric="requests", period="day", amount=1_000_000)
    return key


# ── calls ──

# Where a call of a key goes: SLOTS rows a key, number by number.
PLACES = """
CREATE TEMPORARY TABLE size_place (
    key_number int, slot int, organization_id text, organization text, team_id text, team text, key_id text, key text,
    owner text, users int, model text, deployment_id text, deployment text, connection text, backend text,
    upstream_model text, spare_id text, spare text, price_version text, rate_input bigint, rate_cached bigint,
    rate_output bigint, rate_thoughts bigint, speed int, limit_ids jsonb
)
"""
# How a call ends: of a thousand, HTTP status, Google's word, why it finished, whether a deployment was reached, the error.
ENDS = [
    (930, 200, "OK", "STOP", True, ""),
    (28, 200, "OK", "MAX_TOKENS", True, ""),
    (16, 429, "RESOURCE_EXHAUSTED", "", False, "The limit of 1000000 requests a day is reached."),
    (12, 503, "UNAVAILABLE", "", True, "No deployment could answer. [provider: 503 overloaded]"),
    (8, 499, "CANCELLED", "", True, "The client hung up before the answer was complete."),
    (4, 400, "INVALID_ARGUMENT", "", False, "contents[0].parts[0]: one field must be set."),
    (2, 504, "DEADLINE_EXCEEDED", "", True, "No answer within the first-byte time."),
]
# One day's calls. The day is warped so that noon is busier than midnight; sums of three draws stand for a bell curve.
# In each quarter of an hour a few keys are busy, some of them often.
CALLS = """
INSERT INTO usage_requestrecord (
    id, started_at, organization_id, organization, team_id, team, key_id, key, owner, action, stream, requested_model, model,
    deployment_id, deployment, connection, backend, upstream_model, http_status, status, error, finish_reason,
    prompt_tokens, cached_tokens, cache_write_tokens, tool_use_tokens, output_tokens, thoughts_tokens,
    audio_prompt_tokens, image_prompt_tokens, audio_output_tokens, image_output_tokens, cost_nano, price_version,
    ttft_ms, total_ms, attempts, dropped, client, address, label, tags, flags, limit_ids
)
WITH drawn AS MATERIALIZED (
    SELECT ms, floor(%(keys)s * power((hashint8(ms / 900000 * 1000 + busy) & 1048575) / 1048576.0, 2.2))::int AS key_number,
        floor(%(slots)s * random())::int AS slot,
        floor(1000 * random())::int AS ending, floor(1000 * random())::int AS odd, random() < 0.6 AS stream,
        exp(1.1 * 2 * (random() + random() + random() - 1.5)) AS asked,
        exp(0.9 * 2 * (random() + random() + random() - 1.5)) AS answered,
        exp(0.5 * 2 * (random() + random() + random() - 1.5)) AS waited, md5(random()::text) AS noise
    FROM (
        SELECT %(day_ms)s + floor(86400000 * (x + 0.11 * sin(2 * pi() * x)))::bigint AS ms, floor(%(busy)s * random())::int AS busy
        FROM (SELECT (n + random()) / %(rows)s AS x FROM generate_series(0, %(rows)s - 1) n) AS spread
    ) AS moments
), sized AS MATERIALIZED (
    SELECT drawn.*, place.*, ends.*, status = 'OK' AS fine,
        CASE WHEN status = 'OK' THEN 20 + least(100000, floor(600 * asked))::bigint ELSE 0 END AS prompt,
        CASE WHEN status = 'OK' THEN 1 + least(30000, floor(180 * answered))::bigint ELSE 0 END AS output,
        CASE WHEN reached THEN (speed * waited)::int ELSE 3 END AS waiting, reached AND odd < 30 AND spare_id <> '' AS twice
    FROM drawn JOIN size_place AS place USING (key_number, slot)
    JOIN size_end AS ends ON ending >= ends.low AND ending < ends.high
    WHERE ms < %(end_ms)s
), counted AS (
    SELECT *, CASE WHEN odd >= 600 THEN prompt / 2 ELSE 0 END AS cached, CASE WHEN odd %% 10 = 0 THEN output / 2 ELSE 0 END AS thoughts,
        waiting + CASE WHEN twice THEN 900 ELSE 0 END + (6 * output)::int AS total
    FROM sized
)
SELECT (lpad(to_hex(ms), 12, '0') || '7' || substr(noise, 1, 3) || '8' || substr(noise, 4, 15))::uuid, to_timestamp(ms / 1000.0),
    organization_id, organization, team_id, team, key_id, key, owner,
    CASE WHEN stream THEN 'streamGenerateContent' ELSE 'generateContent' END, stream, model, model,
    CASE WHEN reached THEN deployment_id ELSE '' END, CASE WHEN reached THEN deployment ELSE '' END,
    CASE WHEN reached THEN connection ELSE '' END, CASE WHEN reached THEN backend ELSE '' END,
    CASE WHEN reached THEN upstream_model ELSE '' END, http_status, status, error, finish_reason,
    prompt, cached, 0, 0, output, thoughts, 0, 0, 0, 0,
    CASE WHEN reached THEN ((prompt - cached) * rate_input + cached * rate_cached + output * rate_output
        + thoughts * rate_thoughts + 500000) / 1000000 ELSE 0 END,
    CASE WHEN reached THEN price_version ELSE '' END,
    CASE WHEN fine THEN waiting + CASE WHEN twice THEN 900 ELSE 0 END END, total,
    CASE WHEN NOT reached THEN '[]'::jsonb ELSE
        CASE WHEN twice THEN jsonb_build_array(jsonb_build_object(
            'deployment_id', spare_id, 'deployment', spare, 'reason', 'fastest of two', 'outcome', 'unavailable', 'offset_ms', 0,
            'duration_ms', 900, 'ttft_ms', NULL, 'provider_status', 503, 'error', 'The provider is overloaded.'
        )) ELSE '[]'::jsonb END || jsonb_build_array(jsonb_build_object(
            'deployment_id', deployment_id, 'deployment', deployment, 'reason', CASE WHEN twice THEN 'only one left' ELSE 'fastest of two' END,
            'outcome', CASE WHEN fine THEN 'ok' WHEN http_status = 499 THEN 'cancelled' ELSE 'unavailable' END,
            'offset_ms', CASE WHEN twice THEN 900 ELSE 0 END, 'duration_ms', total - CASE WHEN twice THEN 900 ELSE 0 END,
            'ttft_ms', CASE WHEN fine THEN waiting END,
            'provider_status', CASE WHEN fine OR http_status = 503 THEN http_status END, 'error', error
        ))
    END,
    '[]', 'google-genai-sdk/1.52.0 gl-python/3.11', '10.0.' || odd %% 8 || '.' || ending %% 250,
    CASE WHEN users > 0 THEN 'user-' || odd %% users ELSE '' END, '[]',
    CASE WHEN http_status = 499 THEN '["cancelled"]'::jsonb ELSE '[]'::jsonb END, limit_ids
FROM counted ORDER BY ms
"""


def write_calls(rows: int, days: int, end: datetime) -> Iterator[tuple[datetime, int]]:
    """About `rows` calls in the days before `end`, which may lie within a day: (day, calls written), a commit each.

    There are more lately than long ago, and fewer at weekends.
    """
    first = end.replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=days - 1)
    weights = [
        (1 if (first + timedelta(days=at)).weekday() < 5 else 0.5) * (0.6 + 0.8 * at / max(days, 1))
        for at in range(days)
    ]
    keys = _make_places()
    for month in {Month.of(first + timedelta(days=at)) for at in range(days)}:
        partitions.make_ahead(month.start, ahead=0)
    with connection.cursor() as cursor:
        for at, weight in enumerate(weights):
            day = first + timedelta(days=at)
            cursor.execute(
                CALLS,
                {
                    "day_ms": int(day.timestamp()) * 1000,
                    "end_ms": int(end.timestamp() * 1000),
                    "rows": max(round(rows * weight / sum(weights)), 1),
                    "keys": keys,
                    "slots": SLOTS,
                    "busy": BUSY,
                },
            )
            yield day, cursor.rowcount


def _make_places() -> int:
    """Fill the two tables that calls are drawn from; how many keys there are."""
    chance = random.Random(7)
    prices.load()
    deployments = list(Deployment.objects.select_related("model", "connection").order_by("upstream_model"))
    by_model: dict[str, list[Deployment]] = {}
    for each in deployments:
        by_model.setdefault(each.model.name, []).append(each)
    organization_limits = {str(row.organization_id): str(row.pk) for row in Limit.objects.exclude(organization=None)}
    rows: list[tuple[Any, ...]] = []
    keys = VirtualKey.objects.filter(created_by=None, name__startswith="key-").select_related(
        "organization", "team", "owner"
    )
    for key in sorted(keys.prefetch_related("limits"), key=lambda each: int(each.name.partition("-")[2])):
        number = int(key.name.partition("-")[2])
        mine = MODELS if number % ORGANIZATIONS == 0 else MODELS - OWN
        favourite, other = (f"model-{chance.randrange(mine)}" for _ in range(2))
        bound = [organization_limits[str(key.organization_id)], *(str(limit.pk) for limit in key.limits.all())]
        for slot in range(SLOTS):
            among = by_model[favourite if slot < SLOTS * 0.8 else other]
            rows.append(_place(number, slot, key, among[slot % len(among)], among[(slot + 1) % len(among)], bound))
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS size_place, size_end")
        cursor.execute(PLACES)
        with cursor.copy("COPY size_place FROM STDIN") as copy:
            for each_row in rows:
                copy.write_row(each_row)
        cursor.execute(
            "CREATE TEMPORARY TABLE size_end"
            " (low int, high int, http_status int, status text, finish_reason text, reached boolean, error text)"
        )
        low = 0
        for share, http_status, status, finish_reason, reached, error in ENDS:
            values: list[Any] = [low, low + share, http_status, status, finish_reason, reached, error]
            cursor.execute("INSERT INTO size_end VALUES (%s, %s, %s, %s, %s, %s, %s)", values)
            low += share
        cursor.execute("SELECT setseed(0.5)")
    return len(rows) // SLOTS


def _place(
    number: int, slot: int, key: VirtualKey, to: Deployment, spare: Deployment, bound: list[str]
) -> tuple[Any, ...]:
    card = prices.resolve(str(to.pk), "", to.upstream_model, datetime.now(UTC).timestamp())
    assert card is not None
    other = (str(spare.pk), str(spare)) if spare.pk != to.pk else ("", "")
    return (
        number, slot, str(key.organization_id), key.organization.name, str(key.team_id or ""), key.team.name if key.team else "",
        str(key.pk), key.name, key.owner.email if key.owner else "", 0 if number % WITH_USERS else USERS, to.model.name,
        str(to.pk), str(to), to.connection.name, to.connection.kind, to.upstream_model, *other, card.version, card.base.input,
        card.base.cached, card.base.output, card.base.thoughts, 180 + 37 * (number % 7) + 90 * (slot % 2), str(bound).replace("'", '"'),
    )  # fmt: skip


# ── roll-ups ──


def write_rollups(day: datetime, *, minutes: bool) -> int:
    """The roll-ups of one UTC day from its calls, as the ledger adds them up, in the order it would; how many."""
    widths = rollups.WIDTHS if minutes else rollups.WIDTHS[1:]
    names = ", ".join(rollups.COLUMNS)
    parts = " UNION ALL ".join(
        f"(SELECT {width} AS width, {_start(width)} AS start, {_SUMS} GROUP BY 2, {_KEY})" for width in widths
    )
    with connection.cursor() as cursor:
        cursor.execute(
            f"WITH calls AS MATERIALIZED (SELECT *, {_slot('ttft_ms')} AS ttft_slot, {_slot('total_ms')} AS total_slot"
            f" FROM usage_requestrecord WHERE id >= %(first)s AND id < %(end)s)"
            f" INSERT INTO usage_usagebucket ({names}) SELECT {names} FROM ({parts}) AS made ORDER BY first_call",
            {"first": partitions.bound(day), "end": partitions.bound(day + timedelta(days=1))},
        )
        return int(cursor.rowcount)


def keeps_minutes(day: datetime, end: datetime) -> bool:
    return day >= end - timedelta(days=settings.GATEHOUSE.minute_retention_days)


def _start(width: int) -> str:
    return f"to_timestamp(floor(extract(epoch FROM started_at) / {width}) * {width})"


def _slot(column: str) -> str:
    """histogram.slot: bounds below the value, counted."""
    bounds = ", ".join(str(bound) for bound in histogram.BOUNDS_MS)
    return f"width_bucket({column} - 1, ARRAY[{bounds}])"


def _counts(slot: str) -> str:
    named = enumerate(histogram.columns(slot.removesuffix("_slot")))
    return ", ".join(f"NULLIF(count(*) FILTER (WHERE {slot} = {number}), 0) AS {name}" for number, name in named)


_KEY = ", ".join(rollups.KEY)
_SUMS = ", ".join(
    [
        _KEY,
        *(f"max({name}) AS {name}" for name in rollups.NAMES),
        "count(*) AS requests, count(*) FILTER (WHERE stream) AS streams, count(*) FILTER (WHERE cost_nano IS NULL) AS unpriced",
        "count(*) FILTER (WHERE flags ? 'estimated') AS estimated",
        *(f"sum({name}) AS {name}" for name in rollups.TOKENS),
        "coalesce(sum(cost_nano), 0) AS cost_nano, sum(total_ms) AS total_ms, coalesce(sum(ttft_ms), 0) AS ttft_ms",
        "count(ttft_ms) AS ttft_count",
        _counts("ttft_slot"),
        _counts("total_slot"),
        "min(started_at) AS first_call FROM calls",
    ]
)
