"""A user's script with modules beside it, which no worker has; run as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys

HELPERS = """
import threading
FACTOR = 3
LOCK = threading.Lock()
class SiteError(Exception):
    def __init__(self, code):
        super().__init__(code)
        self.code = code
class Point:
    def __init__(self, x):
        self.x = x
def scale(point):
    if not isinstance(point, Point):
        raise TypeError(type(point))
    return Point(check(point.x) * FACTOR)
def check(x):
    if x < 0:
        raise SiteError(x)
    return x
"""

SCRIPT = """
import json, sys
import parsl
from parsl import Config, bash_app, python_app
from parsl_globus import GlobusComputeExecutor
import helpers
from helpers import Point, SiteError, scale

class MyError(Exception):
    def __init__(self, code, why=""):
        super().__init__(code, why)
        self.code = code
    def told(self):
        return f"code {self.code}"

@python_app
def by_name(point):
    return scale(point)

@python_app
def by_module(x):
    return helpers.scale(helpers.Point(x)).x

@python_app
def fail(code):
    raise MyError(code)

@python_app(cache=True)
def in_module(x):
    return helpers.check(x)

@bash_app
def shout(x):
    return f"test {helpers.check(x)} -eq 4"

if __name__ == "__main__":
    executor = GlobusComputeExecutor(sys.argv[1], label="globus")
    out = {}
    with parsl.load(Config(executors=[executor], run_dir=sys.argv[2], initialize_logging=False)):
        point = by_name(Point(2)).result(60)
        out["point"] = [type(point) is Point, point.x]
        out["by_module"] = by_module(5).result(60)
        out["bash"] = shout(4).result(60)
        try:
            fail(7).result(60)
        except MyError as error:
            out["my"] = error.told()
        for app in (in_module, shout):
            try:
                app(-1).result(60)
            except SiteError as error:
                out[app.__name__] = error.code
    print(json.dumps(out))
"""


def test_modules_beside_a_script(site, endpoint_id, tmp_path):
    (tmp_path / "helpers.py").write_text(HELPERS)
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "script.py", str(endpoint_id), str(tmp_path / "runinfo")],
        cwd=tmp_path,
        env=site.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "point": [True, 6],
        "by_module": 15,
        "bash": 0,
        "my": "code 7",
        "in_module": -1,
        "shout": -1,
    }
