"""The scene is set once, for the last tests, in the order in which they are written: some look after earlier ones."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from cluster_scene import ClusterScene
from polaris import LABEL, adapted
from servers import require

from parsl_globus.testing.schedulers import why_not

HERE = Path(__file__).parent


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    ours = [item for item in items if HERE in Path(item.path).parents]
    items[:] = [item for item in items if HERE not in Path(item.path).parents]
    items += sorted(ours, key=lambda item: (item.path.name, item.location[1] or 0))


@pytest.fixture(scope="session")
def scene(tmp_path_factory):
    require(why_not())
    with ClusterScene(tmp_path_factory.mktemp("clusters"), nodes=8) as scene:
        yield scene
    assert scene.site.processes() == []
    assert scene.service.processes() == []


@pytest.fixture(scope="session")
def polaris(scene):
    """The description's configuration on PBS, with PALS' mpiexec; its blocks end after two minutes without work."""
    assert scene.jobs(LABEL) == []
    init = f"export PATH={scene.pbs.pals_bin}:{Path(sys.executable).parent}:$PATH"
    endpoint_id = scene.site.start_endpoint("polaris", adapted(init))
    yield endpoint_id
    scene.site.stop_endpoint("polaris")
