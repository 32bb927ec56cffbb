"""Checkpoints that the original packages wrote, with their outputs, and copies of them with something changed."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from helpers import reference_google
from vit_export.model.spec import ViTSpec
from vit_export.model.variants import get_variant

ORIGINALS = Path(__file__).parents[1] / "fixtures" / "originals"


CLASSIFIERS = ("hf", "timm", "timm_layerscale", "torchvision")


STUDENT = ViTSpec.of(
    replace(get_variant("vit_s16"), name="own", patch_size=8, num_layers=5, hidden_size=32, mlp_size=64, num_heads=4),
    image_size=32,
    num_classes=7,
)


@pytest.fixture(scope="module")
def golden():
    with np.load(ORIGINALS / "expected.npz") as file:
        return {key: file[key] for key in file.files}


def worst(found, expected):
    """The worst difference, of the range of what is expected."""
    assert found.shape == expected.shape
    return np.abs(found - expected).max() / np.ptp(expected)


def fabricated(path, **options):
    """A random file in Google's layout, and its arrays."""
    arrays = reference_google.fabricate(options.pop("sizes", STUDENT), np.random.default_rng(3), **options)
    np.savez(path, **arrays)
    return arrays


@pytest.fixture
def altered(tmp_path):
    """A copy of one of the original checkpoints with some tensors and config entries changed (None removes)."""

    def alter(name, config=None, preprocessor=None, **tensors):
        folder = tmp_path / name
        shutil.copytree(ORIGINALS / name, folder)
        stored = load_file(folder / "model.safetensors")
        for key, value in tensors.items():
            stored.pop(key, None)
            if value is not None:
                stored[key] = value
        save_file(stored, folder / "model.safetensors")
        for file, changes in (("config.json", config), ("preprocessor_config.json", preprocessor)):
            if changes is not None:
                known = json.loads((folder / file).read_text()) if (folder / file).exists() else {}
                known = {key: value for key, value in {**known, **changes}.items() if value is not None}
                (folder / file).write_text(json.dumps(known))
        return folder

    return alter
