"""A path that needs no quotes in a shell, for any folder: Parsl quotes none in the commands and scripts it writes."""

from __future__ import annotations

import os
import shlex
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

from parsl_globus.errors import ConfigError

_LINK_SPACE = uuid.UUID("a0b0c2f2-6a1a-5b0e-8f52-0a8f5fb3c1d4")


def plain_path(directory: Path, *, stays_here: bool) -> Path:
    """`directory` itself, or a symbolic link to it whose path needs no quotes.

    A link's name is the same each time. It stays when the endpoint ends, since workers of its blocks may still write
    there; links to folders that are gone are removed when another one is made.

    Args:
        directory: An existing folder.
        stays_here: Whether only processes of this machine use it, so that the link may be in its temporary folder.

    Raises:
        ConfigError: There is no place for such a link.
    """
    if _is_plain(directory):
        return directory
    for place in _places(stays_here):
        if _is_plain(place) and _is_ours(place):
            _sweep(place)
            return _link(place / str(uuid.uuid5(_LINK_SPACE, str(directory))), directory)
    raise ConfigError(
        f"The path '{directory}' has characters that Parsl can't work with, such as spaces, and so has the home "
        "folder; set PARSL_GLOBUS_HOME to a folder without, and configure the endpoint there."
    )


def _is_plain(path: Path) -> bool:
    return shlex.quote(str(path)) == str(path)


def _places(stays_here: bool) -> Iterator[Path]:
    # The home folder first: compute nodes see it, and nobody tidies it up while the endpoint runs.
    try:
        yield Path.home() / ".parsl_globus" / "links"
    except RuntimeError:
        pass  # an account without a home folder
    if stays_here:
        for folder in (tempfile.gettempdir(), "/tmp"):
            yield Path(folder) / f"parsl-globus-{os.getuid()}"


def _is_ours(place: Path) -> bool:
    """Make the folder if need be; in a temporary folder, anyone else may have made it before."""
    try:
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        status = place.lstat()
    except OSError:
        return False
    return status.st_uid == os.getuid() and not status.st_mode & 0o022 and place.is_dir() and not place.is_symlink()


def _sweep(place: Path) -> None:
    for entry in place.iterdir():
        if entry.is_symlink() and not entry.exists():
            entry.unlink(missing_ok=True)


def _link(link: Path, directory: Path) -> Path:
    if link.is_symlink() and os.readlink(link) == str(directory):
        return link
    fresh = link.with_name(f"{link.name}.{os.getpid()}")
    fresh.symlink_to(directory, target_is_directory=True)
    fresh.replace(link)
    return link
