"""Cells over a real Ray cluster of several nodes on this machine, one of them lost half-way."""

import json
import time

import numpy as np
import pytest
from conftest import write_pictures
from helpers import reference_google
from helpers.data_sets import FORMS, encoded
from helpers.originals import STUDENT

from vit_export.sweeps.run import sweep

ray = pytest.importorskip("ray", reason="Ray is not installed (the extra `cluster`)")
pytest.importorskip("pyarrow")
pytestmark = pytest.mark.slow


@pytest.fixture
def cluster():
    from ray.cluster_utils import Cluster

    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    node = found.add_node(num_cpus=1)
    yield found, node
    found.shutdown()


class LosesANode:
    """A reporter that takes a node away as soon as a cell is under way on each."""

    def __init__(self, cluster, node):
        self.cluster, self.node, self.begun = cluster, node, 0

    def step(self, text):
        pass

    def note(self, text):
        pass

    def progress(self, done, total):
        self.begun += (done, total) == (0, 4)
        if self.begun == 2 and self.node is not None:
            deadline = time.monotonic() + 120
            while ray.available_resources().get("CPU") and time.monotonic() < deadline:
                time.sleep(0.1)
            self.cluster.remove_node(self.node, allow_graceful=False)
            self.node = None


def test_a_cluster_that_loses_a_node_makes_the_same_cells(cluster, tmp_path):
    found, node = cluster
    np.savez(tmp_path / "one.npz", **reference_google.fabricate(STUDENT, np.random.default_rng(3)))
    write_pictures(tmp_path / "photos", 12, (40, 40))
    images, labels = encoded(60)
    data = FORMS["folders"](tmp_path / "val", images, [label % 7 for label in labels])
    says = LosesANode(found, node)
    record = sweep(
        [tmp_path / "one.npz"],
        tmp_path / "out",
        precisions=["float32", "int8"],
        int8_schemes=["dynamic"],
        calibration=tmp_path / "photos",
        calibration_images=4,
        held_out_images=2,
        data=data,
        labels="sorted",
        workers=2,
        ray=found.address,
        reporter=says,
    ).to_dict()
    assert says.node is None
    assert len(record["cells"]) == 4
    for cell in record["cells"]:
        assert (cell["status"], cell["reason"]) == ("done", None)
        assert cell["evaluation"]["accuracy"]["total"] == 60
        assert cell["latency"]["ms"] > 0
        report = json.loads((tmp_path / "out" / cell["report"]).with_suffix(".json").read_text())
        assert report["verification"]["files"][0]["artifact"]["path"] == str(tmp_path / "out" / cell["file"])
        assert "vit-export-cell" not in (tmp_path / "out" / cell["report"]).read_text()
