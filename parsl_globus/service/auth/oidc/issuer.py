"""An OpenID Connect issuer: what it says of itself, its keys, and what it gives for a code."""

from __future__ import annotations

import asyncio
import base64
import copy
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote_plus, urlencode, urlsplit

from parsl_globus.errors import ConfigError, RequestRefused
from parsl_globus.service.auth.oidc import id_token, problems
from parsl_globus.service.auth.oidc.wire import Answer, NoAnswer, Wire
from parsl_globus.service.config import OidcConfig
from parsl_globus.service.tls import is_loopback

logger = logging.getLogger(__name__)

_SCOPES = "openid profile email"
#: What an issuer says of itself is asked for again after this time, its keys also when one is missing.
_REMEMBER_S = 3600.0
#: After a failure, and for a missing key, it isn't asked again before this time.
_AGAIN_S = 5.0
_DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
_NOT_YET = ("authorization_pending", "slow_down")


def check_issuer(config: OidcConfig) -> None:
    """See that an issuer can be trusted with secrets at all.

    Raises:
        ConfigError: Its URL isn't one, or what goes there is not encrypted.
    """
    parts = _split(config.issuer)
    if not parts or parts.query or parts.fragment:
        raise ConfigError("It must be the issuer's URL, as in https://login.example.org.", key_path="--oidc-issuer")
    if not _is_safe(config.issuer):
        raise ConfigError(
            "Logins would cross the network in the clear. Give the issuer's https:// URL.", key_path="--oidc-issuer"
        )
    if not config.client_id:
        raise ConfigError("It must be the id that the issuer gave to this service.", key_path="--oidc-client-id")


def _split(url: str) -> Any:
    try:
        parts = urlsplit(url)
        return parts if parts.hostname and parts.scheme in ("http", "https") else None
    except ValueError:
        return None


def _is_safe(url: str) -> bool:
    parts = _split(url)
    return bool(parts) and (parts.scheme == "https" or is_loopback(parts.hostname))


@dataclass(frozen=True)
class Metadata:
    """What an issuer says of itself.

    Attributes:
        authorization: Where browsers go.
        token: Where codes are changed into tokens.
        keys: Where its keys are.
        userinfo: Where it says more of a user, if anywhere.
        device: Where device logins begin, if anywhere.
        secret_in_form: Whether the client's secret goes into forms, rather than into a header.
    """

    authorization: str
    token: str
    keys: str
    userinfo: str | None
    device: str | None
    secret_in_form: bool


@dataclass(frozen=True)
class Granted:
    """What an issuer gave for a code.

    Attributes:
        claims: Of the ID token, verified.
        access_token: For asking it for more.
    """

    claims: Mapping[str, Any]
    access_token: str | None = field(default=None, repr=False)


class Issuer:
    """Asks one issuer, in the name of this service. Nothing is asked before somebody logs in.

    Args:
        config: Which one, and who we are there.
    """

    def __init__(self, config: OidcConfig) -> None:
        self._config = config
        self._wire = Wire()
        self._asking = asyncio.Lock()
        self._metadata: tuple[float, Metadata] | None = None
        self._failed: tuple[float, RequestRefused] | None = None
        self._keys: tuple[float, list[dict[str, Any]]] | None = None

    def close(self) -> None:
        """Ask no more."""
        self._wire.close()

    async def metadata(self) -> Metadata:
        """What it says of itself.

        Raises:
            RequestRefused: It doesn't answer, or as another one.
        """
        async with self._asking:
            now_s = time.monotonic()
            if self._metadata is not None and now_s - self._metadata[0] < _REMEMBER_S:
                return self._metadata[1]
            if self._failed is not None and now_s - self._failed[0] < _AGAIN_S:
                raise copy.copy(self._failed[1])  # each its own: a traceback grows with every raise
            try:
                found = self._read_metadata(await self._document(self._well_known()))
            except RequestRefused as exc:
                self._failed = (time.monotonic(), exc)
                raise
            self._metadata = (now_s, found)
            return found

    def _well_known(self) -> str:
        return self._config.issuer.rstrip("/") + "/.well-known/openid-configuration"

    def _read_metadata(self, document: Mapping[str, Any]) -> Metadata:
        if document.get("issuer") != self._config.issuer:
            raise self._away(f"it says that it is {str(document.get('issuer'))[:200]}; --oidc-issuer must be the same")
        methods = document.get("token_endpoint_auth_methods_supported") or ["client_secret_basic"]
        return Metadata(
            self._address(document, "authorization_endpoint"),
            self._address(document, "token_endpoint"),
            self._address(document, "jwks_uri"),
            self._address(document, "userinfo_endpoint") if "userinfo_endpoint" in document else None,
            self._address(document, "device_authorization_endpoint")
            if "device_authorization_endpoint" in document
            else None,
            "client_secret_basic" not in methods and "client_secret_post" in methods,
        )

    def _address(self, document: Mapping[str, Any], name: str) -> str:
        url = document.get(name)
        if not isinstance(url, str) or not _split(url):
            raise self._away(f"it names no {name}")
        # On this machine alone, an issuer for trying things out need not encrypt.
        if not _is_safe(url):
            raise self._away(f"its {name} is not encrypted")
        return url

    async def _document(self, url: str, *, bearer: str | None = None) -> Mapping[str, Any]:
        try:
            answer = await self._wire.get(url, bearer=bearer)
        except NoAnswer as exc:
            raise self._away(str(exc)) from exc
        if answer.status != 200:
            raise self._away(f"HTTP status {answer.status} at {urlsplit(url).path}")
        return answer.document

    def _away(self, detail: str) -> RequestRefused:
        logger.warning("The issuer %s can't be asked: %s", self._config.issuer, detail)
        return problems.issuer_away(self._config.issuer, detail)

    # ---- logins of browsers ---------------------------------------------------------------------------------------

    async def login_url(self, *, redirect_uri: str, state: str, nonce: str, challenge: str) -> str:
        """Where a browser is sent to log in.

        Raises:
            RequestRefused: The issuer doesn't answer.
        """
        address = (await self.metadata()).authorization
        query = {
            "response_type": "code",
            "client_id": self._config.client_id,
            "redirect_uri": redirect_uri,
            "scope": _SCOPES,
            "state": state,
            "nonce": nonce,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        return f"{address}{'&' if urlsplit(address).query else '?'}{urlencode(query)}"

    async def redeem_code(self, code: str, *, redirect_uri: str, verifier: str, nonce: str) -> Granted:
        """Change a browser's code into who it is.

        Raises:
            NotAuthorized: The code, or the token that it gave, isn't good.
            RequestRefused: The issuer doesn't answer.
        """
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_uri,
            "code_verifier": verifier,
        }
        answer = await self._post((await self.metadata()).token, form)
        return await self._granted(answer, nonce)

    async def _granted(self, answer: Answer, nonce: str | None) -> Granted:
        if answer.status != 200:
            raise problems.login_failed(f"the issuer refused the code ({self._error(answer)})")
        token = answer.document.get("id_token")
        if not isinstance(token, str):
            raise problems.token_refused("is missing")
        header = id_token.read_header(token)
        claims = id_token.verify(
            token,
            await self._key(header),
            header,
            issuer=self._config.issuer,
            client_id=self._config.client_id,
            nonce=nonce,
        )
        access_token = answer.document.get("access_token")
        return Granted(claims, access_token if isinstance(access_token, str) else None)

    def _error(self, answer: Answer) -> str:
        error = str(answer.document.get("error", f"HTTP status {answer.status}"))[:100]
        if error == "invalid_client":
            logger.error("The issuer %s doesn't accept this service's client id and secret", self._config.issuer)
        return error

    async def _key(self, header: id_token.Header) -> Mapping[str, Any]:
        now_s = time.monotonic()
        if self._keys is not None and now_s - self._keys[0] < _REMEMBER_S:
            found = id_token.choose_key(self._keys[1], header)
            if found is not None:
                return found
        if self._keys is None or now_s - self._keys[0] >= _AGAIN_S:
            document = await self._document((await self.metadata()).keys)
            listed = document.get("keys")
            keys = [key for key in listed if isinstance(key, dict)] if isinstance(listed, list) else []
            self._keys = (now_s, keys)
            found = id_token.choose_key(keys, header)
            if found is not None:
                return found
        raise problems.token_refused("is signed with a key that is none of the issuer's")

    async def more_claims(self, granted: Granted) -> Mapping[str, Any]:
        """What the issuer says of a user beside the token; nothing where it has no such address.

        Raises:
            NotAuthorized: It speaks of another user.
            RequestRefused: It doesn't answer.
        """
        address = (await self.metadata()).userinfo
        if address is None or granted.access_token is None:
            return {}
        document = await self._document(address, bearer=granted.access_token)
        if document.get("sub") != granted.claims["sub"]:
            raise problems.login_failed("the issuer speaks of another user than its token does")
        return document

    # ---- logins of devices (RFC 8628) -----------------------------------------------------------------------------

    async def start_device(self) -> Mapping[str, Any]:
        """What a device shows its user, as the issuer said it.

        Raises:
            RequestRefused: The issuer has no such login, or doesn't answer.
        """
        address = (await self.metadata()).device
        if address is None:
            raise problems.no_device_login(self._config.issuer)
        answer = await self._post(address, {"scope": _SCOPES})
        if answer.status != 200:
            # Most likely it has them, but not for this client.
            logger.info("The issuer %s begins no device login: %s", self._config.issuer, self._error(answer))
            raise problems.no_device_login(self._config.issuer)
        return answer.document

    async def redeem_device(self, device_code: str) -> Granted:
        """Change a device's code into who has approved it.

        Raises:
            NotAuthorized: Nobody has, and nobody will; or the token isn't good.
            RequestRefused: Nobody has yet, or the issuer doesn't answer.
        """
        answer = await self._post(
            (await self.metadata()).token, {"grant_type": _DEVICE_GRANT, "device_code": device_code}
        )
        error = answer.document.get("error")
        if answer.status != 200 and error in _NOT_YET:
            raise problems.not_yet(str(error))
        return await self._granted(answer, None)

    async def _post(self, url: str, form: dict[str, str]) -> Answer:
        client_id, secret = self._config.client_id, self._config.client_secret
        headers = {}
        if secret is None or (await self.metadata()).secret_in_form:
            form = {**form, "client_id": client_id, **({} if secret is None else {"client_secret": secret})}
        else:
            pair = f"{quote_plus(client_id)}:{quote_plus(secret)}".encode()
            headers["Authorization"] = "Basic " + base64.b64encode(pair).decode()
        try:
            answer = await self._wire.post(url, form, headers)
        except NoAnswer as exc:
            raise self._away(str(exc)) from exc
        if answer.status >= 500 or answer.status in (404, 429):
            raise self._away(f"HTTP status {answer.status} at {urlsplit(url).path}")
        return answer
