"""Tables of the benchmark: ratios round by round, and failures that are told instead of hidden."""

from __future__ import annotations

import statistics

from bench import report, tables
from bench.rounds import Plan
from bench.rows import BY_NAME
from bench.summary import summary
from bench.targets import targets


def test_a_ratio_is_taken_within_a_round(result):
    found = report.by_row(result, "embedded")["noops"]
    assert report.ratios(found["ours"], found["local"]) == [0.9, 0.8, 0.9]


def test_a_round_that_failed_is_in_no_ratio(result):
    found = report.by_row(result, "embedded")["noops"]
    assert report.ratios(found["public"], found["local"]) == [0.5]
    assert report.ratios(found["public"], None) == []


def test_the_table_of_a_backend(result):
    heading, noops, latency = report.table(result, "embedded")
    assert heading[1:] == [
        "local HighThroughputExecutor", "Parsl's class + SDK + public agent", "parsl_globus", "ours : local",
        "aimed at",
    ]  # fmt: skip
    assert noops == [
        "1,000 no-ops at once (tasks/s)", "1,000", "500 (x 0.5); 1000 of 1000 failed", "880", "0.9 (0.8 to 0.9)",
        ">= 0.8",
    ]  # fmt: skip
    assert latency[-2:] == ["4 (3 to 5.5)", "<= 4"]


def test_a_contender_that_never_gave_a_value(result):
    for row in result["rows"]:
        if row["kind"] == "ours":
            row.update(values=[None] * 3, cpu_us=[], memory_mb=[], extra=[], failed=[1_000] * 3, why=["it ended"])
    assert report.table(result, "embedded")[1][3:5] == ["failed", ""]
    assert "parsl_globus, noops, embedded broker + SQLite: it ended" in summary(result)


def test_processor_time_by_part(result):
    heading, local, _public, ours = report.hops(result, "embedded", "noops")
    assert (heading[1], ours[1]) == ("client", "400")
    assert local[-1] == ours[-1] == "700"


def test_other_tools_and_those_left_out(result):
    lines = {line[0]: line[1:] for line in tables.others(result)}
    assert lines["Ray"] == ["2", "2,000", "1.5"]
    assert lines["Dask distributed"] == ["", "left out: not installed (no module 'dask')", ""]


def test_what_a_journal_costs(result):
    assert tables.journal(result) == []
    costs = {"submit_us": [10.0, 20.0, 30.0], "rate": [100.0], "latency_ms": [5.0]}
    result["journal"] = {"count": 1_000, "without": costs, "with": costs | {"rate": [80.0]}}
    _heading, submit, rate, latency = tables.journal(result)
    assert submit == ["submit (microseconds)", "20 (10 to 30)", "20 (10 to 30)", "1"]
    assert (rate[-1], latency[-1]) == ("0.8", "1")
    assert "with a journal" in summary(result)
    result["journal"] = {"why": "it ended"}
    assert "journal: it ended" in summary(result)


def test_scale_leaves_out_columns_without_a_value(result):
    heading, first, last = tables.scale(result, "outstanding")
    assert heading[0] == "outstanding tasks"
    assert first == ["10", "700", "12", "20", "80", "100", "70"]
    assert last[:2] == ["100,000", "failed"]
    heading, line = tables.scale(result, "endpoints")
    assert heading == ["endpoints", "tasks/s", "median (ms)", "client (MB)"]
    assert line == ["200", "300; 2 failed", "9", "99"]


def test_all_that_failed_is_told(result):
    told = report.failures(result)
    assert "lab: PostgreSQL is not installed" in told
    assert "outstanding, 100,000: it did not answer within 300 s" in told
    assert any(line.endswith("out of luck") for line in told)


def test_targets_met_and_not_met(result):
    met = {one.title: one.met for one in targets(result)}
    assert met["1,000 no-ops at once, ours : local, embedded broker + SQLite"]
    assert met["one task after another, ms, embedded broker + SQLite"]
    assert met["processor time of the chain per no-op, ms, embedded broker + SQLite"]
    assert not met["no-ops at once without the DataFlowKernel, ours : Ray"]
    assert met["service run to ready, s, embedded broker + SQLite"]


def test_the_second_backend_has_wider_bounds(result):
    for row in result["rows"]:
        row["backend"] = "lab"
    bounds = {one.title: one.bound for one in targets(result)}
    assert round(bounds["one task after another, ms, RabbitMQ + PostgreSQL"], 6) == 13.0
    assert round(bounds["1,000 no-ops at once, ours : local, RabbitMQ + PostgreSQL"], 6) == round(0.8 / 1.3, 6)


def test_a_summary_has_all_sections(result):
    text = summary(result)
    for words in ("Some CPU", "other tools", "number of workers", "targets", "failed, or was left out"):
        assert words in text


def test_public_contenders_take_part_in_fewer_rounds():
    plan = Plan(["local", "public", "unlimited", "ours"], [BY_NAME["noops"], BY_NAME["cold"]], repeats=5)
    took_part = [plan.contenders(BY_NAME["noops"], "embedded", number) for number in range(5)]
    assert [len(kinds) for kinds in took_part] == [4, 4, 2, 2, 2]
    # Whoever is first in one round is last in the next.
    assert [kinds[0] for kinds in took_part] == ["local", "ours", "local", "ours", "local"]
    assert "unlimited" not in plan.contenders(BY_NAME["cold"], "embedded", 0)
    assert plan.steps("embedded") == (5 + 5 + 2 + 2) + (5 + 5 + 2)
    assert plan.steps("lab") == (5 + 5 + 1 + 1) + (5 + 5 + 1)
    assert statistics.mean(plan.size(BY_NAME["noops"], kind) for kind in ("public", "unlimited")) == 2_000
