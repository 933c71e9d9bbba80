"""`parsl-globus demo`: a service, two endpoints and a Parsl workflow over real data, all on this machine."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

from parsl_globus.cli.extras import needs_extra
from parsl_globus.errors import ConfigError, MissingExtra

if TYPE_CHECKING:
    import uuid

    from parsl_globus.testing.site import LocalSite

#: A file of this name makes a folder one that the demo may clear.
MARK = ".parsl-globus-demo"
SCRIPTS = {"apps": "co2_workflow.py", "join": "co2_join_apps.py"}
SITES = ("perlmutter", "polaris")
#: Given to the workflow to end by itself after a Ctrl-C, in seconds.
WORKFLOW_END_S = 12.0


@click.command()
@click.option(
    "--run-dir",
    type=click.Path(path_type=Path),
    default=Path("demo-run"),
    show_default=True,
    help="Folder for all that the demo writes.",
)
@click.option(
    "--workflow",
    type=click.Choice(sorted(SCRIPTS)),
    default="apps",
    show_default=True,
    help="apps: @python_app on our executor. join: join_apps over the public SDK's Executor.",
)
@click.option("--public-only", is_flag=True, help="Switch the service's protocol extensions off.")
@click.option("--experiments", type=click.Path(path_type=Path), help="Folder of raw files, instead of the record.")
@click.option("--no-plot", is_flag=True, help="Don't draw co2.png.")
def demo(run_dir: Path, workflow: str, public_only: bool, experiments: Path | None, no_plot: bool) -> int:
    """Run the example workflow on a service and two endpoints of its own.

    The Mauna Loa CO2 record is cleaned on an endpoint 'perlmutter', analysed on an endpoint 'polaris' and finished in
    Parsl's own executor on this machine. Everything runs here, on free ports of the loopback interface, and ends with
    the demo, also after Ctrl-C (exit code 130).

    \b
    Examples:
      parsl-globus demo
      parsl-globus demo --workflow join --run-dir /tmp/co2
    """  # noqa: D301 - \b is for click: keep these lines as they are
    _check_extras(plot=not no_plot)
    from parsl_globus.testing.site import LocalSite

    script = _examples() / SCRIPTS[workflow]
    _check_readable(experiments)
    started = time.monotonic()
    with _claimed(run_dir.absolute()) as folder, _interruptible() as interrupts:
        arguments = ["--output", str(folder), *(["--no-plot"] if no_plot else [])]
        if experiments is not None:
            arguments += ["--experiments", str(experiments.absolute())]
        with _ended(LocalSite(folder / "home"), interrupts) as site:
            endpoints = _start(site, public_only=public_only)
            for name, endpoint_id in endpoints.items():
                arguments += [f"--{name}", str(endpoint_id)]
            code = _run_workflow(site, script, [*arguments, "--url", site.url])
        if interrupts.came:
            raise KeyboardInterrupt
    if code == 0:
        click.echo(f"demo: done in {time.monotonic() - started:.0f} s; results and logs are in {folder}")
    return code


def _check_extras(*, plot: bool) -> None:
    """Find out before anything is started."""
    with needs_extra("demo"):
        import fastapi  # noqa: F401
        import jinja2  # noqa: F401
        import sqlalchemy  # noqa: F401
        import yaml  # noqa: F401
    if plot and find_spec("matplotlib") is None:  # importing it would make folders in the user's home
        raise MissingExtra(extra="demo", module="matplotlib")


def _examples() -> Path:
    """The folder of the examples: of the checkout, or as installed."""
    import sysconfig

    import parsl_globus

    places = [
        Path(parsl_globus.__file__).parent.parent / "examples",
        Path(sysconfig.get_path("data")) / "share" / "parsl_globus" / "examples",
    ]
    for place in places:
        if (place / SCRIPTS["apps"]).exists():
            return place
    raise ConfigError(f"The examples are in neither {places[0]} nor {places[1]}; install parsl-globus again.")


def _check_readable(experiments: Path | None) -> None:
    """Find out before anything is started."""
    if experiments is not None:
        try:
            os.listdir(experiments)
        except OSError as exc:
            raise ConfigError(f"The data folder {experiments} can't be read: {exc.strerror}.") from exc


@contextmanager
def _claimed(folder: Path) -> Iterator[Path]:
    """An empty folder for this run; what an earlier demo left in it is removed, what others left is not."""
    if re.search(r"\s", str(folder)):
        raise ConfigError(f"The path '{folder}' has spaces, which Parsl can't work with; choose another --run-dir.")
    mark = folder / MARK
    try:
        if folder.exists() and not mark.exists() and any(folder.iterdir()):
            raise ConfigError(f"{folder} holds files that are not the demo's; choose another --run-dir.")
        folder.mkdir(parents=True, exist_ok=True)
        claim = mark.open("a")
    except OSError as exc:
        raise _unusable(folder, exc) from exc
    with claim:  # closing it gives the lock back
        try:
            fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"Another demo runs in {folder}; choose another --run-dir.") from None
        try:
            for left in folder.iterdir():
                if left != mark:  # it stays, so that the next run may go on if this is interrupted
                    shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
        except OSError as exc:
            raise _unusable(folder, exc) from exc
        yield folder


def _unusable(folder: Path, exc: OSError) -> ConfigError:
    return ConfigError(f"The folder {folder} can't be used ({exc.strerror}); choose another --run-dir.")


class _Interrupts:
    """A signal handler that raises KeyboardInterrupt once: what ends the demo must not itself be cut short.

    Attributes:
        came: Whether there was a signal.
        raises: Whether the first one raises.
    """

    def __init__(self) -> None:
        self.came = False
        self.raises = True

    def __call__(self, _number: int, _frame: FrameType | None) -> None:
        first, self.came = not self.came, True
        if first and self.raises:
            raise KeyboardInterrupt


@contextmanager
def _interruptible() -> Iterator[_Interrupts]:
    """SIGTERM and a terminal that is closed end the demo as Ctrl-C does."""
    interrupts = _Interrupts()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    # What the caller ignores, as nohup does, stays ignored.
    before = {number: signal.getsignal(number) for number in numbers if signal.getsignal(number) != signal.SIG_IGN}
    for number in before:
        signal.signal(number, interrupts)
    try:
        yield interrupts
    finally:
        if not interrupts.came:  # otherwise all that is left is to exit, and this must not be cut short either
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def _ended(site: LocalSite, interrupts: _Interrupts) -> Iterator[LocalSite]:
    """End everything in `site` at last, whatever signals come meanwhile."""
    try:
        try:
            yield site
        finally:
            interrupts.raises = False
    finally:
        try:
            click.echo("demo: ending the endpoints and the service")
        finally:  # also when the terminal is gone, and with it standard output
            site.stop()


def _start(site: LocalSite, *, public_only: bool) -> dict[str, uuid.UUID]:
    site.start_service(public_only=public_only)
    click.echo(f"demo: service at {site.url}, broker at port {site.amqp_port}")
    endpoints = {}
    for name in SITES:
        endpoints[name] = site.start_endpoint(name, workers=1)
        click.echo(f"demo: endpoint '{name}' is {endpoints[name]}")
    return endpoints


def _run_workflow(site: LocalSite, script: Path, arguments: list[str]) -> int:
    """Run the workflow as a user would; its output goes to the terminal."""
    # Matplotlib keeps a cache in the user's folder otherwise.
    environment = {"MPLCONFIGDIR": str(site.home / "matplotlib"), **site.environment}
    process = subprocess.Popen([sys.executable, str(script), *arguments], env=environment, start_new_session=True)
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.terminate()  # as good as SIGINT, and without a traceback if it comes amid the script's imports
        try:
            process.wait(WORKFLOW_END_S)
        except subprocess.TimeoutExpired:
            click.echo(f"demo: the workflow did not end within {WORKFLOW_END_S:.0f} s; it is killed", err=True)
            process.kill()
            process.wait()
        raise
