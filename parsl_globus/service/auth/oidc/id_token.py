"""What makes an ID token good (OpenID Connect Core 1.0, section 3.1.3.7)."""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jwt

from parsl_globus.service.auth.oidc import problems

#: The kind of key that each signature takes. None with a shared secret, and not "none": who knows the key that checks
#: them could make them.
_KINDS = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), "RSA"),
    **dict.fromkeys(("ES256", "ES384", "ES512"), "EC"),
    "EdDSA": "OKP",
}
#: How far the issuer's clock may be off.
_LEEWAY_S = 60
_LONGEST_SUBJECT = 255

_Key = Mapping[str, Any]


@dataclass(frozen=True)
class Header:
    """What a token says of its signature, unverified.

    Attributes:
        algorithm: How it was signed; one that is taken.
        key_id: Which of the issuer's keys, if it says so.
    """

    algorithm: str
    key_id: str | None


def read_header(token: str) -> Header:
    """How a token says it was signed.

    Raises:
        NotAuthorized: It is no token, or not signed in a way that is taken.
    """
    try:
        found = jwt.get_unverified_header(token)
    except jwt.InvalidTokenError as exc:
        raise problems.token_refused("can't be read") from exc
    algorithm, key_id = found.get("alg"), found.get("kid")
    if not isinstance(algorithm, str) or algorithm not in _KINDS:
        raise problems.token_refused("is not signed in a way that is taken here")
    return Header(algorithm, key_id if isinstance(key_id, str) else None)


def choose_key(keys: Sequence[_Key], header: Header) -> _Key | None:
    """The key that a token was signed with, if it is among the issuer's; without a name, there must be only one."""
    fitting = [
        key
        for key in keys
        if key.get("kty") == _KINDS[header.algorithm]
        and key.get("use", "sig") == "sig"
        and key.get("alg", header.algorithm) == header.algorithm
        and header.key_id in (None, key.get("kid"))
    ]
    return fitting[0] if len(fitting) == 1 else None


def verify(
    token: str, key: _Key, header: Header, *, issuer: str, client_id: str, nonce: str | None
) -> Mapping[str, Any]:
    """The claims of a token.

    Args:
        token: As the issuer gave it.
        key: What `choose_key` found.
        header: What `read_header` said.
        issuer: Who must have made it.
        client_id: Whom it must be for.
        nonce: What was sent along with the question; `None` where none is, as a device login has none.

    Raises:
        NotAuthorized: It isn't good.
    """
    try:
        claims: dict[str, Any] = jwt.decode(
            token,
            jwt.PyJWK(dict(key), header.algorithm),
            algorithms=[header.algorithm],
            issuer=issuer,
            audience=client_id,
            leeway=_LEEWAY_S,
            options={"require": ["iss", "aud", "exp", "iat", "sub"]},
        )
    # Signed nonsense, too, as a time of "Infinity".
    except (jwt.PyJWTError, ValueError, TypeError, OverflowError) as exc:
        raise problems.token_refused(_told(exc)) from exc
    audience = claims["aud"] if isinstance(claims["aud"], list) else [claims["aud"]]
    party = claims.get("azp", client_id if len(audience) == 1 else None)
    if party != client_id:
        raise problems.token_refused("was made for another program")
    if nonce is not None and not _same(nonce, claims.get("nonce")):
        raise problems.token_refused("belongs to another login (nonce)")
    subject = claims["sub"]
    if not isinstance(subject, str) or not 0 < len(subject) <= _LONGEST_SUBJECT or not subject.isprintable():
        raise problems.token_refused("names nobody that can be kept")
    return claims


def _same(expected: str, found: Any) -> bool:
    return isinstance(found, str) and hmac.compare_digest(expected.encode(), found.encode("utf-8", "surrogatepass"))


def _told(exc: Exception) -> str:
    if isinstance(exc, jwt.ExpiredSignatureError):
        return "has expired; are the clocks of the issuer and of the service right?"
    if isinstance(exc, jwt.InvalidSignatureError):
        return "is not signed with the issuer's key"
    if isinstance(exc, jwt.InvalidAudienceError):
        return "was made for another program"
    if isinstance(exc, jwt.InvalidIssuerError):
        return "is another issuer's"
    return f"is not good ({exc})"
