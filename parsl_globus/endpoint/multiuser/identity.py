"""Identities to local accounts, by the site's mapping, which is read again whenever its file has changed."""

from __future__ import annotations

import json
import logging
import os
import pwd
import stat
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parsl_globus.errors import ConfigError
from parsl_globus.wire.documents import StartCommand

if TYPE_CHECKING:
    from globus_identity_mapping.protocol import IdentityMappingProtocol

logger = logging.getLogger(__name__)

#: What mapping programs are told as their connector: the one for POSIX accounts in Globus's list.
_POSIX_CONNECTOR = "145812c8-decc-41f1-83cf-bb2a85a2a70b"
_NOBODY_YET = "00000000-0000-0000-0000-000000000000"


class NotMappedError(Exception):
    """Whoever asks gets no account here; the text is for them."""


@dataclass(frozen=True)
class Account:
    """A local account.

    Attributes:
        name: Its name.
        uid: Its number, never 0.
        gid: Its primary group.
        home: Its home folder.
        shell: Its login shell.
        gecos: What it says of itself.
        groups: All its groups.
    """

    name: str
    uid: int
    gid: int
    home: Path
    shell: str
    gecos: str
    groups: tuple[int, ...]

    def environment(self) -> dict[str, str]:
        """What a login sets."""
        return {
            "HOME": str(self.home),
            "USER": self.name,
            "LOGNAME": self.name,
            "SHELL": self.shell or "/bin/sh",
            "PWD": str(self.home),
        }

    def document(self, identity_id: str | None) -> dict[str, Any]:
        """What templates see as `mapped_identity`."""
        local = {
            "uname": self.name,
            "uid": self.uid,
            "gid": self.gid,
            "gecos": self.gecos,
            "shell": self.shell,
            "dir": str(self.home),
            "groups": list(self.groups),
        }
        return {"local": local, "globus": {"id": identity_id}}


@dataclass(frozen=True)
class Mapped:
    """An account, and the identity that it was found by."""

    account: Account
    identity_id: str


class IdentityMap:
    """A site's mapping: expressions, or programs of its own, as Globus Connect Server's guide describes them.

    Args:
        path: Its file.

    Raises:
        ConfigError: It can't be used.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: tuple[object, ...] | None = None
        self._mappers: list[IdentityMappingProtocol] = []
        self._endpoint_id = _NOBODY_YET
        self._load()

    def serve(self, endpoint_id: uuid.UUID) -> None:
        """Map for this endpoint, whose id programs are told."""
        self._endpoint_id = str(endpoint_id)
        self._known = None
        self._load()
        for path in (sys.executable, __file__):
            closed = closed_to_others(Path(path))
            if closed is not None:
                logger.warning("%s is in %s, which other accounts may not enter: their tasks will fail", path, closed)

    def account_for(self, command: StartCommand) -> Mapped:
        """The account of whoever sent a start command: the first that any mapper finds.

        Raises:
            NotMappedError: There is none that may be used.
            ConfigError: The file has changed, and can't be used any more.
        """
        self._load()
        who = f"Identity {command.globus_effective_identity} ({command.globus_username})"
        found = self._first(_identities(command))
        if found is None:
            raise NotMappedError(f"{who} is mapped to no account at this endpoint; ask those who run it.")
        identity_id, name = found
        try:
            account = account_named(name)
        except KeyError:
            raise NotMappedError(f"{who} is mapped to the account '{name}', which doesn't exist there.") from None
        if account.uid == 0:
            logger.error("%s is mapped to root, as '%s'; refused", who, name)
            raise NotMappedError(
                f"{who} is mapped to an account that may run no tasks; ask those who run the endpoint."
            )
        return Mapped(account, identity_id)

    def _first(self, identities: list[dict[str, Any]]) -> tuple[str, str] | None:
        for mapper in self._mappers:
            try:
                results = mapper.map_identities(identities)
            except Exception as exc:
                # A program of the site, or a property that an identity lacks; the next mapper may do.
                logger.warning("%s failed: %s", type(mapper).__name__, exc, exc_info=True)
                continue
            for result in results:
                for identity_id, names in result.items():
                    if names:
                        return str(identity_id), names[0]
        return None

    def _load(self) -> None:
        """Read the file if it is another one than last time. One that can't be used maps nobody."""
        try:
            status = self.path.stat()
            known = (status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size)
            if known == self._known:
                return
            self._known, self._mappers = None, []
            if status.st_uid not in (0, os.geteuid()) or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise ConfigError(
                    "The identity mapping decides who becomes whom, so only root may be able to write it.",
                    file=str(self.path),
                )
            documents = json.loads(self.path.read_bytes())
        except OSError as exc:
            raise ConfigError(f"The identity mapping can't be read: {exc.strerror}.", file=str(self.path)) from exc
        except ValueError as exc:
            raise ConfigError(f"This is not valid JSON: {exc}.", file=str(self.path)) from exc
        self._mappers = self._made(documents)
        self._known = known
        logger.info("%d identity mappers are read from %s", len(self._mappers), self.path)

    def _made(self, documents: Any) -> list[IdentityMappingProtocol]:
        if not isinstance(documents, list) or not documents:
            raise ConfigError("An identity mapping is a list of objects with DATA_TYPE.", file=str(self.path))
        from globus_identity_mapping.loader import load_mappers  # only sites that map have to wait for it

        try:
            mappers = load_mappers(documents, _POSIX_CONNECTOR, self._endpoint_id)
        except Exception as exc:
            # Whatever the package raises for what it doesn't like in the file.
            raise ConfigError(f"The identity mapping can't be used: {exc}", file=str(self.path)) from exc
        if len(mappers) != len(documents):
            raise ConfigError(
                "A DATA_TYPE is unknown; there are expression_identity_mapping#1.0.0 and "
                "external_identity_mapping#1.0.0.",
                file=str(self.path),
            )
        return mappers


def closed_to_others(path: Path) -> Path | None:
    """The first folder on the way to `path` that not everybody may enter."""
    folders = reversed(Path(os.path.realpath(path)).parents)
    return next((folder for folder in folders if not folder.stat().st_mode & stat.S_IXOTH), None)


def account_named(name: str) -> Account:
    """The account of this name.

    Raises:
        KeyError: There is none.
    """
    entry = pwd.getpwnam(name)
    return Account(
        name=entry.pw_name,
        uid=entry.pw_uid,
        gid=entry.pw_gid,
        home=Path(entry.pw_dir),
        shell=entry.pw_shell,
        gecos=entry.pw_gecos,
        groups=tuple(os.getgrouplist(entry.pw_name, entry.pw_gid)),
    )


def _identities(command: StartCommand) -> list[dict[str, Any]]:
    """The submitter's identities as mappers want them: an id, and a status of those that were logged in with."""
    found = []
    for entry in command.globus_identity_set:
        sub = entry.get("sub") or entry.get("id")
        if sub is None:
            continue
        known: Mapping[str, Any] = {"id": str(sub), **entry}
        if "status" not in known and str(sub) == str(command.globus_effective_identity):
            known = {**known, "status": "used"}
        found.append(dict(known))
    return found
