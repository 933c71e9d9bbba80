"""The table at any width, and the same as a line."""

from __future__ import annotations

import pytest
from rich.console import Console

from parsl_globus.executor.endpoint_status import EndpointStatus
from parsl_globus.executor.progress.plain import line
from parsl_globus.executor.progress.rows import Frame, Row, rate_text
from parsl_globus.executor.progress.table import table_of

FRAME = Frame(
    12.4,
    (
        Row("perlmutter", 12, 3, True, 1029, 0, 8.13, EndpointStatus("online", blocks=1, workers=16)),
        Row("a-very-long-label-of-an-executor", 1, 15, False, 9, 2, 0.3, EndpointStatus("offline")),
        Row("local", 0, 2, True, 3, 0, 0.0, EndpointStatus("", blocks=1, queued=2, workers=8)),
        Row("分析", 0, 1, True, 0, 0, 0.0, None),
    ),
)


def rendered(width: int, *, ascii_only: bool = False) -> list[str]:
    console = Console(width=width, color_system=None)
    with console.capture() as captured:
        console.print(table_of(FRAME, width, ascii_only=ascii_only))
    return captured.get().splitlines()


def test_wide() -> None:
    assert [text.rstrip() for text in rendered(100)] == [
        "12 s                          waiting  running  done  failed    rate  endpoint",
        "perlmutter                         12        3  1029       0   8.1/s  online, 1 block, 16 workers",
        "a-very-long-label-of-an-exe…        1      ≤15     9       2  0.30/s  offline",
        "local                               0        2     3       0          1 block, 2 queued, 8 workers",
        "分析                                0        1     0       0",
    ]


def test_medium_and_narrow() -> None:
    assert [text.rstrip() for text in rendered(50)][:3] == [
        "12 s      wait  run  done  fail    rate  state",
        "perlmut…    12    3  1029     0   8.1/s  online",
        "a-very-…     1  ≤15     9     2  0.30/s  offline",
    ]
    assert [text.rstrip() for text in rendered(30, ascii_only=True)][:3] == [
        "12 s    wait   run  done  fail",
        "perlm.    12     3  1029     0",
        "a-ver.     1  <=15     9     2",
    ]


@pytest.mark.parametrize("ascii_only", [False, True])
def test_no_line_is_too_wide_and_no_number_is_cut(ascii_only: bool) -> None:
    for width in range(12, 130):
        lines = rendered(width, ascii_only=ascii_only)
        assert len(lines) == 1 + len(FRAME.rows)
        assert all(Console().measure(text).maximum <= width for text in lines), width
        assert width < 20 or "1029" in lines[1].split(), width
        if ascii_only:
            assert lines[3].isascii()


def test_a_line_says_the_same() -> None:
    assert line(Frame(12.4, FRAME.rows[:3])) == (
        "  12 s  perlmutter: 12 waiting, 3 running, 1029 done, 0 failed, 8.1/s; online, 1 block, 16 workers"
        " | a-very-long-label-of-an-executor: 1 waiting, <=15 running, 9 done, 2 failed, 0.30/s; offline"
        " | local: 0 waiting, 2 running, 3 done, 0 failed; 1 block, 2 queued, 8 workers"
    )


@pytest.mark.parametrize(
    ("rate", "text"), [(0.0, ""), (0.004, ""), (0.25, "0.25"), (1.04, "1.0"), (9.94, "9.9"), (1234.5, "1234")]
)
def test_rates(rate: float, text: str) -> None:
    assert rate_text(rate) == text
