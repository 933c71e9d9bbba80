"""The README's example does what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"


def test_the_parsl_configuration(parsl_globus_site, tmp_path):
    example = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL).group(1)
    for name in ("perlmutter", "polaris"):
        endpoint_id = parsl_globus_site.start_endpoint(name, workers=1)
        example, count = re.subn(
            rf'{name} = GlobusComputeExecutor\("[0-9a-f-]+"', f'{name} = GlobusComputeExecutor("{endpoint_id}"', example
        )
        assert count == 1
    script = tmp_path / "example.py"
    script.write_text(example)
    done = subprocess.run(
        [sys.executable, str(script)],
        env=parsl_globus_site.environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    for name in ("perlmutter", "polaris"):
        parsl_globus_site.stop_endpoint(name)
    assert (done.returncode, done.stdout) == (0, "42\n"), done.stderr
