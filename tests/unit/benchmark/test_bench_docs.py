"""The part of docs/performance.rst that is made from what is kept of a run."""

from __future__ import annotations

import json

import docutils.core
import pytest
from docutils import nodes

from bench import docs


def parsed(text: str) -> nodes.document:
    """The page as docutils sees it; a warning fails the test."""
    settings = {"halt_level": 2, "report_level": 2, "file_insertion_enabled": False}
    return docutils.core.publish_doctree(text, settings_overrides=settings)


def test_a_kept_run_becomes_tables(result, tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "bench.json").write_text(json.dumps(result))
    (tmp_path / "results" / "bench.png").write_bytes(b"a picture")
    (tmp_path / "tried.rst").write_text("* One thing, in vain.\n")
    docs.write(tmp_path / "made", results=tmp_path / "results", tried=tmp_path / "tried.rst")
    page = parsed((tmp_path / "made" / "performance.txt").read_text())
    titles = [title.astext() for title in page.findall(nodes.title)]
    assert titles[0] == "What is aimed at, and what is reached"
    assert titles[-1] == "What was tried without success"
    assert "Embedded broker + SQLite" in titles
    cells = [entry.astext() for entry in page.findall(nodes.entry)]
    for cell in ("0.9 (0.8 to 0.9)", "parsl_globus", "met", "not met", "left out: not installed (no module 'dask')"):
        assert cell in cells
    assert [image["uri"] for image in page.findall(nodes.image)] == ["made/performance.png"]
    assert (tmp_path / "made" / "performance.png").read_bytes() == b"a picture"


@pytest.mark.parametrize("text", [None, "no JSON", '{"format": 1}', "[]"])
def test_without_a_kept_run_the_page_says_so(tmp_path, text):
    (tmp_path / "results").mkdir()
    if text is not None:
        (tmp_path / "results" / "bench.json").write_text(text)
    docs.write(tmp_path / "made", results=tmp_path / "results", tried=tmp_path / "absent.rst")
    page = parsed((tmp_path / "made" / "performance.txt").read_text())
    assert page.astext().startswith("No run is kept")
    assert not list(page.findall(nodes.table))


def test_characters_that_mean_something_stay_as_they_are():
    lines = [["a_ *b*", "`c`"], ["|d|", "back\\slash"], ["", ""]]
    cells = [entry.astext() for entry in parsed(docs.list_table(lines)).findall(nodes.entry)]
    assert cells == ["a_ *b*", "`c`", "|d|", "back\\slash", "", ""]
