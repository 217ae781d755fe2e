"""Codes of an authenticator app beside the password: set up, asked for, used once, lost, taken away."""

from __future__ import annotations

import base64
import re
import time
from typing import Any

import pytest
from django.core.cache import cache
from django.core.management import CommandError, call_command
from django.test import Client

from keys import invitations
from keys.models import AuditEvent, Invitation, SecondFactor, User
from proxy_site.console import second_factor
from tests.factories import PASSWORD
from tests.proxy_site.admin_world import World
from tests.proxy_site.test_people import is_in, send
from tests.proxy_site.test_tenancy import client_of

pytestmark = pytest.mark.django_db
PAGE = "/admin/second-factor/"


@pytest.fixture
def world(tenants: World, settings: Any) -> World:
    settings.WHITENOISE_AUTOREFRESH = True  # else every client lists every static file first
    cache.clear()
    return tenants


def code_of(person: User, ahead: int = 0) -> str:
    """The code of now, or of so many steps ahead. Codes before the step that was last taken are void."""
    factor = SecondFactor.objects.get(user=person)
    step = int(time.time()) // second_factor.STEP + ahead
    return second_factor.code_at(second_factor.secret_of(factor), step)


def set_up(world: World, role: str) -> list[str]:
    """Turn it on; the recovery codes."""
    client = client_of(world, role)
    assert "data-secret" in client.post(PAGE, {"action": "start", "password": PASSWORD}).content.decode()
    page = client.post(PAGE, {"action": "confirm", "code": code_of(world.people[role])})
    SecondFactor.objects.update(last_step=0)  # as if it had been a while ago
    return list(page.context["codes"])


def sign_in(email: str, code: str = "", password: str = PASSWORD, **more: Any) -> tuple[Client, Any]:
    client = Client()
    return client, client.post("/admin/login/", {"username": email, "password": password, "code": code, **more})


@pytest.mark.parametrize(("at", "code"), [(59, "287082"), (1111111109, "081804"), (2000000000, "279037")])
def test_codes_are_those_of_rfc_6238(at: int, code: str) -> None:
    assert second_factor.code_at(b"12345678901234567890", at // 30) == code


def test_nobody_without_one_is_asked_for_a_code(world: World) -> None:
    assert is_in(sign_in("member@example.org")[0])


def test_who_has_one_signs_in_with_password_and_code_alone(world: World) -> None:
    set_up(world, "member")
    for code in ("", "000000", "not-a-code"):
        client, response = sign_in("member@example.org", code)
        assert response.status_code == 200
        assert not is_in(client)
    wrong, _ = sign_in("member@example.org", code_of(world.people["member"]), password="not-the-one")
    assert not is_in(wrong)
    assert is_in(sign_in("member@example.org", code_of(world.people["member"]))[0])


def test_a_code_works_once_and_an_older_one_no_more(world: World) -> None:
    set_up(world, "member")
    person = world.people["member"]
    earlier, now = code_of(person), code_of(person, 1)
    assert is_in(sign_in("member@example.org", now)[0])
    assert not is_in(sign_in("member@example.org", now)[0])
    assert not is_in(sign_in("member@example.org", earlier)[0])


def test_a_code_of_another_person_does_not_do(world: World) -> None:
    set_up(world, "member")
    set_up(world, "owner")
    assert not is_in(sign_in("member@example.org", code_of(world.people["owner"]))[0])


def test_a_recovery_code_works_once(world: World) -> None:
    codes = set_up(world, "member")
    assert len(set(codes)) == 10
    assert is_in(sign_in("member@example.org", codes[0].lower())[0])
    assert not is_in(sign_in("member@example.org", codes[0])[0])
    assert is_in(sign_in("member@example.org", codes[1])[0])


def test_wrong_codes_count_as_failed_sign_ins(world: World) -> None:
    set_up(world, "member")
    responses = [sign_in("member@example.org", "000000")[1] for _ in range(8)]
    assert responses[-1].status_code == 429
    assert sign_in("member@example.org", code_of(world.people["member"]))[1].status_code == 429


def test_nothing_is_on_before_the_first_right_code(world: World) -> None:
    client = client_of(world, "member")
    client.post(PAGE, {"action": "start", "password": PASSWORD})
    assert "not right" in client.post(PAGE, {"action": "confirm", "code": "000000"}).content.decode()
    assert is_in(sign_in("member@example.org")[0])


def test_setting_it_up_asks_for_the_password(world: World) -> None:
    page = client_of(world, "member").post(PAGE, {"action": "start", "password": "not-the-one"})
    assert "not your password" in page.content.decode()
    assert not SecondFactor.objects.exists()


def test_a_session_alone_neither_replaces_nor_removes_it(world: World) -> None:
    set_up(world, "member")
    client, before = client_of(world, "member"), SecondFactor.objects.get()
    for given in (
        {"action": "start", "password": PASSWORD},
        {"action": "remove", "code": "000000"},
        {"action": "renew", "code": ""},
    ):
        client.post(PAGE, given)
    after = SecondFactor.objects.get()
    assert (after.sealed_secret, after.recovery_codes) == (before.sealed_secret, before.recovery_codes)
    assert after.confirmed_at is not None


def test_it_is_removed_and_its_recovery_codes_renewed_with_a_code(world: World) -> None:
    codes, client = set_up(world, "member"), client_of(world, "member")
    renewed = client.post(PAGE, {"action": "renew", "code": codes[0]}).context["codes"]
    assert not is_in(sign_in("member@example.org", codes[1])[0])
    assert client.post(PAGE, {"action": "remove", "code": renewed[0]}).status_code == 302
    assert is_in(sign_in("member@example.org")[0])
    told = AuditEvent.objects.filter(actor="member@example.org").values_list("action", flat=True)
    assert set(told) == {"user.second_factor_added", "user.recovery_codes_renewed", "user.second_factor_removed"}


def test_secret_and_codes_are_kept_so_that_nobody_can_read_them(world: World) -> None:
    client = client_of(world, "member")
    page = client.post(PAGE, {"action": "start", "password": PASSWORD}).content.decode()
    secret = re.search(r"data-secret>([A-Z2-7 ]+)<", page)
    assert secret
    factor = SecondFactor.objects.get()
    plain = secret.group(1).replace(" ", "")
    assert base64.b32decode(plain) == second_factor.secret_of(factor)
    assert plain not in factor.sealed_secret
    codes = client.post(PAGE, {"action": "confirm", "code": code_of(world.people["member"])}).context["codes"]
    assert codes[0].replace("-", "") not in str(SecondFactor.objects.get().recovery_codes)
    later = client.get(PAGE).content.decode()
    assert plain not in later.replace(" ", "")
    assert codes[0] not in later


def test_an_invitation_asks_for_the_code_as_well(world: World) -> None:
    person = world.people["nobody"]
    send(world, "owner", email=person.email)
    address = f"/admin/join/{invitations.token(Invitation.objects.get(email=person.email))}/"
    second_factor.start(person)
    SecondFactor.objects.update(confirmed_at=person.date_joined)
    assert "Give the code of your authenticator app" in Client().post(address, {"password": PASSWORD}).content.decode()
    assert not person.memberships.exists()
    assert Client().post(address, {"password": PASSWORD, "code": code_of(person)}).status_code == 302


def test_a_platform_admin_takes_it_away_and_nobody_else(world: World) -> None:
    set_up(world, "member")
    address = f"/admin/keys/user/{world.people['member'].pk}/remove_second_factor/"
    assert client_of(world, "owner").post(address).status_code == 403
    assert client_of(world, "platform").get(address).status_code == 200
    assert SecondFactor.objects.exists()
    assert client_of(world, "platform").post(address).status_code == 302
    assert not SecondFactor.objects.exists()
    assert AuditEvent.objects.filter(action="user.second_factor_removed", actor="root@example.org").exists()


def test_a_secret_that_cannot_be_opened_leaves_the_recovery_codes(world: World) -> None:
    codes = set_up(world, "member")
    SecondFactor.objects.update(sealed_secret="v1|gone|AAAA|AAAA")
    assert sign_in("member@example.org", "123456")[1].status_code == 200
    assert is_in(sign_in("member@example.org", codes[0])[0])


def test_the_command_takes_it_away_and_tells_of_nobody_to_take_it_from(world: World) -> None:
    set_up(world, "platform")
    call_command("removesecondfactor", "ROOT@example.org")
    assert is_in(sign_in("root@example.org")[0])
    assert AuditEvent.objects.filter(action="user.second_factor_removed", source="command").exists()
    with pytest.raises(CommandError, match="no second factor"):
        call_command("removesecondfactor", "root@example.org")
