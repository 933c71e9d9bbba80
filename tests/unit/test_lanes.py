"""Which tests are run one after another, when two are run at a time."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from lanes import HEAVY, heavy_first, lane

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("path", HEAVY)
def test_what_is_heavy_is_there(path):
    assert (ROOT / path).exists()


def test_heavy_ones_are_first_and_all_others_stay_with_their_file():
    ids = ["tests/unit/a.py::x", "tests/soak/s.py::x", "tests/unit/b.py::x", "tests/compat/c.py::x[1::2]"]
    items = [SimpleNamespace(nodeid=nodeid) for nodeid in ids]
    heavy_first(items)
    assert [lane(item.nodeid) for item in items] == ["heavy", "heavy", "tests/unit/a.py", "tests/unit/b.py"]


def test_tests_that_share_an_id_are_refused():
    with pytest.raises(pytest.UsageError, match="tests/unit/a.py::x"):
        heavy_first([SimpleNamespace(nodeid="tests/unit/a.py::x")] * 2)
