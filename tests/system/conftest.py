import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.system.cluster import Cluster

REASON = None
if os.geteuid() != 0:
    REASON = "needs root"
elif not Path("/dev/fuse").exists():
    REASON = "needs /dev/fuse"


def pytest_collection_modifyitems(items):
    for item in items:
        if "tests/system" in str(item.fspath) and REASON:
            item.add_marker(pytest.mark.skip(reason=REASON))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A cluster of three meta and three storage nodes, mounted; ended with the module."""
    base = tmp_path_factory.mktemp("cluster")
    made = Cluster(base / "state", base / "mnt")
    try:
        made.up()
        yield made
    finally:
        made.down()
        subprocess.run(["umount", "-l", str(made.mount)], check=False, capture_output=True)
        if not os.path.ismount(made.mount):
            shutil.rmtree(base, ignore_errors=True)
