"""A Parsl workflow as one task: the endpoint's worker loads a Parsl of its own and returns what the workflow made.

python examples/workflow_in_a_task.py --endpoint UUID

Any endpoint will do, one with the default configuration for example: parsl-globus endpoint configure NAME.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from uuid import UUID

import parsl
from parsl import Config, python_app

from parsl_globus import GlobusComputeExecutor, connect
from parsl_globus.errors import ParslGlobusError


@python_app(executors=["site"])
def longest_sequence(limit: int, parts: int) -> tuple[int, int]:
    """The number below `limit` with the longest Collatz sequence, and its length; found by a workflow over there.

    Everything is in here, since it travels as a whole: the apps, and the configuration of the Parsl that runs them.
    """
    import tempfile

    import parsl
    from parsl import Config, python_app
    from parsl.executors import HighThroughputExecutor
    from parsl.providers import LocalProvider

    @python_app
    def longest_between(first: int, end: int) -> tuple[int, int]:
        def length(number: int) -> int:
            steps = 1
            while number != 1:
                number = 3 * number + 1 if number % 2 else number // 2
                steps += 1
            return steps

        return max(((number, length(number)) for number in range(first, end)), key=lambda found: found[1])

    @python_app
    def longest_of(*found: tuple[int, int]) -> tuple[int, int]:
        return max(found, key=lambda each: each[1])

    # Blocks of the machine that the task runs on. On a cluster, this may be what its site recommends.
    inner = HighThroughputExecutor(
        label="inner",
        address="127.0.0.1",
        max_workers_per_node=2,
        provider=LocalProvider(init_blocks=1, max_blocks=1),
    )
    bounds = [1 + part * (limit - 1) // parts for part in range(parts + 1)]
    with (
        tempfile.TemporaryDirectory() as run_dir,
        parsl.load(Config(executors=[inner], strategy="none", strategy_period=0.5, run_dir=run_dir)),
    ):
        found = [longest_between(first, end) for first, end in zip(bounds, bounds[1:], strict=False)]
        result: tuple[int, int] = longest_of(*found).result()
        return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it on the endpoint of `--endpoint`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--endpoint", type=UUID, required=True, help="the endpoint's id")
    parser.add_argument("--url", help="the service; by default the one you logged in to")
    parser.add_argument("--limit", type=int, default=100_000)
    parser.add_argument("--parts", type=int, default=8, help="tasks of the inner workflow")
    options = parser.parse_args(arguments)
    try:
        site = GlobusComputeExecutor(endpoint_id=options.endpoint, label="site", client=connect(options.url))
        with parsl.load(Config(executors=[site], initialize_logging=False)):
            number, length = longest_sequence(options.limit, options.parts).result()
    except ParslGlobusError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"below {options.limit}: {number}, {length} numbers until 1")
    return 0


if __name__ == "__main__":
    sys.exit(main())
