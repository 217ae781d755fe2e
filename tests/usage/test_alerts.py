"""Thresholds of limits: raised once a period, told by webhook and mail, tried again, and never to a private address."""

from __future__ import annotations

import asyncio
import hmac
import threading
import time
from collections.abc import Coroutine, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from django.core import mail
from django.core.management import call_command

from keys import limits, reading
from keys.context import KeyContext
from keys.limits.base import LimitReached, Used
from keys.limits.memory import MemoryLimiter
from keys.models import Organization
from lib import json
from tests.factories import make_limit, make_organization
from tests.keys.limiting import admit, key_with
from usage import alerts
from usage.alerts import Alerts, signing_secret
from usage.models import LimitEvent

pytestmark = pytest.mark.django_db(transaction=True)


class Receiver:
    """A webhook on loopback: what it heard, and what it answers."""

    def __init__(self) -> None:
        self.heard: list[tuple[dict[str, str], bytes]] = []
        self.answers = 204
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.heard.append(({name.lower(): value for name, value in self.headers.items()}, body))
                self.send_response(receiver.answers)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook?from=gatehouse"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    thread = threading.Thread(target=receiver.server.serve_forever, daemon=True)
    thread.start()
    yield receiver
    receiver.server.shutdown()
    receiver.server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def limiter(monkeypatch: pytest.MonkeyPatch) -> MemoryLimiter:
    limiter = MemoryLimiter()
    monkeypatch.setattr(limits, "_limiter", limiter)
    return limiter


@pytest.fixture
def key(organization: Organization) -> KeyContext:
    """Of an organization with a budget of 100 nano-dollars a month."""
    make_limit(organization, "spend", "0.0000001", period="month")
    (limited,) = reading.limited(organization.slug)
    return key_with(*limited.rules, organization=limited.organization_id)


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


def spend(limiter: MemoryLimiter, key: KeyContext, amount: int) -> None:
    async def call() -> None:
        limiter.settle(await admit(limiter, key, time.time(), spend=amount), Used(0, amount))

    run(call())


def raised() -> list[tuple[int, bool]]:
    """(threshold, whether it still has to be told)"""
    return [(each.threshold, each.told_at is None) for each in LimitEvent.objects.order_by("threshold")]


def test_a_threshold_is_raised_once_a_period(limiter: MemoryLimiter, key: KeyContext) -> None:
    watching = Alerts()
    spend(limiter, key, 79)
    assert run(watching.look()) == 0
    spend(limiter, key, 1)
    assert run(watching.look()) == 1
    spend(limiter, key, 1)
    assert run(watching.look()) == 0
    event = LimitEvent.objects.get()
    assert (event.threshold, event.used, event.amount) == (80, 80, 100)
    assert event.period_key == f"{datetime.now(UTC):%Y-%m}"


def test_two_processes_raise_it_once(limiter: MemoryLimiter, key: KeyContext) -> None:
    spend(limiter, key, 96)
    assert run(Alerts().look()) == 2
    spend(limiter, key, 0)
    assert run(Alerts().look()) == 0
    assert raised() == [(80, False), (95, True)], "of those passed at once only the highest is told"


def test_a_call_that_is_refused_for_good_means_that_the_limit_is_reached(
    limiter: MemoryLimiter, key: KeyContext
) -> None:
    spend(limiter, key, 90)
    with pytest.raises(LimitReached):
        spend(limiter, key, 20)
    run(Alerts().look())
    assert raised() == [(80, False), (95, False), (100, True)]


def test_soft_limits_warn_too_and_windows_once_a_day(limiter: MemoryLimiter, organization: Organization) -> None:
    make_limit(organization, "requests", 2, period="minute", hard=False)
    (limited,) = reading.limited(organization.slug)
    key = key_with(*limited.rules, organization=limited.organization_id)
    for _ in range(3):
        spend(limiter, key, 0)
    run(Alerts().look())
    assert raised() == [(80, False), (95, False), (100, True)]
    assert LimitEvent.objects.first().period_key == f"{datetime.now(UTC):%Y-%m-%d}"


def reached(limiter: MemoryLimiter, key: KeyContext, **fields: Any) -> LimitEvent:
    Organization.objects.filter(pk=key.organization_id).update(**fields)
    spend(limiter, key, 80)
    run(Alerts().look())
    return LimitEvent.objects.get()


def test_the_webhook_is_told_and_can_check_who_says_so(
    limiter: MemoryLimiter, key: KeyContext, receiver: Receiver
) -> None:
    event = reached(limiter, key, alert_webhook_url=receiver.url)
    assert run(Alerts(allow_private=True).tell()) == 1
    ((headers, body),) = receiver.heard
    told = json.loads(body)
    assert (told["id"], told["threshold"], told["used"]) == (str(event.pk), 80, "0.00000008")
    assert told["limit"]["amount"] == "0.0000001"
    assert told["organization"] == "acme"
    at, signature = (part.partition("=")[2] for part in headers["x-gatehouse-signature"].split(","))
    secret = signing_secret(Organization.objects.get(slug="acme"))
    assert signature == hmac.new(secret.encode(), f"{at}.".encode() + body, "sha256").hexdigest()
    assert abs(int(at) - time.time()) < 60
    assert run(Alerts(allow_private=True).tell()) == 0
    event.refresh_from_db()
    assert event.told_at is not None


def test_the_secret_is_sealed_shown_by_its_command_and_stays(organization: Organization, capsys: Any) -> None:
    call_command("webhooksecret", "--organization", "acme")
    call_command("webhooksecret", "--organization", "acme")
    first, second = capsys.readouterr().out.split()
    assert first == second
    assert first.startswith("whsec_")
    organization.refresh_from_db()
    assert first not in organization.alert_webhook_secret


def test_a_webhook_in_a_private_network_is_never_called(
    limiter: MemoryLimiter, key: KeyContext, receiver: Receiver
) -> None:
    reached(limiter, key, alert_webhook_url=receiver.url)
    assert run(Alerts().tell()) == 0
    assert receiver.heard == []
    assert "private network" in LimitEvent.objects.get().error


def test_what_could_not_be_told_is_tried_again_later(
    limiter: MemoryLimiter, key: KeyContext, receiver: Receiver
) -> None:
    event = reached(limiter, key, alert_webhook_url=receiver.url)
    telling = Alerts(allow_private=True)
    receiver.answers = 302
    assert run(telling.tell()) == 0
    event.refresh_from_db()
    assert (event.attempts, event.error, event.told_at) == (1, "The webhook answered 302.", None)
    assert run(telling.tell()) == 0
    assert len(receiver.heard) == 1, "not before its time"
    receiver.answers = 200
    LimitEvent.objects.update(at=event.at - timedelta(seconds=alerts.TRIES[1]))
    assert run(telling.tell()) == 1
    assert len(receiver.heard) == 2


def test_mails_go_to_every_address(limiter: MemoryLimiter, key: KeyContext) -> None:
    reached(limiter, key, alert_emails="ops@example.org\nboss@example.org")
    assert run(Alerts().tell()) == 1
    (sent,) = mail.outbox
    assert sent.to == ["ops@example.org", "boss@example.org"]
    assert "80 %" in sent.subject
    assert "has used 0.00000008 of 0.0000001 USD a month for every model" in sent.body


def test_nobody_to_tell_is_no_trouble(limiter: MemoryLimiter, key: KeyContext) -> None:
    reached(limiter, key)
    assert run(Alerts().tell()) == 1
    assert mail.outbox == []


class Silent:
    """A webhook that takes the connection and never answers."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.url = ""

    async def __aenter__(self) -> Silent:
        self._server = await asyncio.start_server(self._hold, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/"
        return self

    async def _hold(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked.set()
        await reader.read()  # until the other side hangs up
        writer.close()

    async def __aexit__(self, *_: Any) -> None:
        self._server.close()


def due_for(name: str, url: str, events: int) -> None:
    organization = make_organization(name, alert_webhook_url=url)
    limit = make_limit(organization, "spend", 1, period="month")
    for number in range(events):
        LimitEvent.objects.create(
            limit_id=str(limit.pk),
            organization_id=str(organization.pk),
            period_key=f"{number}",
            threshold=80,
            used=1,
            amount=1,
            at=datetime.now(UTC) - timedelta(seconds=60 - number),
        )


def test_a_silent_webhook_delays_nobody_else(receiver: Receiver) -> None:
    async def tell_beside_a_silent_one() -> None:
        watching = Alerts(allow_private=True)
        async with Silent() as silent:
            await asyncio.to_thread(due_for, "silent", silent.url, 600)
            held = await watching.start_telling()
            await silent.asked.wait()
            await asyncio.to_thread(due_for, "heard", receiver.url, 1)
            told = await watching.tell()
            assert (told, len(receiver.heard)) == (1, 1)
            assert [task.done() for task in held] == [False]
            await watching.close()

    run(tell_beside_a_silent_one())


def test_one_organization_is_told_a_few_at_a_time_and_all_in_the_end(receiver: Receiver) -> None:
    due_for("heard", receiver.url, alerts.OF_EACH + 1)
    watching = Alerts(allow_private=True)
    assert [run(watching.tell()) for _ in range(3)] == [alerts.OF_EACH, 1, 0]
