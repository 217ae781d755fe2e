"""What `manage.py apply` cannot do it says in a sentence, and changes nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest

from keys.audit import SYSTEM
from keys.models import Organization
from proxy_site.configuration import ConfigurationError, apply

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
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_applied_is_told_why_and_leaves_nothing(wanted: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        apply(json.dumps(wanted), actor=SYSTEM)
    assert said in str(refused.value)
    assert not Organization.objects.exists()
