"""What `manage.py apply` cannot do it says in a sentence, and changes nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest

from keys.audit import SYSTEM
from keys.models import Organization
from proxy_site.configuration import ConfigurationError, apply
from routing.models import Connection

pytestmark = pytest.mark.django_db

ACME = {"slug": "acme", "name": "Acme"}


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"organisations": []}, "organisations"),
        ({"organizations": [{**ACME, "colour": "red"}]}, "colour"),
        ({"organizations": [ACME], "keys": [{"organization": "acme", "name": "ci", "expires_at": "2020-01-01T00:00:00Z"}]},
         "The expiry is in the past."),
        ({"organizations": [ACME], "keys": [{"organization": "acme", "name": "ci", "secret": "too-short"}]}, "secret"),
        ({"organizations": [ACME], "keys": [{"organization": "acme", "name": "ci", "networks": ["nowhere"]}]}, "nowhere"),
        ({"organizations": [ACME], "keys": [{"organization": "acme", "name": "ci", "scopes": ["dance"]}]}, "dance"),
        ({"organizations": [ACME], "models": [{"name": "a", "aliases": ["fast"]}, {"name": "fast"}]}, "'fast'"),
        ({"organizations": [ACME], "models": [{"name": "a", "aliases": ["fast"]}, {"name": "b", "aliases": ["fast"]}]}, "'fast'"),
        ([1], "must map"),
        ({"connections": [{"name": "a", "kind": "openai", "credential": {"api_key": "ref:DATABASE_URL"}}]}, "connection a: A reference"),
        ({"connections": [{"name": "a", "kind": "bedrock", "credential": {"chain": True}}]}, "The option region is missing"),
        ({"connections": [{"name": "a", "kind": "bedrock", "credential": {"aws_access_key_id": "x"}, "options": {"region": "r"}}]},
         "aws_secret_access_key"),
        ({"connections": [{"name": "a", "kind": "vertex", "credential": {"service_account": '{"type": "external_account"}'},
                           "options": {"project": "p"}}]}, "service_account must be"),
        ({"connections": [{"name": "a", "kind": "azure_openai", "base_url": "https://r.openai.azure.com",
                           "credential": {"api_key": "k"}, "options": {"api_version": "latest"}}]}, "api_version must be"),
        ({"connections": [{"name": "a", "kind": "openai", "base_url": "https://api.example.com/v1"}],
          "models": [{"name": "m", "deployments": [{"connection": "a", "upstream_model": "g", "weight": -1}]}]},
         "deployment m → g at a: weight:"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_applied_is_told_why_and_leaves_nothing(wanted: Any, said: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        apply(json.dumps(wanted), actor=SYSTEM)
    assert said in str(refused.value)
    assert not Organization.objects.exists() and not Connection.objects.exists()


def test_a_reference_is_the_same_the_second_time_whether_its_variable_is_here_or_not() -> None:
    wanted = {
        "connections": [{"name": "a", "kind": "openai", "credential": {"api_key": "ref:GATEHOUSE_CREDENTIAL_NOT_HERE"}}]
    }
    assert apply(json.dumps(wanted), actor=SYSTEM).changes
    assert not apply(json.dumps(wanted), actor=SYSTEM).changes


def test_a_deployments_own_options_may_be_what_its_connection_lacks() -> None:
    bedrock = {"name": "a", "kind": "bedrock", "credential": {"chain": True}}
    deployment = {"connection": "a", "upstream_model": "amazon.nova-pro-v1:0", "options": {"region": "us-east-1"}}
    apply(json.dumps({"connections": [bedrock], "models": [{"name": "m", "deployments": [deployment]}]}), actor=SYSTEM)
    assert Connection.objects.exists()
