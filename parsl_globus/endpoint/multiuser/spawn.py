"""Becomes a local account for good, proves it, and runs a program as it.

Run by path, as root, by a Python that reads nothing of anybody's: `python -I -S spawn.py ACCOUNT UID FOLDER COMMAND`.
FOLDER is made below the account's home, and gets the program's log. What goes wrong is told on stderr in one line.
Standard input is left alone: it is for the program. Only the standard library is there.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

#: It could not become the account, or not run the program.
EXIT_NOT_STARTED = 71
LOG = "endpoint.log"
_PR_SET_NO_NEW_PRIVS = 38


class NotStartedError(Exception):
    """Why; the text is for whoever submitted, too."""


def become(name: str, uid: int) -> pwd.struct_passwd:
    """Be this account and nothing else from now on, with its groups.

    Raises:
        NotStartedError: It isn't possible, or not certain.
    """
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise NotStartedError(f"There is no account '{name}' any more.") from None
    if entry.pw_uid != uid or uid == 0:
        raise NotStartedError(f"The account '{name}' is another one than it was.")
    groups = set(os.getgrouplist(name, entry.pw_gid))
    try:
        os.initgroups(name, entry.pw_gid)
        os.setresgid(entry.pw_gid, entry.pw_gid, entry.pw_gid)
        os.setresuid(uid, uid, uid)
        # Not even by programs that would give some back, such as sudo.
        if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "no_new_privs")
    except OSError as exc:
        raise NotStartedError(f"The endpoint can't become the account '{name}': {exc.strerror}.") from exc
    prove(uid, entry.pw_gid, groups)
    return entry


def prove(uid: int, gid: int, groups: set[int]) -> None:
    """See that this process is this account alone, and can't be root again.

    Raises:
        NotStartedError: It is more, or can become more.
    """
    wrong = [
        os.getresuid() != (uid, uid, uid),
        os.getresgid() != (gid, gid, gid),
        not set(os.getgroups()) <= groups | {gid},
        any(_capabilities()),
    ]
    attempts: list[Callable[[], None]] = [
        lambda: os.setuid(0),
        lambda: os.seteuid(0),
        lambda: os.setresuid(-1, 0, -1),
        lambda: os.setresuid(-1, -1, 0),
        lambda: os.setgroups([0]),
    ]
    if gid != 0:
        attempts += [lambda: os.setgid(0), lambda: os.setegid(0)]
    for attempt in attempts:
        try:
            attempt()
        except PermissionError:
            continue
        wrong.append(True)
    if any(wrong):
        raise NotStartedError("The endpoint could not give up its privileges.")


def _capabilities() -> list[int]:
    """What is permitted, effective and ambient."""
    with open("/proc/self/status") as stream:
        fields = dict(line.split(":", 1) for line in stream if ":" in line)
    return [int(fields[name].strip(), 16) for name in ("CapPrm", "CapEff", "CapAmb") if name in fields]


def enter(name: str, home: str, folder: str) -> int:
    """Go to the account's home, and make the folder.

    Returns:
        The log in there, open for writing.

    Raises:
        NotStartedError: It can't.
    """
    try:
        os.chdir(home)
    except OSError as exc:
        raise NotStartedError(f"The account '{name}' can't enter its home {home}: {exc.strerror}.") from exc
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        return os.open(os.path.join(folder, LOG), flags, 0o600)
    except OSError as exc:
        raise NotStartedError(f"The account '{name}' can't write to {home}/{folder}: {exc.strerror}.") from exc


def main(arguments: Sequence[str]) -> NoReturn:
    """Run the command as the account; never returns."""
    name, uid, folder, *command = arguments
    try:
        os.umask(0o077)
        entry = become(name, int(uid))
        log = enter(name, entry.pw_dir, folder)
        if not os.access(command[0], os.X_OK):
            raise NotStartedError(
                f"The account '{name}' can't run {command[0]}; the endpoint must be installed where all can read it."
            )
        early = os.dup(2)
        os.set_inheritable(early, False)
        os.dup2(log, 1)
        os.dup2(log, 2)
        try:
            os.execv(command[0], command)
        except OSError as exc:
            os.dup2(early, 2)
            raise NotStartedError(f"The account '{name}' can't run {command[0]}: {exc.strerror}.") from exc
    except NotStartedError as exc:
        os.write(2, f"{exc}\n".encode())
    except Exception as exc:  # noqa: BLE001 - the outermost frame, and whoever waits is told this one line
        os.write(2, f"The endpoint can't be started for '{name}': {type(exc).__name__}: {exc}\n".encode())
    os._exit(EXIT_NOT_STARTED)


if __name__ == "__main__":
    main(sys.argv[1:])
