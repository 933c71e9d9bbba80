"""Bodies of the REST requests about people, which are extensions of ours: users, groups, tokens, shares."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from parsl_globus.wire.documents import COMPUTE_SCOPE, Document

#: What our own scopes start with.
OWN_SCOPES = "urn:parsl-globus:scope:"

#: What a token must be for to manage users and groups; only administrators get one, and only when they ask for it, so
#: that the tokens of their workflows can't be used for that.
ADMIN_SCOPE = "urn:parsl-globus:scope:admin"

#: For a Prometheus: such a token of an administrator opens `/metrics` and nothing else.
METRICS_SCOPE = "urn:parsl-globus:scope:metrics"

#: For workers: such a token puts, gets and deletes blobs in its user's name, of which one must know the ids. Whoever
#: holds a token for `compute` may make one.
BLOBS_SCOPE = "urn:parsl-globus:scope:blobs"

#: Scopes by the names that people use.
SCOPES = {
    "admin": ADMIN_SCOPE,
    "blobs": BLOBS_SCOPE,
    "compute": COMPUTE_SCOPE,
    "metrics": METRICS_SCOPE,
    "openid": "openid",
}

#: Names of users and groups; they stand in addresses, so nothing in them needs escaping.
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._@+-]{0,127}$"
Name = Annotated[str, Field(pattern=NAME_PATTERN)]

LONGEST_TOKEN_LIFE_S = 366 * 86_400


class NewUser(Document):
    """`POST /v3/admin/users`."""

    username: Name
    admin: bool = False


class NewGroup(Document):
    """`POST /v3/admin/groups`."""

    name: Name


class NewToken(Document):
    """`POST /v3/tokens`. Without `user` it is the caller's own; `scopes` are names out of `SCOPES`."""

    user: Name | None = None
    scopes: list[Annotated[str, Field(max_length=255)]] = Field(default=["compute"], min_length=1, max_length=10)
    life_s: float | None = Field(default=None, gt=0, le=LONGEST_TOKEN_LIFE_S, allow_inf_nan=False)


class DeviceCode(Document):
    """`POST /v3/login/device/token`."""

    device_code: str = Field(min_length=1, max_length=4096)


class CommandCode(Document):
    """`POST /v3/login/command`: what the page has shown, and what the command has kept."""

    code: str = Field(min_length=1, max_length=255)
    verifier: str = Field(min_length=43, max_length=128, pattern=r"^[A-Za-z0-9._~-]+$")


class IssuerLogin(Document):
    """`PUT /v3/admin/users/{name}/login`."""

    subject: str = Field(min_length=1, max_length=255, pattern=r"^[ -~]+$")
