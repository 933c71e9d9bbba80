"""`python -m parsl_globus.cli` is the command `parsl-globus`."""

from parsl_globus.cli.main import main

main()
