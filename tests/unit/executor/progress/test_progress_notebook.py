"""The view in a notebook, run by a real kernel."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

CELLS = [
    """
import threading
import parsl
from parsl import Config, python_app
from parsl.executors import ThreadPoolExecutor
from parsl_globus import progress

@python_app
def hold(event):
    event.wait(60)

@python_app
def fail(_before):
    raise LookupError

config = Config(executors=[ThreadPoolExecutor(label="near", max_threads=1)], initialize_logging=False)
_ = parsl.load(config)
""",
    """
event = threading.Event()
with progress():
    print("before")
    futures = [hold(event), fail(hold(event))]
    event.set()
    for future in futures:
        future.exception()
print("behind")
""",
    "parsl.dfk().cleanup(); parsl.clear()",
]


def test_a_table_in_the_cell_that_is_replaced(tmp_path: Path) -> None:
    notebook: Any = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in CELLS])
    client = NotebookClient(notebook, timeout=240, startup_timeout=240, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    outputs = notebook.cells[1].outputs
    tables = [output for output in outputs if output.output_type == "display_data"]
    assert len(tables) == 1
    data = tables[0].data
    assert re.search(r"near +0 +0 +2 +1 +\S+/s +1 thread", data["text/plain"])
    assert re.search(r"<pre[^>]*>.*near.*failed|<pre[^>]*>.*failed.*near", data["text/html"], re.DOTALL)
    assert "".join(output.text for output in outputs if output.output_type == "stream") == "before\nbehind\n"
