"""What the service or the endpoint refuses: told by type on that future, and the executor goes on."""

from __future__ import annotations

import inspect
import json
import uuid
from contextlib import contextmanager

import parsl
import pytest
from once import DEADLINE_S, Work
from parsl import Config, python_app

from parsl_globus import GlobusComputeExecutor, connect
from parsl_globus.client.home import Credentials
from parsl_globus.errors import FunctionNotAllowed, NotAuthorized, NotForRegisteredFunction, RequestRefused, TaskFailed
from parsl_globus.executor.submission import Submission

#: Runs nothing of ours: each start of an executor registers its function, and no list has that one's id.
LISTED = f"allowed_functions: [{uuid.uuid4()}]\n"
#: Where the service needs extensions for the cause, or it makes no difference.
ONCE = pytest.mark.parametrize("site", ["extensions"], indirect=True, scope="module")
THREADS = "heartbeat_period: 1\nengine: {type: ThreadPoolEngine}\n"


@contextmanager
def started(endpoint_id, client, **settings):
    executor = GlobusComputeExecutor(endpoint_id, client=client, **settings)
    executor.start()
    try:
        yield executor
    finally:
        executor.shutdown()


@pytest.fixture
def ada(site, tmp_path):
    """A user of the service other than the endpoint's owner: her client, logged in, and a name of her own."""
    name = f"ada-{uuid.uuid4().hex[:8]}"
    site.run("service", "add-user", name, "--out", str(tmp_path / "ada.json"))
    made = json.loads((tmp_path / "ada.json").read_text())
    return name, Credentials(client_id=made["client_id"], client_secret=made["client_secret"])


# ---- functions --------------------------------------------------------------------------------------------------


def runner_id(executor) -> uuid.UUID:
    submission = executor._submission
    assert isinstance(submission, Submission)
    return submission._runner_id


def test_a_function_that_the_service_has_forgotten_is_registered_anew(site, endpoint_id, tmp_path):
    client = site.client()
    with started(endpoint_id, client) as executor:
        work = Work(executor, tmp_path)
        work.wait_begun(work.submit(1, held=True))
        for turn in (1, 2):
            before = runner_id(executor)
            client.delete_function(before)  # as someone who tidies up
            work.submit(100)
            work.wait_done(100 * turn)
            assert runner_id(executor) != before
        work.open_gate()
        assert work.outcome() == {}


def test_an_endpoint_of_listed_functions_as_the_service_knows(site, endpoint_id, tmp_path):
    with (
        started(site.start_endpoint("listed", THREADS + LISTED), site.client()) as executor,
        started(endpoint_id, site.client()) as other,
    ):
        work = Work(other, tmp_path)
        work.submit(3)
        for future in [executor.submit(abs, {}, number) for number in range(3)]:
            error = future.exception(DEADLINE_S)
            assert isinstance(error, FunctionNotAllowed), error
            assert error.endpoint_id == str(executor.endpoint_id)
            assert "not in its list" in error.detail
        assert work.outcome() == {}


@ONCE
def test_an_endpoint_of_listed_functions_as_only_its_site_knows(site):
    folder = site.home / "endpoints" / "quiet"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("heartbeat_period: 1\n")
    (folder / "user_config_template.yaml.j2").write_text(THREADS + LISTED)
    with started(site.start_endpoint("quiet"), site.client()) as executor:
        for future in [executor.submit(abs, {}, number) for number in range(3)]:
            error = future.exception(DEADLINE_S)
            assert isinstance(error, FunctionNotAllowed), error
            assert error.endpoint_id == str(executor.endpoint_id)


def split(number, by=2):
    return divmod(number, by)


def test_functions_that_an_endpoint_lists_are_called_by_their_ids(site, tmp_path):
    client = site.client()
    # As the endpoint's owner does; as source, since no worker could import this module.
    function_id = client.register_source_code(inspect.getsource(split), "split")
    endpoint_id = site.start_endpoint("splits", THREADS + f"allowed_functions: [{function_id}]\n")
    listed, forgotten, other = python_app(split), python_app(lambda: 1), python_app(lambda number: number)
    function_ids = {listed: function_id, forgotten: str(uuid.uuid4())}
    executor = GlobusComputeExecutor(endpoint_id, client=client, function_ids=function_ids)
    config = Config(executors=[executor], run_dir=str(tmp_path / "runinfo"), initialize_logging=False)
    with parsl.load(config):
        futures = [listed(number, by=3) for number in range(20)]
        raised, walltime, unlisted, unknown = listed(1, by=0), listed(1, walltime=9), other(1), forgotten()
        assert [future.result(DEADLINE_S) for future in futures] == [divmod(number, 3) for number in range(20)]
        error = raised.exception(DEADLINE_S)
        assert isinstance(error, TaskFailed), error
        assert "ZeroDivisionError" in error.remote_traceback
        assert isinstance(walltime.exception(DEADLINE_S), NotForRegisteredFunction)
        assert isinstance(unlisted.exception(DEADLINE_S), FunctionNotAllowed)
        # Not listed either; which of the two is told first is the service's affair.
        assert isinstance(unknown.exception(DEADLINE_S), (FunctionNotAllowed, RequestRefused))


# ---- people -----------------------------------------------------------------------------------------------------


@ONCE
def test_an_endpoint_that_is_not_shared_or_not_any_more(site, endpoint_id, ada, tmp_path):
    name, credentials = ada
    client = connect(site.url, credentials=credentials)
    with pytest.raises(NotAuthorized, match="has not shared it") as refused, started(endpoint_id, client):
        pass
    assert (refused.value.http_status, refused.value.code) == (403, "ENDPOINT_ACCESS_FORBIDDEN")
    site.run("service", "share", "here", "--with", name)
    with started(endpoint_id, client) as executor:
        work = Work(executor, tmp_path)
        held = work.submit(1, held=True)
        work.wait_begun(held)
        site.run("service", "unshare", "here", "--with", name)
        in_vain = work.submit(3)
        for number in in_vain:
            error = work.futures[number].exception(DEADLINE_S)
            assert isinstance(error, NotAuthorized), error
            assert error.code == "ENDPOINT_ACCESS_FORBIDDEN"
        work.open_gate()  # what was accepted ends as ever
        site.run("service", "share", "here", "--with", name)
        work.submit(3)
        assert set(work.outcome()) == set(in_vain)
        assert not work.begun() & set(in_vain)


def tokens(site) -> set[str]:
    """The ids of those that were made, and came from no login."""
    return {t["token_id"] for t in json.loads(site.run("service", "token", "list", "--json")) if not t["login"]}


@ONCE
def test_a_token_is_revoked_amid_a_workflow(site, endpoint_id, tmp_path):
    before = tokens(site)
    token = site.run("service", "token", "create", "--life", "10m").strip()
    (token_id,) = tokens(site) - before
    with started(endpoint_id, connect(site.url, credentials=Credentials(token=token))) as executor:
        work = Work(executor, tmp_path)
        work.submit(3)
        work.wait_begun(work.submit(1, held=True))
        work.wait_done(3)
        site.run("service", "token", "revoke", token_id)
        in_vain = work.submit(3)
        for number in in_vain:
            error = work.futures[number].exception(DEADLINE_S)
            assert isinstance(error, NotAuthorized), error
            assert error.http_status == 401
        work.open_gate()  # its result comes on a connection that was made before
        assert set(work.outcome()) == set(in_vain)
