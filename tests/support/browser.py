"""A real browser without a window, and logged in to a service's page."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

BROWSER = shutil.which("chromium")
DRIVER = shutil.which("chromedriver")
#: What is missing, for `servers.require`.
MISSING = None if BROWSER and DRIVER else "chromium and chromedriver (Debian: chromium, chromium-driver)"

DEADLINE_S = 20.0
LAPTOP = (1280, 800)
PHONE = (390, 844)

_SWITCHES = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextmanager
def browser(profile: Path, size: tuple[int, int] = LAPTOP, *, dark: bool = False) -> Iterator[webdriver.Chrome]:
    """Start one with a profile of its own."""
    options = Options()
    options.binary_location = BROWSER or ""
    for switch in (*_SWITCHES, f"--user-data-dir={profile}"):
        options.add_argument(switch)
    # Everything the page's script or its policy complains of; a test looks that it was nothing.
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        set_size(driver, size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        driver.execute_cdp_cmd("Emulation.setTimezoneOverride", {"timezoneId": "UTC"})
        driver.set_page_load_timeout(DEADLINE_S)
        yield driver
    finally:
        driver.quit()


def set_size(driver: webdriver.Chrome, size: tuple[int, int]) -> None:
    """Have a window of so many pixels; a narrow one is a phone's."""
    width, height = size
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def log_in(driver: webdriver.Chrome, link: str) -> None:
    """Follow a one-time link."""
    driver.get(link)
    button = driver.find_element(By.CSS_SELECTOR, "#by-code button")
    wait(driver, lambda: button.is_displayed(), "the link was not offered")
    button.click()
    wait(driver, lambda: driver.find_elements(By.CSS_SELECTOR, ".who"), "the login did not work")


def wait(driver: webdriver.Chrome, condition, complaint: str) -> None:
    """Wait until `condition` holds."""
    # A live page may put a new element in place of one that is being looked at.
    patient = WebDriverWait(
        driver, DEADLINE_S, poll_frequency=0.05, ignored_exceptions=[StaleElementReferenceException]
    )
    patient.until(lambda _: condition(), complaint)


def text_of(driver: webdriver.Chrome, selector: str) -> str:
    """What an element shows now."""
    texts: list[str] = []
    wait(driver, lambda: texts.append(driver.find_element(By.CSS_SELECTOR, selector).text) or True, f"no {selector}")
    return texts[0]


def wait_live(driver: webdriver.Chrome) -> None:
    """Wait until the page follows what happens."""
    wait(driver, lambda: driver.find_elements(By.CSS_SELECTOR, "#live.on"), "the page is not live")
