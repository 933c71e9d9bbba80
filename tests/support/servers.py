"""What needs a server or a privilege skips on a laptop and fails in CI when it is missing."""

from __future__ import annotations

import os

import pytest


def require(missing: str | None) -> None:
    """Skip the test when something is missing, and fail it in CI.

    Args:
        missing: What is missing, or `None`.
    """
    if missing is None:
        return
    if os.environ.get("CI"):
        pytest.fail(f"CI must have what this test needs: {missing}")
    pytest.skip(missing)
