"""Inviting, joining, new passwords, locked doors, ended sessions: for those who may, and for strangers."""

from __future__ import annotations

import functools
import re
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.tokens import default_token_generator
from django.core import mail as outbox
from django.core import signing
from django.core.cache import cache
from django.test import Client
from django.utils import timezone
from django.utils.encoding import force_bytes
from django.utils.http import urlsafe_base64_encode

from keys import invitations, mail
from keys.models import AuditEvent, Invitation, Membership, User
from tests.factories import PASSWORD
from tests.proxy_site.admin_world import World
from tests.proxy_site.test_tenancy import client_of

pytestmark = pytest.mark.django_db
NEW = {"first_name": "New", "last_name": "", "password": "long-enough-words", "again": "long-enough-words"}


@pytest.fixture
def world(tenants: World, settings: Any) -> World:
    settings.WHITENOISE_AUTOREFRESH = True  # else every client lists every static file first
    cache.clear()
    return tenants


def send(world: World, role: str, granted: str = "member", email: str = "new@example.org", **fields: Any) -> Any:
    given = {"email": email, "organization": str(world.acme.organization.pk), "team": "", "role": granted, **fields}
    return client_of(world, role).post("/admin/keys/invitation/add/", given)


def door(invitation: Invitation) -> str:
    return f"/admin/join/{invitations.token(invitation)}/"


def invited(world: World, email: str = "new@example.org", granted: str = "member") -> Invitation:
    send(world, "owner", granted, email)
    return Invitation.objects.get(email=email)


# Sending


def test_an_invitation_is_shown_to_copy_mailed_and_in_the_trail(world: World) -> None:
    response = send(world, "owner")
    invitation = Invitation.objects.get(email="new@example.org")
    page = client_of(world, "owner").get(response["Location"])
    assert f"http://testserver{door(invitation)}" in page.content.decode()
    assert "no-store" in page["Cache-Control"]
    (letter,) = outbox.outbox
    assert letter.to == ["new@example.org"]
    assert door(invitation) in letter.body
    event = AuditEvent.objects.get(action="invitation.created")
    assert event.actor == "owner@example.org"
    assert event.organization_id == str(world.acme.organization.pk)
    assert invitations.token(invitation) not in str(event.changes)


def test_without_mail_there_is_the_link_alone(world: World, settings: Any) -> None:
    settings.EMAIL_BACKEND, settings.EMAIL_HOST = "django.core.mail.backends.smtp.EmailBackend", ""
    response = send(world, "owner")
    assert "/admin/join/" in client_of(world, "owner").get(response["Location"]).content.decode()


@pytest.mark.parametrize(
    ("role", "granted", "allowed"),
    [
        ("platform", "owner", True),
        ("owner", "owner", True),
        ("admin", "admin", True),
        ("admin", "owner", False),
        ("team_admin", "viewer", False),  # over the whole organization, of which they have one team
        ("member", "viewer", False),
        ("viewer", "viewer", False),
    ],
)
def test_nobody_invites_above_their_own_level(world: World, role: str, granted: str, allowed: bool) -> None:
    send(world, role, granted)
    assert Invitation.objects.filter(email="new@example.org").exists() is allowed


def test_a_team_admin_invites_into_the_team(world: World) -> None:
    send(world, "team_admin", team=str(world.acme.team.pk))
    assert Invitation.objects.get(email="new@example.org").team == world.acme.team


def test_nobody_invites_into_a_foreign_organization_or_team(world: World) -> None:
    send(world, "owner", organization=str(world.globex.organization.pk))
    send(world, "owner", team=str(world.globex.team.pk))
    assert not Invitation.objects.filter(email="new@example.org").exists()


def test_an_admin_does_not_hold_the_link_that_makes_an_owner(world: World) -> None:
    invitation = invited(world, granted="owner")
    for page in ("link", "revoke"):
        assert client_of(world, "admin").get(f"/admin/keys/invitation/{invitation.pk}/{page}/").status_code == 403
        assert client_of(world, "owner").get(f"/admin/keys/invitation/{invitation.pk}/{page}/").status_code == 200


def test_the_same_person_is_not_invited_twice_nor_a_member_at_all(world: World) -> None:
    invited(world)
    assert send(world, "owner").status_code == 200
    assert send(world, "owner", email="MEMBER@example.org").status_code == 200
    assert Invitation.objects.filter(organization=world.acme.organization).count() == 2  # with the world's own


def test_invitations_of_one_person_are_throttled(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(invitations, "AN_HOUR", 1)
    assert send(world, "owner").status_code == 302
    assert send(world, "owner", email="another@example.org").status_code == 200
    assert send(world, "admin", email="another@example.org").status_code == 302


# Joining


def test_somebody_new_sets_name_and_password_and_is_in(world: World) -> None:
    invitation, client = invited(world, granted="admin"), Client()
    assert "Join" in client.get(door(invitation)).content.decode()
    response = client.post(door(invitation), NEW)
    assert response["Location"] == "/admin/"
    person = User.objects.get(email="new@example.org")
    assert person.check_password(NEW["password"])
    assert (person.first_name, person.is_staff, person.is_superuser) == ("New", True, False)
    assert person.memberships.get().role == "admin"
    assert client.get("/admin/").status_code == 200
    assert set(AuditEvent.objects.filter(actor="new@example.org").values_list("action", flat=True)) == {
        "invitation.accepted",
        "membership.created",
    }


def test_a_link_works_once(world: World) -> None:
    invitation = invited(world)
    Client().post(door(invitation), NEW)
    again = Client().post(door(invitation), {**NEW, "password": "another-long-one", "again": "another-long-one"})
    assert again.status_code == 404
    assert User.objects.get(email="new@example.org").check_password(NEW["password"])


@pytest.mark.parametrize("spoilt", ["expired", "revoked", "inviter left", "inviter demoted", "inviter gone", "forged"])
def test_a_link_that_is_no_longer_good_lets_nobody_in(world: World, spoilt: str) -> None:
    invitation, owner = invited(world), world.people["owner"]
    address = door(invitation)
    match spoilt:
        case "expired":
            Invitation.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
        case "revoked":
            client_of(world, "admin").post(f"/admin/keys/invitation/{invitation.pk}/revoke/")
        case "inviter left":
            owner.memberships.get().delete()
        case "inviter demoted":
            owner.memberships.update(role="member")
        case "inviter gone":
            owner.delete()
        case "forged":
            address = f"/admin/join/{signing.Signer(key='guessed', salt=invitations.SALT).sign(invitation.pk.hex)}/"
    assert Client().get(address).status_code == 404
    assert Client().post(address, NEW).status_code == 404
    assert not User.objects.filter(email="new@example.org").exists()


@pytest.mark.parametrize(
    ("field", "given"), [("password", "short"), ("password", "password123"), ("again", "another"), ("first_name", "")]
)
def test_a_bad_password_or_no_name_is_refused_at_its_field(world: World, field: str, given: str) -> None:
    response = Client().post(door(invited(world)), {**NEW, field: given})
    assert response.status_code == 200
    assert response.context["form"].errors
    assert not User.objects.filter(email="new@example.org").exists()


def test_somebody_with_an_account_joins_by_its_password_alone(world: World) -> None:
    nobody = world.people["nobody"]
    invitation, client = invited(world, nobody.email), Client()
    assert client.post(door(invitation), {"password": "not-the-one-it-is"}).status_code == 200
    assert client.post(door(invitation), NEW).status_code == 200  # a link sets no password of an account
    assert not nobody.memberships.exists()
    nobody.set_password(PASSWORD)
    nobody.save()
    assert client.post(door(invitation), {"password": PASSWORD}).status_code == 302
    assert nobody.memberships.get().organization == world.acme.organization
    assert client.get("/admin/").status_code == 200


def test_somebody_signed_in_just_joins(world: World) -> None:
    invitation = invited(world, world.people["nobody"].email)
    assert client_of(world, "nobody").post(door(invitation)).status_code == 302
    assert world.people["nobody"].memberships.get().role == "member"


def test_somebody_signed_in_as_another_does_not_join(world: World) -> None:
    invitation = invited(world)
    response = client_of(world, "viewer").post(door(invitation), NEW)
    assert "you are signed in as" in response.content.decode()
    assert not Membership.objects.filter(user__email="new@example.org").exists()


# A new password by mail


def ask_reset(email: str, **headers: Any) -> Any:
    return Client().post("/admin/password-reset/", {"email": email}, headers=headers)


@pytest.fixture
def postman(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mail goes at once: the test's transaction is not seen from another thread."""
    monkeypatch.setattr(mail, "later", lambda work: work())


def test_mail_is_sent_apart_from_the_request_in_order() -> None:
    done: list[int] = []
    waiting = [mail.later(functools.partial(done.append, each)) for each in range(3)]
    assert [each.result() for each in waiting] == [None, None, None]
    assert done == [0, 1, 2]


def test_a_new_password_comes_by_mail_and_the_link_is_ours(world: World, postman: None, settings: Any) -> None:
    settings.PUBLIC_URL = "https://gate.example.org"
    ask_reset("member@example.org", host="evil.example.org")
    (letter,) = outbox.outbox
    link = re.search(r"https://gate\.example\.org(/admin/password-reset/\S+)", letter.body)
    assert link, letter.body
    assert "evil" not in letter.body
    client = Client()
    form = client.get(link.group(1))["Location"]
    assert "Set the password" in client.get(form).content.decode()
    given = {"new_password1": "quite-another-one", "new_password2": "quite-another-one"}
    assert client.post(form, given).status_code == 302
    assert User.objects.get(email="member@example.org").check_password("quite-another-one")
    assert AuditEvent.objects.filter(action="user.password_changed", actor="member@example.org").exists()
    assert "not good any more" in Client().get(link.group(1), follow=True).content.decode()


def test_the_answer_does_not_tell_who_has_an_account(world: World, postman: None) -> None:
    known, unknown = ask_reset("member@example.org"), ask_reset("stranger@example.org")
    assert (known.status_code, known["Location"]) == (unknown.status_code, unknown["Location"])
    assert [letter.to for letter in outbox.outbox] == [["member@example.org"]]


def test_who_is_blocked_gets_no_mail_and_nobody_gets_many(world: World, postman: None) -> None:
    User.objects.filter(email="viewer@example.org").update(is_active=False)
    ask_reset("viewer@example.org")
    assert outbox.outbox == []
    for _ in range(5):
        ask_reset("member@example.org")
    assert len(outbox.outbox) == 3


def test_without_mail_the_page_says_whom_to_ask(world: World, settings: Any) -> None:
    settings.EMAIL_BACKEND, settings.EMAIL_HOST = "django.core.mail.backends.smtp.EmailBackend", ""
    assert "Ask a platform admin" in Client().get("/admin/password-reset/").content.decode()


# Sessions


def sign_in(email: str, password: str = PASSWORD) -> Client:
    client = Client()
    client.get("/admin/login/")
    client.post("/admin/login/", {"username": email, "password": password})
    return client


def is_in(client: Client) -> bool:
    return client.get("/admin/my-keys/").status_code == 200


def test_signing_in_changes_the_session(world: World) -> None:
    client = Client()
    session = client.session
    session["mark"] = 1
    session.save()
    before = session.session_key
    client.cookies["gatehouse"] = before
    client.post("/admin/login/", {"username": "member@example.org", "password": PASSWORD})
    assert client.session.session_key != before


def test_signing_out_everywhere_ends_every_session_of_that_person_alone(world: World) -> None:
    here, there, other = sign_in("member@example.org"), sign_in("member@example.org"), sign_in("owner@example.org")
    assert is_in(here) and is_in(there)
    assert here.get("/admin/sign-out-everywhere/").status_code == 200
    assert is_in(there)  # looking ends nothing
    here.post("/admin/sign-out-everywhere/")
    assert not is_in(here) and not is_in(there)
    assert is_in(other)
    assert is_in(sign_in("member@example.org"))
    assert AuditEvent.objects.filter(action="user.signed_out_everywhere").count() == 1


def test_another_password_ends_the_other_sessions(world: World) -> None:
    here, there = sign_in("member@example.org"), sign_in("member@example.org")
    given = {"old_password": PASSWORD, "new_password1": "quite-another-one", "new_password2": "quite-another-one"}
    assert here.post("/admin/password_change/", given).status_code == 302
    assert is_in(here) and not is_in(there)
    assert AuditEvent.objects.filter(action="user.password_changed").count() == 1


def test_too_many_failures_lock_the_account_from_there_with_a_page_of_ours(world: World) -> None:
    client = Client()
    wrong = {"username": "member@example.org", "password": "not-the-one"}
    last = [client.post("/admin/login/", wrong) for _ in range(8)][-1]
    assert last.status_code == 429
    assert "Try again in 15 minutes" in last.content.decode()
    right = {"username": "member@example.org", "password": PASSWORD}
    assert client.post("/admin/login/", right).status_code == 429
    assert client.post("/admin/login/", right, REMOTE_ADDR="10.1.2.3").status_code == 302


def test_wrong_passwords_on_an_invitation_count_as_failed_sign_ins(world: World) -> None:
    nobody = world.people["nobody"]
    nobody.set_password(PASSWORD)
    nobody.save()
    address, client = door(invited(world, nobody.email)), Client()
    last = [client.post(address, {"password": "not-the-one"}) for _ in range(8)][-1]
    assert last.status_code == 429
    assert client.post(address, {"password": PASSWORD}).status_code == 429
    assert not nobody.memberships.exists()


def test_a_foreign_reset_link_does_not_set_ones_password(world: World) -> None:
    member, viewer = world.people["member"], world.people["viewer"]
    uid = urlsafe_base64_encode(force_bytes(member.pk))
    page = Client().get(f"/admin/password-reset/{uid}/{default_token_generator.make_token(viewer)}/", follow=True)
    assert "not good any more" in page.content.decode()
