"""The middleware attaches who calls and never answers: under the lean door, and under Django's stock handlers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from asgiref.sync import iscoroutinefunction
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.test import AsyncClient, AsyncRequestFactory, Client, override_settings
from django.urls import path

from keys import issue, secrets
from keys.context import Caller
from keys.middleware import VirtualKeyMiddleware
from keys.models import Organization

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.urls("tests.keys.test_middleware"),
]


async def whoami(request: HttpRequest) -> HttpResponse:
    caller: Caller = request.caller  # type: ignore[attr-defined]  # the middleware's
    key = caller.context.key_name if caller.context else None
    return JsonResponse({"key": key, "problem": caller.problem, "source": caller.source, "address": caller.address})


urlpatterns = [path("whoami", whoami)]
STOCK = override_settings(MIDDLEWARE=["keys.middleware.VirtualKeyMiddleware"])


@pytest.fixture(autouse=True)
def stock_handler() -> object:
    with STOCK:
        yield


@pytest.fixture
def secret(organization: Organization) -> str:
    return issue.issue(organization=organization, name="ci")[1]


PLACES: list[Callable[[str], tuple[str, dict[str, str], str]]] = [
    lambda secret: ("/whoami", {"x-goog-api-key": secret}, "header"),
    lambda secret: (f"/whoami?alt=sse&key={secret}", {}, "query"),
    lambda secret: ("/whoami", {"Authorization": f"Bearer {secret}"}, "bearer"),
]


@pytest.mark.parametrize("place", PLACES)
def test_a_caller_is_known_under_the_synchronous_handler(
    place: Callable[[str], tuple[str, dict[str, str], str]], secret: str
) -> None:
    address, headers, source = place(secret)
    told = Client(headers=headers).get(address).json()
    assert told == {"key": "ci", "problem": "", "source": source, "address": "127.0.0.1"}


@pytest.mark.parametrize("place", PLACES)
async def test_a_caller_is_known_under_the_asynchronous_handler(
    place: Callable[[str], tuple[str, dict[str, str], str]], secret: str
) -> None:
    address, headers, source = place(secret)
    told = (await AsyncClient().get(address, headers=headers)).json()
    assert told == {"key": "ci", "problem": "", "source": source, "address": "127.0.0.1"}


@pytest.mark.parametrize(
    ("headers", "problem", "source"),
    [
        ({}, "missing", "none"),
        ({"x-goog-api-key": "hunter2"}, "malformed", "header"),
        ({"Authorization": f"Bearer {secrets.make()}"}, "unknown", "bearer"),
    ],
)
def test_whoever_is_not_known_still_reaches_the_view(headers: dict[str, str], problem: str, source: str) -> None:
    answer = Client(headers=headers).get("/whoami")
    assert answer.status_code == 200
    assert (answer.json()["problem"], answer.json()["source"]) == (problem, source)


async def test_a_caller_the_door_has_found_is_not_looked_up_again() -> None:
    found = Caller(None, "revoked", "header", "192.0.2.1")

    async def view(request: HttpRequest) -> HttpResponse:
        assert request.caller is found  # type: ignore[attr-defined]  # the middleware's
        return HttpResponse("seen")

    request = AsyncRequestFactory().get("/whoami")
    request.scope["gatehouse.caller"] = found
    middleware = VirtualKeyMiddleware(view)
    assert iscoroutinefunction(middleware)
    assert (await middleware(request)).content == b"seen"  # type: ignore[attr-defined]  # an HttpResponse
