"""Processor time and memory of all the processes that a task passes through, by their part."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import psutil

#: Parts in the order in which a task meets them.
PARTS = ("client", "service", "broker", "database", "agent", "interchange", "pool")

Times = dict[str, float]


def sample(client_pid: int, processes: Iterable[psutil.Process]) -> Times:
    """Seconds of processor time so far, by part.

    Args:
        client_pid: The workflow's process.
        processes: All of the chain.
    """
    times: Times = dict.fromkeys(PARTS, 0.0)
    for process in processes:
        try:
            part = "client" if process.pid == client_pid else part_of(process)
            spent = process.cpu_times()
        except psutil.Error:
            continue  # it has ended; the rows are short and nothing of the chain does
        times[part] += spent.user + spent.system
    return times


def part_of(process: psutil.Process) -> str:
    """Which part a process belongs to."""
    for ancestor in [process, *process.parents()]:
        words = " ".join(ancestor.cmdline())
        if "process_worker_pool" in words or "worker pool" in words or "submit_scripts" in words:
            return "pool"
        if "interchange" in words:
            return "interchange"
        if "service run" in words:
            return "service"
        if "rabbitmq" in words or "beam" in words or "epmd" in words:
            return "broker"
        if words.startswith("postgres") or "/postgres" in words:
            return "database"
        if "user_endpoint" in words or "endpoint run" in words or "globus-compute-endpoint" in words:
            return "agent"
        if "Globus Compute" in words:
            return "agent"
        if "workflow.py" in words:
            return "client"
    return "agent"


def between(before: Times, after: Times) -> dict[str, float]:
    """Seconds spent from one sample to the next, by part."""
    return {part: round(after[part] - before[part], 3) for part in PARTS if after[part] > before[part]}


def forget_peaks(processes: Iterable[psutil.Process]) -> None:
    """Have the processes' peaks of memory begin anew."""
    for process in processes:
        try:
            Path(f"/proc/{process.pid}/clear_refs").write_text("5")
        except OSError:
            continue  # it ended, or is another user's


def peaks_mb(client_pid: int, processes: Iterable[psutil.Process]) -> dict[str, float]:
    """Peaks of memory since then, in megabytes, by part: sums over processes, what they share included each time."""
    peaks: dict[str, float] = {}
    for process in processes:
        try:
            part = "client" if process.pid == client_pid else part_of(process)
            status = Path(f"/proc/{process.pid}/status").read_text()
        except (psutil.Error, OSError):
            continue
        peak_kb = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
        peaks[part] = peaks.get(part, 0.0) + (float(peak_kb[0]) / 1e3 if peak_kb else 0.0)
    return {part: round(peaks[part], 1) for part in PARTS if part in peaks}
