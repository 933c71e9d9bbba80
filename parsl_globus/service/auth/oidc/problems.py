"""Why a login at an issuer failed, each with a sentence for whoever wanted in."""

from __future__ import annotations

from parsl_globus.errors import NotAuthorized, RequestRefused


def issuer_away(issuer: str, detail: str) -> RequestRefused:
    """It can't be asked."""
    return RequestRefused(
        http_status=503,
        code="OIDC_ISSUER_UNAVAILABLE",
        reason=f"The issuer {issuer} can't be asked now ({detail}). Other ways to log in go on working.",
    )


def login_failed(detail: str) -> NotAuthorized:
    """The issuer doesn't vouch for anybody, or not in a way that counts."""
    return NotAuthorized(http_status=401, code="OIDC_LOGIN_FAILED", reason=f"The login failed: {detail}. Try again.")


def token_refused(detail: str) -> NotAuthorized:
    """The issuer's token is not good."""
    return NotAuthorized(
        http_status=401, code="OIDC_TOKEN_REFUSED", reason=f"The login failed: the issuer's token {detail}."
    )


def user_refused(detail: str) -> NotAuthorized:
    """The issuer vouches for somebody who may not come in."""
    return NotAuthorized(http_status=403, code="OIDC_USER_REFUSED", reason=detail)


def not_offered() -> RequestRefused:
    """There is no issuer."""
    return RequestRefused(
        http_status=404,
        code="OIDC_NOT_OFFERED",
        reason="This service knows no OpenID Connect issuer. Log in with a client's secret or a token.",
    )


def no_device_login(issuer: str) -> RequestRefused:
    """The issuer doesn't log devices in; clients then go through the service's page."""
    return RequestRefused(
        http_status=404,
        code="OIDC_NO_DEVICE_LOGIN",
        reason=f"The issuer {issuer} has no device login. Log in through the service's page.",
    )


def not_yet(code: str) -> RequestRefused:
    """A device login isn't through; `code` is the issuer's, of RFC 8628 section 3.5."""
    return RequestRefused(http_status=400, code=code, reason="The login isn't through yet. Ask again in a while.")
