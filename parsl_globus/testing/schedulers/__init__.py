"""Real batch systems and separate hosts on one machine, so that Parsl's providers and launchers run unchanged.

Root is needed; systemd, cgroups and a network are not. The Debian packages are named by `why_not`.
"""

from __future__ import annotations

from parsl_globus.testing.schedulers.host import Host
from parsl_globus.testing.schedulers.pbs import PbsFrontEnd
from parsl_globus.testing.schedulers.programs import why_not
from parsl_globus.testing.schedulers.slurm import Job, SlurmCluster

__all__ = ["Host", "Job", "PbsFrontEnd", "SlurmCluster", "why_not"]
