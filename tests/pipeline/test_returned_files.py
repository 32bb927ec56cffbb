"""Files with several outputs, from the request to the verdict."""

import json

import numpy as np
import pytest
from conftest import RandomParameters, build, record_of, toy_spec, write_pictures
from helpers import switches
from helpers.returning import ALL_OF_A_CLASSIFIER, CASES, spec_of

from vit_export.artifacts.read import artifact_of, read_facts
from vit_export.artifacts.tflite_metadata import read_tflite_metadata
from vit_export.base.quiet import import_tensorflow
from vit_export.bundles.source import subject_of
from vit_export.images.split import find_images
from vit_export.model.saved_model import write_saved_model
from vit_export.onnx.write import write_onnx
from vit_export.pipeline.request import ExportRequest
from vit_export.pipeline.steps import export
from vit_export.pipeline.verify_files import VerifyRequest, verify_files
from vit_export.runtimes.runner import open_runner
from vit_export.tflite.write import write_tflite
from vit_export.verification.verifier import VerifyOptions, verify

import_tensorflow()


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("photos") / "photos", 24, (40, 40))


@pytest.mark.thorough
@pytest.mark.parametrize("case", CASES)
def test_every_format_has_every_output(case, images, tmp_path):
    spec = spec_of(case)
    source, record = RandomParameters(spec), record_of(spec)
    model = build(source)
    expected = model.predict_outputs(images[:2])
    write_saved_model(model, tmp_path / "saved_model", record)
    made = [
        write_tflite(source, record, tmp_path / "x.tflite", batch=2),
        write_onnx(source, record, tmp_path / "x.onnx", batch=2),
    ]
    for path, format in (("saved_model", "saved_model"), ("x.tflite", "tflite"), ("x.onnx", "onnx")):
        runner = open_runner(tmp_path / path, format)
        assert [entry.name for entry in runner.outputs] == list(spec.outputs)
        found = runner.run_all(images[:2])
        for name, wanted in expected.items():
            assert found[name].shape == wanted.shape
            assert np.abs(found[name] - wanted).max() < 1e-5 * np.ptp(wanted), (path, name)
        np.testing.assert_array_equal(runner.run(images[:2]), found[spec.output_name])
        assert open_runner(tmp_path / path, format, output=list(expected)[-1]).read[0].name == list(expected)[-1]
    for artifact in made:
        assert {entry.name: entry.shape for entry in artifact.outputs} == {
            name: (2, *shape) for name, shape in spec.outputs.items()
        }
        assert [entry.name for entry in read_facts(artifact.path).outputs] == list(spec.outputs)
    told = read_tflite_metadata(tmp_path / "x.tflite")["outputs"]
    assert [entry["name"] for entry in told] == list(spec.outputs)
    half = write_onnx(source, record, tmp_path / "half.onnx", precision="float16")
    found = open_runner(tmp_path / "half.onnx", "onnx").run_all(images[:1])
    assert {entry.dtype for entry in half.outputs} == {"float32"}
    for name, wanted in expected.items():
        assert np.abs(found[name] - wanted[:1]).max() < 0.01 * np.ptp(wanted), name


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["rotary, features", "registers, features", "siglip", "mean_norm, registers alone"])
def test_the_saved_model_says_how_many_tokens_there_are(name, tmp_path):
    usual = "pooled" if name == "siglip" else "features"
    spec = switches.spec_of(name).returning((usual, "tokens"))
    write_saved_model(build(RandomParameters(spec)), tmp_path / "saved_model", record_of(spec))
    found = open_runner(tmp_path / "saved_model", "saved_model").outputs
    assert {entry.name: entry.shape for entry in found} == {n: (None, *shape) for n, shape in spec.outputs.items()}


@pytest.fixture(scope="module")
def exported(photos, tmp_path_factory):
    """One export with every output of a classifier, verified."""
    folder = tmp_path_factory.mktemp("returns") / "out"
    spec = toy_spec(pre_logits_size=20)
    returns = ("tokens", "logits", "pooled", "features")
    request = ExportRequest(
        spec, folder, labels=tuple("abcdefghij"), calibration=photos, returns=returns, held_out_images=8
    )
    return export(request)


@pytest.mark.thorough
def test_an_export_is_judged_output_by_output(exported):
    assert exported.passed, exported.verification.failures
    for file in exported.verification.files:
        assert [output.name for output in file.outputs] == ["pooled", "features", "tokens"]
        assert file.comparison.outputs == 10
        k = (len(exported.verification.images) - 1) // 3
        assert [output.neighbours and output.neighbours.k for output in file.outputs] == [k, k, None]
        assert file.neighbours is None
        assert file.top is not None
        names = {check.name for check in file.checks}
        for output in ("pooled", "features", "tokens"):
            assert {f"{name} ({output})" for name in ("finite", "cosine", "sqnr", "deterministic", "order")} <= names
    assert [entry.name for entry in exported.verification.reference.more_outputs] == ["pooled", "features", "tokens"]
    assert {"saved_as_built"} < {check.name for check in exported.verification.reference.checks}
    assert exported.report["spec"]["returns"] == ["logits", "pooled", "features", "tokens"]
    (onnx,) = [a.path for a in exported.artifacts if a.format == "onnx"]
    told = {entry.key: entry.value for entry in load(onnx).metadata_props}
    assert (told["output"], json.loads(told["outputs"])) == ("logits", ["logits", "pooled", "features", "tokens"])


@pytest.mark.thorough
def test_files_are_verified_alone_and_an_output_by_name(exported, photos):
    files = tuple(artifact.path for artifact in exported.artifacts)
    again = verify_files(VerifyRequest(files, data=photos, images=4, latency=False))
    assert again.passed, again.verification.failures
    one = verify_files(VerifyRequest(files, data=photos, images=4, latency=False, output_name="tokens"))
    assert one.passed, one.verification.failures
    assert {file.comparison.outputs for file in one.verification.files} == {17 * 48}
    assert not any(file.outputs for file in one.verification.files)


def load(path):
    import onnx

    return onnx.load(path)


@pytest.mark.thorough
@pytest.mark.parametrize("output", ["pooled", "features", "tokens"])
def test_a_fault_in_any_output_fails(output, exported, photos, tmp_path):
    """The first output is right, and what is wrong is said of the one that is not."""
    import onnx

    (path,) = [a.path for a in exported.artifacts if a.format == "onnx"]
    model = onnx.load(path)
    made = next(node for node in model.graph.node if output in node.output)
    made.output[list(made.output).index(output)] = f"{output}/right"
    for node in model.graph.node:
        node.input[:] = [f"{output}/right" if value == output else value for value in node.input]
    model.graph.node.append(onnx.helper.make_node("Neg", [f"{output}/right"], [output]))
    broken = tmp_path / "broken.onnx"
    onnx.save(model, broken)
    pictures, _ = find_images(photos, record_of(toy_spec()).preprocessing, limit=6)
    found = verify(exported.saved_model.path, [artifact_of(broken)], pictures, VerifyOptions(latency=False))
    (file,) = found.files
    failed = {check.name for check in file.checks if not check.passed}
    assert {f"worst_difference ({output})", f"cosine ({output})", f"sqnr ({output})"} <= failed
    assert not {name for name in failed if "(" not in name} & {"cosine", "sqnr", "worst_difference"}
    assert any(failure.startswith(f"onnx float32: {output}: cosine -1") for failure in file.failures)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("format", "scheme"),
    [
        *(("tflite", scheme) for scheme in ("dynamic", "static", "full", "w8a16")),
        *(("onnx", scheme) for scheme in ("dynamic", "qdq", "symmetric", "w8a16")),
    ],
)
def test_every_int8_scheme_has_every_output(format, scheme, photos, tmp_path):
    """Those, too, that are read inside the file: pooled by the classifier, features by the pre-logits layer."""
    request = ExportRequest(
        spec_of(ALL_OF_A_CLASSIFIER), tmp_path / "out", (format,), ("int8",), int8_scheme=scheme, calibration=photos
    )
    result = export(request)
    assert result.passed, result.verification.failures
    (artifact,) = result.artifacts
    assert [entry.name for entry in artifact.outputs] == ["logits", "pooled", "features", "tokens"]
    whole = "int8" if scheme == "full" else "float32"
    assert {entry.dtype for entry in artifact.outputs} == {whole}


@pytest.mark.thorough
def test_a_file_of_an_earlier_release_calls_a_pooled_embedding_features(photos, tmp_path):
    import onnx

    spec = toy_spec(pre_logits_size=20, num_classes=None)
    source, record = RandomParameters(spec), record_of(spec)
    write_saved_model(build(source), tmp_path / "saved_model", record)
    write_onnx(source, record, tmp_path / "x.onnx")
    model = onnx.load(tmp_path / "x.onnx")
    assert [value.name for value in model.graph.output] == ["pooled"]
    for node in model.graph.node:
        node.output[:] = ["features" if value == "pooled" else value for value in node.output]
    model.graph.output[0].name = "features"
    for entry in model.metadata_props:
        if entry.key == "output":
            entry.value = "features"
        if entry.key == "vit_export":
            values = json.loads(entry.value)
            del values["spec"]["returns"], values["spec"]["l2_normalize"]
            entry.value = json.dumps(values)
    onnx.save(model, tmp_path / "earlier.onnx")
    found = verify_files(
        VerifyRequest((tmp_path / "earlier.onnx",), tmp_path / "saved_model", photos, images=4, latency=False)
    )
    assert found.passed, found.verification.failures
    assert subject_of(tmp_path / "earlier.onnx").output.name == "features"


@pytest.mark.thorough
@pytest.mark.parametrize("opset", [13, 23])
def test_lengths_are_computed_in_float32(opset, tmp_path):
    """The squares of these embeddings are far beyond what float16 holds."""
    spec = toy_spec(num_classes=None, pre_logits_size=20, pre_logits_activation="linear", l2_normalize=True)
    source = RandomParameters(spec)
    source = source.replaced("pre_logits/kernel", 500 * source.read("pre_logits/kernel"))
    images = np.random.default_rng(1).uniform(-1, 1, (2, 32, 32, 3)).astype(np.float32)
    write_onnx(source, record_of(spec), tmp_path / "x.onnx", precision="float16", opset=opset)
    found = open_runner(tmp_path / "x.onnx", "onnx").run(images)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=2e-3)
    assert np.abs(found - build(source).predict_output(images)).max() < 5e-3


@pytest.mark.thorough
def test_embeddings_of_length_1_pass_in_every_precision(photos, tmp_path):
    """What divides them is no operator of a LayerNorm's epsilon, and yet the reference's."""
    spec = toy_spec(num_classes=None, pre_logits_size=20, l2_normalize=True, returns=("features", "pooled"))
    request = ExportRequest(
        spec, tmp_path / "out", ("tflite", "onnx"), ("float32", "float16", "int8"), calibration=photos, opset=13
    )
    result = export(request)
    assert result.passed, result.verification.failures
    assert all(output.neighbours for file in result.verification.files for output in file.outputs)
