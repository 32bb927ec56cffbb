"""Shards over a real Ray cluster of several nodes on this machine, one of them killed half-way."""

import pytest
from click.testing import CliRunner
from helpers.data_sets import FORMS, encoded, files

from vit_export.cli.main import main
from vit_export.evaluation.evaluate import evaluate

ray = pytest.importorskip("ray", reason="Ray is not installed (the extra `cluster`)")
pytest.importorskip("pyarrow")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluated")
    return files(folder)[:2], FORMS["tars"](folder / "tars", *encoded(400))


@pytest.fixture
def cluster():
    from ray.cluster_utils import Cluster

    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    nodes = [found.add_node(num_cpus=1) for _ in range(2)]
    yield found, nodes
    found.shutdown()


class KillsANode:
    """A reporter that takes a node away when the first shards are done."""

    def __init__(self, cluster, node):
        self.cluster, self.node, self.notes = cluster, node, []

    def step(self, text):
        pass

    def note(self, text):
        self.notes.append(text)

    def progress(self, done, total):
        if done == 2 and self.node is not None:
            self.cluster.remove_node(self.node, allow_graceful=False)
            self.node = None


def test_a_cluster_that_loses_a_node_finds_the_same(made, cluster, tmp_path):
    found, nodes = cluster
    paths, data = made
    alone = evaluate(paths, data)
    says = KillsANode(found, nodes[1])
    together = evaluate(paths, data, workers=3, ray=found.address, resume=tmp_path / "rows", reporter=says)
    assert says.node is None
    assert together.figures == alone.figures
    assert together.shards == 10
    assert any("is begun again" in note for note in says.notes)


def test_no_cluster_is_one_sentence(made):
    paths, data = made
    done = CliRunner().invoke(main, ["evaluate", str(paths[0]), "--data", data, "--ray", "127.0.0.1:1"])
    assert done.exit_code == 2
    assert "There is no Ray cluster at 127.0.0.1:1" in done.stderr
