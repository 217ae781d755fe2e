"""Passkeys: added with a proof, signing in with them, removed; and every answer that is not quite right."""

from __future__ import annotations

import time
from typing import Any

import pytest
import time_machine
from django.core.cache import cache
from django.core.management import call_command
from django.test import Client

from keys.models import AuditEvent, Identity, Passkey, SecondFactor, User
from proxy_site.console import passkeys
from tests.factories import PASSWORD, make_organization, make_person, make_platform_admin
from tests.proxy_site.authenticator import PRESENT, VERIFIED, Device
from tests.proxy_site.test_people import is_in
from tests.proxy_site.test_second_factor import PAGE, code_of
from tests.proxy_site.test_second_factor import sign_in as by_password

pytestmark = pytest.mark.django_db
OWN, CHALLENGE, SIGN_IN = "/admin/second-factor/passkeys/", "/admin/passkey/", "/admin/passkey/sign-in/"
ADA = "ada@example.org"


@pytest.fixture
def ada(db: None, settings: Any) -> User:
    settings.WHITENOISE_AUTOREFRESH = True  # else every client lists every static file first
    settings.PUBLIC_URL = "https://gate.example.org"
    cache.clear()
    return make_person("ada", make_organization("acme"))


def client_of(person: User) -> Client:
    client = Client()
    client.force_login(person, backend="django.contrib.auth.backends.ModelBackend")
    return client


def asked(client: Client) -> Any:
    return client.post(CHALLENGE).json()["options"]


def begin(client: Client, **proof: str) -> Any:
    return client.post(OWN, {"action": "begin", **(proof or {"password": PASSWORD})}).json()


def add(person: User, device: Device | None = None, client: Client | None = None, **proof: str) -> Device:
    device, client = device or Device(), client or client_of(person)
    made = device.make(begin(client, **proof)["options"])
    client.post(OWN, {"action": "add", "name": "Notebook", "credential": made})
    return device


def sign_in(device: Device, following: str = "", **changed: Any) -> tuple[Client, Any]:
    client = Client()
    given = {"assertion": device.sign(asked(client), **changed), "next": following}
    return client, client.post(SIGN_IN, given)


def told(client: Client) -> str:
    return str(client.get("/admin/login/").content.decode())


# Adding and signing in


def test_a_passkey_is_added_with_the_password_and_signs_in_without_it(ada: User) -> None:
    device = add(ada)
    row = Passkey.objects.get()
    assert (row.user, row.name, row.last_used_at) == (ada, "Notebook", None)
    client, response = sign_in(device, "/admin/my-keys/")
    assert (response.status_code, response["Location"]) == (302, "/admin/my-keys/")
    assert is_in(client)
    row.refresh_from_db()
    assert row.last_used_at is not None
    page = client_of(ada).get(PAGE).content.decode()
    assert "Notebook" in page
    assert AuditEvent.objects.get(action="user.passkey_added").changes == {"name": [None, "Notebook"]}


def test_what_browsers_are_asked_needs_a_verified_person_and_a_key_that_is_found_without_a_name(ada: User) -> None:
    options = begin(client_of(ada))["options"]
    assert options["rp"] == {"id": "gate.example.org", "name": "Gatehouse"}
    assert options["authenticatorSelection"]["userVerification"] == "required"
    assert options["authenticatorSelection"]["residentKey"] == "required"
    first, second = asked(Client()), asked(Client())
    assert (first["rpId"], first["userVerification"]) == ("gate.example.org", "required")
    assert first["challenge"] != second["challenge"]
    assert not first.get("allowCredentials")  # a stranger learns of nobody's


@pytest.mark.parametrize("proof", [{"password": "not-the-one"}, {"password": ""}, {"code": "123456"}])
def test_a_session_alone_adds_none(ada: User, proof: dict[str, str]) -> None:
    client = client_of(ada)
    assert begin(client, **proof) == {"trouble": "This is not your password."}
    client.post(OWN, {"action": "add", "name": "x", "credential": "{}"})
    assert not Passkey.objects.exists()


def test_from_the_first_one_on_the_password_alone_does_not_sign_in(ada: User) -> None:
    assert is_in(by_password(ADA)[0])
    add(ada)
    client, response = by_password(ADA)
    assert "use your passkey" in response.content.decode()
    assert not is_in(client)


def test_a_device_that_does_not_count_signs_in_again_and_again(ada: User) -> None:
    device = add(ada, Device(count=None))
    assert is_in(sign_in(device)[0])
    assert is_in(sign_in(device)[0])


def test_who_signs_in_is_sent_nowhere_else(ada: User) -> None:
    assert sign_in(add(ada), "//evil.example.org/")[1]["Location"] == "/admin/"


def test_a_session_from_before_is_not_the_one_after(ada: User) -> None:
    device, client = add(ada), Client()
    assertion = device.sign(asked(client))
    before = client.session.session_key
    client.post(SIGN_IN, {"assertion": assertion})
    assert is_in(client)
    assert client.session.session_key not in (before, None)


# With the app beside it


def test_with_the_app_on_a_code_adds_one_and_the_password_does_not(ada: User) -> None:
    turn_app_on(ada)
    client = client_of(ada)
    assert "not right" in begin(client, password=PASSWORD)["trouble"]
    device = add(ada, client=client, code=code_of(ada))
    assert is_in(sign_in(device)[0])
    assert is_in(by_password(ADA, code_of(ada, 1))[0])
    assert not is_in(by_password(ADA)[0])


def test_with_a_passkey_alone_the_app_is_set_up_with_it_and_not_with_the_password(ada: User) -> None:
    device, client = add(ada), client_of(ada)
    client.post(PAGE, {"action": "start", "password": PASSWORD})
    assert not SecondFactor.objects.exists()
    client.post(PAGE, {"action": "start", "assertion": device.sign(asked(client))})
    assert SecondFactor.objects.filter(user=ada).exists()


def turn_app_on(person: User) -> None:
    client = client_of(person)
    client.post(PAGE, {"action": "start", "password": PASSWORD})
    client.post(PAGE, {"action": "confirm", "code": code_of(person)})
    SecondFactor.objects.update(last_step=0)  # as if it had been a while ago


def test_a_second_one_is_added_with_the_first_and_not_with_the_password(ada: User) -> None:
    first, client = add(ada), client_of(ada)
    assert "options" not in begin(client, password=PASSWORD)
    second = add(ada, client=client, assertion=first.sign(asked(client)))
    assert is_in(sign_in(first)[0])
    assert is_in(sign_in(second)[0])


def test_a_passkey_of_somebody_else_proves_nothing(ada: User) -> None:
    add(ada)
    other, client = add(make_person("eve", ada.memberships.get().organization)), client_of(ada)
    assert "somebody else" in begin(client, assertion=other.sign(asked(client)))["trouble"]


# Removing


def test_it_is_removed_with_itself_and_not_with_the_password(ada: User) -> None:
    device, client = add(ada), client_of(ada)
    remove = {"remove": str(Passkey.objects.get().pk)}
    assert "Remove Notebook" in client.get(PAGE, remove).content.decode()
    client.post(OWN, {**remove, "password": PASSWORD})
    assert Passkey.objects.exists()
    client.post(OWN, {**remove, "assertion": device.sign(asked(client))})
    assert not Passkey.objects.exists()
    assert AuditEvent.objects.filter(action="user.passkey_removed").exists()
    refused, _ = sign_in(device)
    assert "not known here" in told(refused)
    assert is_in(by_password(ADA)[0])


def test_nobody_removes_one_of_somebody_else(ada: User) -> None:
    add(ada)
    eve = client_of(make_person("eve", ada.memberships.get().organization, "owner"))
    remove = {"remove": str(Passkey.objects.get().pk)}
    assert "Notebook" not in eve.get(PAGE, remove).content.decode()
    assert eve.post(OWN, {**remove, "password": PASSWORD}).status_code == 404
    assert Passkey.objects.exists()


def test_who_lost_every_device_is_let_in_by_a_platform_admin_or_the_command(ada: User) -> None:
    root = client_of(make_platform_admin())
    address = f"/admin/keys/user/{ada.pk}/remove_second_factor/"
    for take_away in (lambda: root.post(address), lambda: call_command("removesecondfactor", ADA)):
        add(ada)
        assert not is_in(by_password(ADA)[0])
        take_away()
        assert not Passkey.objects.exists()
        assert is_in(by_password(ADA)[0])


# Answers that are not right


WRONG: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # the device, and parts of its response
    "another site": ({"origin": "https://gate.example.org.evil.example"}, {}),
    "plain http": ({"origin": "http://gate.example.org"}, {}),
    "a site below": ({"origin": "https://x.gate.example.org"}, {}),
    "another site's key": ({"rp_id": "evil.example"}, {}),
    "nobody verified": ({"flags": PRESENT}, {}),
    "nobody present": ({"flags": VERIFIED}, {}),
    "made for a new key": ({}, {"type": "webauthn.create"}),
    "another signature": ({}, {"signature": b"\x30\x06\x02\x01\x01\x02\x01\x01"}),
    "another person": ({}, {"userHandle": b"x" * 16}),
}


@pytest.mark.parametrize(("device", "response"), WRONG.values(), ids=WRONG)
def test_a_signature_that_is_not_right_in_every_part_signs_nobody_in(
    ada: User, device: dict[str, Any], response: dict[str, Any]
) -> None:
    made = add(ada)
    client, answer = sign_in(Device(**{**vars(made), **device}), **response)
    assert answer["Location"].startswith("/admin/login/")
    assert 'role="alert"' in told(client) or "verified" in told(client)
    assert not is_in(client)
    assert is_in(sign_in(made)[0])


@pytest.mark.parametrize(
    "text",
    ["", "{}", "null", "[]", '"x"', "{", '{"id":"a","rawId":"a","response":null}', "[" * 5000, "x" * 20_000,
     '{"id":"AA","rawId":"AA","type":"public-key","response":{"clientDataJSON":"AA","authenticatorData":"AA","signature":"AA"}}'],
)  # fmt: skip
def test_what_is_no_answer_is_refused_and_breaks_nothing(ada: User, text: str) -> None:
    client = Client()
    asked(client)
    assert client.post(SIGN_IN, {"assertion": text}).status_code == 302
    assert not is_in(client)
    inside = client_of(ada)
    begin(inside)
    assert inside.post(OWN, {"action": "add", "credential": text}).status_code == 302
    assert not Passkey.objects.exists()


def test_an_answer_works_once(ada: User) -> None:
    device, client = add(ada), Client()
    given = {"assertion": device.sign(asked(client))}
    client.post(SIGN_IN, given)
    client.post("/admin/logout/")
    client.post(SIGN_IN, given)
    assert not is_in(client)


def test_an_answer_to_another_browsers_question_is_refused(ada: User) -> None:
    assertion, client = add(ada).sign(asked(Client())), Client()
    asked(client)
    client.post(SIGN_IN, {"assertion": assertion})
    assert not is_in(client)


def test_an_answer_that_took_too_long_is_refused(ada: User) -> None:
    device, client = add(ada), Client()
    assertion = device.sign(asked(client))
    with time_machine.travel(time.time() + passkeys.PATIENCE + 1, tick=True):
        client.post(SIGN_IN, {"assertion": assertion})
        assert not is_in(client)
        assert is_in(sign_in(device)[0])


def test_a_count_that_goes_back_is_refused_and_told(ada: User) -> None:
    device = add(ada)
    copy = Device(**vars(device))
    assert is_in(sign_in(device)[0])
    client, _ = sign_in(copy)
    assert not is_in(client)
    assert "may have been copied" in told(client)
    assert AuditEvent.objects.get(action="user.passkey_refused").target_name == ADA
    uncounted, _ = sign_in(Device(**{**vars(device), "count": None}))
    assert not is_in(uncounted)


@pytest.mark.parametrize("wrong", [{"origin": "https://evil.example"}, {"rp_id": "evil.example"}, {"flags": PRESENT}])
def test_a_new_passkey_that_is_not_right_is_not_kept(ada: User, wrong: dict[str, Any]) -> None:
    add(ada, Device(**wrong))
    assert not Passkey.objects.exists()


def test_a_passkey_begun_by_one_person_is_not_added_to_another(ada: User) -> None:
    client, device = client_of(ada), Device()
    made = device.make(begin(client)["options"])
    state = client.session[passkeys.TO_ADD]
    eve = client_of(make_person("eve", ada.memberships.get().organization))
    session = eve.session
    session[passkeys.TO_ADD] = state
    session.save()
    eve.post(OWN, {"action": "add", "credential": made})
    assert not Passkey.objects.exists()


def test_one_device_is_added_once_and_nobody_has_too_many(ada: User, monkeypatch: pytest.MonkeyPatch) -> None:
    device = add(ada)
    add(make_person("eve", ada.memberships.get().organization), Device(credential_id=device.credential_id))
    assert Passkey.objects.count() == 1
    monkeypatch.setattr(passkeys, "MOST", 1)
    client = client_of(ada)
    add(ada, client=client, assertion=device.sign(asked(client)))
    assert Passkey.objects.count() == 1


# Who may not


def test_a_blocked_person_does_not_come_in(ada: User) -> None:
    device = add(ada)
    User.objects.update(is_active=False)
    client, _ = sign_in(device)
    assert not is_in(client)
    assert "blocked" in told(client)


def test_a_role_of_a_group_is_not_kept_by_a_passkey(ada: User, settings: Any) -> None:
    device = add(ada)
    Identity.objects.create(user=ada, issuer="https://id.example.org", subject="u-1")
    ada.memberships.update(by_group=True)
    settings.GATEHOUSE = settings.GATEHOUSE.model_copy(update={"oidc_issuer": "https://id.example.org"})
    client, _ = sign_in(device)
    assert not is_in(client)
    assert "Your role comes from your groups" in told(client)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8000", "https://[::1]", "http://gate.example.org", "https://10.0.0.1"]
)
def test_where_browsers_would_not_there_is_none(ada: User, settings: Any, url: str) -> None:
    assert "Sign in with a passkey" in told(Client())
    settings.PUBLIC_URL = url
    assert "Sign in with a passkey" not in told(Client())
    assert "set GATEHOUSE_PUBLIC_URL" in " ".join(client_of(ada).get(PAGE).content.decode().split()).replace(
        "sets", "set"
    )
    assert [Client().post(CHALLENGE).status_code, client_of(ada).post(OWN).status_code] == [404, 404]


def test_every_form_needs_its_token(ada: User) -> None:
    client = Client(enforce_csrf_checks=True)
    assert [client.post(path).status_code for path in (CHALLENGE, SIGN_IN)] == [403, 403]
    client.force_login(ada, backend="django.contrib.auth.backends.ModelBackend")
    assert client.post(OWN, {"action": "begin", "password": PASSWORD}).status_code == 403


def test_who_knocks_too_often_is_told_to_wait(ada: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy_site.console.passkey_pages.FROM_ONE", 2)
    assert [Client().post(CHALLENGE).status_code for _ in range(3)] == [200, 200, 429]
