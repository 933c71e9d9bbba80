"""`parsl-globus service start|stop`: the service in the background."""

from __future__ import annotations

from pathlib import Path

import click

from parsl_globus.cli.daemon import end_process, leave_running, start_process, stop_process, why_silent


@click.command("start", context_settings={"ignore_unknown_options": True})
@click.option("--timeout", "timeout_s", default=60.0, show_default=True, help="Seconds until it must be ready.")
@click.argument("options", nargs=-1, type=click.UNPROCESSED, metavar="[OPTIONS OF 'service run']")
def start(timeout_s: float, options: tuple[str, ...]) -> None:
    """Start the service in the background; returns when it is ready, and prints its URL.

    All options of 'service run' are taken. Its log is service.log in its data folder.
    """
    from parsl_globus.cli.service import run
    from parsl_globus.errors import ConfigError, ServiceError

    # Parsed here as well, so that a wrong option is told here and not in a log.
    with run.make_context("parsl-globus service start", list(options)) as context:
        folder = _folder(context.params["data"])
    log = folder / "service.log"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        process, told = start_process(["service", "run", *options], log, timeout_s, end_process)
    except OSError as exc:
        raise ConfigError(
            f"The data folder {folder} can't be used ({exc.strerror}). Choose another with --data."
        ) from exc
    if told is not None and "url" in told:
        click.echo(told["url"])
        leave_running(process)
        return
    end_process(process)
    reason = told["error"] if told is not None else why_silent(log, process.returncode, timeout_s, "ready")
    raise ServiceError(f"The service did not start: {reason}")


@click.command("stop")
@click.option("--data", type=click.Path(path_type=Path), help="Its data folder; by default that of 'service run'.")
def stop(data: Path | None) -> None:
    """Stop the service that uses a data folder on this machine, all processes of it."""
    from parsl_globus.cli.extras import needs_extra
    from parsl_globus.client.home import forget_service

    with needs_extra("service"):
        from parsl_globus.service.datadir import running_pids
    folder = _folder(data)
    pids = running_pids(folder)
    if not pids:
        click.echo(f"No service runs on {folder}.")
        return
    for pid in pids:
        in_order = stop_process(pid)
        forget_service(pid)  # where it was killed
        what = "The service is stopped" if len(pids) == 1 else f"Process {pid} of the service is stopped"
        click.echo(f"{what}." if in_order else f"{what}, by force: it did not end in time.")


def _folder(data: Path | None) -> Path:
    from parsl_globus.client.home import home

    return (data or home() / "service").expanduser().absolute()


COMMANDS = (start, stop)
