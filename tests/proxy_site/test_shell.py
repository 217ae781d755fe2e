"""What surrounds every page: titles in the sidebar's words, empty lists that say what to do, pages of errors."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.test import Client, RequestFactory
from django.urls import reverse

from proxy_site import urls
from tests.factories import make_platform_admin
from tests.proxy_site.admin_world import make_world

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def quick(settings: Any) -> None:
    settings.WHITENOISE_AUTOREFRESH = True  # else every client lists every static file first


def signed_in(user: Any, **options: Any) -> Client:
    client = Client(**options)
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    return client


def title(content: str) -> str:
    found = re.search(r"<h1[^>]*>(.*?)</h1>", content, re.DOTALL)
    assert found
    words = re.sub(r"<span class=\"material.*?</span>", "/", found.group(1), flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", "", words).split())


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("keys_membership_changelist", "Members"),
        ("keys_user_changelist", "People"),
        ("usage_requestrecord_changelist", "Requests"),
        ("routing_publicmodel_changelist", "Models"),
        ("usage_priceoverride_add", "Prices/New"),
    ],
)
def test_a_page_is_called_what_the_sidebar_calls_it(name: str, said: str) -> None:
    client = signed_in(make_platform_admin())
    assert title(client.get(reverse(f"admin:{name}")).content.decode()).replace(" / ", "/") == said


def test_a_row_s_name_stands_in_the_title_as_it_is_written() -> None:
    world = make_world()
    deployment = world.acme.rows["routing.deployment"]
    page = signed_in(world.people["platform"]).get(reverse("admin:routing_deployment_change", args=[deployment.pk]))
    assert title(page.content.decode()).endswith(str(deployment))
    key = world.acme.rows["keys.virtualkey"]
    page = signed_in(world.people["platform"]).get(reverse("admin:keys_virtualkey_rotate", args=[key.pk]))
    assert title(page.content.decode()).endswith("acme-key")


def test_an_empty_list_says_what_it_is_for_and_offers_the_first_row() -> None:
    client = signed_in(make_platform_admin())
    page = client.get(reverse("admin:routing_connection_changelist")).content.decode()
    assert "your account at a provider" in page
    assert "New connection" in page
    searched = client.get(reverse("admin:routing_connection_changelist") + "?q=none-such").content.decode()
    assert "Nothing here fits the search" in searched
    assert "your account at a provider" not in searched


def test_what_is_not_there_is_told_on_a_page_of_ours() -> None:
    answer = signed_in(make_platform_admin()).get("/admin/keys/virtualkey/1/change/")
    assert answer.status_code == 404
    assert b"There is nothing here for you" in answer.content


def test_what_a_role_may_not_do_is_told_with_its_reason() -> None:
    world = make_world()
    key = world.acme.rows["keys.virtualkey"]
    answer = signed_in(world.people["viewer"]).get(reverse("admin:keys_virtualkey_rotate", args=[key.pk]))
    assert answer.status_code == 403
    assert b"Your role does not allow this" in answer.content


def test_a_form_without_its_token_is_told_to_be_too_old() -> None:
    client = signed_in(make_platform_admin(), enforce_csrf_checks=True)
    answer = client.post(reverse("admin:audit_verify"))
    assert answer.status_code == 403
    assert b"This form is too old" in answer.content


def test_our_own_fault_is_told_without_its_reason() -> None:
    answer = urls.handler500(RequestFactory().get("/admin/"))
    assert answer.status_code == 500
    assert b"our fault, not yours" in answer.content
    api = urls.handler500(RequestFactory().get("/v1beta/models"))
    assert b'"INTERNAL"' in api.content.replace(b" ", b"")
