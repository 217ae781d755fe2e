"""The demo's history: made up once, by the keys and for the models there are, and only what a key may use."""

from __future__ import annotations

import pytest

from keys.models import VirtualKey
from proxy_site.demo import history
from tests.factories import make_connection, make_key, make_model, make_organization
from usage.models import RequestRecord, UsageBucket

pytestmark = pytest.mark.django_db


def test_a_history_is_written_once_and_keeps_to_what_keys_may_do() -> None:
    organization = make_organization("acme")
    connection = make_connection("openai", name="demo-openai")
    for name in ("gemini-2.5-flash", "gemini-2.5-pro"):
        make_model(name, [connection], upstream_model="gpt-4o")
    make_key(organization, "demo")
    make_key(organization, "support-bot", allowed_models=["gemini-2.5-flash"])
    assert history.write(calls=60) == 60
    assert history.write(calls=60) == 0
    found = set(RequestRecord.objects.values_list("key", "model"))
    assert ("demo", "gemini-2.5-pro") in found
    assert {model for key, model in found if key == "support-bot"} == {"gemini-2.5-flash"}
    assert UsageBucket.objects.exists()
    assert not VirtualKey.objects.filter(last_used_at=None).exists()
