"""A blob much larger than what a service may hold: in and out through a real service and the real client."""

from __future__ import annotations

import hashlib
import io
import random
from typing import BinaryIO, cast

import psutil
import pytest

from parsl_globus.client.rest import ServiceClient
from parsl_globus.testing.site import LocalSite

MIB = 1024**2
#: What a service may grow by, however large the blob: some copies of a part in each of the store's threads, and with
#: SQLite, which keeps what it read or wrote last, 64 MiB of cache for its reader and its writer each.
ALLOWED_MIB = {"sqlite": 192, "postgres": 112}


class Made(io.RawIOBase):
    """A file of random bytes that is nowhere."""

    def __init__(self, size_mib: int) -> None:
        self._left = size_mib
        self._random = random.Random(size_mib)
        self._waiting = b""
        self.digest = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        if not self._waiting and self._left:
            self._left -= 1
            self._waiting = self._random.randbytes(MIB)
            self.digest.update(self._waiting)
        taken, self._waiting = self._waiting[: len(buffer)], self._waiting[len(buffer) :]
        buffer[: len(taken)] = taken
        return len(taken)


@pytest.fixture(params=["sqlite", "postgres"])
def site(request, tmp_path):
    options = () if request.param == "sqlite" else ("--database", request.getfixturevalue("database_url"))
    with LocalSite(tmp_path) as site:
        site.start_service("--blob-limit", "300", *options)
        site.allowed_mib = ALLOWED_MIB[request.param]
        yield site
    assert site.processes() == []


def peak_mib(pid: int) -> float:
    """The most memory that a process has had so far."""
    with open(f"/proc/{pid}/status") as status:
        (line,) = [line for line in status if line.startswith("VmHWM:")]
    return int(line.split()[1]) / 1024


def there_and_back(client: ServiceClient, size_mib: int) -> None:
    source = Made(size_mib)
    blob_id = client.put_blob(cast(BinaryIO, source))
    digest = hashlib.sha256()
    size = 0
    for piece in client.get_blob(blob_id):
        digest.update(piece)
        size += len(piece)
    assert size == size_mib * MIB
    assert digest.digest() == source.digest.digest()
    client.delete_blob(blob_id)


def test_the_service_holds_no_blob_in_memory(site):
    client = ServiceClient(site.client())
    assert client.version().blob_limit_bytes == 300 * MIB
    pid = site.service_pid
    at_first_mib = psutil.Process(pid).memory_info().rss / MIB
    there_and_back(client, 256)
    grown_mib = peak_mib(pid) - at_first_mib
    client.close()
    print(f"grown by {grown_mib:.0f} MiB from {at_first_mib:.0f} MiB")
    assert grown_mib < site.allowed_mib
