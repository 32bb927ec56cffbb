"""The folder that optimum and transformers.js load: what it says, what becomes of it, and the real transformers.js."""

import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import RandomParameters, build, record_of, toy_spec, write_pictures
from helpers import digits
from PIL import Image

from vit_export.base.errors import InputError, OutputError
from vit_export.base.reporting import Silent
from vit_export.model.artifact import PlannedFile
from vit_export.model.outputs import names_in_file, transformers_names
from vit_export.model.preprocessing import Preprocessing, normalize
from vit_export.model.record import ModelRecord
from vit_export.model.saved_model import write_saved_model
from vit_export.onnx import interface
from vit_export.pipeline import hub_folder
from vit_export.pipeline.request import ExportRequest
from vit_export.pipeline.steps import _returning, export
from vit_export.pipeline.verify_files import VerifyRequest, verify_files
from vit_export.weights.layouts import processors
from vit_export.weights.open import open_checkpoint

SMALL = toy_spec(num_classes=3).with_(num_layers=1)
LABELS = ("cat", "dog", "bird")
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
ONNX = PlannedFile(Path("toy.onnx"), "onnx", "float32")

PACKAGE, RELEASE = "@huggingface/transformers", "4.3.1"
CACHE = Path(__file__).parents[2] / ".cache" / "npm"
TRANSFORMERS = Path(__file__).parents[1] / "fixtures" / "transformers"
SCRIPT = Path(__file__).with_name("transformers_js.mjs")


@pytest.mark.parametrize(
    "pixels",
    [
        Preprocessing(224),
        Preprocessing((224, 384), **IMAGENET, interpolation="bicubic"),
        Preprocessing(224, **IMAGENET, resize="shortest", crop_fraction=0.875, interpolation="bicubic"),
        Preprocessing(224, resize="shortest"),
    ],
)
def test_the_processor_says_what_ours_does(pixels):
    """Read back by this package's own reader of such files."""
    said = hub_folder.preprocessor_of(replace(record_of(SMALL), preprocessing=pixels), "normalized")
    assert (tuple(said["image_mean"]), tuple(said["image_std"])) == (pixels.mean, pixels.std)
    if isinstance(pixels.image_size, tuple):
        assert said["size"] == {"height": 224, "width": 384}
        return
    read = processors.scaling(said) | processors.resizing(said)
    assert Preprocessing(processors.size(said), **read) == pixels


@pytest.mark.parametrize(("input", "last"), [("0..1", 1.0), ("0..255", 255.0), ("normalized", 1.0)])
def test_other_numbers_are_the_same_steps(input, last):
    """What both tools compute of a white pixel is what the file takes for one."""
    said = hub_folder.preprocessor_of(record_of(SMALL), input)
    white = (255 * said["rescale_factor"] - said["image_mean"][0]) / said["image_std"][0]
    assert white == pytest.approx(last)


def test_the_config_names_sizes_and_classes():
    record = replace(record_of(SMALL.with_(gelu="tanh")), labels=LABELS)
    config = hub_folder.config_of(record, ("float32", "int8"))
    assert config["id2label"] == {"0": "cat", "1": "dog", "2": "bird"}
    assert config["label2id"] == {"cat": 0, "dog": 1, "bird": 2}
    assert (config["hidden_act"], config["image_size"], config["patch_size"]) == ("gelu_pytorch_tanh", 32, 8)
    assert config["problem_type"] == "single_label_classification"
    assert "transformers.js_config" not in config
    nameless = hub_folder.config_of(record_of(SMALL), ("int8",))
    assert nameless["id2label"]["2"] == "LABEL_2"
    assert nameless["transformers.js_config"] == {"dtype": "q8"}


def test_what_such_a_folder_cannot_say():
    record = record_of(SMALL)
    with pytest.raises(InputError, match="hf_layout=True is for float32 input"):
        hub_folder.require_possible(record, "uint8", [ONNX])
    wide = replace(record, preprocessing=Preprocessing((32, 64), resize="shortest"))
    with pytest.raises(InputError, match=r"choose Preprocessing.resize='squash'"):
        hub_folder.require_possible(wide, "normalized", [ONNX])
    large = record_of(SMALL.with_(num_layers=100, hidden_size=1024, mlp_size=4096, num_heads=16))
    with pytest.raises(InputError, match="vit_toy in float32 is too large for one"):
        hub_folder.require_possible(large, "normalized", [ONNX])
    hub_folder.require_possible(large, "normalized", [replace(ONNX, format="tflite")])


BARE = SMALL.with_(num_classes=None)
PROJECTED = {"pre_logits_size": 20, "pre_logits_activation": "linear"}
"""CLIP's embedding."""

FAMILIES = [
    {},
    {"embedding_norm": True, **PROJECTED},
    {"class_token": False, "pooling": "attention"},
    {"num_registers": 2},
]


@pytest.mark.parametrize(
    ("parts", "told", "kind", "architecture", "called"),
    [
        ({}, None, "vit", "ViTModel", ["pooler_output", "last_hidden_state"]),
        ({}, "vit_mae", "vit", "ViTModel", ["pooler_output", "last_hidden_state"]),
        ({}, "dinov2", "dinov2", "Dinov2Model", ["pooler_output", "last_hidden_state"]),
        ({"pre_logits_size": 20}, "vit", "vit", "ViTModel", ["pooler_output", "last_hidden_state"]),
        (
            *({"num_registers": 2}, None, "dinov2_with_registers", "Dinov2WithRegistersModel"),
            ["pooler_output", "last_hidden_state"],
        ),
        ({"positions": "rotary"}, None, "dinov3_vit", "DINOv3ViTModel", ["pooler_output", "last_hidden_state"]),
        (
            *({"class_token": False, "pooling": "attention"}, "siglip", "siglip_vision_model", "SiglipVisionModel"),
            ["pooler_output", "last_hidden_state"],
        ),
        (
            *({"embedding_norm": True, **PROJECTED}, "clip", "clip_vision_model", "CLIPVisionModelWithProjection"),
            ["image_embeds", "last_hidden_state"],
        ),
        ({"embedding_norm": True}, "clip", "clip_vision_model", "CLIPVisionModel", None),
    ],
)
def test_a_model_without_classifier_by_its_family(parts, told, kind, architecture, called):
    """What nobody asked for is the embedding and the tokens, by transformers' names."""
    spec = hub_folder.returning_tokens(BARE.with_(**parts))
    config = hub_folder.config_of(replace(record_of(spec), weights={"source": "test", "model_type": told}), ("int8",))
    assert (config["model_type"], config["architectures"]) == (kind, [architecture])
    assert not {"id2label", "label2id", "problem_type"} & set(config)
    assert list(transformers_names(spec).values()) == (called or ["pooler_output", "last_hidden_state"])
    assert "last_hidden_state" in hub_folder.notes_on(spec, asked=False)[0]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *(("dinov2", "dinov2"), ("dinov2_registers", "dinov2_with_registers"), ("dinov3", "dinov3_vit")),
        *(("clip", "clip_vision_model"), ("clip_projected", "clip_vision_model"), ("clip_vision", "clip_vision_model")),
        *(("siglip", "siglip_vision_model"), ("siglip_vision", "siglip_vision_model")),
        *(("deit", "deit"), ("deit_distilled", "deit"), ("vit_mae", "vit"), ("vit_msn", "vit_msn")),
    ],
)
def test_the_family_of_a_checkpoint(name, kind):
    checkpoint = open_checkpoint(TRANSFORMERS / name)
    adapted = checkpoint.adapted(hub_folder.returning_tokens(checkpoint.returning(["features"])))
    assert hub_folder.family_of(adapted.record)[0] == kind


def test_what_is_asked_for_is_what_is_returned():
    """Tokens come along only where nobody said what to return."""

    def returned(spec=BARE, **asked):
        request = ExportRequest(spec, Path("out"), formats=("onnx",), **{"hf_layout": True, **asked})
        return list(_returning(request, spec).outputs)

    assert returned() == ["features", "tokens"]
    assert returned(l2_normalize=True) == ["features", "tokens"]
    assert returned(returns=("features",)) == ["features"]
    assert returned(BARE.with_(returns=("tokens",))) == ["tokens"]
    assert returned(hf_layout=False) == ["features"]
    assert returned(SMALL) == ["logits"]


def test_names_are_each_given_once():
    pooler = BARE.with_(pre_logits_size=20, returns=("pooled", "features", "tokens"))
    assert list(transformers_names(pooler).values()) == ["pooler_output", "features", "last_hidden_state"]
    clip = pooler.with_(pre_logits_activation="linear")
    assert list(transformers_names(clip).values()) == ["image_embeds", "pooler_output", "last_hidden_state"]
    assert transformers_names(SMALL) == {"logits": "logits"}
    assert hub_folder.returning_tokens(SMALL) == SMALL
    alone = BARE.with_(pre_logits_size=20, returns=("pooled",))
    assert "optimum reads last_hidden_state" in hub_folder.notes_on(alone, asked=True)[0]
    assert names_in_file(clip, ["images"]) == {name: name for name in ("pooled", "features", "tokens")}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("photos"), 12, (64, 64))


@pytest.fixture(scope="module")
def saved_models(tmp_path_factory):
    """Two models of one spec."""
    found = []
    for seed in range(2):
        source = RandomParameters(SMALL, seed)
        found.append(tmp_path_factory.mktemp("weights") / "saved_model")
        write_saved_model(build(source), found[-1], replace(record_of(SMALL), labels=LABELS))
    return found


@pytest.mark.thorough
def test_an_export_with_the_folder(saved_models, photos, tmp_path):
    output = tmp_path / "out"

    def again(model=saved_models[0], reporter=None, **changes):
        asked = {"formats": ("onnx",), "verify": False, "hf_layout": True, **changes}
        return export(ExportRequest(None, output, weights=model, calibration=photos, **asked), reporter)

    result = again(precisions=("float32", "float16"))
    folder = output / "huggingface"
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*")) == [
        *("config.json", "onnx", "onnx/model.onnx", "onnx/model_fp16.onnx", "preprocessor_config.json"),
    ]
    for artifact, name in zip(result.artifacts, ("model.onnx", "model_fp16.onnx"), strict=True):
        assert os.path.samefile(artifact.path, folder / "onnx" / name)
        assert (artifact.inputs[0].name, artifact.inputs[0].shape) == ("pixel_values", (None, 3, 32, 32))
    assert json.loads((folder / "config.json").read_text())["label2id"]["bird"] == 2
    with pytest.raises(OutputError, match="exists already"):
        again(precisions=("int8",))
    # What an export of another model leaves behind is not to be taken for its own.
    again(model=saved_models[1], hf_layout=False, overwrite=True)
    assert not folder.exists()
    again(model=saved_models[1], overwrite=True)
    (folder / "README.md").write_text("mine")
    with pytest.raises(
        OutputError, match="huggingface holds what no export wrote, so overwrite=True does not replace it"
    ):
        again(model=saved_models[1], overwrite=True)
    told = Silent()
    told.note = (notes := []).append
    again(model=saved_models[0], hf_layout=False, overwrite=True, reporter=told)
    assert any("Left in" in note and "huggingface" in note for note in notes)
    assert (folder / "README.md").read_text() == "mine"


@pytest.mark.thorough
def test_an_embedding_is_verified_by_transformers_names(photos, tmp_path):
    """In the export, by itself, one output alone; and not where two outputs or the names of two are exchanged."""
    spec = BARE.with_(pre_logits_size=48, pre_logits_activation="linear", embedding_norm=True)
    told = Silent()
    told.note = (notes := []).append
    request = ExportRequest(
        spec.with_(returns=("pooled", "features", "tokens")),
        tmp_path / "out",
        calibration=photos,
        formats=("onnx", "tflite"),
        hf_layout=True,
        held_out_images=4,
    )
    result = export(request, told)
    assert result.passed, result.verification.failures
    names = ["image_embeds", "pooler_output", "last_hidden_state"]
    for artifact in result.artifacts:
        own = [entry.name for entry in artifact.outputs]
        assert own == (names if artifact.format == "onnx" else ["pooled", "features", "tokens"])
    assert any("the .onnx files call them image_embeds and pooler_output and last_hidden_state" in n for n in notes)
    path = next(Path(a.path) for a in result.artifacts if a.format == "onnx")
    facts = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert (facts["output"], json.loads(facts["outputs"])) == ("image_embeds", names)

    def verified(*files, **more):
        reference = tmp_path / "out" / "saved_model"
        asked = {"reference": reference, "data": photos, "images": 4, "latency": False, **more}
        found = verify_files(VerifyRequest(files, **asked)).verification.files
        return [[check.name for check in file.checks if not check.passed] for file in found]

    hub = tmp_path / "out" / "huggingface" / "onnx" / "model.onnx"
    assert verified(hub, output_name="pooler_output") == [[]]
    files = [hub]
    swapped = {"image_embeds": "pooler_output", "pooler_output": "image_embeds"}
    for fault in ("what", "called", "order", "ours"):
        model = onnx.load(path)
        if fault == "what":  # the values under two names
            interface.rename_outputs(model.graph, dict(zip(names, [swapped.get(n, n) for n in names], strict=True)))
            first, second, _ = model.graph.output
            first.name, second.name = second.name, first.name
        elif fault == "called":
            interface.rename_outputs(model.graph, {name: swapped.get(name, name) for name in names})
        elif fault == "order":
            first, second = model.graph.output[0].name, model.graph.output[1].name
            model.graph.output[0].name, model.graph.output[1].name = second, first
        else:  # one by our name, the others by theirs
            interface.rename_outputs(model.graph, {name: name.replace("image_embeds", "pooled") for name in names})
        onnx.save(model, tmp_path / f"{fault}.onnx")
        files.append(tmp_path / f"{fault}.onnx")
    good, what, *names = verified(*files)
    assert good == []
    assert {"cosine", "cosine (features)"} <= set(what)
    assert all("outputs" in failed for failed in names)


@pytest.fixture(scope="module")
def package():
    """The folder of transformers.js, from the npm registry; kept in the project's .cache/, for it is large."""
    for tool in ("node", "npm"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    folder = CACHE / f"transformers-{RELEASE}"
    found = folder / "node_modules" / PACKAGE
    if not (found / "package.json").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        # Without scripts: the runtime for CPUs is in the package, they would load one for GPUs.
        install = ["npm", "install", "--prefix", ".", "--ignore-scripts", "--no-audit", "--no-fund"]
        install.append(f"{PACKAGE}@{RELEASE}")
        done = subprocess.run(install, cwd=folder, capture_output=True, text=True, check=False, timeout=600)
        if done.returncode:
            pytest.skip(f"{PACKAGE}@{RELEASE} cannot be installed: {done.stderr.strip().splitlines()[-1][:200]}")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("pixels", [digits.PREPROCESSING, Preprocessing(32, **IMAGENET, resize="shortest")])
def test_transformers_js_answers_as_we_do(pixels, package, tmp_path):
    images, _ = digits.pictures()
    shown = images[digits.held_out()][:12]
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    paths = [pictures / f"{index:02}.png" for index in range(len(shown))]
    for path, image in zip(paths, shown, strict=True):
        Image.fromarray(image).save(path)
    labels = tuple(f"digit {n}" for n in range(10))
    record = ModelRecord(digits.SPEC, pixels, {"source": "test", "trained": True}, labels)
    weights, output = tmp_path / "saved_model", tmp_path / "out"
    write_saved_model(build(digits.DigitsParameters()), weights, record)
    export(
        ExportRequest(
            None,
            output,
            weights=weights,
            formats=("onnx",),
            precisions=("float32", "float16", "int8"),
            calibration=pictures,
            hf_layout=True,
            verify=False,
        )
    )
    command = ["node", str(SCRIPT), str(package), str(output), "huggingface", *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    fed = np.float32(found["pixels"]).reshape(found["dims"])
    # These pictures are of the model's size: nothing is resized, and the pixels are ours.
    np.testing.assert_allclose(fed, normalize(shown, pixels).transpose(0, 3, 1, 2), atol=1e-5)
    for dtype, name in (("fp32", "model.onnx"), ("fp16", "model_fp16.onnx"), ("q8", "model_quantized.onnx")):
        session = onnxruntime.InferenceSession(output / "huggingface" / "onnx" / name)
        (wanted,) = session.run(["logits"], {"pixel_values": fed})
        theirs = np.array(found["files"][dtype]["logits"])
        cosine = (wanted * theirs).sum(1) / np.linalg.norm(wanted, axis=1) / np.linalg.norm(theirs, axis=1)
        assert cosine.min() > 0.9999
        alone = np.concatenate([session.run(["logits"], {"pixel_values": image[None]})[0] for image in fed])
        for answers, row in zip(found["files"][dtype]["answers"], alone, strict=True):
            best = np.argsort(-row)[:5]
            if dtype == "fp32":
                assert [answer["label"] for answer in answers] == [labels[index] for index in best]
            assert answers[0]["label"] == labels[best[0]]


@pytest.mark.slow
@pytest.mark.parametrize("parts", FAMILIES)
def test_transformers_js_embeds_as_we_do(parts, photos, package, tmp_path):
    """`AutoModel` and the pipeline of a model without classifier, beside the reference on the same pixels."""
    source = RandomParameters(BARE.with_(**parts))
    write_saved_model(build(source), tmp_path / "saved_model", record_of(source.spec))
    export(
        ExportRequest(
            None,
            tmp_path / "out",
            weights=tmp_path / "saved_model",
            formats=("onnx",),
            precisions=("float32", "float16", "int8"),
            calibration=photos,
            hf_layout=True,
            verify=False,
        )
    )
    command = ["node", str(SCRIPT), str(package), str(tmp_path / "out"), "huggingface"]
    command += map(str, sorted(photos.iterdir())[:4])
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    fed = np.float32(found["pixels"]).reshape(found["dims"])
    spec = hub_folder.returning_tokens(source.spec)
    expected = build(RandomParameters(spec)).predict_outputs(fed.transpose(0, 2, 3, 1))
    for dtype, least in (("fp32", 0.9999999), ("fp16", 0.9999), ("q8", 0.99)):
        answer = found["files"][dtype]
        for name, called in transformers_names(spec).items():
            assert _cosine(expected[name], np.array(answer["outputs"][called])) > least, (dtype, name)
        assert _cosine(expected["tokens"], np.array(answer["extracted"])) > least


def _cosine(wanted, theirs):
    """The smallest over the images."""
    assert wanted.shape == theirs.shape
    wanted, theirs = (values.reshape(len(values), -1) for values in (wanted, theirs))
    return ((wanted * theirs).sum(1) / np.linalg.norm(wanted, axis=1) / np.linalg.norm(theirs, axis=1)).min()
