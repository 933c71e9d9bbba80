"""One browser's login at an issuer, from its beginning to its end.

Nothing is stored: all that must be remembered follows from a cookie and the service's key, so that any process may see
the end of what another one began, and nobody fills the store by beginning logins. Another browser's cookie makes
another state, so whoever is sent here with somebody else's code gets nowhere.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass, field

#: A login at an issuer may need a password to be looked up.
LIFE_S = 900
_LONGEST_COOKIE = 1000
_LONGEST_TARGET = 500


@dataclass(frozen=True)
class Attempt:
    """A login that was begun.

    Attributes:
        cookie: What the browser keeps.
        target: Where on the page it wanted to go.
    """

    cookie: str = field(repr=False)
    target: str
    _key: bytes = field(repr=False)

    @staticmethod
    def begin(key: bytes, target: str) -> Attempt:
        """A new one; of a long way nothing is kept."""
        target = target if len(target) <= _LONGEST_TARGET else "/"
        where = base64.urlsafe_b64encode(target.encode()).decode().rstrip("=")
        return Attempt(f"{secrets.token_urlsafe(32)}.{int(time.time())}.{where}", target, key)

    @staticmethod
    def of(key: bytes, cookie: str) -> Attempt | None:
        """The one that a browser began, if it has, and lately."""
        parts = cookie.split(".")
        if len(parts) != 3 or len(cookie) > _LONGEST_COOKIE:
            return None
        _, began, where = parts
        try:
            age_s = time.time() - int(began)
            target = base64.urlsafe_b64decode(where + "=" * (-len(where) % 4)).decode()
        except (ValueError, OverflowError, binascii.Error):
            return None
        return Attempt(cookie, target, key) if age_s <= LIFE_S else None

    def _derived(self, what: str) -> str:
        digest = hmac.new(self._key, f"{what}:{self.cookie}".encode("utf-8", "surrogatepass"), hashlib.sha256).digest()
        return base64.urlsafe_b64encode(digest).decode().rstrip("=")

    @property
    def state(self) -> str:
        """What the issuer sends back with the browser."""
        return self._derived("state")

    @property
    def nonce(self) -> str:
        """What the issuer puts into the token."""
        return self._derived("nonce")

    @property
    def verifier(self) -> str:
        """What we show for the code (PKCE); the issuer has seen its hash only."""
        return self._derived("verifier")

    @property
    def challenge(self) -> str:
        """The verifier's hash."""
        return challenge_of(self.verifier)

    def has_state(self, state: str) -> bool:
        """Whether a browser comes back from this attempt."""
        return hmac.compare_digest(self.state.encode(), state.encode("utf-8", "surrogatepass"))


def challenge_of(verifier: str) -> str:
    """The hash that stands for a verifier until it is shown (RFC 7636, S256)."""
    digest = hashlib.sha256(verifier.encode("utf-8", "surrogatepass")).digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")
