"""Options of `parsl-globus service run` about blobs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

_F = TypeVar("_F", bound=Callable[..., Any])

_OPTIONS = (
    click.option(
        "--blob-limit",
        "blob_limit_mib",
        metavar="MIB",
        default=1024,
        show_default=True,
        type=click.IntRange(1),
        help="Largest blob (a value that travels by reference).",
    ),
    click.option(
        "--blob-quota",
        "blob_quota_mib",
        metavar="MIB",
        default=10_240,
        show_default=True,
        type=click.IntRange(1),
        help="How large the blobs of one identity may be together.",
    ),
    click.option(
        "--blob-count",
        metavar="NUMBER",
        default=10_000,
        show_default=True,
        type=click.IntRange(1),
        help="How many blobs one identity may have.",
    ),
    click.option(
        "--blob-life",
        "blob_life_days",
        metavar="DAYS",
        default=14.0,
        show_default=True,
        type=click.FloatRange(min=0.0, min_open=True),
        help="How long blobs are kept.",
    ),
)


def blob_options(command: _F) -> _F:
    """Give a command these options."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
