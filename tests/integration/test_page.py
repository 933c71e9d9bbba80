"""The page in a real browser: what people see, and how it changes before their eyes."""

from __future__ import annotations

import platform
from contextlib import ExitStack, closing

import parsl
import pytest
from browser import MISSING, PHONE, browser, log_in, set_size, text_of, wait, wait_live
from page_scene import Scene, another_user, login_link, running
from parsl import Config
from selenium.webdriver.common.by import By
from servers import require
from service_thread import ServiceThread

from parsl_globus import GlobusComputeExecutor
from parsl_globus.testing.site import LOCAL_ENDPOINT, LocalSite


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    require(MISSING)
    service = ServiceThread(tmp_path_factory.mktemp("service") / "data", start_repeat_s=0.0).start()
    yield service
    service.stop()


@pytest.fixture
def rest(service):
    """The owner, who is an administrator."""
    with closing(service.rest()) as rest:
        yield rest


@pytest.fixture
def open_browser(tmp_path):
    """Opens browsers, each with a profile of its own."""
    with ExitStack() as stack:
        count = 0

        def open_one(link: str, **options):
            nonlocal count
            count += 1
            driver = stack.enter_context(browser(tmp_path / f"profile{count}", **options))
            log_in(driver, link)
            return driver

        yield open_one


@pytest.fixture
def scene(rest):
    """An endpoint of its own for each test."""
    with closing(Scene(rest, "Polaris")) as scene:
        yield scene


def complaints(driver) -> list[str]:
    """What the browser has to say about the pages: errors of scripts, and breaches of the policy."""
    return [entry["message"] for entry in driver.get_log("browser")]


def test_an_endpoint_goes_offline_and_its_row_changes_without_a_reload(open_browser, rest, scene):
    driver = open_browser(login_link(rest))
    wait_live(driver)
    row = f"#endpoint-{scene.manager.endpoint_id}"
    assert text_of(driver, f"{row} .badge") == "online"
    driver.execute_script("window.notReloaded = true")
    scene.manager.report({"heartbeat_period": 0})
    wait(driver, lambda: text_of(driver, f"{row} .badge") == "offline", "the row did not change")
    assert "since" in text_of(driver, f"{row} .state")
    scene.manager.report({"heartbeat_period": 30})
    wait(driver, lambda: text_of(driver, f"{row} .badge") == "online", "the row did not change back")
    assert driver.execute_script("return window.notReloaded")
    assert complaints(driver) == []


def test_numbers_follow_what_endpoints_do(open_browser, rest, scene):
    driver = open_browser(login_link(rest))
    wait_live(driver)
    row = f"#user-endpoint-{scene.user_endpoint.endpoint_id}"
    assert text_of(driver, f"{row} [data-label=Workers]") == "128 (96 idle)"
    scene.user_endpoint.report(running("GlobusComputeEngine", "SlurmProvider", 64, 8, 1, 4))
    wait(driver, lambda: text_of(driver, f"{row} [data-label=Workers]") == "64 (8 idle)", "the workers did not change")
    scene.submit(4)
    wait(driver, lambda: text_of(driver, f"{row} [data-label=Queue]") == "4", "the queue did not grow")
    before = text_of(driver, f"{row} [data-label=Failed]")
    scene.answer(scene.task_ids[2], data="Traceback", error="It failed")
    wait(driver, lambda: text_of(driver, f"{row} [data-label=Failed]") == str(int(before) + 1), "no failure came")
    wait(driver, lambda: driver.find_elements(By.ID, f"task-{scene.task_ids[2]}"), "it is not among the newest")


def test_a_new_endpoint_appears(open_browser, rest, scene):
    driver = open_browser(login_link(rest))
    wait_live(driver)
    with closing(rest.endpoint("newcomer", display_name="A new endpoint")) as newcomer:
        wait(driver, lambda: driver.find_elements(By.ID, f"endpoint-{newcomer.endpoint_id}"), "it did not appear")
        assert text_of(driver, f"#endpoint-{newcomer.endpoint_id} h3") == "A new endpoint"


def test_a_failed_tasks_traceback_is_found_by_search(open_browser, rest, scene):
    driver = open_browser(login_link(rest))
    driver.find_element(By.LINK_TEXT, "Tasks").click()
    field = driver.find_element(By.NAME, "q")
    field.send_keys("oaks of Dodona")
    field.submit()
    link = f"#task-{scene.task_ids[1]} a"
    wait(driver, lambda: driver.find_elements(By.CSS_SELECTOR, link), "the search found nothing")
    assert not driver.find_elements(By.ID, f"task-{scene.task_ids[0]}")
    driver.find_element(By.CSS_SELECTOR, link).click()
    wait(driver, lambda: driver.find_elements(By.CSS_SELECTOR, ".traceback"), "the task has no traceback")
    assert "KeyError: 'the oaks of Dodona'" in text_of(driver, ".traceback")
    assert complaints(driver) == []


def test_what_a_parsl_app_raised_is_found_where_a_real_endpoint_ran_it(open_browser, tmp_path):
    require(MISSING)
    with LocalSite(tmp_path / "site") as site:
        site.start_service()
        shown = "The <b>cluster</b> & its cellar"
        config = LOCAL_ENDPOINT.format(name=f'"{shown}"', workers=2)
        endpoint_id = site.start_endpoint("here", config)
        executor = GlobusComputeExecutor(endpoint_id, label="globus", client=site.client())
        with parsl.load(
            Config(executors=[executor], run_dir=str(tmp_path / "runinfo"), initialize_logging=False)
        ) as dfk:

            @parsl.python_app(data_flow_kernel=dfk)
            def divide(x):
                return 1 / x

            with pytest.raises(ZeroDivisionError):
                divide(0).result(timeout=60)
            driver = open_browser(site.run("service", "page").strip())
            assert text_of(driver, f"#endpoint-{endpoint_id} h3") == shown  # its display_name, letter by letter
            driver.get(f"{site.url}/tasks?q=ZeroDivisionError")
            driver.find_element(By.CSS_SELECTOR, ".tasks a").click()
            assert "in divide" in text_of(driver, ".traceback")
            assert platform.node() in text_of(driver, "#task")


def test_a_waiting_tasks_page_tells_its_end(open_browser, rest, scene):
    driver = open_browser(login_link(rest))
    driver.get(f"{rest.url}/tasks/{scene.task_ids[2]}")
    wait_live(driver)
    assert text_of(driver, "#task .badge") == "waiting"
    scene.answer(scene.task_ids[2])
    wait(driver, lambda: text_of(driver, "#task .badge") == "done", "the page did not change")


def test_a_stranger_sees_nothing_of_anothers(open_browser, rest, scene):
    with closing(another_user(rest, "eve")) as eve:
        driver = open_browser(login_link(eve))
        wait_live(driver)
        pages = ["/", "/tasks", "/tasks?q=Dodona", "/tasks?q=Polaris", f"/tasks/{scene.task_ids[1]}"]
        secrets = ("polaris", "regrow", "keyerror", scene.task_ids[1][:8], scene.manager.endpoint_id)
        for path in pages:
            driver.get(rest.url + path)
            if path == "/":
                wait_live(driver)
            seen = text_of(driver, "body").casefold()
            assert [secret for secret in secrets if secret in seen] == [], path


def test_a_phone_needs_no_sideways_scrolling(open_browser, rest, scene):
    long = "x" * 255
    with closing(rest.endpoint("long", display_name=long)):
        scene.user_endpoint.report({**running(long, long, 10**12, 10**12, 5, 9), "error": long})
        driver = open_browser(login_link(rest), size=PHONE)
        for path in ("/", "/tasks", "/tasks?q=Dodona", f"/tasks/{scene.task_ids[1]}", "/nowhere"):
            for width in (PHONE[0], 320):
                set_size(driver, (width, PHONE[1]))
                driver.get(rest.url + path)
                over = driver.execute_script("return document.documentElement.scrollWidth - window.innerWidth")
                assert over <= 0, (path, width)


def test_logging_out_closes_the_page(open_browser, rest, scene):
    driver = open_browser(login_link(rest))
    driver.find_element(By.XPATH, "//button[text()='Log out']").click()
    wait(driver, lambda: driver.current_url.endswith("/login"), "it did not lead to the login")
    driver.get(rest.url + "/tasks")
    assert "/login?next=" in driver.current_url


def test_everything_works_without_scripts(open_browser, rest, scene):
    driver = open_browser(login_link(rest))
    driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    driver.get(rest.url + "/")
    assert "Polaris" in text_of(driver, "#endpoints")
    driver.find_element(By.LINK_TEXT, "Tasks").click()
    assert "UTC" in text_of(driver, f"#task-{scene.task_ids[0]}")
