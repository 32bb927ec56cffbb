"""Encoders of every family in transformers' layout: the library's own outputs, strictness, refusals by name."""

import json
import shutil
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from conftest import build
from helpers.originals import worst
from safetensors.numpy import load_file, save_file

from vit_export.base.errors import InputError
from vit_export.model.preprocessing import Preprocessing
from vit_export.weights.open import open_checkpoint

FAMILIES = Path(__file__).parents[1] / "fixtures" / "transformers"

MODELS = (
    *("dinov2", "dinov2_classifier", "dinov2_registers", "dinov3", "clip", "clip_projected", "clip_vision"),
    *("siglip", "siglip_vision", "siglip_classifier", "deit", "deit_classifier", "deit_distilled"),
    *("vit_mae", "vit_msn"),
)
SHOWN = {"siglip": 18}  # pixels, of which the last two fill no patch
WITHOUT_PROCESSOR = {"scaling", "resizing"}


@pytest.fixture(scope="module")
def outputs():
    with np.load(FAMILIES / "expected.npz") as file:
        return {key: file[key] for key in file.files}


@pytest.fixture
def changed(tmp_path):
    """A copy of a checkpoint with tensors and fields of its configs changed (None removes)."""

    def change(name, config=None, rename=None, dtype=None, preprocessor=None, **tensors):
        folder = tmp_path / name
        shutil.copytree(FAMILIES / name, folder, dirs_exist_ok=True)
        stored = load_file(folder / "model.safetensors") | tensors
        if rename is not None:
            stored = {rename(key): value for key, value in stored.items()}
        stored = {key: value for key, value in stored.items() if key and value is not None}
        save_file(
            {key: np.asarray(value, dtype or value.dtype) for key, value in stored.items()},
            folder / "model.safetensors",
        )
        for file, fields in (("config.json", config), ("preprocessor_config.json", preprocessor)):
            if fields is not None:
                path = folder / file
                known = json.loads(path.read_text()) if path.exists() else {}
                path.write_text(json.dumps({k: v for k, v in {**known, **fields}.items() if v is not None}))
        return folder

    return change


def shown(images, size):
    """The images as the library was shown them, of `size` pixels, what no patch has being other than at first."""
    wide = np.zeros((len(images), size, size, 3), np.float32)
    wide[:, :16, :16] = images
    return wide


def differences(folder, name, outputs, **options):
    """The worst difference from the library, for the model's own image size and for images of 24 x 20 pixels."""
    checkpoint = open_checkpoint(folder, **options)
    size = SHOWN.get(name, 16)
    kind = "features" if checkpoint.spec.num_classes is None else "logits"
    found = build(sized(checkpoint, size)).predict_output(shown(outputs["images"], size))
    other = build(sized(checkpoint, (24, 20))).predict_output(outputs["other_images"])
    return worst(found, outputs[f"{name}/{kind}"]), worst(other, outputs[f"{name}/other"])


def sized(checkpoint, size):
    return checkpoint.adapted(checkpoint.spec.with_(image_size=size))


@pytest.mark.parametrize("name", MODELS)
def test_outputs_are_those_of_the_library_at_two_sizes(name, outputs):
    assert max(differences(FAMILIES / name, name, outputs)) < 5e-6
