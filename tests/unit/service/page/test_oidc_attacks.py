"""Logins at an issuer that somebody tampers with, over real HTTP: none gets in, and each is told why."""

from __future__ import annotations

import html
import re
import time
from urllib.parse import quote, urlsplit

import jwt
import pytest
import requests
from forged_issuer import CLIENT, SECRET, ForgedIssuer, new_key
from people import People
from service_thread import DEADLINE_S, ServiceThread

from parsl_globus.service.auth.oidc.attempt import challenge_of
from parsl_globus.service.config import OidcConfig

STRANGER = new_key()


@pytest.fixture(scope="module")
def issuer():
    issuer = ForgedIssuer()
    yield issuer
    issuer.stop()


@pytest.fixture(scope="module")
def site(issuer, tmp_path_factory):
    oidc = OidcConfig(issuer.url, CLIENT, SECRET, create_users=True)
    service = ServiceThread(tmp_path_factory.mktemp("service") / "data", oidc=oidc).start()
    yield service
    service.stop()


@pytest.fixture(autouse=True)
def honest(issuer):
    yield
    issuer.reset()
    issuer.down = False


@pytest.fixture
def someone(site, visitor_at):
    return visitor_at(site.url)


def problem(reply) -> str:
    found = re.search('role="alert">([^<]*)<', reply.text)
    return html.unescape(found.group(1)) if found else ""


def refused(someone, site, reply) -> bool:
    """No session came of it."""
    return "parsl_globus_session" not in someone.session.cookies and "Logged in" not in reply.text


def back_from_issuer(someone) -> str:
    """The address that the issuer sends the browser back to."""
    begun = someone.get("/login/oidc", allow_redirects=False)
    return someone.session.get(begun.headers["Location"], allow_redirects=False, timeout=DEADLINE_S).headers["Location"]


def test_whom_the_issuer_vouches_for_comes_in_and_stays_the_same(site, someone, visitor_at, issuer):
    reply = someone.get("/login/oidc?next=%2Ftasks%3Fstate%3Dfailed")
    assert 'content="0;url=/tasks?state=failed"' in reply.text
    assert 'class="name">ada<' in someone.get("/").text
    # Another name is the same user still; the same name is another user's, who doesn't get in by it.
    issuer.claims["preferred_username"] = "ada.lovelace"
    again = visitor_at(site.url)
    again.get("/login/oidc")
    assert 'class="name">ada<' in again.get("/").text
    issuer.claims = {"sub": "s-eve", "preferred_username": "ada"}
    eve = visitor_at(site.url)
    reply = eve.get("/login/oidc")
    assert reply.status_code == 403
    assert "set-login ada --subject 's-eve'" in problem(reply)
    assert refused(eve, site, reply)


FORGERIES = {
    "nonce": ("belongs to another login", lambda issuer: issuer.claims.update(nonce="another")),
    "no nonce": ("belongs to another login", lambda issuer: issuer.claims.update(nonce=None)),
    "audience": ("was made for another program", lambda issuer: issuer.claims.update(aud="another")),
    "several audiences": ("was made for another", lambda issuer: issuer.claims.update(aud=[CLIENT, "another"])),
    "party": ("was made for another program", lambda issuer: issuer.claims.update(azp="another")),
    "expired": ("has expired", lambda issuer: issuer.claims.update(exp=int(time.time()) - 3600)),
    "from the future": ("not yet valid", lambda issuer: issuer.claims.update(iat=int(time.time()) + 3600)),
    "issuer": ("is another issuer's", lambda issuer: issuer.claims.update(iss="https://other.example")),
    "no subject": ("is not good", lambda issuer: issuer.claims.update(sub=None)),
    "long subject": ("names nobody", lambda issuer: issuer.claims.update(sub="s" * 256)),
    "alg none": (
        "is not signed in a way",
        lambda issuer: setattr(issuer, "sign", lambda claims: jwt.encode(claims, "", "none")),
    ),
    "signed with the client's secret": (
        "is not signed in a way",
        lambda issuer: setattr(issuer, "sign", lambda claims: jwt.encode(claims, SECRET * 2, "HS256")),
    ),
    "another's key under its name": (
        "is not signed with the issuer's key",
        lambda issuer: setattr(issuer, "sign", lambda claims: issuer.signed(claims, STRANGER)),
    ),
    "unknown key": (
        "none of the issuer's",
        lambda issuer: setattr(issuer, "sign", lambda claims: issuer.signed(claims, STRANGER, kid="two")),
    ),
    "another algorithm than the key's": (
        "none of the issuer's",
        lambda issuer: setattr(issuer, "sign", lambda claims: issuer.signed(claims, algorithm="PS256")),
    ),
    "a time without end": (
        "is not good",
        lambda issuer: setattr(issuer, "sign", lambda claims: issuer.signed({**claims, "exp": float("inf")})),
    ),
    "no token": ("can't be read", lambda issuer: setattr(issuer, "sign", lambda claims: "no.token")),
    "another state": ("another browser", lambda issuer: issuer.redirect.update(state="x" * 43)),
    "another issuer's answer": ("another issuer answered", lambda i: i.redirect.update(iss="https://other.example")),
    "invented code": ("refused the code (invalid_grant)", lambda issuer: issuer.redirect.update(code="invented")),
}


@pytest.mark.parametrize("what", FORGERIES)
def test_a_forgery_gets_nobody_in(site, someone, issuer, what):
    told, forge = FORGERIES[what]
    forge(issuer)
    reply = someone.get("/login/oidc")
    assert reply.status_code == 401
    assert told in problem(reply)
    assert refused(someone, site, reply)


@pytest.mark.parametrize("way", ["none", "subject"])
def test_whoever_is_not_this_user_any_more_is_logged_out(site, visitor_at, issuer, closing, way):
    people = closing(People(site))
    user = people.user(f"grace-{way}")
    path = f"/v3/admin/users/{user.username}/login"
    issuer.claims = {"sub": f"s-{way}", "preferred_username": user.username}
    people.admin.good("PUT", path, {"subject": f"s-{way}"})
    visitor = visitor_at(site.url)
    visitor.get("/login/oidc")
    assert f'class="name">{user.username}<' in visitor.get("/").text
    device_code = people.caller(None).good("POST", "/v3/login/device")["device_code"]
    token = people.caller(None).good("POST", "/v3/login/device/token", {"device_code": device_code})["access_token"]
    made = people.caller(token).good("POST", "/v3/tokens", {})["access_token"]
    people.admin.good("PUT", path, {"subject": f"s-{way}"})  # says nothing new
    assert [people.caller(one).call("GET", "/v3/me").status_code for one in (token, made)] == [200, 200]
    if way == "none":
        people.admin.good("DELETE", path)
    else:
        people.admin.good("PUT", path, {"subject": "another"})
    assert [people.caller(one).call("GET", "/v3/me").status_code for one in (token, made)] == [401, 401]
    assert visitor.get("/").url.startswith(f"{site.url}/login")
    # A secret of her own has nothing to do with it.
    assert user.call("GET", "/v3/me").status_code == 200


def test_a_code_is_good_once_and_in_its_own_browser(site, someone, visitor_at):
    kept = someone.session.cookies
    address = back_from_issuer(someone)
    cookie = kept["parsl_globus_oidc"]
    # Whoever is sent the address has no such attempt, or another one.
    victim = visitor_at(site.url)
    for _ in range(2):
        reply = victim.session.get(address, timeout=DEADLINE_S)
        assert (reply.status_code, "another browser" in problem(reply)) == (401, True)
        assert refused(victim, site, reply)
        victim.get("/login/oidc", allow_redirects=False)
    assert someone.session.get(address, timeout=DEADLINE_S).status_code == 200
    # Once more: the browser has dropped the attempt; and who has kept it is refused by the issuer.
    assert someone.session.get(address, timeout=DEADLINE_S).status_code == 401
    thief = visitor_at(site.url)
    thief.session.cookies.set("parsl_globus_oidc", cookie)
    reply = thief.session.get(address, timeout=DEADLINE_S)
    assert "invalid_grant" in problem(reply)
    assert refused(thief, site, reply)


def test_an_attempt_ends(site, someone, monkeypatch):
    address = back_from_issuer(someone)
    later = time.time() + 1000
    monkeypatch.setattr("parsl_globus.service.auth.oidc.attempt.time.time", lambda: later)
    reply = someone.session.get(address, timeout=DEADLINE_S)
    assert "too long ago" in problem(reply)


def test_the_issuers_refusal_is_told(site, someone):
    address = urlsplit(back_from_issuer(someone))
    state = re.search("state=([^&]*)", address.query).group(1)
    reply = someone.get(f"/login/oidc/callback?error=access_denied&state={state}")
    assert (reply.status_code, "the issuer says access_denied" in problem(reply)) == (401, True)


def test_the_attempts_cookie_is_out_of_reach(someone):
    cookie = someone.get("/login/oidc", allow_redirects=False).headers["Set-Cookie"]
    for word in ("HttpOnly", "SameSite=lax", "Path=/", "Max-Age=900"):
        assert word in cookie


def test_behind_a_proxy_the_issuer_leads_back_to_it(issuer, tmp_path, closing, visitor_at):
    oidc = OidcConfig(issuer.url, CLIENT, SECRET)
    service = closing(ServiceThread(tmp_path / "proxied", oidc=oidc, behind_proxy=True).start(), "stop")
    begun = visitor_at(service.url).get("/login/oidc", headers={"Host": "lab.example"}, allow_redirects=False)
    assert "redirect_uri=https%3A%2F%2Flab.example%2Flogin%2Foidc%2Fcallback" in begun.headers["Location"]
    assert begun.headers["Set-Cookie"].startswith("__Host-parsl_globus_oidc=")
    assert "Secure" in begun.headers["Set-Cookie"]


@pytest.mark.parametrize("target", ["//evil.example", "https://evil.example", "/login/command?challenge=x%22"])
def test_the_issuer_leads_to_no_other_site(someone, target):
    assert 'content="0;url=/"' in someone.get("/login/oidc", params={"next": target}).text


@pytest.mark.parametrize(
    ("claims", "told"),
    [
        ({"sub": "s-1"}, "but it says none"),
        ({"sub": "s-1", "preferred_username": "a b"}, "'a b', which can't be a name here"),
        ({"sub": "s-1", "preferred_username": ["ada"]}, "which can't be a name here"),
        ({"sub": "s-1", "preferred_username": "owner@localhost"}, "There is a user 'owner@localhost' here already"),
    ],
)
def test_who_has_no_name_of_its_own_stays_out(site, someone, issuer, claims, told):
    issuer.claims = claims
    issuer.userinfo = {"sub": "s-1"}
    reply = someone.get("/login/oidc")
    assert reply.status_code == 403
    assert told in problem(reply)
    assert "s-1" in problem(reply)
    assert refused(someone, site, reply)


def test_a_name_that_the_token_lacks_is_asked_for(site, someone, issuer):
    issuer.claims = {"sub": "s-grace"}
    issuer.userinfo = {"sub": "s-somebody", "preferred_username": "grace"}
    assert "another user than its token" in problem(someone.get("/login/oidc"))
    issuer.userinfo = {"sub": "s-grace", "preferred_username": "grace"}
    someone.get("/login/oidc")
    assert 'class="name">grace<' in someone.get("/").text


# ---- devices -------------------------------------------------------------------------------------------------------


def call(site, method: str, path: str, body=None):
    return requests.request(method, site.url + path, json=body, timeout=DEADLINE_S)


def test_a_device_gets_a_token_of_ours_once_it_was_approved(site, issuer):
    issuer.claims = {"sub": "s-dev", "preferred_username": "dev"}
    issuer.polls = ["authorization_pending", "slow_down"]
    begun = call(site, "POST", "/v3/login/device").json()
    assert (begun["user_code"], begun["interval"]) == ("WDJB-MJHT", 0.05)
    body = {"device_code": begun["device_code"]}
    for code in ("authorization_pending", "slow_down"):
        reply = call(site, "POST", "/v3/login/device/token", body)
        assert (reply.status_code, reply.json()["code"]) == (400, code)
    made = call(site, "POST", "/v3/login/device/token", body)
    assert made.headers["Cache-Control"] == "no-store"
    bearer = {"Authorization": f"Bearer {made.json()['access_token']}"}
    me = requests.get(f"{site.url}/v3/me", headers=bearer, timeout=DEADLINE_S).json()
    assert (me["username"], me["admin"]) == ("dev", False)
    assert requests.get(f"{site.url}/v3/admin/users", headers=bearer, timeout=DEADLINE_S).status_code == 403


@pytest.mark.parametrize(
    ("code", "forge", "told"),
    [
        ("another", {}, "invalid_grant"),
        ("a-device-code", {"aud": "another"}, "was made for another program"),
        ("a-device-code", {"exp": 1000}, "has expired"),
    ],
)
def test_a_device_with_nothing_good_gets_nothing(site, issuer, code, forge, told):
    issuer.claims |= forge
    reply = call(site, "POST", "/v3/login/device/token", {"device_code": code})
    assert reply.status_code == 401
    assert told in reply.json()["reason"]


# ---- codes from the page for a command ------------------------------------------------------------------------------

VERIFIER = "v" * 43


def challenge_page(someone, verifier: str = VERIFIER) -> str:
    return f"/login/command?challenge={challenge_of(verifier)}"


def code_for(someone, verifier: str = VERIFIER) -> str:
    path = challenge_page(someone, verifier)
    reply = someone.post(path, {"csrf": someone.csrf(path)})
    return re.search('<code id="code">([^<]*)<', reply.text).group(1)


def redeem(site, code: str, verifier: str = VERIFIER):
    return call(site, "POST", "/v3/login/command", {"code": code, "verifier": verifier})


def test_a_code_from_the_page_logs_its_own_command_in_once(site, someone):
    # Who isn't logged in yet comes back to it.
    path = challenge_page(someone)
    assert someone.get(path).url == f"{site.url}/login?next={quote(path, safe='')}"
    onward = someone.get("/login/oidc", params={"next": path}).text
    assert f'content="0;url={path}"' in onward
    code = code_for(someone)
    assert redeem(site, code, "w" * 43).status_code == 401
    token = redeem(site, code).json()["access_token"]
    bearer = {"Authorization": f"Bearer {token}"}
    assert requests.get(f"{site.url}/v3/me", headers=bearer, timeout=DEADLINE_S).json()["username"] == "ada"
    again = redeem(site, code)
    assert (again.status_code, again.json()["code"]) == (401, "CODE_REFUSED")
    # Meanwhile, it opens nothing else.
    other = code_for(someone)
    bearer = {"Authorization": f"Bearer {other}"}
    assert requests.get(f"{site.url}/v3/me", headers=bearer, timeout=DEADLINE_S).status_code == 403


def test_no_other_site_makes_a_code(site, someone):
    someone.get("/login/oidc")
    path = challenge_page(someone)
    for fields, headers in (({}, {}), ({"csrf": someone.csrf(path)}, {"Sec-Fetch-Site": "cross-site"})):
        reply = someone.post(path, fields, headers=headers, allow_redirects=False)
        assert (reply.status_code, reply.headers["Location"]) == (303, "/login")
    assert someone.get("/login/command?challenge=short").status_code == 400


# ---- users --------------------------------------------------------------------------------------------------------


@pytest.fixture
def known_only(issuer, tmp_path, closing):
    """A service that lets nobody in but whom it knows, and its people."""
    service = ServiceThread(tmp_path / "known", oidc=OidcConfig(issuer.url, CLIENT, SECRET)).start()
    closing(service, "stop")
    return service, closing(People(service))


def test_only_known_users_come_in_and_keep_their_name_for_themselves(known_only, issuer, visitor_at):
    service, people = known_only
    reply = visitor_at(service.url).get("/login/oidc")
    assert reply.status_code == 403
    assert "parsl-globus service add-user ada" in problem(reply)
    assert [user["username"] for user in people.admin.good("GET", "/v3/admin/users")["users"]] == ["owner@localhost"]
    ada, root = people.user("ada"), people.user("root", admin=True)
    someone = visitor_at(service.url)
    someone.get("/login/oidc")
    assert 'class="name">ada<' in someone.get("/").text
    for claims in ({"sub": "s-eve", "preferred_username": "ada"}, {"sub": "s-eve", "preferred_username": "root"}):
        issuer.claims = claims
        reply = visitor_at(service.url).get("/login/oidc")
        assert reply.status_code == 403
        assert "nobody knows that it is you" in problem(reply)
    # An administrator may say who somebody is.
    people.admin.good("PUT", f"/v3/admin/users/{root.username}/login", {"subject": "s-eve"})
    eve = visitor_at(service.url)
    eve.get("/login/oidc")
    assert 'class="name">root<' in eve.get("/").text
    reply = people.admin.call("PUT", f"/v3/admin/users/{ada.username}/login", {"subject": "s-eve"})
    assert (reply.status_code, reply.json()["code"]) == (409, "NAME_TAKEN")
    people.admin.good("DELETE", f"/v3/admin/users/{root.username}/login")
    assert visitor_at(service.url).get("/login/oidc").status_code == 403


def test_an_address_that_the_issuer_has_not_verified_is_no_name(issuer, tmp_path, closing, visitor_at):
    oidc = OidcConfig(issuer.url, CLIENT, SECRET, username_claim="email", create_users=True)
    service = closing(ServiceThread(tmp_path / "mail", oidc=oidc).start(), "stop")
    issuer.claims = {"sub": "s-ada", "email": "ada@lab.example", "email_verified": False}
    assert "has not verified" in problem(visitor_at(service.url).get("/login/oidc"))
    issuer.claims["email_verified"] = True
    assert visitor_at(service.url).get("/login/oidc").status_code == 200


def test_a_removed_user_has_no_session_left(site, someone, issuer):
    issuer.claims = {"sub": "s-gone", "preferred_username": "gone"}
    someone.get("/login/oidc")
    people = People(site)
    try:
        people.admin.good("DELETE", "/v3/admin/users/gone")
    finally:
        people.close()
    assert someone.get("/").url.endswith("/login")


# ---- the issuer is away --------------------------------------------------------------------------------------------


def test_an_issuer_that_is_away_keeps_nobody_else_out(tmp_path, closing, visitor_at):
    issuer = closing(ForgedIssuer(), "stop")
    issuer.down = True
    oidc = OidcConfig(issuer.url, CLIENT, SECRET, create_users=True)
    service = closing(ServiceThread(tmp_path / "data", oidc=oidc).start(), "stop")
    someone = visitor_at(service.url)
    reply = someone.get("/login/oidc")
    assert reply.status_code == 503
    assert f"The issuer {issuer.url} can't be asked now (HTTP status 502" in problem(reply)
    rest = closing(service.rest())
    assert rest.good("GET", "/v3/me")["admin"]
    assert rest.call("POST", "/v3/login/device").status_code == 503
    # It isn't asked again at once, whoever asks.
    assert issuer.asked == ["/.well-known/openid-configuration"]
