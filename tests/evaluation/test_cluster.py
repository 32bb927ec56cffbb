"""Shards over a real Ray cluster of several nodes on this machine, one of them killed half-way."""

import http.server
import threading
import time

import pytest
from click.testing import CliRunner
from helpers.data_sets import FORMS, encoded, files

from vit_export.cli.main import main
from vit_export.evaluation import cluster as module
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


def waiting_worker(doomed, begun):
    """A worker that on the node `doomed` writes the file `begun` and stays in its shard; elsewhere it waits for that.

    Made in a function, so that Ray sends the class itself: its workers do not find this module.
    """

    class Waiting(module.Worker):
        def rows(self, number):
            if ray.get_runtime_context().get_node_id() == doomed:
                begun.write_text(str(number))
                time.sleep(600)
            deadline = time.monotonic() + 300
            while not begun.exists() and time.monotonic() < deadline:
                time.sleep(0.05)
            return super().rows(number)

    return Waiting


class KillsANode:
    """A reporter that takes a node away when a shard is done, and one is begun on that node."""

    def __init__(self, cluster, node):
        self.cluster, self.node, self.notes = cluster, node, []

    def step(self, text):
        pass

    def note(self, text):
        self.notes.append(text)

    def progress(self, done, total):
        if self.node is not None:
            self.cluster.remove_node(self.node, allow_graceful=False)
            self.node = None


def test_a_cluster_that_loses_a_node_finds_the_same(made, cluster, tmp_path, monkeypatch):
    found, nodes = cluster
    paths, data = made
    alone = evaluate(paths, data)
    begun, says = tmp_path / "begun", KillsANode(found, nodes[1])
    monkeypatch.setattr(module, "Worker", waiting_worker(nodes[1].node_id, begun))
    together = evaluate(paths, data, workers=3, ray=found.address, resume=tmp_path / "rows", reporter=says)
    assert says.node is None
    assert together.figures == alone.figures
    assert together.shards == 10
    assert says.notes == [f"A node was lost: shard {begun.read_text()} is begun again."]


def refused(made, address):
    paths, data = made
    began = time.monotonic()
    done = CliRunner().invoke(main, ["evaluate", str(paths[0]), "--data", data, "--ray", address])
    assert done.exit_code == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"Error: There is no Ray cluster at {address} (")
    return last, time.monotonic() - began


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("127.0.0.1:1", "Connection refused"),
        ("no.such.host.invalid:6379", "not known"),
        ("127.0.0.1:99999", ""),
        (f"{'x' * 100}:6379", ""),
        ("nonsense", "Invalid address format"),
        ("auto", "Could not find any running Ray instance"),
    ],
)
def test_no_cluster_is_one_sentence(made, address, reason):
    told, seconds = refused(made, address)
    assert reason in told
    assert seconds < 20


def test_what_answers_and_is_no_cluster_is_one_sentence(made):
    """Such as Ray's own dashboard, whose address is the one that people see: Ray itself would try for five minutes."""
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        told, seconds = refused(made, f"127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        server.server_close()
    assert "let nobody join within 30 seconds" in told
    assert seconds < 60
