"""Two services' rules over one store and one broker: what one does, the other one knows or leaves alone."""

from __future__ import annotations

import asyncio
import time
import uuid
from pathlib import Path

import pytest
from noting_broker import NotingBroker

from parsl_globus.errors import RequestRefused
from parsl_globus.service.assembly import Service
from parsl_globus.service.auth.base import Identity
from parsl_globus.service.auth.logins import BrokerLogins
from parsl_globus.service.auth.static import StaticAuthenticator
from parsl_globus.service.broker.base import Delivery
from parsl_globus.service.config import ServiceConfig
from parsl_globus.service.rules import locks
from parsl_globus.service.store.base import ReportRecord
from parsl_globus.service.store.memory import MemoryStore
from parsl_globus.service.store.people import UserRecord
from parsl_globus.wire import codec, names
from parsl_globus.wire.documents import EndpointRegistration, FunctionRegistration, Submission
from parsl_globus.wire.messages import EPStatusReport, Result, Task

OWNER = Identity(uuid.uuid4(), "ada", frozenset())
SITE = EndpointRegistration(endpoint_name="site", metadata={})
HERE = {"heartbeat_period": 30, "active": True}


class SharedStore(MemoryStore):
    shared = True


class Bench:
    def __init__(self):
        self.store, self.broker = SharedStore(), NotingBroker()
        self.a, self.b = self.service(), self.service()

    def service(self) -> Service:
        config = ServiceConfig(Path("/nowhere"))
        logins = BrokerLogins(b"k" * 32, control=True)
        auth = StaticAuthenticator(self.store, token_life_s=60.0)
        return Service(config, self.store, self.broker, auth, logins)

    async def register(self, service, **more):
        registration = EndpointRegistration(endpoint_name="site", metadata={}, **more)
        return (await service.endpoints.register(OWNER, registration)).endpoint_id

    async def function(self, service):
        registration = FunctionRegistration(function_name="f", function_code="5\n01\nab", serialized=True)
        return await service.functions.register(OWNER, registration)

    async def submit(self, service, endpoint_id, function_id, count=1):
        submission = Submission(tasks={function_id: ["p"] * count}, create_queue=True)
        reply = await service.tasks.submit(OWNER, endpoint_id, submission)
        # Endpoints are woken after the answer.
        waking = [task for task in asyncio.all_tasks() if task.get_name() == "wake endpoints"]
        if waking:
            await asyncio.wait(waking, timeout=60)
        return reply

    async def heartbeat(self, service, endpoint_id, state):
        message = EPStatusReport(endpoint_id=endpoint_id, global_state=state, task_statuses={})
        delivery = Delivery(names.heartbeats_key(endpoint_id), codec.pack(message), {}, False)
        await service._liveness.handle([delivery])

    def commands(self, manager_id):
        return [p for p in self.broker.published if p.routing_key == names.commands_queue(manager_id)]

    def tasks(self, endpoint_id):
        queue = names.tasks_queue(endpoint_id)
        return [codec.unpack(p.body, Task).task_id for p in self.broker.published if p.routing_key == queue]

    async def user_endpoint(self):
        (user_endpoint,) = await self.store.user_endpoints()
        return user_endpoint.endpoint_id


@pytest.fixture
def bench():
    return Bench()


def test_a_start_command_is_sent_by_one(bench):
    async def scenario():
        manager, function = await bench.register(bench.a), await bench.function(bench.a)
        await bench.submit(bench.b, manager, function)
        await asyncio.gather(*(bench.submit(s, manager, function) for s in (bench.a, bench.b) * 3))
        assert len(bench.commands(manager)) == 1
        assert len(bench.tasks(await bench.user_endpoint())) == 7

    asyncio.run(scenario())


def test_a_good_bye_that_the_other_one_got_makes_the_next_submission_start_it(bench):
    async def scenario():
        manager, function = await bench.register(bench.a), await bench.function(bench.a)
        await bench.submit(bench.a, manager, function)
        here = await bench.user_endpoint()
        await bench.store.forget_starts()
        await bench.heartbeat(bench.a, manager, HERE)
        await bench.heartbeat(bench.a, here, HERE)
        bench.broker.published.clear()
        await bench.submit(bench.b, manager, function)
        assert bench.commands(manager) == []
        await bench.heartbeat(bench.a, here, {"heartbeat_period": 0})
        await bench.store.forget_starts()
        bench.broker.published.clear()
        await bench.submit(bench.b, manager, function)
        assert bench.commands(manager) != []

    asyncio.run(scenario())


def test_a_manager_that_comes_back_to_one_gets_what_the_other_one_accepted(bench):
    async def scenario():
        manager, function = await bench.register(bench.a), await bench.function(bench.a)
        await bench.heartbeat(bench.a, manager, HERE)
        await bench.heartbeat(bench.a, manager, {"heartbeat_period": 0})
        bench.b._presence.note_registration(manager, 0.0)
        await bench.submit(bench.b, manager, function)
        await bench.store.forget_starts()
        before = len(bench.commands(manager))
        await bench.heartbeat(bench.a, manager, HERE)
        assert len(bench.commands(manager)) == before + 1

    asyncio.run(scenario())


def test_an_endpoint_that_is_stopped_gets_no_queue_to_go_on_with_before_it_may_return(bench, monkeypatch):
    async def scenario():
        manager, function = await bench.register(bench.a), await bench.function(bench.a)
        queue = names.commands_queue(manager)
        await bench.a.endpoints.lock(OWNER, manager)
        bench.b._queues.forget()
        await bench.submit(bench.b, manager, function)
        await bench.heartbeat(bench.a, manager, HERE)
        assert queue not in bench.broker.queues
        assert bench.commands(manager) == []
        with pytest.raises(RequestRefused, match="was stopped"):
            await bench.b.endpoints.register(OWNER, SITE, manager)
        after_s = time.time() + locks.LOCK_S
        monkeypatch.setattr(locks.time, "time", lambda: after_s)
        await bench.b.endpoints.register(OWNER, SITE, manager)
        assert queue in bench.broker.queues
        assert len(bench.commands(manager)) == 1
        # A registration before keeps no stop away, whatever the clocks say.
        monkeypatch.undo()
        await bench.a.endpoints.lock(OWNER, manager)
        assert await locks.is_locked(bench.store, manager)

    asyncio.run(scenario())


def test_what_changes_at_one_is_taken_in_by_the_other(bench):
    async def scenario():
        manager = await bench.register(bench.a)
        await bench.b._registry.refresh()
        assert [e["uuid"] for e in bench.b.endpoints.listing(OWNER, "owner")] == [str(manager)]
        await bench.heartbeat(bench.a, manager, HERE)
        await bench.b._presence.refresh()
        assert bench.b._presence.online(manager, time.time())
        assert (await bench.b.endpoints.status(OWNER, manager))["status"] == "online"
        await bench.a.endpoints.delete(OWNER, manager)
        await bench.b._registry.refresh()
        assert bench.b.endpoints.listing(OWNER, "owner") == []

    asyncio.run(scenario())


def test_an_endpoint_that_the_other_one_deleted_takes_nothing_more(bench):
    async def scenario():
        manager, function = await bench.register(bench.a), await bench.function(bench.a)
        await bench.submit(bench.b, manager, function)
        await bench.a.endpoints.delete(OWNER, manager)
        with pytest.raises(RequestRefused) as refused:
            await bench.submit(bench.b, manager, function)
        assert refused.value.http_status == 404
        assert await bench.store.unfinished_tasks() == []

    asyncio.run(scenario())


def test_tasks_that_slipped_in_while_their_endpoint_was_deleted_fail(bench):
    async def scenario():
        manager, function = await bench.register(bench.a), await bench.function(bench.a)
        await bench.submit(bench.b, manager, function)
        await bench.store.delete_endpoint(manager)
        await bench.b._upkeep.fail_strays()
        assert await bench.store.unfinished_tasks() == []

    asyncio.run(scenario())


def test_an_endpoint_that_was_deleted_and_registered_again_takes_tasks_again(bench):
    async def scenario():
        manager, function = await bench.register(bench.a), await bench.function(bench.a)
        await bench.submit(bench.b, manager, function)
        await bench.a.endpoints.delete(OWNER, manager)
        await bench.a.endpoints.register(OWNER, EndpointRegistration(endpoint_name="s", metadata={}), manager)
        await bench.submit(bench.b, manager, function)
        assert len(await bench.store.unfinished_tasks()) == 1
        # Its queue went with it; the tasks are not lost.
        await bench.b._dispatcher.retry()
        assert len(bench.tasks(await bench.user_endpoint())) == 2

    asyncio.run(scenario())


def test_a_function_that_the_other_one_deleted_is_refused_soon(bench, monkeypatch):
    monkeypatch.setattr("parsl_globus.service.rules.functions._SURE_S", 0.0)

    async def scenario():
        manager, function = await bench.register(bench.a), await bench.function(bench.a)
        await bench.submit(bench.b, manager, function)
        await bench.submit(bench.b, manager, function)
        await bench.a.functions.delete(OWNER, function)
        with pytest.raises(RequestRefused):
            await bench.submit(bench.b, manager, function)

    asyncio.run(scenario())


def test_what_one_had_stored_and_not_sent_is_sent_by_the_other_when_it_is_gone(bench):
    async def scenario():
        manager, function = await bench.register(bench.a), await bench.function(bench.a)
        await bench.a.process.renew()
        await bench.submit(bench.a, manager, function)
        await bench.a._dispatcher.note_sent()
        here = await bench.user_endpoint()
        sent = bench.tasks(here)
        bench.broker.down = True
        await bench.submit(bench.a, manager, function, count=450)
        bench.broker.down = False
        await bench.b._upkeep.adopt(time.time())
        assert bench.tasks(here) == sent
        # As when it is started again in the folder of the one that was killed.
        await bench.b.process.bury([bench.a.process.name])
        await bench.b._upkeep.adopt(time.time())
        assert len(set(bench.tasks(here))) == 451
        await bench.b._dispatcher.note_sent()
        published = len(bench.broker.published)
        third = bench.service()
        await third._upkeep.adopt(time.time())
        assert len(bench.broker.published) == published

    asyncio.run(scenario())


def test_a_result_that_comes_again_is_forwarded_only_if_it_comes_from_the_broker(bench):
    async def scenario():
        manager, function = await bench.register(bench.a), await bench.function(bench.a)
        await bench.submit(bench.a, manager, function)
        here = await bench.user_endpoint()
        (task_id,) = bench.tasks(here)
        body = codec.pack(Result(task_id=task_id, data="00\nx"))

        async def deliver(service, *, redelivered):
            await service._results.handle([Delivery(names.results_key(here), body, {}, redelivered)])
            return sum(p.body == body for p in bench.broker.published)

        bench.broker.down = True
        with pytest.raises(Exception, match="down"):
            await deliver(bench.a, redelivered=False)
        bench.broker.down = False
        assert await deliver(bench.b, redelivered=True) == 1
        assert await deliver(bench.a, redelivered=False) == 1
        assert await deliver(bench.b, redelivered=True) == 1

    asyncio.run(scenario())


def test_one_purges_while_the_other_leaves_it(bench):
    async def scenario():
        calls = []

        async def purge(before_s, now_s, *, limit=500):
            calls.append(now_s - before_s)
            return await MemoryStore.purge(bench.store, before_s, now_s, limit=limit)

        bench.store.purge = purge
        await bench.a._upkeep.purge()
        await bench.b._upkeep.purge()
        assert calls == [pytest.approx(14 * 86_400)]

    asyncio.run(scenario())


def test_a_purge_removes_blobs_that_have_ended_in_steps(bench):
    async def scenario():
        steps = []

        async def sweep(now_s, **more):
            steps.append(now_s)
            return len(steps) < 3

        bench.store.sweep_blobs = sweep
        await bench.a._upkeep.purge()
        assert steps == [pytest.approx(time.time(), abs=60)] * 3

    asyncio.run(scenario())


def test_an_older_report_changes_nothing(bench):
    bench.a._presence.note([ReportRecord(OWNER.identity_id, 2.0, {"x": 2}), ReportRecord(OWNER.identity_id, 1.0, {})])
    assert bench.a._presence.state(OWNER.identity_id) == {"x": 2}


def test_a_name_of_an_issuer_is_bound_to_one_subject(bench):
    async def scenario():
        ada = UserRecord(uuid.uuid4(), "ada")
        await bench.store.add_user(ada, None)
        look_up = bench.store.logins

        async def slow_logins(identity_id):
            found = await look_up(identity_id)
            await asyncio.sleep(0)  # the other one's turn
            return found

        bench.store.logins = slow_logins
        binders = [
            service.oidc._bind_known("https://issuer", subject, "ada")
            for service, subject in ((bench.a, "1"), (bench.b, "2"))
        ]
        answers = await asyncio.gather(*binders, return_exceptions=True)
        assert [answer for answer in answers if answer == ada.identity_id] == [ada.identity_id]
        (refused,) = (answer for answer in answers if answer != ada.identity_id)
        assert "nobody knows that it is you" in str(refused)
        assert len(await bench.store.logins(ada.identity_id)) == 1

    asyncio.run(scenario())


def test_one_who_logs_in_from_two_windows_at_once_comes_in_twice(bench):
    async def scenario():
        ada = UserRecord(uuid.uuid4(), "ada")
        await bench.store.add_user(ada, None)
        binders = [service.oidc._bind_known("https://issuer", "1", "ada") for service in (bench.a, bench.b)]
        assert await asyncio.gather(*binders) == [ada.identity_id] * 2

    asyncio.run(scenario())
