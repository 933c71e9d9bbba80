"""Makes the documentation's pictures of the page: `python tests/support/make_screenshots.py [FOLDER]`.

A real service, its real page, a real browser; the endpoints are played by hand, and an hour is made of a minute.
"""

from __future__ import annotations

import io
import random
import sqlite3
import sys
import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path

from browser import LAPTOP, PHONE, browser, log_in, set_size, wait_live
from page_scene import Scene, another_user, login_link, running
from PIL import Image
from selenium import webdriver
from service_thread import Rest, ServiceThread

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "images"
_ERRORS = (
    "ValueError: the seed of plot 17 is negative",
    "FileNotFoundError: [Errno 2] No such file or directory: '/projects/forest/plot-204.nc'",
)


def play(rest: Rest, stack: ExitStack, database: Path) -> Scene:
    """Fill the service; returns the scene whose second task has failed."""
    ada = stack.enter_context(closing(another_user(rest, "ada@example.org")))
    polaris = stack.enter_context(closing(Scene(rest, "Polaris")))
    perlmutter = stack.enter_context(closing(Scene(ada, "Perlmutter", "fetch_plots")))
    cluster = stack.enter_context(closing(Scene(rest, "Department cluster", "draw_map")))
    cluster.user_endpoint.report({"heartbeat_period": 30, "active": False})
    cluster.manager.report({"heartbeat_period": 0})
    randomness = random.Random(7)
    for minute in range(58, 0, -1):
        busy = polaris if minute > 20 else perlmutter
        tasks = busy.submit(randomness.randint(3, 7 if minute % 9 else 16))
        busy.user_endpoint.tasks(len(tasks))
        for task_id in tasks:
            if randomness.random() < 0.04:
                busy.answer(
                    task_id, data=f"Traceback (most recent call last):\n{randomness.choice(_ERRORS)}", error="An error"
                )
            else:
                busy.answer(task_id)
        _age(database, tasks, minute, randomness.uniform(1.5, 4) if busy is polaris else randomness.uniform(0.4, 1.2))
    polaris.submit(5)
    perlmutter.user_endpoint.report(running("GlobusComputeEngine", "SlurmProvider", 64, 64, 1, 8))
    return polaris


def _age(database: Path, task_ids: list[str], minutes: int, latency_s: float) -> None:
    """Have tasks have ended so long ago."""
    ended_s = time.time() - minutes * 60
    with closing(sqlite3.connect(database, timeout=10)) as connection, connection:
        for task_id in task_ids:
            this = task_id.replace("-", "")
            connection.execute("UPDATE tasks SET completed_s = ? WHERE task_id = ?", (ended_s, this))
            connection.execute(
                "UPDATE submissions SET submitted_s = ?"
                " WHERE number = (SELECT submission FROM tasks WHERE task_id = ?)",
                (ended_s - latency_s, this),
            )


def shoot(driver: webdriver.Chrome, path: Path, size: tuple[int, int]) -> None:
    """Save what there is, as tall as it is."""
    width, height = size
    set_size(driver, size)
    taller = driver.execute_script("return document.documentElement.scrollHeight")
    set_size(driver, (width, min(taller, 2 * height)))
    save(driver, path)
    set_size(driver, size)


def save(driver: webdriver.Chrome, path: Path) -> None:
    """Save what is seen, in few colours: the page has no more, and the file has a third of the size."""
    picture = Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")
    picture.quantize(96, dither=Image.Dither.NONE).save(path, optimize=True)


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        service = ServiceThread(Path(scratch) / "data", start_repeat_s=0.0).start()
        stack.callback(service.stop)
        rest = stack.enter_context(closing(service.rest()))
        scene = play(rest, stack, Path(scratch) / "data" / "service.db")
        pages = {
            "endpoints": "/",
            "tasks": "/tasks",
            "search": "/tasks?q=Dodona",
            "task": f"/tasks/{scene.task_ids[1]}",
        }
        for name, size, dark in (("", LAPTOP, False), ("-phone", PHONE, False), ("-dark", LAPTOP, True)):
            profile = Path(scratch) / f"profile{name}"
            with browser(profile, size, dark=dark) as driver:
                if not name:
                    driver.get(f"{service.url}/login")
                    save(driver, folder / "page-login.png")
                log_in(driver, login_link(rest))
                for page, path in pages.items():
                    if name and page != "endpoints":
                        continue
                    driver.get(service.url + path)
                    if page != "search":
                        wait_live(driver)
                    shoot(driver, folder / f"page-{page}{name}.png", size)
                    print(folder / f"page-{page}{name}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
