"""What takes the radio's place in a monitored task, on any worker: keeps what Parsl sends until it goes home.

Its text travels inside monitored functions, as stock workers have none of our classes; so it stands alone.
"""

import json
import os
import platform
import shutil
import tempfile
import threading
import time

#: Most samples of a task that go home; of a longer series every second one is left out, again and again.
SAMPLES = 240
#: The longest result that records travel with: the public limit is 10 MiB for both together.
ROOM = 9 * 2**20
#: What nobody needs and the database has no column for.
LEFT_OUT = frozenset(
    "psutil_process_" + name
    for name in ("create_time", "cwd", "exe", "name", "nice", "num_threads", "ppid", "username")
)
#: Where schedulers tell the id of the job.
JOB_IDS = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "COBALT_JOBID", "FLUX_JOB_ID")


class Radio:
    """Keeps each record in a file of the running task's folder; a forked process sends as well as the task itself.

    Each thread may run a task of its own.
    """

    def __init__(self):
        self._here = threading.local()
        self._node = None
        self._since = time.time()

    def open(self):
        """A task begins."""
        self._here.folder = self._here.trouble = None
        try:
            self._here.folder = tempfile.mkdtemp(prefix="parsl-globus-monitoring-")
        except OSError as error:
            self._here.trouble = str(error)

    def create_sender(self):
        """As Parsl's radios have it."""
        return Sender(self._here)

    def close(self, result_size):
        """The task has ended: what goes home; nearly nothing beside a result of the limit's size."""
        records, node = [], None
        try:
            node = self._node_info()
            if self._here.folder:
                records = self._records()
                shutil.rmtree(self._here.folder)
            if result_size > ROOM:
                records = []
                self._here.trouble = "the result leaves no room for them"
        except Exception as error:
            self._here.trouble = str(error)
        home = {"records": records, "node": node}
        if self._here.trouble:
            home["trouble"] = self._here.trouble
        return home

    def _records(self):
        records = []
        for name in sorted(os.listdir(self._here.folder)):  # in the order of time
            with open(os.path.join(self._here.folder, name)) as file:
                try:
                    records.append(json.load(file))
                except ValueError as error:  # half a record, of a process that was killed
                    self._here.trouble = str(error)
        return records

    def _node_info(self):
        if self._node is None:
            try:
                import psutil

                cores, memory = psutil.cpu_count(logical=False), psutil.virtual_memory().total
            except Exception:  # not everywhere does it find out
                cores, memory = None, 0
            self._node = {
                "hostname": platform.node(),
                "uid": os.environ.get("PARSL_WORKER_POOL_ID") or platform.node(),
                "block_id": os.environ.get("PARSL_WORKER_BLOCK_ID"),
                "job_id": next((os.environ[name] for name in JOB_IDS if os.environ.get(name)), None),
                "worker_count": int(os.environ.get("PARSL_WORKER_COUNT") or 1),
                "cpu_count": cores or os.cpu_count() or 1,
                "total_memory": memory,
                "python_v": platform.python_version(),
                "timestamp": self._since,
            }
        return self._node


class Sender:
    """Parsl makes several in one task: for the first message, for the last, and for the process that samples."""

    def __init__(self, here):
        self._here = here
        self._count = 0
        self._step = 1
        self._kept = []
        self._spare = None

    def send(self, message):
        """Keep a record; never raises, as a task must not fail for its monitoring."""
        kind, content = message
        if self._here.folder is None:
            return
        try:
            path = self._write(kind.name, content)
            if kind.name == "RESOURCE_INFO":
                self._thin(path)
        except Exception as error:
            self._here.trouble = str(error)

    def _write(self, kind, content):
        record = {"type": kind}
        for key, value in content.items():
            if key not in LEFT_OUT:
                # The time of day is the worker's; seconds since the epoch are the same everywhere.
                record[key] = value.timestamp() if hasattr(value, "timestamp") else value
        name = "%020d-%d-%d.json" % (time.time_ns(), os.getpid(), id(self))
        path = os.path.join(self._here.folder, name)
        with open(path, "w") as file:
            json.dump(record, file, separators=(",", ":"))
        return path

    def _thin(self, path):
        """Keep every `step`-th sample and the last one, which has the sums."""
        if self._spare:
            os.unlink(self._spare)
            self._spare = None
        if len(self._kept) >= SAMPLES - 1:
            for left_out in self._kept[1::2]:
                os.unlink(left_out)
            del self._kept[1::2]
            self._step *= 2
        if self._count % self._step:
            self._spare = path
        else:
            self._kept.append(path)
        self._count += 1
