"""Links to folders whose paths Parsl can't work with."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from parsl_globus.endpoint.plain_path import plain_path
from parsl_globus.errors import ConfigError

ODD = ("a b", "it's", "$HOME", "a;b", "(x)", "{y}", "é")


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "plain"))
    return tmp_path / "plain"


@pytest.fixture
def odd_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "John Doe"))
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    return temporary


def test_a_plain_path_stays_as_it_is(tmp_path, home):
    assert plain_path(tmp_path, stays_here=False) == tmp_path
    assert not home.exists()


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("stays_here", [True, False])
def test_a_link_leads_to_an_odd_one(tmp_path, home, name, stays_here):
    folder = tmp_path / name
    folder.mkdir()
    link = plain_path(folder, stays_here=stays_here)
    assert link.parent == home / ".parsl_globus" / "links"
    assert link.resolve() == folder
    assert plain_path(folder, stays_here=stays_here) == link
    assert link.parent.stat().st_mode & 0o777 == 0o700


def test_links_to_what_is_gone_are_removed(tmp_path, home):
    first, second = tmp_path / "a b", tmp_path / "c d"
    first.mkdir()
    second.mkdir()
    old = plain_path(first, stays_here=True)
    first.rmdir()
    new = plain_path(second, stays_here=True)
    assert list(old.parent.iterdir()) == [new]


def test_a_link_that_leads_elsewhere_is_replaced(tmp_path, home):
    folder = tmp_path / "a b"
    folder.mkdir()
    link = plain_path(folder, stays_here=True)
    link.unlink()
    link.symlink_to(tmp_path)
    assert plain_path(folder, stays_here=True).resolve() == folder


def test_where_the_home_folder_is_odd_too(tmp_path, odd_home):
    folder = tmp_path / "John Doe" / "endpoint"
    folder.mkdir(parents=True)
    link = plain_path(folder, stays_here=True)
    assert link.parent == odd_home / f"parsl-globus-{os.getuid()}"
    with pytest.raises(ConfigError, match="set PARSL_GLOBUS_HOME"):
        plain_path(folder, stays_here=False)  # compute nodes don't see the temporary folder


def test_a_folder_that_others_can_write_is_not_trusted(tmp_path, odd_home):
    folder = tmp_path / "a b"
    folder.mkdir()
    place = odd_home / f"parsl-globus-{os.getuid()}"
    place.mkdir()
    place.chmod(0o777)
    link = plain_path(folder, stays_here=True)
    try:
        assert link.parent == Path("/tmp") / place.name
    finally:
        link.unlink()
        if not any(link.parent.iterdir()):
            link.parent.rmdir()
