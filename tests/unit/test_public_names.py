"""The public names: all there, all documented."""

from __future__ import annotations

from pathlib import Path

import pytest

import parsl_globus

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("name", parsl_globus.__all__)
def test_a_public_name_is_there_and_has_a_docs_page(name):
    member = getattr(parsl_globus, name)
    if name != "__version__":
        path = f"{member.__module__}.{member.__qualname__}"
        pages = (DOCS / "api.rst").read_text() + (DOCS / "errors.rst").read_text()
        assert path in pages or f"automodule:: {member.__module__}\n" in pages


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = parsl_globus.nothing
