"""Logins at a real issuer, by a real browser and by our command, and at one with device logins."""

from __future__ import annotations

import json
import os
import pty
import re
import stat
import subprocess
import sys
from contextlib import closing

import pytest
import requests
from browser import MISSING as NO_BROWSER
from browser import browser, text_of, wait
from canaille_issuer import DEADLINE_S, SECRET, CanailleIssuer, log_in
from canaille_issuer import MISSING as NO_ISSUER
from forged_issuer import ForgedIssuer
from rabbitmq import free_port
from selenium.webdriver.common.by import By
from servers import require

from parsl_globus.testing.site import LocalSite

PASSWORD = "correct horse battery staple"

#: One for each test: Canaille 0.3.6 fails when one user logs in twice within a second, as the tokens are equal.
USERS = ("ada", "bob", "cleo")


def options(url: str, secret_file, *more: str) -> list[str]:
    told = ("--oidc-issuer", url, "--oidc-client-id", "lab", "--oidc-client-secret-file", str(secret_file))
    return [*told, *more]


def secret_file(folder):
    path = folder / "client-secret"
    path.touch(mode=0o600)
    path.write_text(SECRET + "\n")
    return path


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A service, and the issuer that it trusts; for browsers, they are on two sites."""
    require(NO_ISSUER)
    folder = tmp_path_factory.mktemp("lab")
    port = free_port()
    issuer = CanailleIssuer(folder / "issuer", "localhost")
    issuer.add_client("lab", f"http://127.0.0.1:{port}/login/oidc/callback")
    for name in (*USERS, "eve"):
        issuer.add_user(name, PASSWORD)
    try:
        with LocalSite(folder / "site") as site:
            site.start_service(*options(issuer.start().url, secret_file(folder)), port=port)
            for name in USERS:
                site.run("service", "add-user", name, "--out", str(folder / f"{name}.json"))
            yield site
    finally:
        issuer.stop()


@pytest.fixture
def visitor():
    with closing(requests.Session()) as session:
        session.trust_env = False
        yield session


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Another machine's user, who knows nothing of the service yet."""
    home = tmp_path / "elsewhere"
    monkeypatch.setenv("PARSL_GLOBUS_HOME", str(home))
    return home


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "parsl_globus.cli", *words]


def code_for(visitor, address: str, name: str) -> str:
    """What a person does who was told to open `address`."""
    form = visitor.get(address, timeout=DEADLINE_S)
    assert "/login?next=" in form.url
    where = re.search('id="by-issuer"[^>]*href="([^"]*)"', form.text).group(1)
    origin = address[: address.index("/login/")]
    onward = log_in(visitor, origin + where, name, PASSWORD)
    found = re.search('id="onward" href="([^"]*)"', onward.text)
    assert found, f"{onward.status_code} {onward.url}: {onward.text[:3000]}"
    target = found.group(1)
    assert origin + target == address
    asked = visitor.get(address, timeout=DEADLINE_S)
    assert f"act as <strong>{name}</strong>" in asked.text
    csrf = re.search('action="/login/command[^>]*>\\s*<input type="hidden" name="csrf" value="([0-9a-f]+)"', asked.text)
    shown = visitor.post(address, data={"csrf": csrf.group(1)}, timeout=DEADLINE_S)
    return re.search('<code id="code">([^<]*)<', shown.text).group(1)


def assert_logged_in(home, url: str, name: str) -> None:
    path = home / "credentials.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert json.loads(path.read_text())[url]["token"]
    told = subprocess.run(command("whoami"), capture_output=True, text=True, timeout=DEADLINE_S, check=True)
    assert told.stdout.startswith(f"{name} (")


def test_a_browser_logs_in_at_the_issuer_and_is_here_as_its_user(lab, tmp_path):
    require(NO_BROWSER)
    with browser(tmp_path / "profile") as driver:
        driver.get(f"{lab.url}/tasks?state=failed")
        driver.find_element(By.ID, "by-issuer").click()
        for field, value in (("login", "ada"), ("password", PASSWORD)):
            wait(driver, lambda field=field: driver.find_elements(By.NAME, field), f"the issuer asks for no {field}")
            driver.find_element(By.NAME, field).send_keys(value)
            driver.find_element(By.NAME, field).submit()
        wait(driver, lambda: driver.find_elements(By.CSS_SELECTOR, ".who"), "the login did not work")
        assert text_of(driver, ".who .name") == "ada"
        assert driver.current_url == f"{lab.url}/tasks?state=failed"
        ours = [entry["message"] for entry in driver.get_log("browser") if lab.url in entry["message"]]
        assert ours == []


def test_whom_the_service_does_not_know_is_told_so(lab, visitor):
    reply = log_in(visitor, f"{lab.url}/login/oidc", "eve", PASSWORD)
    assert reply.status_code == 403
    assert "The issuer knows you as &#39;eve&#39;, but this service doesn&#39;t." in reply.text


def test_a_command_gets_its_login_by_a_code_from_the_page(lab, visitor, home):
    words = command("login", "--url", lab.url, "--oidc")
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert "Open this address" in process.stderr.readline()
        code = code_for(visitor, process.stderr.readline().strip(), "bob")
        said, complained = process.communicate(code + "\n", timeout=DEADLINE_S)
    assert (process.returncode, said) == (0, f"Logged in to {lab.url} as bob.\n"), complained
    assert_logged_in(home, lab.url, "bob")


def test_at_a_terminal_the_issuer_is_the_way_in_unless_another_one_is_named(lab, visitor, home):
    terminal, inside = pty.openpty()
    words = command("login", "--url", lab.url)
    with subprocess.Popen(words, stdin=inside, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        os.close(inside)
        with os.fdopen(terminal, "w") as keys:
            assert "Open this address" in process.stderr.readline()
            keys.write(code_for(visitor, process.stderr.readline().strip(), "cleo") + "\n")
            keys.flush()
            said, complained = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, complained
    assert "Logged in" in said
    assert_logged_in(home, lab.url, "cleo")


def test_a_wrong_code_is_refused_and_nothing_is_kept(lab, home):
    words = command("login", "--url", lab.url, "--oidc")
    done = subprocess.run(words, input="wrong\n", capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert done.returncode == 1
    assert "This code is not the one for this command" in done.stderr
    assert not (home / "credentials.json").exists()


def test_a_device_login_needs_no_way_back(tmp_path, home):
    issuer = ForgedIssuer()
    issuer.polls = ["authorization_pending"]
    try:
        with LocalSite(tmp_path / "site") as site:
            site.start_service(*options(issuer.url, secret_file(tmp_path), "--oidc-allow", "auto-create"))
            words = command("login", "--url", site.url, "--oidc")
            done = subprocess.run(words, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
            assert (done.returncode, done.stdout) == (0, f"Logged in to {site.url} as ada.\n"), done.stderr
            assert f"Open {issuer.url}/enter in a browser and enter the code WDJB-MJHT" in done.stderr
            assert_logged_in(home, site.url, "ada")
            issuer.down = True
            told = subprocess.run(command("whoami"), capture_output=True, text=True, timeout=DEADLINE_S, check=True)
            assert told.stdout.startswith("ada (")
            # An administrator ends that, and says who else she is.
            assert "at no issuer" in site.run("service", "set-login", "ada", "--none")
            told = subprocess.run(command("whoami"), capture_output=True, text=True, timeout=DEADLINE_S, check=False)
            assert told.returncode == 1
            assert "was revoked" in told.stderr
            assert "as 's-ada-2'" in site.run("service", "set-login", "ada", "--subject", "s-ada-2")
    finally:
        issuer.stop()


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--oidc-issuer", "https://login.example.org"], "needs --oidc-client-id"),
        (["--oidc-client-id", "lab"], "go with --oidc-issuer"),
        (["--oidc-issuer", "http://login.example.org", "--oidc-client-id", "lab"], "in the clear"),
        (["--oidc-issuer", "login.example.org", "--oidc-client-id", "lab"], "the issuer's URL"),
    ],
)
def test_a_setting_that_cannot_be_used_is_told(tmp_path, more, told):
    words = command("service", "run", "--port", "0", "--amqp-port", "0", "--data", str(tmp_path), *more)
    done = subprocess.run(words, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert done.returncode != 0
    assert told in done.stderr


def test_a_secret_that_others_can_read_is_not_used(tmp_path):
    path = secret_file(tmp_path)
    path.chmod(0o644)
    words = command("service", "run", "--port", "0", "--amqp-port", "0", "--data", str(tmp_path / "data"))
    done = subprocess.run(
        [*words, *options("https://login.example.org", path)],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 1
    assert f"chmod 600 {path}" in done.stderr
