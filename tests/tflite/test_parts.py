"""A file run part by part is the file: the same ranges and answers, to the last bit."""

import subprocess
from itertools import pairwise

import numpy as np
import pytest
from conftest import RandomParameters, record_of, toy_spec

from vit_export.artifacts.flatbuffer import MappedModel, unpack
from vit_export.base.errors import InputError
from vit_export.base.python import python_command, python_environment
from vit_export.base.quiet import import_tensorflow
from vit_export.tflite import parts
from vit_export.tflite.quantize import calibrate_each
from vit_export.tflite.write import write_tflite

import_tensorflow()


@pytest.fixture(scope="module", params=[1, 3])
def batches(request, images):
    return np.array_split(images[: 2 * request.param], 2)


@pytest.fixture(scope="module")
def file(batches, tmp_path_factory):
    path, spec = tmp_path_factory.mktemp("parts") / "toy.tflite", toy_spec()
    write_tflite(RandomParameters(spec), record_of(spec), path, batch=len(batches[0]))
    return path


def answers(path, batches):
    return parts.run_in_parts(path, batches, len(batches), lambda interpreter, _: interpreter.invoke(), threads=1)


@pytest.mark.thorough
def test_ranges_and_answers_are_those_of_the_whole(file, batches, monkeypatch):
    assert len(parts._cuts(file)) == 2
    whole = calibrate_each(file, batches, len(batches)), answers(file, batches)
    monkeypatch.setattr(parts, "PART_BYTES", 20_000)
    cuts = parts._cuts(file)
    assert len(cuts) > 5
    told = []
    ranges = calibrate_each(file, batches, len(batches), progress=lambda *done: told.append(done))
    assert ranges == whole[0]
    assert np.array_equal(answers(file, batches), whole[1])
    assert told == sorted(told)
    assert (told[0], told[-1]) == ((0, len(batches)), (len(batches), len(batches)))


def test_each_part_holds_its_own_weights_alone(file, monkeypatch, tmp_path):
    monkeypatch.setattr(parts, "PART_BYTES", 20_000)

    def weights(path):
        return sum(tensor.nbytes for tensor in MappedModel(path).buffers.values())

    found = []
    for ends in pairwise(parts._cuts(file)):
        (tmp_path / "part.tflite").write_bytes(parts._part(file, *ends))
        found.append(weights(tmp_path / "part.tflite"))
    assert sum(found) == weights(file)
    assert max(found) < sum(found) / 2


def test_no_cut_where_an_answer_was_given_before(file, monkeypatch):
    """What leaves the graph in the middle would be lost behind a cut."""
    monkeypatch.setattr(parts, "PART_BYTES", 20_000)
    graph = unpack(file.read_bytes()).subgraphs[0]
    cut = parts._cuts(file)[1]
    (tokens,) = graph.operators[cut - 1].outputs
    before = parts._crossing(graph)
    graph.outputs = [tokens, *graph.outputs]
    after = parts._crossing(graph)
    assert after == {number: index for number, index in before.items() if number < cut}


def test_images_that_the_file_does_not_take(file, batches):
    with pytest.raises(InputError, match=r"The images to run are float64 .* toy.tflite takes float32 \["):
        answers(file, [batch.astype(np.float64) for batch in batches])


FREED = """
from vit_export.base.machine import release_memory
from vit_export.base.quiet import import_tensorflow
import_tensorflow()
import tensorflow as tf

def resident():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) / 1024

before = resident()
weights = [tf.Variable(tf.random.normal((1024, 1024))) for _ in range(64)]
held = resident()
del weights
release_memory()
print(before, held, resident())
"""


@pytest.mark.thorough
def test_what_tensorflow_frees_goes_back_to_the_system():
    ended = subprocess.run(
        python_command("-c", FREED), env=python_environment(), capture_output=True, text=True, check=True
    )
    before, held, after = map(float, ended.stdout.split())
    assert held - before > 240
    assert after - before < 60
