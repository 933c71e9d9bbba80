"""Joins the parts of a service, and starts and stops them in order."""

from __future__ import annotations

import logging
import time

from parsl_globus.errors import ServiceError
from parsl_globus.service.auth.base import Authenticator
from parsl_globus.service.auth.logins import BrokerLogins
from parsl_globus.service.broker.base import Broker, Refill
from parsl_globus.service.config import ServiceConfig
from parsl_globus.service.liveness import Liveness
from parsl_globus.service.page.metrics import Metrics, metered
from parsl_globus.service.page.page import Page
from parsl_globus.service.results import ResultIntake
from parsl_globus.service.rules import locks
from parsl_globus.service.rules.blobs import BlobLimits, BlobRules
from parsl_globus.service.rules.command_login import CommandLogins
from parsl_globus.service.rules.credentials import Credentials
from parsl_globus.service.rules.dispatch import Dispatcher
from parsl_globus.service.rules.endpoints import EndpointRules
from parsl_globus.service.rules.functions import FunctionRules
from parsl_globus.service.rules.limits import RateLimits
from parsl_globus.service.rules.lost_results import LostResults
from parsl_globus.service.rules.oidc import OidcRules
from parsl_globus.service.rules.people import PeopleRules
from parsl_globus.service.rules.presence import Presence
from parsl_globus.service.rules.processes import ServiceProcess
from parsl_globus.service.rules.queues import Queues
from parsl_globus.service.rules.registry import Registry
from parsl_globus.service.rules.starting import Starter
from parsl_globus.service.rules.tasks import TaskRules
from parsl_globus.service.rules.waking import Waker
from parsl_globus.service.store.base import Store
from parsl_globus.service.store.blobs import BlobQuota
from parsl_globus.service.upkeep import Upkeep
from parsl_globus.wire import names

logger = logging.getLogger(__name__)

#: How long a queue is taken to be there that another process may remove.
_SURE_OF_QUEUES_S = 300.0


class Service:
    """The rules over a store and a broker.

    Args:
        config: Settings.
        store: An open store.
        broker: A broker that was not started.
        auth: Knows the callers.
        logins: Knows the logins on the broker, which asks it.

    Attributes:
        config: Settings.
        auth: Knows the callers.
        credentials: Writes logins on the broker.
        endpoints: Rules for endpoints.
        functions: Rules for functions.
        tasks: Rules for tasks.
        blobs: Rules for blobs.
        people: Rules for users, groups, tokens and shares.
        oidc: Rules for logins at an issuer.
        command_logins: Rules for logins of the command line by way of the page.
        rates: Counts requests.
        metrics: What this process counts.
        page: The page for people.
        process: This process, as others know it.
    """

    def __init__(
        self, config: ServiceConfig, store: Store, broker: Broker, auth: Authenticator, logins: BrokerLogins
    ) -> None:
        extensions = not config.public_only
        self.metrics = Metrics()
        broker = metered(broker, self.metrics)
        self.config = config
        self.auth = auth
        self._store = store
        self._broker = broker
        # A broker of its own outlives this process, and other processes may work with it.
        apart = config.broker_url is not None or store.shared
        self.process = ServiceProcess(store)
        sure_s = min(_SURE_OF_QUEUES_S, config.replay_s / 2) if apart else float("inf")
        self._queues = Queues(broker, control=extensions, sure_s=sure_s)
        self._registry = Registry(store)
        self._presence = Presence(config.missed_heartbeats, store)
        self.credentials = Credentials(broker, logins, control=extensions)
        self._results = ResultIntake(store, broker, self._queues, kept=apart)
        self.functions = FunctionRules(store, versions=extensions)
        sender = self.process.name if apart else None
        self._dispatcher = Dispatcher(store, broker, self._queues, self.functions, sender)
        starter = Starter(
            store,
            self._registry,
            broker,
            self._queues,
            self.credentials,
            self._presence,
            auth,
            repeat_s=config.start_repeat_s,
        )
        self._waker = Waker(lambda endpoint_id: self._presence.online(endpoint_id, time.time()), starter.wake)
        self.endpoints = EndpointRules(
            store,
            self._registry,
            self._presence,
            self._queues,
            self.credentials,
            starter,
            self._results,
            with_tasks=extensions,
        )
        self.people = PeopleRules(store, auth, self.endpoints, token_life_s=config.token_life_s)
        self.oidc = OidcRules(config.oidc, logins.page_key(), store, auth, self.people)
        self.command_logins = CommandLogins(store, auth, self.people)
        quota = BlobQuota(config.blob_quota_count, config.blob_quota_bytes)
        limits = BlobLimits(config.blob_limit_bytes, quota, config.blob_life_s)
        self.blobs = BlobRules(store, self._registry, limits)
        self.rates = RateLimits(config.rate_limit_requests, config.rate_limit_window_s)
        self.page = Page(store, broker, auth, self._registry, self._presence, self.endpoints, self.metrics)
        self.tasks = TaskRules(
            store,
            broker,
            self._registry,
            self._presence,
            self._queues,
            self.endpoints,
            self.functions,
            self._dispatcher,
            self._waker,
            self._results,
            max_tasks=config.max_tasks_per_request,
            tell_codes=not config.public_only,
        )
        # Only what is apart confirms results that the store has not.
        self._lost_results = LostResults(store, broker, self._queues, asks=extensions and apart)
        self._liveness = Liveness(store, self._registry, self._presence, starter, self._results, self._dispatcher)
        self._upkeep = Upkeep(
            store,
            self._registry,
            self._presence,
            self._dispatcher,
            self._results,
            self._queues,
            self._lost_results,
            self.process,
            self.blobs,
            result_life_s=config.result_life_s,
        )

    async def start(self) -> None:
        """Start the broker and bring it to what the store says. Raises `ConfigError` when it can't listen."""
        if self._dispatcher.sender is not None:
            await self.process.renew()
        await self._registry.load()
        self._presence.note(await self._store.reports())
        self._broker.refill = Refill(self._declare_all, self._publish_again)
        await self._broker.start()
        if self._broker.kept:
            await self._queues.declare_own()
            # Some may have been stored, but not sent, before a process ended. Results that were not forwarded wait in
            # their queue still. Where this process is alone, all others are gone, whatever their leases say.
            await self._upkeep.adopt(time.time() if self._store.shared else float("inf"))
        await self._broker.consume(names.RESULTS_QUEUE, self._results.handle)
        await self._broker.consume(names.HEARTBEATS_QUEUE, self._liveness.handle)
        self._upkeep.start()

    async def _declare_all(self) -> None:
        self._queues.forget()
        await self._registry.refresh()
        # Commands that were on their way are lost.
        await self._store.forget_starts()
        groups = await self._store.groups_in_use(time.time() - self.config.replay_s)
        await self._queues.declare_own()
        for manager in self._registry.managers():
            # One that was stopped from afar learns by its missing queue that it has to end.
            if not await locks.is_locked(self._store, manager.endpoint_id):
                await self._queues.declare_manager(manager.endpoint_id)
        for user_endpoint in self._registry.user_endpoints():
            await self._queues.declare_user_endpoint(user_endpoint.endpoint_id)
        await self._queues.declare_groups_again(groups)

    async def _publish_again(self) -> None:
        await self._send_unfinished()
        self._lost_results.broker_lost_all()
        results = await self._results.forward_again(time.time() - self.config.replay_s)
        if results:
            logger.info("Published again: %d recent results", results)

    async def _send_unfinished(self) -> None:
        tasks = await self._dispatcher.send_all_unfinished()
        if tasks:
            logger.info("Published again: %d unfinished tasks", tasks)

    async def stop(self) -> None:
        """Stop the broker; the store stays open. Calling it twice is harmless."""
        await self._upkeep.stop()
        await self._waker.stop()
        self.oidc.close()
        await self._broker.stop()
        if self._dispatcher.sender is None:
            return
        try:
            await self._dispatcher.note_sent()
            await self.process.leave()
        except ServiceError as exc:
            # Others find out by themselves.
            logger.warning("The end of this process could not be told: %s", exc)
