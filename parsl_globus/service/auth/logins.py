"""Logins on the broker: their passwords, and what each may do there."""

from __future__ import annotations

import enum
import hashlib
import hmac
import uuid
from dataclasses import dataclass

from parsl_globus.service.broker.base import Grant
from parsl_globus.wire import names


class Role(str, enum.Enum):
    """Who logs in; the value leads the user name."""

    MANAGER = "m"
    USER_ENDPOINT = "e"
    IDENTITY = "u"


@dataclass(frozen=True)
class Login:
    """A user name with its password.

    Attributes:
        username: Role and id.
        password: Follows from the name and the service's key.
    """

    username: str
    password: str

    def __repr__(self) -> str:
        return f"Login(username={self.username!r})"


class BrokerLogins:
    """Gives out logins and judges them.

    A password follows from the service's key and the name, so it needs no storage, holds in every process of the
    service, and outlives a restart: an endpoint that runs for weeks never has to ask for another one.

    Args:
        key: The service's key.
        control: Whether user endpoints may consume a control queue (extension `control`).
    """

    def __init__(self, key: bytes, *, control: bool) -> None:
        self._key = key
        self._control = control

    def login(self, role: Role, owner_id: uuid.UUID) -> Login:
        """The login of a manager, a user endpoint or an identity."""
        username = f"{role.value}.{owner_id}"
        return Login(username, self._password(username))

    def _password(self, username: str) -> str:
        return hmac.new(self._key, f"broker:{username}".encode(), hashlib.sha256).hexdigest()

    def auth_secret(self) -> str:
        """What RabbitMQ shows when it asks about logins (`routes/broker_auth.py`); the same in every process."""
        return hmac.new(self._key, b"broker-auth", hashlib.sha256).hexdigest()

    def page_key(self) -> bytes:
        """What logins that were begun are known by (`auth/oidc/attempt.py`); the same in every process."""
        return hmac.new(self._key, b"oidc-attempts", hashlib.sha256).digest()

    def grant(self, username: str) -> Grant | None:
        """What a user may do whose password was right before; `None` when there can't be such a user."""
        found = _owner(username)
        return None if found is None else self._grant(*found)

    def authorize(self, username: str, password: str) -> Grant | None:
        """What this login may do; `None` when it is refused. See `Authorize`."""
        found = _owner(username)
        if found is None:
            return None
        role, owner_id = found
        # Compared as bytes: `compare_digest` takes no text beyond ASCII.
        expected = self._password(f"{role.value}.{owner_id}").encode()
        if not hmac.compare_digest(expected, password.encode("utf-8", "surrogatepass")):
            return None
        return self._grant(role, owner_id)

    def _grant(self, role: Role, owner_id: uuid.UUID) -> Grant:
        heartbeats = (names.HEARTBEATS_EXCHANGE, names.heartbeats_key(owner_id))
        if role is Role.MANAGER:
            return Grant(
                consume_queues=frozenset({names.commands_queue(owner_id)}), publish_keys=frozenset({heartbeats})
            )
        if role is Role.USER_ENDPOINT:
            queues = {names.tasks_queue(owner_id)}
            if self._control:
                queues.add(names.control_queue(owner_id))
            results = (names.RESULTS_EXCHANGE, names.results_key(owner_id))
            return Grant(consume_queues=frozenset(queues), publish_keys=frozenset({results, heartbeats}))
        return Grant(consume_prefixes=frozenset({names.group_queue_prefix(owner_id)}))


def _owner(username: str) -> tuple[Role, uuid.UUID] | None:
    """Whose login this is; `None` when it can't be one."""
    role_text, _, id_text = username.partition(".")
    try:
        return Role(role_text), uuid.UUID(id_text)
    except ValueError:
        return None
