"""Checkpoints of real sizes, written by independent code and by transformers itself, through to the files' outputs.

    pytest -m '' -s tests/pipeline/test_full_size.py      prints how far each file is from the original

The slow tests write up to 350 MB each into pytest's temporary folder and remove it again.
"""

from functools import partial

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import toy_spec
from helpers import layouts, reference_google
from helpers.layouts import SeededParameters
from helpers.originals import worst

from vit_export.cli.main import main
from vit_export.images.read import prepare
from vit_export.model.parameters import parameter_specs
from vit_export.model.spec import ViTSpec
from vit_export.runtimes.runner import open_runner
from vit_export.weights.open import open_checkpoint

EXACT = {"layer_norm_epsilon": 1e-6, "gelu": "erf"}
TANH = {"layer_norm_epsilon": 1e-6, "gelu": "tanh"}

# How each layout is written, and what its package computes with.
LAYOUTS = {
    "timm": (layouts.write_timm, EXACT),
    "torchvision": (layouts.write_torchvision, EXACT),
    "torchvision-old": (partial(layouts.write_torchvision, old=True), EXACT),
    "huggingface": (layouts.write_huggingface, {"layer_norm_epsilon": 1e-12, "gelu": "erf"}),
    "huggingface-short": (partial(layouts.write_huggingface, short=True), {"layer_norm_epsilon": 1e-5, "gelu": "tanh"}),
    "google-released": (layouts.write_google, TANH),
    "google-linen": (partial(layouts.write_google, form="linen"), TANH),
    "google-stacked": (partial(layouts.write_google, form="stacked"), TANH),
}
SHARDED = ("huggingface", "huggingface-short")

LIMIT = 1e-4
"""Of the range of the logits, for float32 files."""


@pytest.fixture
def folder(tmp_path):
    """A folder for large files, emptied at once (pytest keeps the folders of three runs)."""
    yield tmp_path
    for path in sorted(tmp_path.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


def source_of(layout, spec, seed=0):
    _, arithmetic = LAYOUTS[layout]
    return SeededParameters(spec.with_(**arithmetic), seed, class_position=layout != "google-stacked")


def require_same(checkpoint, source):
    assert checkpoint.spec.with_(name=source.spec.name) == source.spec  # a toy has no name in the table
    for parameter in parameter_specs(source.spec):
        found = checkpoint.read(parameter.name)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, source.read(parameter.name), err_msg=parameter.name)


def photographs():
    from skimage import data

    return [getattr(data, name)() for name in ("astronaut", "chelsea", "coffee", "rocket", "immunohistochemistry")]


def pixels(checkpoint, count):
    """`count` real photographs, prepared as the checkpoint says."""
    return np.stack([prepare(image, checkpoint.preprocessing) for image in photographs()[:count]])


def distances(output, images, expected, saved_model=False):
    """How far the outputs of each exported file in the folder `output` are from `expected`, of its range."""
    kinds = {".tflite": "tflite", ".onnx": "onnx"} | ({"": "saved_model"} if saved_model else {})
    files = sorted(path for path in output.iterdir() if path.suffix in kinds and path.name != "labels.txt")
    assert len(files) == len(kinds)
    found = {}
    for path in files:
        runner = open_runner(path, kinds[path.suffix])  # TensorFlow runs already, with the threads that it has
        found[kinds[path.suffix]] = float(worst(runner.run(images), expected))
    print({kind: f"{distance:.1e}" for kind, distance in found.items()})
    return found


def export(weights, output):
    options = ["--weights", str(weights), "--tflite", "--onnx", "--no-verify", "--output", str(output)]
    result = CliRunner().invoke(main, options)
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("classes", [10, None], ids=["classifier", "features"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_parameter_of_a_toy_arrives(layout, classes, tmp_path):
    pooled = {"pre_logits_size": 48} if layout.startswith(("google", "huggingface")) and classes is None else {}
    source = source_of(layout, toy_spec(num_classes=classes, **pooled))
    write, _ = LAYOUTS[layout]
    require_same(open_checkpoint(write(tmp_path, source), num_heads=4), source)


@pytest.mark.parametrize("layout", SHARDED)
def test_every_parameter_of_a_toy_arrives_from_shards(layout, tmp_path):
    source = source_of(layout, toy_spec())
    write, _ = LAYOUTS[layout]
    path = write(tmp_path, source, shard_bytes=100_000)
    assert len(list(path.glob("*.safetensors"))) > 2
    require_same(open_checkpoint(path), source)


def test_classifiers_with_a_layer_before_them_arrive(tmp_path):
    for layout in ("google-released", "google-stacked", "torchvision"):
        source = source_of(layout, toy_spec(pre_logits_size=24))
        write, _ = LAYOUTS[layout]
        (tmp_path / layout).mkdir()
        require_same(open_checkpoint(write(tmp_path / layout, source), num_heads=4), source)


def test_the_comparison_notices_two_parameters_that_were_exchanged(tmp_path):
    class Exchanged(SeededParameters):
        def read(self, name):
            return super().read(name.replace("layer_1/attention/query", "layer_1/attention/value"))

    source = source_of("timm", toy_spec())
    path = layouts.write_timm(tmp_path, Exchanged(source.spec))
    with pytest.raises(AssertionError, match="layer_1/attention/query/kernel"):
        require_same(open_checkpoint(path), source)


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("variant", ["vit_s16", "vit_b16"])
def test_every_parameter_of_a_full_size_model_arrives(variant, layout, folder):
    source = source_of(layout, ViTSpec.of(variant), seed=1)
    write, _ = LAYOUTS[layout]
    path = write(folder, source, shard_bytes=50_000_000) if layout == "huggingface" else write(folder, source)
    checkpoint = open_checkpoint(path, variant=variant)
    assert checkpoint.spec.name == variant
    require_same(checkpoint, source)


@pytest.mark.slow
@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name.startswith("google")])
def test_googles_full_size_files_compute_what_an_independent_forward_pass_does(layout, folder):
    source = source_of(layout, ViTSpec.of("vit_s16"), seed=2)
    write, _ = LAYOUTS[layout]
    path = write(folder, source)
    images = pixels(open_checkpoint(path), 2)
    with np.load(path) as arrays:
        expected = reference_google.forward(dict(arrays), images)["logits"]
    export(path, folder / "out")
    assert max(distances(folder / "out", images, expected).values()) < LIMIT


@pytest.mark.slow
def test_transformers_full_size_model(folder):
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from helpers.make_originals import write_full_size

    model = write_full_size(folder / "checkpoint")
    checkpoint = open_checkpoint(folder / "checkpoint")
    assert (checkpoint.spec.name, checkpoint.spec.num_classes) == ("vit_b16", 1000)
    images = pixels(checkpoint, 5)
    with torch.no_grad():
        expected = model(torch.from_numpy(images).permute(0, 3, 1, 2)).logits.numpy()
    assert len(set(expected.argmax(1))) > 1  # the model tells photographs apart
    export(folder / "checkpoint", folder / "out")
    found = distances(folder / "out", images, expected, saved_model=True)
    assert max(found.values()) < LIMIT


@pytest.mark.slow
def test_transformers_own_image_processor(tmp_path):
    pytest.importorskip("torch")
    ours = open_checkpoint(
        layouts.write_huggingface(tmp_path, source_of("huggingface", ViTSpec.of("vit_ti16", num_classes=2)))
    ).preprocessing
    processor = pytest.importorskip("transformers").ViTImageProcessorPil.from_pretrained(tmp_path)
    for image in photographs():
        theirs = processor(image, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
        np.testing.assert_allclose(prepare(image, ours), theirs, rtol=0, atol=1e-6)
