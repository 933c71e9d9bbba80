"""The three steps as plain functions: the same in both scripts, right on good input, clear on bad input."""

from __future__ import annotations

import ast
import json
import math
import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

STEPS = ("pre_process", "analysis", "post_process")
SCRIPTS = ("co2_workflow", "co2_join_apps")


def lines(values: Any, start: Any = date(1990, 1, 6)) -> Any:
    return "# header\n" + "".join(
        f"{(start + timedelta(weeks=i)).isoformat()} {value}\n" for i, value in enumerate(values)
    )


@pytest.fixture
def steps(load: Any) -> Any:
    return load("co2_join_apps")


def test_both_scripts_hold_the_same_steps(examples: Any) -> Any:
    """Each script has to hold them itself; this keeps the two copies one."""

    def bodies(script: Any) -> Any:
        tree = ast.parse((examples / f"{script}.py").read_text())
        found = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
        return {name: [ast.unparse(part) for part in (found[name].args, *found[name].body)] for name in STEPS}

    assert bodies(SCRIPTS[0]) == bodies(SCRIPTS[1])


def test_gaps_are_filled_in_a_straight_line(steps: Any) -> None:
    clean = steps.pre_process("a.txt", lines([300, 301, "nan", "nan", 304, *range(305, 312), "nan"]))
    assert clean["ppm"] == pytest.approx([float(value) for value in range(300, 312)])
    assert clean["filled"] == 2
    assert (clean["dates"][0], clean["dates"][-1]) == ("1990-01-06", "1990-03-24")


def test_a_week_without_a_line_is_a_gap_too(steps: Any) -> None:
    text = lines(range(300, 312)).splitlines()
    del text[5]
    clean = steps.pre_process("a.txt", "\n".join(text))
    assert clean["ppm"] == pytest.approx([float(value) for value in range(300, 312)])
    assert clean["filled"] == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("week one: fine\n", "bad.txt line 1 is not 'date value': 'week one: fine'"),
        ("# header\n1990-01-06\n", "bad.txt line 2 is not 'date value'"),
        ("1990-01-06 3l5.2\n", "bad.txt line 1 is not 'date value'"),
        ("1990-01-06 -99.9\n", "bad.txt line 1: -99.9 ppm"),
        ("1990-01-06 inf\n", "bad.txt line 1: inf ppm"),
        ("1990-01-06 350\n1990-01-06 350\n", "bad.txt line 2: 1990-01-06 is not later"),
        ("1990-01-06 350\n1990-01-14 350\n", "bad.txt line 2: 1990-01-14 is not a whole number of weeks"),
        ("", "bad.txt has 0 measured weeks; at least 10"),
        (lines(["nan"] * 52), "bad.txt has 0 measured weeks"),
        (lines([350] * 60), "bad.txt holds more than one year"),
        ("\x00\x01\x02", "bad.txt line 1 is not 'date value'"),
    ],
)
def test_bad_input_is_refused_by_file_and_line(steps: Any, text: Any, said: Any) -> None:
    with pytest.raises(ValueError) as caught:
        steps.pre_process("bad.txt", text)
    assert str(caught.value).startswith(said)


def test_analysis_finds_what_was_put_in(steps: Any) -> Any:
    def ppm(day: Any) -> Any:
        t = (day - date(1990, 1, 1)).days / 365
        return 350 + 2 * (t - 0.5) + 3 * math.sin(2 * math.pi * t)

    values = [ppm(date(1990, 1, 6) + timedelta(weeks=i)) for i in range(52)]
    found = steps.analysis(steps.pre_process("a.txt", lines(values)))
    assert found["slope_ppm_per_year"] == pytest.approx(2)
    assert found["amplitude_ppm"] == pytest.approx(6, abs=0.01)
    assert found["month_of_max"] == 4  # a quarter of the year after New Year
    assert found["mean_ppm"] == pytest.approx(sum(values) / 52)


def test_few_measured_weeks_keep_a_year_out_of_the_trend(steps: Any) -> None:
    found = steps.analysis(steps.pre_process("a.txt", lines([350.0] * 22 + ["nan"] * 8 + [350.0] * 22)))
    post_process = steps.post_process.func
    assert post_process(found, 44)["complete"]
    assert not post_process(found, 45)["complete"]
    assert post_process(found, 45)["row"][:3] == ["1990", "52", "8"]


DUMP = """
import sys, dill, parsl_globus
for name in ("GlobusComputeExecutor", "connect"):
    setattr(parsl_globus, name, None)
script, target = sys.argv[1:]
sys.argv = [script, "--help"]
try:
    exec(compile(open(script).read(), script, "exec"))
except SystemExit:
    pass
steps = [getattr(step, "func", step) for step in (pre_process, analysis, post_process)]
with open(target, "wb") as file:
    file.write(dill.dumps([dill.dumps(step) for step in steps]))
"""
LOAD = """
import sys, json, dill
pickles, name, text = sys.argv[1:]
pre_process, analysis, post_process = map(dill.loads, dill.load(open(pickles, "rb")))
print(json.dumps(post_process(analysis(pre_process(name, open(text).read())), 45)))
assert not [name for name in sys.modules if name.startswith("co2_")]
"""


@pytest.mark.parametrize("script", SCRIPTS)
def test_steps_travel_whole_to_an_interpreter_that_has_none_of_our_modules(
    script: Any, steps: Any, examples: Any, tmp_path: Path
) -> None:
    pickles = tmp_path / "steps.dill"
    path = str(examples / f"{script}.py")
    bootstrap = f"import sys; sys.path[:0] = [{str(examples)!r}, {str(examples.parent)!r}]\n" + DUMP
    subprocess.run([sys.executable, "-c", bootstrap, path, pickles], check=True, stdout=subprocess.DEVNULL)

    data = examples / "experiments" / "co2_1990.txt"
    elsewhere = [sys.executable, "-I", "-c", LOAD, pickles, data.name, data]
    answer = subprocess.run(elsewhere, check=True, stdout=subprocess.PIPE, cwd=tmp_path)

    here = steps.post_process.func(steps.analysis(steps.pre_process(data.name, data.read_text())), 45)
    assert json.loads(answer.stdout) == here
