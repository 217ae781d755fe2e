"""Warnings: a limit that reached 80, 95 or 100 % raises an event, once per period, and its organization is told.

Background tasks of every process look at the limits that its own calls touched, and tell; never on a call's way. Who raises an
event and who tells it are decided in the database, so that it happens once, whichever process is first.

Periods: a calendar period is one, so is a lifetime. Sliding windows and concurrent calls warn at most once a day.

The webhook is a POST of JSON, signed as X-Gatehouse-Signature: t=SECONDS,v1=HEX, where HEX is HMAC-SHA-256 under the
organization's secret over "SECONDS.BODY". Any answer below 300 counts as heard. It may come twice: `id` tells.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
import time
from collections import defaultdict
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import urlsplit

import httpx2
from django.conf import settings
from django.core.mail import send_mail
from django.db.models import F, Min, Q

from keys import limits
from keys.context import LimitRule
from keys.limits.windows import CONCURRENT, place, span
from keys.models import Limit, Organization
from lib import json
from lib.background import Background, cancelled
from lib.database import own_connection
from lib.store import StoreDown
from routing import addresses, credentials
from usage.models import LimitEvent

log = logging.getLogger(__name__)

THRESHOLDS: Final = (100, 95, 80)  # percent
LOOK_EVERY: Final = 5.0  # seconds
PATIENCE: Final = 10.0  # seconds for one webhook
# Seconds after the event at which it is tried to tell it, the first time and again; then it is given up.
TRIES: Final = (0, 15, 60, 300, 1_800, 7_200, 28_800, 86_400)
AT_ONCE: Final = 8  # organizations that are told at the same time
OF_EACH: Final = 5  # events of one organization, one after another, before it queues again
MAILS_AT_ONCE: Final = 2
REMEMBERED: Final = 50_000
NANO: Final = 10**9


class NotTold(Exception):
    """Somebody could not be told. The message says who and why, without secrets."""


@dataclass(frozen=True, slots=True)
class Reached:
    """A limit that reached a threshold in one of its periods."""

    rule: LimitRule
    organization_id: str
    period: str
    threshold: int
    used: int


# ---- who reached what


class Alerts:
    """One process's part. allow_private: webhooks may stand in a private network (tests only)."""

    def __init__(self, *, allow_private: bool = False) -> None:
        self._allow_private = allow_private
        self._raised: set[tuple[str, str, int]] = set()
        self._loops = [
            Background(f"limits.alerts.{work.__name__}", work, every=LOOK_EVERY, first=LOOK_EVERY)
            for work in (self.look, self.start_telling)
        ]
        self._telling: dict[str, asyncio.Task[int]] = {}  # by organization
        self._mailing = ThreadPoolExecutor(MAILS_AT_ONCE, "alerts.mail")  # a mail server may be as silent as a webhook

    async def open(self) -> None:
        for each in self._loops:
            await each.open()

    async def close(self) -> None:
        for each in self._loops:
            await each.close()
        await cancelled(*self._telling.values())
        self._telling.clear()

    async def look(self) -> int:
        """Raise events for the limits touched since the last look; how many are new."""
        now = time.time()
        limiter = limits.current()
        plans, refused = limiter.touched.take()
        rules: defaultdict[tuple[str, str], dict[str, LimitRule]] = defaultdict(dict)
        for plan in [*plans, *refused.values()]:
            rules[plan.organization_id, plan.time_zone].update({rule.id: rule for rule in plan.rules})
        reached: list[Reached] = []
        for (organization_id, zone), by_id in rules.items():
            asked = list(by_id.values())
            try:
                found = await limiter.usage(asked, now, zone, organization_id)
            except StoreDown:
                continue  # the next call touches it again
            for rule, (used, held) in zip(asked, found, strict=True):
                reached += self._reached(rule, organization_id, zone, now, used, held, full=rule in refused)
        if not reached:
            return 0
        new = await asyncio.to_thread(raise_events, reached)
        if len(self._raised) > REMEMBERED:
            self._raised.clear()
        self._raised.update((each.rule.id, each.period, each.threshold) for each in reached)
        return new

    def _reached(
        self, rule: LimitRule, organization_id: str, zone: str, now: float, used: int, held: int, *, full: bool
    ) -> Iterable[Reached]:
        """full: a call was refused that would not have fitted if nothing else had run."""
        where = place(rule, now, zone)
        if where.metric == CONCURRENT:
            used, full = used + held, False
        lasting = not where.width and where.metric != CONCURRENT
        period = where.span.name if lasting else span("day", now, zone).name
        for threshold in THRESHOLDS:
            if not full and (used * 100 < threshold * rule.amount or not rule.amount):
                continue
            if (rule.id, period, threshold) not in self._raised:
                yield Reached(rule, organization_id, period, threshold, used)

    # ---- and who hears of it

    async def tell(self) -> int:
        """Tell what is due, to the end; how many were told."""
        return sum(await asyncio.gather(*await self.start_telling()))

    async def start_telling(self) -> list[asyncio.Task[int]]:
        """A task for each organization that has something due and none yet: nobody waits for another's webhook."""
        due = await asyncio.to_thread(claim_due, list(self._telling), AT_ONCE - len(self._telling))
        for organization_id, events in due.items():
            telling = self._tell_each(organization_id, events)
            self._telling[organization_id] = asyncio.create_task(telling, name="limits.alerts.tell")
        return [self._telling[organization_id] for organization_id in due]

    async def _tell_each(self, organization_id: str, events: Iterable[LimitEvent]) -> int:
        """One after another, oldest first. What is not told when the database goes is due again later."""
        told = 0
        try:
            for event in events:
                told += await self._tell_one(event)
        except Exception as error:
            log.warning("Alerts could not be told: %s", type(error).__name__)
        finally:
            self._telling.pop(organization_id, None)
        return told

    async def _tell_one(self, event: LimitEvent) -> bool:
        try:
            letter = await asyncio.to_thread(write, event)
            if letter is not None:
                await self._tell(letter)
        except (NotTold, credentials.CredentialError) as error:
            await asyncio.to_thread(note, event, str(error))
            log.warning("An alert about limit %s could not be told: %s", event.limit_id, error)
            return False
        await asyncio.to_thread(note, event, "")
        return True

    async def test(self, letter: Letter) -> None:
        """Tell it now, to see whether it is heard. Raises NotTold."""
        await self._tell(letter)

    async def _tell(self, letter: Letter) -> None:
        """By mail and by webhook; if one fails, the other is told all the same."""
        troubles: list[str] = []
        if letter.mails:
            try:
                await asyncio.get_running_loop().run_in_executor(self._mailing, _mail, letter)
            except OSError as error:
                troubles.append(f"Mail could not be sent ({type(error).__name__}).")
        if letter.url:
            try:
                await self._post(letter)
            except NotTold as error:
                troubles.append(str(error))
        if troubles:
            raise NotTold(" ".join(troubles))

    async def _post(self, letter: Letter) -> None:
        parts = urlsplit(letter.url)
        try:
            addresses.check_url(parts._replace(query="").geturl(), self._allow_private)
            port = parts.port or (443 if parts.scheme == "https" else 80)
            found = await addresses.resolve(parts.hostname or "", port, self._allow_private)
            body = json.dumps(letter.payload)
            async with (
                asyncio.timeout(PATIENCE),
                httpx2.AsyncClient(trust_env=False, follow_redirects=False, timeout=PATIENCE) as client,
                client.stream(
                    "POST",
                    httpx2.URL(letter.url).copy_with(host=found[0]),
                    content=body,
                    headers={
                        "host": parts.netloc.rpartition("@")[2],
                        "content-type": "application/json",
                        "user-agent": "Gatehouse",
                        "x-gatehouse-signature": sign(letter.secret, body, int(time.time())),
                    },
                    extensions={"sni_hostname": parts.hostname or ""},
                ) as answer,
            ):
                if answer.status_code >= 300:
                    raise NotTold(f"The webhook answered {answer.status_code}.")
        except addresses.AddressRefused as error:
            raise NotTold(f"The webhook's address is refused: {error}") from error
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as error:
            raise NotTold(f"The webhook cannot be reached ({type(error).__name__}).") from error


def sign(secret: str, body: bytes, at: int) -> str:
    """The value of X-Gatehouse-Signature. at: Unix seconds."""
    return f"t={at},v1={hmac.new(secret.encode(), b'%d.' % at + body, 'sha256').hexdigest()}"


# ---- rows; in threads of their own


def raise_events(reached: Iterable[Reached]) -> int:
    """Each once, whoever comes first. Of several thresholds passed at once only the highest is told."""
    now = datetime.now(UTC)
    new: dict[tuple[str, str], int] = {}
    with own_connection():
        for each in sorted(reached, key=lambda each: -each.threshold):
            place = (each.rule.id, each.period)
            _, created = LimitEvent.objects.get_or_create(
                limit_id=each.rule.id,
                period_key=each.period,
                threshold=each.threshold,
                defaults={
                    "organization_id": each.organization_id,
                    "used": each.used,
                    "amount": each.rule.amount,
                    "at": now,
                    "told_at": now if place in new else None,
                },
            )
            if created:
                new[place] = new.get(place, 0) + 1
    return sum(new.values())


def claim_due(busy: Collection[str], most: int) -> dict[str, list[LimitEvent]]:
    """What is to be told now, each for this process alone: a few events of each of `most` organizations not busy.

    Who was not tried yet comes before who could not be told.
    """
    now = datetime.now(UTC)
    their_time = Q()
    for attempts, seconds in enumerate(TRIES):
        their_time |= Q(attempts=attempts, at__lte=now - timedelta(seconds=seconds))
    recent = Q(told_at=None, at__gte=now - timedelta(seconds=2 * TRIES[-1]))
    with own_connection():
        due = LimitEvent.objects.filter(recent & their_time).exclude(organization_id__in=busy)
        whose = due.order_by().values("organization_id").annotate(tried=Min("attempts"), since=Min("at"))
        return {
            each["organization_id"]: [
                event
                for event in due.filter(organization_id=each["organization_id"]).order_by("at")[:OF_EACH]
                if LimitEvent.objects.filter(pk=event.pk, attempts=event.attempts, told_at=None).update(
                    attempts=F("attempts") + 1
                )
            ]
            for each in whose.order_by("tried", "since")[:most]
        }


def note(event: LimitEvent, error: str) -> None:
    with own_connection():
        LimitEvent.objects.filter(pk=event.pk).update(error=error, told_at=None if error else datetime.now(UTC))


@dataclass(frozen=True, slots=True)
class Letter:
    """What is told to one organization, and how."""

    payload: dict[str, Any]
    subject: str
    text: str
    mails: list[str]
    url: str
    secret: str


def write(event: LimitEvent) -> Letter | None:
    """None: nobody wants to hear of it, or the limit is gone."""
    with own_connection():
        limit = Limit.objects.select_related("organization", "team", "key").filter(pk=event.limit_id).first()
        organization = Organization.objects.filter(pk=event.organization_id).first()
        if limit is None or organization is None:
            return None
        mails = organization.alert_emails.split()
        if not mails and not organization.alert_webhook_url:
            return None
        kind, holder = next(
            (kind, found) for kind in ("key", "team", "organization") if (found := getattr(limit, kind))
        )
        used, amount = _said(limit.metric, event.used), _said(limit.metric, event.amount)
        payload = {
            "id": str(event.pk),
            "type": "limit.threshold",
            "at": event.at.isoformat(timespec="seconds"),
            "organization": organization.slug,
            "limit": {
                "id": event.limit_id,
                "subject": kind,
                "subject_id": str(holder.pk),
                "subject_name": holder.name,
                "metric": limit.metric,
                "period": limit.period,
                "models": limit.pattern,
                "hard": limit.hard,
                "amount": amount,
            },
            "period": event.period_key,
            "threshold": event.threshold,
            "used": used,
        }
        unit = " USD" if limit.metric == Limit.Metric.SPEND else f" {limit.get_metric_display().lower()}"
        subject = f"{holder.name}: {event.threshold} % of a limit reached"
        models = "every model" if limit.pattern == "*" else limit.pattern
        text = (
            f"The {kind} {holder.name} of {organization.name} has used {used} of {amount}{unit} "
            f"{limit.get_period_display()} for {models} ({event.threshold} %).\n\n"
            + ("Calls beyond the limit are refused." if limit.hard else "The limit only warns: calls go on.")
        )
        secret = signing_secret(organization) if organization.alert_webhook_url else ""
        return Letter(payload, subject, text, mails, organization.alert_webhook_url, secret)


def trial_letter(organization: Organization) -> Letter:
    """An alert that says it is a test. Raises CredentialError."""
    payload = {
        "id": secrets.token_hex(16),
        "type": "test",
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "organization": organization.slug,
    }
    return Letter(
        payload,
        f"Test alert of {organization.name}",
        f"Alerts of {organization.name} reach you. Nothing happened: this was a test.",
        organization.alert_emails.split(),
        organization.alert_webhook_url,
        signing_secret(organization) if organization.alert_webhook_url else "",
    )


def signing_secret(organization: Organization) -> str:
    """What the organization's webhook checks signatures with; made when it is first needed. Raises CredentialError."""
    row_id = str(organization.pk)
    if not organization.alert_webhook_secret:
        made = credentials.seal_text("webhook", row_id, f"whsec_{secrets.token_urlsafe(32)}")
        Organization.objects.filter(pk=organization.pk, alert_webhook_secret="").update(alert_webhook_secret=made)
        organization.refresh_from_db(fields=["alert_webhook_secret"])
    return credentials.open_text("webhook", row_id, organization.alert_webhook_secret)


def _said(metric: str, amount: int) -> str:
    if metric != Limit.Metric.SPEND:
        return str(amount)
    whole, nano = divmod(amount, NANO)
    return f"{whole}.{nano:09d}".rstrip("0").removesuffix(".")


def _mail(letter: Letter) -> None:
    if settings.EMAIL_BACKEND.endswith("smtp.EmailBackend") and not settings.EMAIL_HOST:
        raise ConnectionError("EMAIL_URL is not set")
    send_mail(f"[Gatehouse] {letter.subject}", letter.text, None, letter.mails)


alerts = Alerts()
open = alerts.open
close = alerts.close
