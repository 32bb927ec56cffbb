import json
import re

import pytest
from conftest import build, toy_spec

from vit_export.base.errors import InputError
from vit_export.model.parameters import parameter_specs
from vit_export.model.spec import ViTSpec, shown_sides, shown_size
from vit_export.model.variants import VARIANTS, get_variant

# At 224 pixels, 1000 classes. All but H/16 and Ti/16 equal the counts that google-research/vision_transformer asserts.
KNOWN = {
    "vit_ti16": (197, 5_524_416, 5_717_416, 1_253_683_200),
    "vit_s32": (50, 22_493_952, 22_878_952, 1_142_909_952),
    "vit_s16": (197, 21_665_664, 22_050_664, 4_598_882_304),
    "vit_b32": (50, 87_455_232, 88_224_232, 4_409_186_304),
    "vit_b16": (197, 85_798_656, 86_567_656, 17_563_828_224),
    "vit_l32": (50, 305_510_400, 306_535_400, 15_377_539_072),
    "vit_l16": (197, 303_301_632, 304_326_632, 61_554_712_576),
    "vit_h14": (257, 630_764_800, 632_045_800, 167_295_109_120),
    "vit_h16": (197, 630_918_400, 632_199_400, 127_314_872_320),
}


def test_every_variant_is_known():
    assert list(VARIANTS) == list(KNOWN)


@pytest.mark.parametrize("name", KNOWN)
def test_counts(name):
    tokens, without_head, with_head, macs = KNOWN[name]
    spec = ViTSpec.of(name)
    bare = spec.with_(num_classes=None)
    assert (spec.num_tokens, bare.num_parameters, spec.num_parameters, spec.num_macs) == (
        tokens,
        without_head,
        with_head,
        macs,
    )
    assert sum(p.size for p in parameter_specs(spec)) == with_head
    assert sum(p.size for p in parameter_specs(bare)) == without_head


def _agrees_with_built_model(spec):
    from vit_export.model.keras_model import build_model

    model = build_model(spec)
    assert model.count_params() == spec.num_parameters
    built = {name: tuple(v.shape) for name, v in model.parameters().items()}
    assert built == {p.name: p.shape for p in parameter_specs(spec)}
    # parameters() names every variable of the model, once.
    assert {id(v) for v in model.parameters().values()} == {id(v) for v in model.variables}


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["vit_ti16", "vit_s32"])
@pytest.mark.parametrize("num_classes", [1000, None])
def test_built_model(name, num_classes):
    _agrees_with_built_model(ViTSpec.of(name, num_classes=num_classes))


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in KNOWN if n not in ("vit_ti16", "vit_s32")])
def test_built_model_of_large_variants(name):
    _agrees_with_built_model(ViTSpec.of(name))


def test_counts_at_another_size():
    spec = ViTSpec.of("vit_b16", image_size=384, num_classes=10)
    assert spec.num_tokens == 577
    assert spec.num_parameters == 85_798_656 + (577 - 197) * 768 + 768 * 10 + 10


def test_h16_is_cheaper_than_h14():
    assert ViTSpec.of("vit_h16").num_macs < ViTSpec.of("vit_h14").num_macs


@pytest.mark.parametrize(
    ("typed", "nearest"),
    [("vit_s31", "vit_s32"), ("vit-b16", "vit_b16"), ("VIT_L16", "vit_l16"), ("vitb16", "vit_b16")],
)
def test_unknown_variant_names_the_nearest(typed, nearest):
    with pytest.raises(InputError, match=f"did you mean '{nearest}'"):
        get_variant(typed)


@pytest.mark.parametrize(
    ("size", "advice"),
    [(225, "use 224 or 256"), (223, "use 192 or 224"), (16, "multiple of 32 from 32"), (0, "32"), (-32, "32")],
)
def test_image_size_the_patch_does_not_divide(size, advice):
    with pytest.raises(InputError, match=advice):
        ViTSpec.of("vit_s32", image_size=size)


@pytest.mark.parametrize(
    ("size", "advice"),
    [
        (
            (224, 385),
            "Image size 224x385: its width 385 is not a multiple of vit_b16's patch size 16: use 224x384 or 224x",
        ),
        (
            (30, 224),
            "Image size 30x224: its height 30 is not a multiple of vit_b16's patch size 16: use 16x224 or 32x224.",
        ),
        ((5, 224), "Image size 5x224: its height 5 is out of range for vit_b16: expected a multiple of 16 from 16 to"),
        ((0, 224), "Image size 0x224: its height 0 is out of range for vit_b16: expected a multiple of 16 from 16 to"),
        ((224, "384"), "Image size 224x'384': its width '384' is out of range"),
        ((224, 384, 3), "Image size is [224, 384, 3], expected one number of pixels, or height and width."),
        ((), "Image size is [], expected one number"),
    ],
)
def test_the_side_that_cannot_be_is_named(size, advice):
    with pytest.raises(InputError, match=re.escape(advice)):
        ViTSpec.of("vit_b16", image_size=size)


def test_a_spec_that_is_not_square():
    spec = ViTSpec.of("vit_b16", image_size=(224, 384))
    assert (spec.image_sides, spec.grid, spec.num_tokens) == ((224, 384), (14, 24), 1 + 14 * 24)
    assert spec.to_dict()["image_size"] == [224, 384]
    assert ViTSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    assert ViTSpec.of("vit_b16", image_size=[224, 224]) == ViTSpec.of("vit_b16")
    assert [shown_size(size) for size in (224, (224, 384))] == ["224", "224x384"]
    assert [shown_sides(size) for size in (224, (224, 384))] == ["224x224", "224x384 (height x width)"]


@pytest.mark.parametrize("classes", [0, -1, 2_000_000, 1.5, True])
def test_impossible_class_count(classes):
    with pytest.raises(InputError, match="num_classes is"):
        ViTSpec.of("vit_s32", num_classes=classes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 0}, "num_heads is 0, expected a whole number from 1"),
        ({"hidden_size": 0}, "hidden_size is 0"),
        ({"hidden_size": -48}, "hidden_size is -48"),
        ({"hidden_size": 48.0}, "hidden_size is 48.0"),
        ({"hidden_size": 50}, "hidden_size 50 is not a multiple of num_heads 4"),
        ({"patch_size": 0}, "patch_size is 0"),
        ({"patch_size": "8"}, "patch_size is '8'"),
        ({"num_layers": True}, "num_layers is True"),
        ({"num_layers": 10**9}, "num_layers is 1000000000"),
        ({"mlp_size": None}, "mlp_size is None"),
        ({"pre_logits_size": 0}, "pre_logits_size is 0"),
        ({"image_size": float("nan")}, "Image size nan"),
        ({"layer_norm_epsilon": 0}, "layer_norm_epsilon is 0"),
        ({"layer_norm_epsilon": -1e-6}, "layer_norm_epsilon is -1e-06"),
        ({"layer_norm_epsilon": float("nan")}, "layer_norm_epsilon is nan"),
        ({"layer_norm_epsilon": "1e-6"}, "layer_norm_epsilon is '1e-6'"),
        ({"gelu": ["erf"]}, "gelu is"),
        ({"surprise": 1}, "surprise"),
    ],
    ids=str,
)
def test_a_spec_no_model_can_have(changes, message):
    with pytest.raises(InputError, match=message):
        ViTSpec.from_dict({**toy_spec().to_dict(), **changes})


@pytest.mark.parametrize("name", ["", ".x", "-x", "..", "a/b", "a\\b", "a b", "a\n", "\0", "é", "x" * 101, None, 3])
def test_a_name_that_is_no_file_name(name):
    with pytest.raises(InputError, match=r"A model's name is .*: files are called by it"):
        toy_spec(image_size=32).with_(name=name)


def test_names_of_files():
    for name in ("vit_b16", "my-model.v2", "x" * 100, "3"):
        assert toy_spec().with_(name=name).name == name


def test_a_spec_that_is_incomplete():
    values = toy_spec().to_dict()
    del values["num_heads"], values["name"]
    with pytest.raises(InputError, match="Fields missing in a model spec: name, num_heads"):
        ViTSpec.from_dict(values)


def test_spec_survives_json():
    spec = toy_spec(layer_norm_epsilon=1e-12, gelu="tanh")
    assert ViTSpec.from_dict(spec.to_dict()) == spec
    with pytest.raises(InputError, match="surprise"):
        ViTSpec.from_dict({**spec.to_dict(), "surprise": 1})


def test_toy_is_a_real_model(source, images):
    assert build(source).predict_output(images).std() > 0.1
