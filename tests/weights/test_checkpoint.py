"""What a checkpoint says of itself: its labels, where it comes from, and the model that is made of it."""

import json
import shutil
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
from conftest import RandomParameters, record_of, toy_spec
from helpers.originals import ORIGINALS, fabricated

from vit_export.base.errors import InputError
from vit_export.model.preprocessing import Preprocessing
from vit_export.weights.checkpoint import checkpoint_of
from vit_export.weights.layouts.keras_file import _record
from vit_export.weights.layouts.mapping import MappedParameters
from vit_export.weights.open import open_checkpoint
from vit_export.weights.provenance import saved_again


def digest(path):
    return sha256(path.read_bytes()).hexdigest()


# Labels that do not fit


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("hf", {"id2label": {"0": "a", "1": "b"}}, "id2label of .*config.json holds 2 labels, the model has 7 classes"),
        ("hf", {"id2label": {"0": "a", "2": "b"}}, "id2label of .*config.json has no label for class index 1"),
        ("hf", {"id2label": {str(i): "a\nb" for i in range(7)}}, "id2label of .*config.json has a control character"),
        ("timm", {"label_names": ["a"]}, "label_names of .*config.json holds 1 label, the model has 7 classes"),
        ("timm", {"label_names": [1, 2, 3, 4, 5, 6, 7]}, "label_names of .*config.json holds a value of type int"),
    ],
    ids=["count", "hole", "control", "timm", "type"],
)
def test_labels_that_do_not_fit_matter_only_where_they_would_be_used(name, config, message, altered):
    checkpoint = open_checkpoint(altered(name, config))
    assert checkpoint.labels is None
    ways_out = r".*\(labels\).*\(num_classes\).*\(returns=\['features'\]\)"
    for use in (checkpoint.described, lambda: checkpoint.record):
        with pytest.raises(InputError, match=message + ways_out):
            use()
    larger = checkpoint.adapted(checkpoint.spec.with_(image_size=48))
    with pytest.raises(InputError, match=message):
        larger.described()
    given = larger.described(labels=tuple("abcdefg"))
    assert given.record.labels == tuple("abcdefg")
    assert given.record.weights["overridden"] == ["labels"]
    assert checkpoint.adapted(checkpoint.spec.with_(num_classes=None)).described().record.labels is None
    assert checkpoint.adapted(checkpoint.spec_for(3)).described().record.labels is None


def test_labels_of_a_record_are_judged_like_any_other():
    source = RandomParameters(toy_spec(num_classes=2))
    record = record_of(source.spec)
    assert checkpoint_of(source, replace(record, labels=("a", "b"))).record.labels == ("a", "b")
    broken = checkpoint_of(source, replace(record, labels=("a", "\n")), "saved/")
    with pytest.raises(InputError, match=r"in the record of saved/ has a control character .* at index 1.*(labels)"):
        broken.described()
    assert broken.described(labels=("a", "b")).record.labels == ("a", "b")


@pytest.mark.parametrize("labels", ["ab", (), ("a",), ("a", "\n"), ("a", 1)])
def test_given_labels_are_checked(labels):
    source = RandomParameters(toy_spec(num_classes=2))
    with pytest.raises(InputError, match="The label list"):
        checkpoint_of(source, record_of(source.spec)).described(labels=labels)


def test_a_config_with_a_byte_order_mark(altered):
    folder = altered("hf")
    (folder / "config.json").write_bytes(b"\xef\xbb\xbf" + (folder / "config.json").read_bytes())
    assert open_checkpoint(folder).labels[:2] == ("tabby cat", "hen")


# Where weights come from


def test_local_files_are_recorded_by_their_digests(tmp_path):
    fabricated(tmp_path / "w.npz")
    weights = open_checkpoint(tmp_path / "w.npz").record.weights
    assert weights["location"] == str(tmp_path / "w.npz")
    assert (weights["file"], weights["sha256"]) == ("w.npz", digest(tmp_path / "w.npz"))
    assert "other_files" not in weights

    folder = ORIGINALS / "hf"
    weights = open_checkpoint(folder).record.weights
    assert (weights["file"], weights["sha256"]) == ("model.safetensors", digest(folder / "model.safetensors"))
    assert weights["other_files"] == {n: digest(folder / n) for n in ("config.json", "preprocessor_config.json")}
    assert json.loads(json.dumps(weights)) == weights


def test_every_shard_is_recorded(tmp_path):
    from safetensors.numpy import load_file, save_file

    stored = load_file(ORIGINALS / "timm" / "model.safetensors")
    names = [f"model-{i}.safetensors" for i in (1, 2)]
    parts = {name: {k: stored[k] for k in sorted(stored)[i::2]} for i, name in enumerate(names)}
    for name, part in parts.items():
        save_file(part, tmp_path / name)
    index = {"weight_map": {key: name for name, part in parts.items() for key in part}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    shutil.copy(ORIGINALS / "timm" / "config.json", tmp_path)
    weights = open_checkpoint(tmp_path).record.weights
    assert (weights["file"], weights["sha256"]) == (
        "model.safetensors.index.json",
        digest(tmp_path / "model.safetensors.index.json"),
    )
    assert weights["other_files"] == {name: digest(tmp_path / name) for name in (*names, "config.json")}


def test_digests_are_computed_once_and_only_for_a_record(tmp_path, monkeypatch):
    from vit_export.weights import provenance

    fabricated(tmp_path / "w.npz")
    read = []
    monkeypatch.setattr(provenance, "digest_of_file", lambda path: read.append(path) or "d")
    checkpoint = open_checkpoint(tmp_path / "w.npz")
    assert not read
    adapted = checkpoint.adapted(checkpoint.spec.with_(num_classes=3))
    assert [c.record.weights["sha256"] for c in (checkpoint, adapted, adapted)] == ["d"] * 3
    assert read == [tmp_path / "w.npz"]


def test_a_file_that_is_gone_is_one_sentence(tmp_path):
    fabricated(tmp_path / "w.npz")
    checkpoint = open_checkpoint(tmp_path / "w.npz")
    (tmp_path / "w.npz").unlink()
    with pytest.raises(InputError, match=r"w.npz is damaged or truncated"):
        _ = checkpoint.record


def test_a_model_that_was_saved_again_keeps_its_first_origin():
    hub = {"source": "huggingface", "trained": True, "location": "hf:a/b", "revision": "c", "file": "model.safetensors"}
    first = saved_again({**hub, "fitted_in": "python"}, {"source": "keras", "location": "x.keras", "file": "x.keras"})
    assert first == {
        "source": "keras",
        "trained": True,
        "location": "x.keras",
        "file": "x.keras",
        "fitted_in": "python",
        "made_from": {key: value for key, value in hub.items() if key != "trained"},
    }
    second = saved_again(first, {"source": "keras", "location": "y.keras"})
    assert second["made_from"] == first["made_from"]
    assert "made_from" not in saved_again({"source": "random", "trained": False}, {"source": "keras"})


def test_what_was_overridden_is_recorded():
    checkpoint = open_checkpoint(ORIGINALS / "hf")
    assert "overridden" not in checkpoint.described(checkpoint.preprocessing, checkpoint.labels).record.weights
    pixels = checkpoint.described(Preprocessing(32, mean=(0.1, 0.2, 0.3)))
    assert pixels.record.weights["overridden"] == ["preprocessing"]
    both = pixels.described(labels=tuple("abcdefg"))
    assert both.record.weights["overridden"] == ["labels", "preprocessing"]
    unnamed = open_checkpoint(ORIGINALS / "timm")  # has no labels that could be overridden
    assert "overridden" not in unnamed.described(labels=tuple("abcdefg")).record.weights


def test_what_is_said_of_training_holds_and_costs_no_digest(altered):
    folder = altered("hf")
    checkpoint = open_checkpoint(folder)
    assert checkpoint.stated.trained
    assert checkpoint.described(trained=True) is checkpoint
    shutil.rmtree(folder)
    untrained = checkpoint.described(trained=False)
    assert not untrained.stated.trained
    assert "overridden" not in untrained.stated.weights


def test_an_adapted_checkpoint_has_no_fingerprint():
    source = RandomParameters(toy_spec(num_classes=2))
    checkpoint = checkpoint_of(source, replace(record_of(source.spec), fingerprint="f"))
    assert checkpoint.record.fingerprint == "f"
    assert checkpoint.adapted(source.spec.with_(image_size=48)).record.fingerprint is None


# The classifier


@pytest.mark.parametrize("name", ["hugging face, bare", "google"])
def test_a_new_classifier_reads_the_class_token(name, tmp_path):
    checkpoint = _google(tmp_path) if name == "google" else open_checkpoint(ORIGINALS / "hf_model")
    assert checkpoint.spec.pre_logits_size is not None
    spec = checkpoint.spec_for(3)
    assert (spec.num_classes, spec.pre_logits_size) == (3, None)
    made = checkpoint.adapted(spec)
    assert made.read("head/kernel").shape == (checkpoint.spec.hidden_size, 3)
    assert "new classifier reads the class token" in made.notes[-1]
    pooled = checkpoint.adapted(checkpoint.spec.with_(num_classes=3))  # asked for explicitly
    assert pooled.spec.pre_logits_size == checkpoint.spec.pre_logits_size
    assert pooled.read("head/kernel").shape == (pooled.spec.pre_logits_size, 3)


def _google(tmp_path):
    fabricated(tmp_path / "w.npz", pre_logits=True)
    return open_checkpoint(tmp_path / "w.npz")


def test_the_classifier_that_is_there_keeps_its_pre_logits(tmp_path):
    checkpoint = _google(tmp_path)
    assert checkpoint.spec_for(7) == checkpoint.spec
    assert checkpoint.spec_for(8).pre_logits_size is None


def test_our_own_models_stay_what_they_are():
    source = RandomParameters(toy_spec(num_classes=None, pre_logits_size=20))
    checkpoint = checkpoint_of(source, record_of(source.spec))
    assert checkpoint.own
    assert checkpoint.adapted(checkpoint.spec) is checkpoint
    assert checkpoint.adapted(checkpoint.spec.with_(image_size=48)).spec.pre_logits_size == 20
    assert checkpoint.spec_for(3).pre_logits_size == 20
    assert not open_checkpoint(ORIGINALS / "timm").own


# How weights are given


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("google/vit-base-patch16-224", "There is no google/vit-base.*give hf:google/vit-base-patch16-224 for the rep"),
        ("timm/vit_base.augreg_in21k", "give hf:timm/vit_base.augreg_in21k"),
        ("weights/vit.npz", "There is no weights/vit.npz: check the path"),
        ("a/b/c", "There is no a/b/c: check the path"),
        ("", "The path of the weights is empty"),
        (" ", "The path of the weights is empty"),
        (None, "of type NoneType"),
        (3, "of type int"),
        ("x" * 300, "cannot be read .File name too long"),
        ("a\0b", "There is no"),
    ],
    ids=ascii,
)
def test_where_nothing_is(location, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message) as raised:
        open_checkpoint(location)
    assert ("hf:" in str(raised.value)) == ("hf:" in message or "empty" in message)


def test_an_address_of_another_kind_keeps_its_secrets():
    with pytest.raises(InputError, match=r"expected https://") as raised:
        open_checkpoint("s3://user:hunter2@host/x?token=hunter2")
    assert "hunter2" not in str(raised.value)


def test_a_folder_that_is_called_like_a_repository(tmp_path, monkeypatch):
    shutil.copytree(ORIGINALS / "hf", tmp_path / "owner" / "name")
    monkeypatch.chdir(tmp_path)
    assert isinstance(open_checkpoint(Path("owner/name")).parameters, MappedParameters)


@pytest.mark.parametrize("changes", [{"num_heads": 0}, {"hidden_size": "48"}, {"name": "../up"}, {"patch_size": 0}])
def test_a_keras_file_with_a_spec_no_model_can_have(changes, tmp_path):
    own = {"spec": {**toy_spec().to_dict(), **changes}}
    config = {"registered_name": "vit_export>VisionTransformer", "config": own}
    with pytest.raises(InputError, match=r"The config in .*x.keras cannot be used: .*(num_heads|hidden|name|patch)"):
        _record(tmp_path / "x.keras", config, {})
