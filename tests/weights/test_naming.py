"""What files made of a checkpoint are called: its own name, and none that a system cannot hold."""

from dataclasses import replace
from pathlib import Path

import pytest
from conftest import RandomParameters, record_of, toy_spec

from vit_export.base.errors import InputError
from vit_export.model.spec import ViTSpec
from vit_export.pipeline.request import ExportRequest
from vit_export.verification.origin import same_origin
from vit_export.weights.checkpoint import Checkpoint
from vit_export.weights.containers.contents import Contents
from vit_export.weights.naming import own_name
from vit_export.weights.open import _called, open_checkpoint

ORIGINALS = Path(__file__).parents[1] / "fixtures" / "originals"
COMMIT = "a1" * 20


@pytest.mark.parametrize(
    ("location", "name"),
    [
        ("hf:facebook/dinov3-vits16-pretrain-lvd1689m@main", "dinov3-vits16-pretrain-lvd1689m"),
        ("hf:bob/model", "bob"),
        ("https://host.invalid/augreg/S_32-i21k.npz?token=secret#sha256=00", "S_32-i21k"),
        ("https://huggingface.co/o/my-repo/resolve/main/model.safetensors", "my-repo"),
        ("dino/model.safetensors", "dino"),
        ("dino/pytorch_model.bin", "dino"),
        ("dino/checkpoint.npz", "dino"),
        ("dino/model.safetensors.index.json", "dino"),
        ("dino/export/best.weights.h5", "dino"),
        ("flowers/checkpoint-500", "flowers-checkpoint-500"),
        ("flowers/checkpoint-500/model.safetensors", "flowers-checkpoint-500"),
        (f"models--facebook--dinov2-small/snapshots/{COMMIT}", "dinov2-small"),
        ("tuned.keras", "tuned"),
        ("tuned.weights.h5", "tuned"),
        ("ViT-B_16-224.npz", "ViT-B_16-224"),
        ("dinov2.v1.safetensors", "dinov2.v1"),
        ("my model (2).keras", "my_model_2"),
        ("crème/ brûlée\n.npz", "brulee"),
        ("blumen/模型.safetensors", "blumen"),
        ("a/../b/model.npz", "b"),
        ("-rf.npz", "rf"),
        ("..name.npz", "name"),
        ("aux.v2.keras", "aux_v2"),
        ("x" * 300 + ".npz", "x" * 100),
        ("/model.npz", None),
        ("https://host.invalid/model.safetensors", None),
    ],
)
def test_the_place_of_a_checkpoint_names_it(location, name):
    assert own_name(location) == name


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "a\\b", "-x", "a b", "é", "x" * 101, "nul.1", "COM1.x"])
def test_names_that_no_file_can_have_everywhere_are_refused(name):
    with pytest.raises(InputError, match=r"^name is .* files are called by it"):
        ExportRequest(None, Path("out"), name=name)
    with pytest.raises(InputError, match=r"^A model's name is"):
        toy_spec().with_(name=name)


def test_a_checkpoint_is_named_when_it_is_exported():
    opened = open_checkpoint(ORIGINALS / "hf")
    assert (opened.called, opened.spec.name) == ("hf", "vit_l2_d32_p8")
    assert opened.named().spec == opened.spec.with_(name="hf")
    assert opened.named("mine").named().spec.name == "mine"
    assert opened.named("mine").spec.is_same_model(opened.spec)
    assert not opened.spec.with_(gelu="tanh").is_same_model(opened.spec)
    model = Checkpoint(RandomParameters(toy_spec()), record_of(toy_spec()), own=True, saved_model=Path("x"))
    assert model.named().saved_model == Path("x")  # as it is called already, so it need not be written again
    assert model.named("other").saved_model is None


def test_a_file_by_another_name_is_the_same_model():
    record = record_of(toy_spec())
    checks = list(same_origin(replace(record, spec=record.spec.with_(name="mine")).to_dict(), record))
    assert [check.passed for check in checks] == [True] * 3
    other = replace(record, spec=record.spec.with_(name="mine", gelu="tanh"))
    assert "gelu" in next(iter(same_origin(other.to_dict(), record))).detail


def test_variants_keep_their_names():
    assert ViTSpec.of("vit_s32").name == "vit_s32"


@pytest.mark.parametrize(
    ("kind", "path", "name", "called"),
    [
        ("saved_model", "exports/dino-224/saved_model", "dino", None),
        ("saved_model", "exports/vit_s32-224/saved_model", "vit_s32", None),
        ("saved_model", "work/flowers", "vit_s32", "flowers"),
        ("saved_model", "work/flowers", "dino", None),
        ("keras", "work/tuned.keras", "dino", "tuned"),
        ("keras", "work/model.keras", "dino", None),
        ("keras", "work/model.keras", "vit_s32", "work"),
        ("safetensors", "dino/model.safetensors", "vit_s32", "dino"),
    ],
)
def test_own_models_keep_the_name_they_were_given(kind, path, name, called):
    spec = ViTSpec.of("vit_s32").with_(name=name)
    assert _called(path, Contents(kind, Path(path)), spec) == called
