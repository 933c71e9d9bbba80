"""The command line that both workflows share: options, errors as one sentence, exit codes.

Exit codes: 0 done (a file that failed is reported, the others go on), 1 nothing usable, 2 wrong options,
130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from uuid import UUID

import globus_sdk
import parsl
from co2_report import plot, print_table, write_summary
from co2_science import DataError, Outcome, read_experiments, summarize
from globus_compute_sdk import Client
from parsl import Config

from parsl_globus.errors import EndpointNotFound, EndpointOffline, ParslGlobusError

HERE = Path(__file__).resolve().parent
INTERRUPTED = 130

EPILOG = """\
examples:
  %(prog)s --perlmutter UUID --polaris UUID
      on the service you are logged in to, or the one that runs here; results in ./co2-output
  %(prog)s --perlmutter UUID --polaris UUID --url http://127.0.0.1:5000 --output /tmp/co2 --no-plot
      on the service at that address, without co2.png

The ids of your endpoints: parsl-globus endpoint list
"""


@dataclass(frozen=True)
class Options:
    """What the user asked for.

    Attributes:
        perlmutter: Id of the endpoint that cleans the raw text.
        polaris: Id of the endpoint that analyses.
        url: Address of the service, or `None` for the default one.
        experiments: Folder of the raw files.
        output: Folder for the results and for Parsl's logs.
        plot: Whether to draw co2.png.
    """

    perlmutter: UUID
    polaris: UUID
    url: str | None
    experiments: Path
    output: Path
    plot: bool


def parse(description: str, argv: Sequence[str] | None) -> Options:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=description, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--perlmutter", type=_uuid, required=True, metavar="UUID", help="endpoint for pre_process")
    parser.add_argument("--polaris", type=_uuid, required=True, metavar="UUID", help="endpoint for analysis")
    parser.add_argument("--url", help="address of the service (default: the one you are logged in to)")
    parser.add_argument(
        "--experiments",
        type=Path,
        default=HERE / "experiments",
        metavar="DIR",
        help="folder of the raw *.txt files (default: the record that comes with the examples)",
    )
    parser.add_argument("--output", type=Path, default=Path("co2-output"), metavar="DIR", help="default: %(default)s")
    parser.add_argument("--no-plot", dest="plot", action="store_false", help="don't draw co2.png")
    return Options(**vars(parser.parse_args(argv)))


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"'{text}' is not an endpoint id; 'parsl-globus endpoint list' shows the ids"
        ) from None


def main(description: str, workflow: Callable[[Options, dict[str, str]], Outcome], argv: Sequence[str] | None) -> int:
    """Runs a workflow from command line to report.

    Args:
        description: First line of the help.
        workflow: Takes the options and the raw text by file name.
        argv: The command line without the program; by default the real one.

    Returns:
        The exit code.
    """
    try:
        options = parse(description, argv)
        raw, unreadable = _prepare(options)
        outcome = workflow(options, raw) if raw else Outcome()
        outcome.failures.update(unreadable)
        _report(options, outcome)
    except (DataError, ParslGlobusError, globus_sdk.GlobusError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted: what this workflow had started was ended.", file=sys.stderr)
        return INTERRUPTED
    return 0


def _prepare(options: Options) -> tuple[dict[str, str], dict[str, str]]:
    """Finds what would fail at the end before anything is started."""
    if options.plot and importlib.util.find_spec("matplotlib") is None:
        raise DataError("The plot needs matplotlib: pip install 'parsl-globus[demo]', or add --no-plot.")
    raw, unreadable = read_experiments(options.experiments)
    try:
        options.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"The output folder {options.output} can't be made: {error.strerror}.") from error
    # Parsl starts its own programs by name, so they have to be found also when this venv is not activated.
    programs = str(Path(sys.executable).parent)
    os.environ["PATH"] = os.pathsep.join([programs, os.environ.get("PATH", os.defpath)])
    return raw, unreadable


def _report(options: Options, outcome: Outcome) -> None:
    if not outcome.records:
        why = next(iter(outcome.failures.values()), "there was none")
        raise DataError(f"None of the {len(outcome.failures)} files could be used; the first: {why}")
    print_table(outcome)
    for name, why in sorted(outcome.failures.items()):
        print(f"warning: {name} was left out: {why}", file=sys.stderr)
    summary = summarize(outcome.records)
    try:
        write_summary(options.output / "summary.json", outcome, summary)
        if options.plot:
            plot(options.output / "co2.png", outcome, summary)
    except OSError as error:
        raise DataError(f"{error.filename or options.output} can't be written: {error.strerror}.") from error
    print(f"results in {options.output}")
    print(f"trend: {summary['trend_ppm_per_year']:.3f} ppm per year")


def check_endpoints(client: Client, options: Options) -> None:
    """Finds out whether both endpoints are there before anything is sent to them."""
    for endpoint_id in (options.perlmutter, options.polaris):
        try:
            status = client.get_endpoint_status(endpoint_id)["status"]
        except globus_sdk.GlobusAPIError as error:
            if error.http_status != 404:
                raise
            hint = "The ids of yours: 'parsl-globus endpoint list'."
            raise EndpointNotFound(endpoint=str(endpoint_id), hint=hint) from error
        if status != "online":
            raise EndpointOffline(endpoint_id=str(endpoint_id))


@contextmanager
def loaded(config: Config) -> Iterator[None]:
    """`parsl.load`, made safe against Ctrl-C at any moment.

    A terminal sends Ctrl-C to every process in the foreground, and Parsl's cleanup waits for ever for an interchange
    that died of it, as it does for one that was not yet ready.
    """
    kernel = None
    try:
        with uninterrupted():
            kernel = parsl.load(config)
        yield
    finally:
        if kernel is not None:
            with uninterrupted():
                kernel.cleanup()


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Puts Ctrl-C off until the block is left, and keeps it from the processes that are started inside.

    For calls into Parsl: an interrupt amid one can leave a lock taken, and the cleanup then waits for it for ever.
    Processes inherit which signals are blocked. Here, blocking alone is not enough: the signal would go to another
    thread, and Python would raise in the main one all the same.
    """
    came: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        signal.signal(signal.SIGINT, before)
        if came:
            raise KeyboardInterrupt


def run(main_function: Callable[[], int]) -> NoReturn:
    """Runs a script's main and leaves; SIGTERM ends it as cleanly as Ctrl-C does."""
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))  # held back as Ctrl-C is
    code = main_function()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)  # all has been done
    sys.stdout.flush()
    sys.stderr.flush()
    if code == INTERRUPTED:
        # Globus Compute's own executor has threads that keep the interpreter until every task it sent has a result;
        # a sent task can't be called back, and all the rest has been ended by now.
        os._exit(code)
    sys.exit(code)
