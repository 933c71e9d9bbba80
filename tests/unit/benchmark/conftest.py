"""A small result, as a run keeps it."""

from __future__ import annotations

from typing import Any

import pytest


def row(name: str, kind: str, values: list, *, unit: str = "tasks/s", backend: str = "embedded", **more: Any) -> dict:
    """One row of one contender."""
    return {
        "backend": backend,
        "row": name,
        "kind": kind,
        "unit": unit,
        "count": 1_000,
        "values": values,
        "failed": [0] * len(values),
        "why": [],
        "cpu_us": [{"client": 400.0, "service": 300.0}] * len(values),
        "memory_mb": [{"client": 90.0, "service": 120.0}] * len(values),
        "extra": [{}] * len(values),
        **more,
    }


@pytest.fixture
def result() -> dict[str, Any]:
    """Of a short run in which the public contender failed once."""
    return {
        "format": 2,
        "meta": {
            "when": "2026-01-02 03:04", "cores": 2, "processor": "Some CPU", "memory_gb": 8.0, "system": "Linux 6",
            "python": "3.11.7", "versions": {"parsl": "2026.10.26"}, "commit": "abc", "load_before": 0.1,
            "load_after": 1.9, "repeats": 3, "quick": False, "count": None, "taken_s": 120,
        },
        "rows": [
            row("noops", "local", [1_000.0, 1_100.0, 900.0]),
            row("noops", "public", [500.0, None], why=["it ended: out of luck"], failed=[0, 1_000]),
            row("noops", "ours", [900.0, 880.0, 810.0]),
            row("latency", "local", [2.0, 2.0, 2.5], unit="ms"),
            row("latency", "ours", [6.0, 11.0, 10.0], unit="ms"),
        ],
        "ready_s": {"embedded": [1.2, 1.4, 1.3]},
        "skipped": [{"what": "lab", "why": "PostgreSQL is not installed"}],
        "others": [
            {"tool": "ray", "count": 10, "rate": [2_000.0], "latency_ms": [1.5], "why": [], "version": "2"},
            {"tool": "dask", "count": 10, "rate": [], "latency_ms": [], "why": ["not installed (no module 'dask')"]},
            {"tool": "ours", "count": 10, "rate": [1_500.0], "latency_ms": [4.0], "why": [], "version": "1"},
        ],
        "scale": {
            "outstanding": [
                {
                    "level": 10, "count": 200, "rate": 700.0, "latency_ms": 12.0, "p99_ms": 20.0, "failed": 0,
                    "memory_mb": {"client": 80.0, "service": 100.0, "agent": 70.0},
                },
                {"level": 100_000, "why": "it did not answer within 300 s"},
            ],
            "endpoints": [
                {
                    "level": 200, "count": 100, "rate": 300.0, "latency_ms": 9.0, "failed": 2,
                    "memory_mb": {"client": 99.0},
                },
            ],
            "workers": [
                {"level": 4, "ideal_s": 2.0, "local_s": 2.1, "local_failed": 0, "ours_s": 2.2, "ours_failed": 0},
            ],
        },
    }  # fmt: skip
