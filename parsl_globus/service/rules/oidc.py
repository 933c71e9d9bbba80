"""Who comes in from an issuer: which user it is here, and what it gets."""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Mapping
from typing import Any

from parsl_globus.service.auth.base import Authenticator, Identity
from parsl_globus.service.auth.oidc import problems
from parsl_globus.service.auth.oidc.attempt import Attempt
from parsl_globus.service.auth.oidc.issuer import Granted, Issuer
from parsl_globus.service.auth.static import NO_CLIENT
from parsl_globus.service.config import OidcConfig
from parsl_globus.service.rules import refusals
from parsl_globus.service.rules.limits import RateLimits
from parsl_globus.service.rules.people import PeopleRules
from parsl_globus.service.store.base import Store
from parsl_globus.service.store.people import LoginRecord, NameTaken, UserRecord
from parsl_globus.wire.people import NAME_PATTERN

logger = logging.getLogger(__name__)

#: Of one address: whoever asks the issuer through us hasn't shown who it is yet.
_QUESTIONS, _WITHIN_S = 120, 60.0
#: A process that ends in between keeps others from binding this user for so long, in seconds.
_BINDING_S = 30.0
#: What a device shows its user (RFC 8628 section 3.2).
_SHOWN = ("user_code", "verification_uri", "verification_uri_complete", "expires_in", "interval")


class OidcRules:
    """Logins at the issuer of the settings, if there is one.

    A user is known by the issuer's subject, which is never given to another one. Its name is taken at the first login
    only; names are the issuer's users' to change.

    Args:
        config: The issuer.
        key: What logins that were begun are known by.
        store: Where users are.
        auth: Knows them.
        people: Makes tokens.
    """

    def __init__(
        self, config: OidcConfig | None, key: bytes, store: Store, auth: Authenticator, people: PeopleRules
    ) -> None:
        self._config = config
        self._key = key
        self._store = store
        self._auth = auth
        self._people = people
        self._issuer = None if config is None else Issuer(config)
        self._rates = RateLimits(_QUESTIONS, _WITHIN_S)

    def close(self) -> None:
        """Ask the issuer no more."""
        if self._issuer is not None:
            self._issuer.close()

    @property
    def issuer_url(self) -> str | None:
        """The issuer; `None` without one."""
        return None if self._config is None else self._config.issuer

    def _offered(self) -> tuple[OidcConfig, Issuer]:
        if self._config is None or self._issuer is None:
            raise problems.not_offered()
        return self._config, self._issuer

    def _count(self, address: str) -> None:
        self._rates.count(uuid.uuid5(uuid.NAMESPACE_URL, address))

    # ---- by a browser -----------------------------------------------------------------------------------------------

    async def begin(self, target: str, redirect_uri: str) -> tuple[str, Attempt]:
        """Begin a browser's login.

        Args:
            target: Where on the page it wanted to go.
            redirect_uri: Where the issuer sends it back to.

        Returns:
            Where it goes now, and what it must keep.

        Raises:
            RequestRefused: There is no issuer, or it doesn't answer.
        """
        _, issuer = self._offered()
        attempt = Attempt.begin(self._key, target)
        url = await issuer.login_url(
            redirect_uri=redirect_uri, state=attempt.state, nonce=attempt.nonce, challenge=attempt.challenge
        )
        return url, attempt

    async def finish(
        self, cookie: str, query: Mapping[str, str], redirect_uri: str, address: str
    ) -> tuple[Identity, str]:
        """A browser is back.

        Args:
            cookie: What it kept.
            query: What the issuer says.
            redirect_uri: As at the beginning.
            address: Where it comes from.

        Returns:
            Who it is here, and where it wanted to go.

        Raises:
            NotAuthorized: It didn't begin there, or the issuer vouches for nobody, or for one who may not come in.
            RequestRefused: The issuer doesn't answer.
        """
        config, issuer = self._offered()
        attempt = Attempt.of(self._key, cookie)
        if attempt is None or not attempt.has_state(query.get("state", "")):
            raise problems.login_failed("it was begun in another browser, or too long ago")
        # Issuers that say who they are (RFC 9207) can't be taken for one another.
        if query.get("iss", config.issuer) != config.issuer:
            raise problems.login_failed("another issuer answered")
        if "code" not in query:
            raise problems.login_failed(f"the issuer says {query.get('error', 'nothing')[:100]}")
        self._count(address)
        granted = await issuer.redeem_code(
            query["code"], redirect_uri=redirect_uri, verifier=attempt.verifier, nonce=attempt.nonce
        )
        return await self._person(config, issuer, granted), attempt.target

    # ---- by a device ------------------------------------------------------------------------------------------------

    async def start_device(self, address: str) -> dict[str, Any]:
        """Begin a device's login; what it must show its user, and what it asks with.

        Raises:
            RequestRefused: The issuer has no such login, or doesn't answer.
        """
        _, issuer = self._offered()
        self._count(address)
        found = await issuer.start_device()
        return {"device_code": str(found.get("device_code", "")), **{k: found[k] for k in _SHOWN if k in found}}

    async def poll_device(self, device_code: str, address: str) -> dict[str, Any]:
        """End a device's login.

        Returns:
            A token of ours.

        Raises:
            NotAuthorized: Nobody will approve it, or one has who may not come in.
            RequestRefused: Nobody has approved it yet, or the issuer doesn't answer.
        """
        config, issuer = self._offered()
        self._count(address)
        identity = await self._person(config, issuer, await issuer.redeem_device(device_code))
        return await self._people.log_in(identity)

    # ---- whose login it is ------------------------------------------------------------------------------------------

    async def _person(self, config: OidcConfig, issuer: Issuer, granted: Granted) -> Identity:
        subject = granted.claims["sub"]
        owner = await self._store.login_owner(config.issuer, subject)
        if owner is None:
            name = await self._name(config, issuer, granted)
            if config.create_users:
                owner = await self._create(config.issuer, subject, name)
            else:
                owner = await self._bind_known(config.issuer, subject, name)
        known = await self._auth.identities([owner])
        if not known:
            raise problems.user_refused("This user was removed just now.")
        return known[0]

    async def _name(self, config: OidcConfig, issuer: Issuer, granted: Granted) -> str:
        claims, claim = granted.claims, config.username_claim
        if claim not in claims:
            # Many issuers keep their tokens short.
            claims = {**await issuer.more_claims(granted), **claims}
        name = claims.get(claim)
        if not isinstance(name, str) or not re.fullmatch(NAME_PATTERN, name):
            told = f"'{str(name)[:100]}', which can't be a name here" if name else "none"
            raise problems.user_refused(
                f"The issuer should say your user name as '{claim}', but it says {told}. An administrator of this "
                f"service can choose another claim, or let you in by your subject, '{claims['sub']}'."
            )
        if claim == "email" and claims.get("email_verified") is not True:
            raise problems.user_refused("The issuer has not verified your e-mail address, which is your name here.")
        return name

    async def _create(self, issuer: str, subject: str, name: str) -> uuid.UUID:
        user = UserRecord(uuid.uuid4(), name)
        try:
            await self._store.add_user(user, None, LoginRecord(issuer, subject, user.identity_id))
        except NameTaken as exc:
            # Perhaps by this one, from another window.
            owner = await self._store.login_owner(issuer, subject)
            if owner is None:
                raise self._not_you(name, subject) from exc
            return owner
        logger.info("User '%s' was added as %s, who logs in at %s", name, user.identity_id, issuer)
        return user.identity_id

    async def _bind_known(self, issuer: str, subject: str, name: str) -> uuid.UUID:
        """The user of this name, if nobody has logged in as it before; an administrator is nobody by its name alone."""
        user = await self._store.user_named(name)
        if user is None:
            raise problems.user_refused(
                f"The issuer knows you as '{name}', but this service doesn't. An administrator can add you: "
                f"parsl-globus service add-user {name}"
            )
        # Two of this name may come at the same moment, to two processes of this service.
        binding = f"binding:{user.identity_id}"
        if user.admin or not await self._store.lease(binding, subject, time.time(), _BINDING_S):
            raise self._not_you(name, subject)
        try:
            if await self._store.logins(user.identity_id):
                # Perhaps by this one, from another window.
                if await self._store.login_owner(issuer, subject) == user.identity_id:
                    return user.identity_id
                raise self._not_you(name, subject)
            owner = await self._store.add_login(LoginRecord(issuer, subject, user.identity_id))
        finally:
            await self._store.release(binding, subject)
        logger.info("User '%s' (%s) logs in at %s from now on", name, user.identity_id, issuer)
        return owner

    def _not_you(self, name: str, subject: str) -> Exception:
        return problems.user_refused(
            f"There is a user '{name}' here already, and nobody knows that it is you. If it is, an administrator can "
            f"say so: parsl-globus service set-login {name} --subject '{subject}'"
        )

    # ---- by administrators ------------------------------------------------------------------------------------------

    async def set_login(self, username: str, subject: str) -> None:
        """Say who a user is at the issuer, instead of all that was known. Whoever was it before is logged out.

        Raises:
            RequestRefused: There is no issuer or no such user, or the subject is another user's.
        """
        config, _ = self._offered()
        user = await self._people.user(username)
        owner = await self._store.login_owner(config.issuer, subject)
        if owner not in (None, user.identity_id):
            raise refusals.name_taken("login", subject)
        login = LoginRecord(config.issuer, subject, user.identity_id)
        if await self._store.logins(user.identity_id) != [login]:
            await self._end_logins(user)
        if await self._store.add_login(login) != user.identity_id:
            raise refusals.name_taken("login", subject)
        logger.info("User '%s' (%s) logs in at %s as '%s'", username, user.identity_id, config.issuer, subject)

    async def remove_logins(self, username: str) -> None:
        """Let a user log in at no issuer, and end what it has from there.

        Raises:
            RequestRefused: There is no such user.
        """
        user = await self._people.user(username)
        await self._end_logins(user)
        logger.info("User '%s' (%s) logs in at no issuer any more", username, user.identity_id)

    async def _end_logins(self, user: UserRecord) -> None:
        if not await self._store.logins(user.identity_id):
            return
        await self._store.remove_logins(user.identity_id)
        # Of a token that was made from another one it isn't known whether that came from a login there.
        for record in await self._store.tokens(user.identity_id):
            if record.client_id == NO_CLIENT:
                await self._store.remove_token(record.token_hash)
        self._auth.forget()
