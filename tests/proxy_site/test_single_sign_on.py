"""Single sign-on through the real pages and a real provider: who comes in, with which roles, and who does not."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import time_machine
from django.core.cache import cache
from django.test import Client
from joserfc import jwt
from joserfc.jwk import OctKey
from pydantic import SecretStr

from keys import audit, invitations
from keys.audit import Actor
from keys.models import AuditEvent, Identity, Invitation, Membership, Organization, User
from proxy_site.console import oidc
from tests.factories import PASSWORD, make_organization, make_person, make_platform_admin, make_team
from tests.proxy_site.test_people import is_in
from tests.upstreams.oidc import CLIENT, SECRET, OpenIDProvider, Spoil, signing_key
from tests.upstreams.serve import serve

pytestmark = pytest.mark.django_db
START, BACK, HERE = "/admin/single-sign-on/", "/admin/single-sign-on/back/", "http://testserver"
ROLES = {"staff": "acme:member", "leads": "acme:admin", "search": "acme/search:owner", "root": "superuser"}
ADA = "ada@example.org"


@pytest.fixture(scope="module")
def running() -> Iterator[OpenIDProvider]:
    with serve(OpenIDProvider()) as found:
        yield found


@pytest.fixture
def provider(running: OpenIDProvider, settings: Any, db: None) -> OpenIDProvider:
    """Gatehouse, set up for a provider that signs in Ada of the group staff."""
    running.reset()
    cache.clear()
    oidc.forget()
    settings.WHITENOISE_AUTOREFRESH = True  # else every client lists every static file first
    settings.PUBLIC_URL = HERE
    configure(
        settings,
        oidc_issuer=running.url,
        oidc_client_id=CLIENT,
        oidc_client_secret=SecretStr(SECRET),
        oidc_roles=json.dumps(ROLES),
        oidc_allow_private=True,
        oidc_name="Acme ID",
    )
    return running


@pytest.fixture
def acme(provider: OpenIDProvider) -> Organization:
    organization = make_organization("acme")
    make_team(organization, "search")
    return organization


def configure(settings: Any, **changes: Any) -> None:
    settings.GATEHOUSE = settings.GATEHOUSE.model_copy(update=changes)


def there(client: Client, following: str = "") -> str:
    """From our page to the provider's, which sends the browser on: the address it is sent to."""
    response = client.get(START, {"next": following} if following else {})
    assert response.status_code == 302, response.content.decode()
    place = urlsplit(response["Location"])
    with closing(HTTPConnection(place.netloc)) as browser:
        browser.request("GET", f"{place.path}?{place.query}")
        answer = browser.getresponse()
        assert answer.status == 302, answer.read()
        return str(answer.headers["location"])


def sign_in(client: Client | None = None, following: str = "") -> tuple[Client, Any]:
    client = client or Client()
    address = there(client, following)
    assert address.startswith(f"{HERE}{BACK}?")
    return client, client.get(address.removeprefix(HERE))


def refused(response: Any, status: int, words: str) -> None:
    page = response.content.decode()
    assert (response.status_code, words in page) == (status, True), page
    assert SECRET not in page


def roles(email: str = ADA) -> set[tuple[str, str | None, str, bool]]:
    rows = Membership.objects.filter(user__email=email).select_related("organization", "team")
    return {(row.organization.slug, row.team.slug if row.team else None, row.role, row.by_group) for row in rows}


# Off and on


def test_it_is_off_until_it_is_set_up(provider: OpenIDProvider, settings: Any) -> None:
    page = Client().get("/admin/login/").content.decode()
    assert f'href="{START}"' in page
    assert "Sign in with Acme ID" in page
    configure(settings, oidc_issuer="")
    assert "single-sign-on" not in Client().get("/admin/login/").content.decode()
    assert [Client().get(path).status_code for path in (START, BACK)] == [404, 404]


def test_somebody_new_with_a_mapped_group_comes_in_with_its_role(acme: Organization) -> None:
    client, response = sign_in(following="/admin/my-keys/")
    assert (response.status_code, response["Location"]) == (302, "/admin/my-keys/")
    assert is_in(client)
    person = User.objects.get(email=ADA)
    assert (person.get_full_name(), person.has_usable_password(), person.is_superuser) == ("Ada Lovelace", False, False)
    assert roles() == {("acme", None, "member", True)}
    told = AuditEvent.objects.filter(actor="single sign-on", address="127.0.0.1").order_by("id")
    assert [each.action for each in told] == ["user.created", "user.identity_linked", "membership.created"]
    assert audit.verify() is None


@pytest.mark.parametrize("groups", [["visitors"], [], None, {"staff": True}, [1]])
def test_somebody_new_without_a_mapped_group_is_not_made(
    acme: Organization, provider: OpenIDProvider, groups: Any
) -> None:
    provider.person["groups"] = groups
    client, response = sign_in()
    refused(response, 403, "None of your groups has a role here")
    assert not is_in(client)
    assert not User.objects.filter(email=ADA).exists()


@pytest.mark.parametrize(
    ("claim", "said"),
    [
        ("realm_access.roles", {"realm_access": {"roles": ["staff"]}}),
        ("https://acme.example/groups", {"https://acme.example/groups": ["staff"]}),
        ("groups", {"groups": "staff"}),
    ],
)
def test_groups_stand_in_the_claim_that_is_set_up(
    acme: Organization, provider: OpenIDProvider, settings: Any, claim: str, said: dict[str, Any]
) -> None:
    configure(settings, oidc_groups_claim=claim)
    provider.person = {"sub": "u-1", "email": ADA, "email_verified": True, **said}
    assert is_in(sign_in()[0])


def test_what_the_id_token_lacks_is_asked_of_userinfo(acme: Organization, provider: OpenIDProvider) -> None:
    provider.person = {"sub": "u-1"}
    provider.userinfo = {"email": ADA, "email_verified": True, "groups": ["leads"]}
    assert is_in(sign_in()[0])
    assert roles() == {("acme", None, "admin", True)}


def test_userinfo_of_somebody_else_is_not_believed(acme: Organization, provider: OpenIDProvider) -> None:
    provider.person = {"sub": "u-1"}
    provider.userinfo = {"sub": "u-2", "email": ADA, "email_verified": True, "groups": ["leads"]}
    refused(sign_in()[1], 502, "could not be verified")


def test_userinfo_does_not_verify_the_mail_address_of_the_id_token(
    acme: Organization, provider: OpenIDProvider
) -> None:
    provider.person = {"sub": "u-1", "email": "boss@example.org"}
    provider.userinfo = {"email": ADA, "email_verified": True, "groups": ["leads"]}
    refused(sign_in()[1], 403, "no mail address")


# Whose account it is


def test_a_verified_mail_address_leads_to_the_account_that_has_it(acme: Organization) -> None:
    person = make_person("ada")
    assert is_in(sign_in()[0])
    assert Identity.objects.get().user == person
    assert roles() == {("acme", None, "member", True)}


@pytest.mark.parametrize(
    ("verified", "trusted", "comes_in"),
    [(True, False, True), (False, False, False), (None, False, False), (None, True, True), (False, True, False), ("true", True, False)],
)  # fmt: skip
def test_a_mail_address_that_is_not_verified_leads_to_no_account(
    acme: Organization, provider: OpenIDProvider, settings: Any, verified: Any, trusted: bool, comes_in: bool
) -> None:
    make_platform_admin("ada")
    configure(settings, oidc_trust_email=trusted)
    provider.person["email_verified"] = verified
    client, response = sign_in()
    assert is_in(client) is comes_in
    if not comes_in:
        refused(response, 403, "no mail address of yours that it has verified")
        assert not Identity.objects.exists()


@pytest.mark.parametrize(
    "email", ["m\u0131ra@example.org", "mira@example.or\u212a", "\u212aira@example.org", "", "mira", 7]
)
def test_an_address_that_only_looks_like_somebodys_leads_to_no_account(
    acme: Organization, provider: OpenIDProvider, email: Any
) -> None:
    """Databases and str.lower fold a dotless i and a Kelvin sign into ASCII letters."""
    for name in ("mira", "kira"):
        make_platform_admin(name)
    provider.person["email"] = email
    client, response = sign_in()
    refused(response, 403, "no mail address")
    assert not is_in(client)
    assert not Identity.objects.exists()


def test_an_account_whose_address_only_looks_like_it_is_left_alone(
    acme: Organization, provider: OpenIDProvider
) -> None:
    other = make_person("\u0131da")
    provider.person["email"] = "ida@example.org"
    assert is_in(sign_in()[0])
    assert not other.identities.exists()


def test_a_person_is_known_by_subject_and_not_by_mail_address(acme: Organization, provider: OpenIDProvider) -> None:
    sign_in()
    provider.person |= {"email": "root@example.org", "email_verified": False}
    root = make_platform_admin()
    assert is_in(sign_in()[0])
    assert Identity.objects.get().user.email == ADA
    assert not root.identities.exists()


def test_a_mail_address_that_went_to_somebody_else_does_not_take_the_account_along(
    acme: Organization, provider: OpenIDProvider
) -> None:
    sign_in()
    provider.person |= {"sub": "u-2", "groups": ["root"]}
    client, response = sign_in()
    refused(response, 403, "belongs to somebody else")
    assert not is_in(client)
    assert not User.objects.get(email=ADA).is_superuser


@pytest.mark.parametrize("linked", [False, True])
def test_a_blocked_person_does_not_come_in_and_gets_no_role(
    acme: Organization, provider: OpenIDProvider, linked: bool
) -> None:
    make_person("ada")
    if linked:
        sign_in()
    User.objects.filter(email=ADA).update(is_active=False)
    provider.person["groups"] = ["root"]
    client, response = sign_in()
    refused(response, 403, "blocked")
    assert not is_in(client)
    assert not User.objects.get(email=ADA).is_superuser


def test_a_platform_admin_unlinks_a_person_and_nobody_else(acme: Organization) -> None:
    sign_in()
    person = User.objects.get(email=ADA)
    address = f"/admin/keys/user/{person.pk}/unlink/"
    for admin, status in ((make_person("owner", acme, "owner"), 403), (make_platform_admin(), 302)):
        client = Client()
        client.force_login(admin, backend="django.contrib.auth.backends.ModelBackend")
        assert client.post(address).status_code == status
        assert person.identities.exists() is (status == 403)
    assert roles() == set()
    assert AuditEvent.objects.filter(action="user.identity_unlinked", actor="root@example.org").exists()


# Roles


def test_roles_follow_the_groups_at_every_sign_in(acme: Organization, provider: OpenIDProvider) -> None:
    for groups, expected in (
        (["staff"], {("acme", None, "member", True)}),
        (["staff", "leads", "search"], {("acme", None, "admin", True), ("acme", "search", "owner", True)}),
        (["search"], {("acme", "search", "owner", True)}),
    ):
        provider.person["groups"] = groups
        assert is_in(sign_in()[0])
        assert roles() == expected


def test_who_lost_every_group_does_not_come_in_and_an_open_session_ends(
    acme: Organization, provider: OpenIDProvider
) -> None:
    before, _ = sign_in()
    provider.person["groups"] = []
    client, response = sign_in()
    refused(response, 403, "any more")
    assert not is_in(client)
    assert not is_in(before)
    assert roles() == set()
    assert AuditEvent.objects.filter(action="membership.deleted", actor="single sign-on").exists()


def test_what_a_person_gave_stays_and_where_a_group_gives_it_is_the_groups_role(
    acme: Organization, provider: OpenIDProvider
) -> None:
    globex = make_organization("globex")
    person = make_person("ada", globex, "viewer")
    Membership.objects.create(user=person, organization=acme, role="owner")
    assert is_in(sign_in()[0])
    assert roles() == {("globex", None, "viewer", False), ("acme", None, "member", True)}
    provider.person["groups"] = []
    assert is_in(sign_in()[0])
    assert roles() == {("globex", None, "viewer", False)}


def test_a_platform_admin_by_group_is_one_for_as_long_as_the_group_lasts(
    acme: Organization, provider: OpenIDProvider
) -> None:
    provider.person["groups"] = ["root", "staff"]
    client, _ = sign_in()
    assert client.get("/admin/keys/user/").status_code == 200
    assert "a group" in client.get("/admin/keys/membership/").content.decode()
    provider.person["groups"] = ["staff"]
    assert is_in(sign_in()[0])
    assert client.get("/admin/keys/user/").status_code == 403
    person = User.objects.get(email=ADA)
    assert (person.is_superuser, person.is_staff) == (False, True)
    changes = AuditEvent.objects.filter(action="user.changed").order_by("id").values_list("changes", flat=True)
    assert list(changes) == [{"is_superuser": [False, True]}, {"is_superuser": [True, False]}]


def test_a_platform_admin_by_hand_stays_one_without_the_group(acme: Organization, provider: OpenIDProvider) -> None:
    make_platform_admin("ada")
    for groups in (["root"], [], ["staff"]):
        provider.person["groups"] = groups
        assert is_in(sign_in()[0])
        assert User.objects.get(email=ADA).is_superuser


def test_a_role_in_what_does_not_exist_gives_nothing(acme: Organization, settings: Any) -> None:
    configure(settings, oidc_roles='{"staff": ["gone:owner", "acme/gone:owner", "acme:viewer"]}')
    assert is_in(sign_in()[0])
    assert roles() == {("acme", None, "viewer", True)}


# What is believed


def unsigned(claims: dict[str, Any]) -> str:
    parts = [json.dumps(each).encode() for each in ({"alg": "none", "typ": "JWT"}, claims)]
    return ".".join([*(base64.urlsafe_b64encode(each).rstrip(b"=").decode() for each in parts), ""])


def signed_with_the_public_key(claims: dict[str, Any]) -> str:
    """HS256, with what everybody may read for a shared secret."""
    key = OctKey.import_key(signing_key(1).as_pem(private=False), {"kid": "key-1"})
    return jwt.encode({"alg": "HS256", "kid": "key-1"}, claims, key)


def signed_by_a_stranger(claims: dict[str, Any]) -> str:
    return jwt.encode({"alg": "RS256", "kid": "key-1"}, claims, signing_key(9))


def changed_after_signing(claims: dict[str, Any]) -> str:
    head, _, mark = jwt.encode({"alg": "RS256", "kid": "key-1"}, claims, signing_key(1)).split(".")
    return f"{head}.{base64.urlsafe_b64encode(json.dumps({**claims, 'groups': ['root']}).encode()).decode()}.{mark}"


SPOILT = {
    "another nonce": Spoil({"nonce": "x" * 43}),
    "no nonce": Spoil({"nonce": None}),
    "another audience": Spoil({"aud": "somebody-else"}),
    "no audience": Spoil({"aud": None}),
    "several audiences, none named": Spoil({"aud": [CLIENT, "somebody-else"]}),
    "another authorized party": Spoil({"azp": "somebody-else"}),
    "another issuer": Spoil({"iss": "https://evil.example.org"}),
    "no issuer": Spoil({"iss": None}),
    "expired": Spoil({"exp": int(time.time()) - 3600}),
    "no expiry": Spoil({"exp": None}),
    "not valid yet": Spoil({"nbf": int(time.time()) + 86_400}),
    "no subject": Spoil({"sub": None}),
    "an empty subject": Spoil({"sub": ""}),
    "a subject that is a number": Spoil({"sub": 1}),
    "a long subject": Spoil({"sub": "x" * 256}),
    "not signed": Spoil(sign=unsigned),
    "signed with the public key": Spoil(sign=signed_with_the_public_key),
    "signed by a stranger": Spoil(sign=signed_by_a_stranger),
    "changed after signing": Spoil(sign=changed_after_signing),
    "an unknown key": Spoil(
        sign=lambda claims: jwt.encode({"alg": "RS256", "kid": "key-9"}, claims, signing_key(9))
    ),
    "no token": Spoil(sign=lambda claims: ""),
}  # fmt: skip


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_an_id_token_that_is_not_right_in_every_part_signs_nobody_in(
    acme: Organization, provider: OpenIDProvider, spoil: Spoil
) -> None:
    provider.spoil = spoil
    client, response = sign_in()
    refused(response, 502, "could not be verified")
    assert not is_in(client)
    assert not User.objects.filter(email=ADA).exists()


@pytest.mark.parametrize("claims", [{"aud": [CLIENT]}, {"aud": [CLIENT, "other"], "azp": CLIENT}, {"azp": CLIENT}])
def test_an_id_token_for_us_signs_in(acme: Organization, provider: OpenIDProvider, claims: dict[str, Any]) -> None:
    provider.spoil = Spoil(claims)
    assert is_in(sign_in()[0])


def test_new_keys_of_the_provider_are_looked_up_and_old_ones_are_forgotten_with_it(
    acme: Organization, provider: OpenIDProvider
) -> None:
    sign_in()
    provider.keys = [2]
    assert is_in(sign_in()[0])
    asked = [request.path for request in provider.requests].count("/jwks")
    assert is_in(sign_in()[0])
    assert [request.path for request in provider.requests].count("/jwks") == asked == 2
    provider.spoil = Spoil(sign=lambda claims: jwt.encode({"alg": "RS256", "kid": "key-1"}, claims, signing_key(1)))
    assert not is_in(sign_in()[0])


@pytest.mark.parametrize("methods", [["client_secret_basic"], ["client_secret_post"], ["none"]])
def test_the_client_shows_itself_as_the_provider_asks(
    acme: Organization, provider: OpenIDProvider, settings: Any, methods: list[str]
) -> None:
    provider.auth_methods = methods
    if methods == ["none"]:
        configure(settings, oidc_client_secret=SecretStr(""))
    assert is_in(sign_in()[0])


def test_another_secret_than_the_provider_has_signs_nobody_in(acme: Organization, settings: Any) -> None:
    configure(settings, oidc_client_secret=SecretStr("another"))
    client, response = sign_in()
    refused(response, 502, "could not be verified")
    assert not is_in(client)


def test_who_is_in_goes_on_and_who_has_no_role_may_sign_in_as_somebody_else(acme: Organization) -> None:
    for person, comes_as in ((make_platform_admin(), "root@example.org"), (make_person("nobody"), ADA)):
        client = Client()
        client.force_login(person, backend="django.contrib.auth.backends.ModelBackend")
        if client.get(START)["Location"] != "/admin/":
            sign_in(client)
        assert client.get("/admin/").context["user"].email == comes_as


# The way back


def test_a_way_back_works_once(acme: Organization, provider: OpenIDProvider) -> None:
    client = Client()
    address = there(client).removeprefix(HERE)
    assert client.get(address).status_code == 302
    client.post("/admin/logout/")
    refused(client.get(address), 400, "not begun in this browser")
    assert not is_in(client)


def test_a_way_back_that_failed_does_not_work_later(acme: Organization, provider: OpenIDProvider) -> None:
    client = Client()
    address = there(client).removeprefix(HERE)
    provider.faults.append("503")
    refused(client.get(address), 502, "could not be verified")
    refused(client.get(address), 400, "not begun in this browser")


def test_a_way_back_of_another_browser_is_refused(acme: Organization) -> None:
    """Else somebody could be signed in as somebody else, without knowing."""
    address = there(Client()).removeprefix(HERE)
    victim = Client()
    refused(victim.get(address), 400, "not begun in this browser")
    there(victim)  # one of its own on the way does not help
    refused(victim.get(address), 400, "not begun in this browser")
    assert not is_in(victim)


def test_a_code_of_another_sign_in_is_refused(acme: Organization) -> None:
    """A stolen code does not fit the verifier and the nonce of this one."""
    stolen = parse_qs(urlsplit(there(Client())).query)["code"][0]
    client = Client()
    own = parse_qs(urlsplit(there(client)).query)
    response = client.get(BACK, {"state": own["state"][0], "iss": own["iss"][0], "code": stolen})
    refused(response, 502, "could not be verified")
    assert not is_in(client)


def test_a_sign_in_that_took_too_long_is_refused(acme: Organization) -> None:
    client = Client()
    address = there(client).removeprefix(HERE)
    with time_machine.travel(time.time() + 601, tick=True):
        refused(client.get(address), 400, "more than 10 minutes")


@pytest.mark.parametrize("named", [{"iss": "https://evil.example.org"}, {}])
def test_an_answer_that_names_no_or_another_provider_is_refused(acme: Organization, named: dict[str, str]) -> None:
    client = Client()
    given = {name: values[0] for name, values in parse_qs(urlsplit(there(client)).query).items() if name != "iss"}
    refused(client.get(BACK, {**given, **named}), 502, "could not be verified")


def test_a_provider_that_never_names_itself_is_believed(acme: Organization, provider: OpenIDProvider) -> None:
    provider.more, provider.says_issuer = {"authorization_response_iss_parameter_supported": False}, False
    assert is_in(sign_in()[0])


@pytest.mark.parametrize(
    ("code", "words"), [("access_denied", "not signed in at the provider"), ("server_error", "refused the sign-in")]
)
def test_the_providers_refusal_is_told_in_our_words_alone(
    acme: Organization, provider: OpenIDProvider, code: str, words: str
) -> None:
    provider.refuses = code
    _, response = sign_in()
    refused(response, 400, words)
    assert "555-1234" not in response.content.decode()


@pytest.mark.parametrize(
    "following",
    [
        "https://evil.example.org/", "//evil.example.org/", "/\\evil.example.org", "\\\\evil.example.org",
        "javascript:alert(1)", "evil", "http:///evil.example.org", "/\t/evil.example.org", f"{HERE}/admin/my-keys/",
    ],
)  # fmt: skip
def test_nobody_is_sent_elsewhere_afterwards(acme: Organization, following: str) -> None:
    assert sign_in(following=following)[1]["Location"] == "/admin/"


def test_a_session_from_before_is_not_the_one_after(acme: Organization) -> None:
    client = Client()
    address = there(client).removeprefix(HERE)
    before = client.session.session_key
    client.get(address)
    assert client.session.session_key not in (before, None)


# The provider itself


def test_a_provider_that_is_away_gives_a_page_and_no_secret(
    acme: Organization, provider: OpenIDProvider, caplog: pytest.LogCaptureFixture
) -> None:
    provider.faults.append("503")
    refused(Client().get(START), 502, "cannot be reached")
    client = Client()
    address = there(client).removeprefix(HERE)
    provider.faults.append("503")
    client.get(address)
    code = parse_qs(urlsplit(address).query)["code"][0]
    assert "answered 503" in caplog.text
    assert SECRET not in caplog.text
    assert code not in caplog.text


def test_a_private_network_is_reached_only_when_it_is_said(
    acme: Organization, provider: OpenIDProvider, settings: Any
) -> None:
    configure(settings, oidc_allow_private=False, oidc_issuer=provider.url.replace("http://", "https://"))
    refused(Client().get(START), 502, "cannot be reached")
    assert provider.requests == []


@pytest.mark.parametrize(
    "more",
    [
        {"issuer": "https://evil.example.org"}, {"issuer": None}, {"jwks_uri": None}, {"token_endpoint": "ftp://x/"},
        {"authorization_endpoint": "javascript:alert(1)"}, {"token_endpoint": 1},
    ],
)  # fmt: skip
def test_a_discovery_document_that_is_not_of_the_issuer_or_lacks_something_is_refused(
    acme: Organization, provider: OpenIDProvider, more: dict[str, Any]
) -> None:
    provider.more = more
    refused(Client().get(START), 502, "does not answer as it should")


def test_a_token_endpoint_with_cloud_metadata_behind_it_is_never_asked(
    acme: Organization, provider: OpenIDProvider
) -> None:
    provider.more = {"token_endpoint": "http://169.254.169.254/token"}
    refused(sign_in()[1], 502, "could not be verified")


def test_who_knocks_too_often_is_told_to_wait(
    acme: Organization, provider: OpenIDProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy_site.console.single_sign_on.FROM_ONE", 2)
    assert [Client().get(START).status_code for _ in range(3)] == [302, 302, 429]


# Passwords beside it


def test_a_role_of_a_group_signs_in_by_single_sign_on_alone(acme: Organization, settings: Any) -> None:
    make_person("ada")
    by_password = {"username": ADA, "password": PASSWORD, "code": ""}
    client = Client()
    client.post("/admin/login/", by_password)
    assert client.session.get("_auth_user_id")
    sign_in()
    client = Client()
    page = client.post("/admin/login/", by_password).content.decode()
    assert "Your role comes from your groups: sign in with Acme ID" in page
    assert not is_in(client)
    configure(settings, oidc_issuer="")
    client.post("/admin/login/", by_password)
    assert is_in(client)


def test_a_platform_admin_by_hand_keeps_the_password_for_when_the_provider_is_away(acme: Organization) -> None:
    make_platform_admin("ada")
    sign_in()
    assert roles() == {("acme", None, "member", True)}
    client = Client()
    client.post("/admin/login/", {"username": ADA, "password": PASSWORD, "code": ""})
    assert is_in(client)


def test_an_invitation_is_no_way_around_it(acme: Organization) -> None:
    make_person("ada")
    sign_in()
    globex = make_organization("globex")
    invitation = invite(make_person("boss", globex, "owner"), globex)
    client = Client()
    page = client.post(door(invitation), {"password": PASSWORD, "code": ""}).content.decode()
    assert "Your role comes from your groups" in page
    assert not is_in(client)
    signed_in, response = sign_in(following=door(invitation))
    assert response["Location"] == door(invitation)
    assert signed_in.post(door(invitation)).status_code == 302
    assert ("globex", None, "viewer", False) in roles()


def test_passwords_can_be_turned_off(acme: Organization, settings: Any) -> None:
    root = make_platform_admin()
    configure(settings, password_login=False)
    client = Client()
    page = client.get("/admin/login/").content.decode()
    assert "Sign in with Acme ID" in page
    assert "password" not in page.lower()
    given = {"username": root.email, "password": PASSWORD, "code": ""}
    assert client.post("/admin/login/", given).status_code == 403
    assert not is_in(client)
    assert client.get("/admin/password-reset/").status_code == 404
    for email in ("new@example.org", root.email):
        invitation = invite(root, acme, email)
        page = client.get(door(invitation)).content.decode()
        assert "Sign in first" in page
        assert 'type="password"' not in page
        new = {"first_name": "N", "password": "long-enough-words", "again": "long-enough-words"}
        assert client.post(door(invitation), {**new, "code": ""}).status_code == 200
    assert not User.objects.filter(email="new@example.org").exists()
    assert is_in(sign_in()[0])


def invite(by: User, organization: Organization, email: str = ADA) -> Invitation:
    place: dict[str, Any] = {"organization": organization, "team": None}
    return invitations.invite(email=email, role="viewer", by=by, actor=Actor(name="tests"), **place)


def door(invitation: Invitation) -> str:
    return f"/admin/join/{invitations.token(invitation)}/"


# Signing out


def test_who_signs_out_may_sign_out_at_the_provider_as_well(acme: Organization, provider: OpenIDProvider) -> None:
    provider.more = {"end_session_endpoint": f"{provider.url}/logout"}
    client, _ = sign_in()
    page = client.post("/admin/logout/").content.decode()
    assert f"{provider.url}/logout?client_id={CLIENT}&amp;post_logout_redirect_uri=" in page
    assert not is_in(client)


def test_who_came_by_password_is_not_sent_to_the_provider(acme: Organization, provider: OpenIDProvider) -> None:
    provider.more = {"end_session_endpoint": f"{provider.url}/logout"}
    make_platform_admin()
    client = Client()
    client.post("/admin/login/", {"username": "root@example.org", "password": PASSWORD, "code": ""})
    assert is_in(client)
    assert provider.url not in client.post("/admin/logout/").content.decode()
