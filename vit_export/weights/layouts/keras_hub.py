"""keras_hub's ViTBackbone and ViTImageClassifier: their config, and where its layers keep what in Keras' files.

Groups of the file go by the layers' classes, attention kernels are per head as in Google's files. What a switch of
theirs makes that this package does not build is refused by its name.
"""

import math
from collections.abc import Mapping
from typing import Any

from vit_export.base.checks import is_number, is_whole
from vit_export.base.errors import InputError
from vit_export.model.parameters import layer_name
from vit_export.model.preprocessing import Preprocessing
from vit_export.model.record import ModelRecord, ProblemType
from vit_export.model.spec import ViTSpec, shown_size
from vit_export.weights.checkpoint import Checkpoint
from vit_export.weights.containers.tensors import TensorFile
from vit_export.weights.layouts.mapping import Layout, MappedParameters, Piece, reshaped, same, zeros
from vit_export.weights.layouts.sizes import Hints, Sizes, spec_of

TITLE = "keras_hub's ViT"
PACKAGE = "keras_hub"
BACKBONE, CLASSIFIER = "ViTBackbone", "ViTImageClassifier"

ACTIVATIONS: dict[str | None, ProblemType | None] = {
    None: None,
    "linear": None,
    "softmax": "single_label_classification",
    "sigmoid": "multi_label_classification",
}
"""What the classifier's outputs may go through, and what that says of them: files return them as they are before."""

_INSTEAD = "copy its weights into a model that create_vit makes (docs/weights.md shows how), and export that"
_SWITCHES = ("use_class_token", "use_mha_bias", "use_mlp_bias", "use_patch_bias")
_NO_ANTIALIAS = (
    "keras_hub's image converter resizes without antialiasing; images here, and what files say of them, are resized "
    "with it, as the weights' first authors do."
)


def is_of_keras_hub(config: Mapping[str, Any]) -> bool:
    """Whether the config of a Keras object is of a class of that package."""
    return str(config.get("registered_name")).startswith(f"{PACKAGE}>")


def open_model(
    file: TensorFile, config: Mapping[str, Any], hints: Hints, weights: Mapping[str, Any], where: str
) -> Checkpoint:
    """The checkpoint of a model that Keras wrote to `file`; `config` is what Keras writes of it, read as plain JSON.

    `weights` are those of its record; `where` is what messages call the place of the model.

    Raises:
        InputError: another model of that package, or one with a switch that this package does not build.
    """
    return _Model(where, config).checkpoint(file, hints, weights)


def activation_of(config: Mapping[str, Any]) -> Any:
    """What a classifier's outputs go through, by name; None for none, and anything for what is none of Keras' own."""
    found = _mapping(config.get("config")).get("activation")
    return found.get("config") if isinstance(found, Mapping) else found  # a function, as Keras writes those


class _Model:
    """A model's config, checked: `backbone` and, of a classifier, `own` (else None)."""

    def __init__(self, where: str, config: Mapping[str, Any]) -> None:
        self.where = where
        self.activation = activation_of(config)
        kind, own = config.get("class_name"), _mapping(config.get("config"))
        self.own: Mapping[str, Any] | None = own if kind == CLASSIFIER else None
        inner = _mapping(own.get("backbone")) if kind == CLASSIFIER else config
        if kind not in (BACKBONE, CLASSIFIER) or inner.get("class_name") != BACKBONE:
            found = f"{kind!r:.60}" + (f" of {inner.get('class_name')!r:.60}" if kind == CLASSIFIER else "")
            raise InputError(
                f"{where} is keras_hub's {found}, expected its {BACKBONE} or {CLASSIFIER}, which are read: give the "
                f"same weights as Hugging Face or timm have them, or {_INSTEAD}."
            )
        self.backbone = _mapping(inner.get("config"))
        for name in _SWITCHES:
            if not isinstance(self.backbone.get(name, True), bool):
                raise self._refused(name, self.backbone[name], "true or false")
        dtype = _mapping(self.backbone.get("dtype"))
        if str(dtype.get("class_name", "DTypePolicy")) != "DTypePolicy":
            raise self._refused("dtype", dtype.get("class_name"), "DTypePolicy: weights that are not quantized yet")

    def checkpoint(self, file: TensorFile, hints: Hints, weights: Mapping[str, Any]) -> Checkpoint:
        spec, assumed = spec_of(file, self._sizes(), hints)
        parameters = MappedParameters(file, self._layout(file, spec), TITLE)
        fields, unsaid, notes = self._pixels(spec, hints.pixels)
        activation = self.activation if self.own else None
        if not isinstance(activation, str | None) or activation not in ACTIVATIONS:
            listed = ", ".join(name for name in ACTIVATIONS if name)
            raise self._refused("activation", activation, f"none, or one of {listed}")
        if spec.num_classes == 1000:
            notes.append("The checkpoint has no labels: if its 1000 classes are ImageNet's, add --labels imagenet.")
        if activation in ("softmax", "sigmoid"):
            notes.append(f"The {activation} at the end of the model is left out: the files return logits.")
        record = ModelRecord(
            spec, Preprocessing(spec.image_size, **fields), dict(weights), problem_type=ACTIVATIONS[activation]
        )
        return Checkpoint(parameters, record.assuming({**assumed, **unsaid}), tuple(notes))

    def _refused(self, name: str, value: Any, expected: str, instead: str = _INSTEAD) -> InputError:
        shown = f"{value!r:.60}" if isinstance(value, str) or value is None else f"{value!s:.60}"
        return InputError(f"{self.where} has {name} {shown}, expected {expected}: {instead}.")

    def _whole(self, name: str, values: Mapping[str, Any]) -> int:
        if not is_whole(values.get(name), 1):
            raise self._refused(name, values.get(name), "a whole number from 1", "save the model again")
        return int(values[name])

    def _flag(self, name: str) -> bool:
        return bool(self.backbone.get(name, True))

    def _sizes(self) -> Sizes:
        known, own = self.backbone, self.own
        shape: Any = known.get("image_shape")
        patch: Any = known.get("patch_size")
        if not _all_whole(shape, 3) or shape[2] != 3:
            raise self._refused("image_shape", shape, "[height, width, 3]: RGB images, channels last")
        if _all_whole(patch, 2) and patch[0] == patch[1]:
            patch = patch[0]
        if not is_whole(patch, 1):
            raise self._refused("patch_size", patch, "square patches")
        epsilon = known.get("layer_norm_epsilon")
        if not is_number(epsilon):
            raise self._refused("layer_norm_epsilon", epsilon, "a small number", "save the model again")
        with_class = self._flag("use_class_token")
        if own is not None and own.get("pooling") != ("token" if with_class else "gap"):
            # "gap" of theirs averages all tokens, the class token too, and "token" takes the first, whatever it is.
            expected = "'token', as it has a class token" if with_class else "'gap', as it has no class token"
            raise self._refused("pooling", own.get("pooling"), expected)
        height, width = shape[:2]
        return Sizes(
            patch_size=patch,
            num_layers=self._whole("num_layers", known),
            hidden_size=self._whole("hidden_dim", known),
            mlp_size=self._whole("mlp_dim", known),
            num_patches=(height // patch) * (width // patch),
            num_heads=self._whole("num_heads", known),
            image_sizes={"its config": (height, width) if height != width else height},
            num_classes=None if own is None else self._whole("num_classes", own),
            pre_logits_size=self._whole("intermediate_dim", own) if own and own.get("intermediate_dim") else None,
            arithmetic={
                "layer_norm_epsilon": epsilon,
                "class_token": with_class,
                "pooling": "class" if with_class else "mean",
            },
        )

    def _layout(self, file: TensorFile, spec: ViTSpec) -> Layout:
        prefix = "" if self.own is None else "layers/vi_t_backbone/"
        embedding, encoder = (f"{prefix}layers/vi_t_{part}" for part in ("patching_and_embedding", "encoder"))
        patch, width = spec.patch_size, spec.hidden_size
        pieces = _dense("patch_embedding", f"{embedding}/patch_embedding", (patch, patch, 3, width))
        if spec.class_token:
            pieces["class_token"] = same(f"{embedding}/vars/0", (1, 1, width))
        rows = (spec.num_positions, width)
        pieces["position_embedding"] = reshaped(f"{embedding}/position_embedding/vars/0", rows, (1, *rows))
        for index in range(spec.num_layers):
            block = f"{encoder}/encoder_layers/vi_t_encoder_block" + (f"_{index}" if index else "")
            pieces |= _encoder_layer(layer_name(index), block, spec)
        pieces |= _norm("encoder/norm", f"{encoder}/layer_norm", width)
        dense = ["layers/dense", "layers/dense_1"]
        if spec.pre_logits_size is not None:
            pieces |= _dense("pre_logits", dense.pop(0), (spec.pooled_size, spec.pre_logits_size))
        if spec.num_classes is not None:
            pieces |= _dense("head", dense[0], (spec.representation_size, spec.num_classes))
        for part, switch in (
            ("patch_embedding/bias", "use_patch_bias"),
            ("/attention/", "use_mha_bias"),
            ("/mlp/", "use_mlp_bias"),
        ):
            if not self._flag(switch):
                for name, piece in pieces.items():
                    if part in name and name.endswith("/bias"):
                        pieces[name] = zeros((math.prod(piece.shapes[0]),))
        state = {
            key: "state of training" for key in file.tensors if key.startswith("optimizer/") or "seed_generator/" in key
        }
        return Layout(spec, pieces, state)

    def _pixels(self, spec: ViTSpec, given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str], list[str]]:
        """Fields of `Preprocessing`, what is assumed of them, and notes; what the user has `given` is not read."""
        scales, resizes = {"mean", "std"} <= given.keys(), "resize" in given
        preprocessor = None if self.own is None else self.own.get("preprocessor")
        if preprocessor is None:
            unsaid = {} if scales else {"scaling": "scaling to -1..1"}
            return {}, unsaid if resizes else {**unsaid, "resizing": "resizing straight to that size"}, []
        converter = _mapping(_mapping(_mapping(preprocessor).get("config")).get("image_converter"))
        known = _mapping(converter.get("config"))
        if not known and not (scales and resizes):
            kind = _mapping(preprocessor).get("class_name")
            raise self._refused(
                "a preprocessor", kind, "one with an image converter", "give --mean, --std and --resize"
            )
        fields = {} if scales else self._scaling(known)
        notes: list[str] = []
        if not resizes:
            fields |= self._resizing(known, spec)
            notes += [] if known.get("antialias") else [_NO_ANTIALIAS]
        return fields, {}, notes

    def _scaling(self, known: Mapping[str, Any]) -> dict[str, Any]:
        """The converter computes pixel · scale + offset, of numbers or of three for the channels."""
        found = {}
        for name, default in (("scale", 1.0), ("offset", 0.0)):
            value = default if known.get(name) is None else known[name]
            values = value if isinstance(value, list) else [value] * 3
            if len(values) != 3 or not all(is_number(number) for number in values):
                raise self._refused(
                    f"the image converter's {name}", value, "a number or three", "give --mean and --std"
                )
            found[name] = values
        std = [1 / (255 * scale) if scale else 0.0 for scale in found["scale"]]
        mean = [-offset * deviation for offset, deviation in zip(found["offset"], std, strict=True)]
        if not all(0 < value <= 1 for value in std) or not all(0 <= value <= 1 for value in mean):
            raise self._refused(
                "an image converter of scale and offset",
                [known.get("scale"), known.get("offset")],
                "those of a mean and std on the 0..1 scale, for pixels of 0 to 255",
                "give --mean and --std",
            )
        return {"mean": mean, "std": std}

    def _resizing(self, known: Mapping[str, Any], spec: ViTSpec) -> dict[str, Any]:
        instead = "give --resize, --crop-fraction and --interpolation"
        if known.get("pad_to_aspect_ratio"):
            raise self._refused("pad_to_aspect_ratio", True, "an image converter that pads nothing", instead)
        interpolation = known.get("interpolation", "bilinear")
        if interpolation not in ("bilinear", "bicubic"):
            raise self._refused("interpolation", interpolation, "bilinear or bicubic", instead)
        size = known.get("image_size")
        if size is not None and size != list(spec.image_sides):
            raise self._refused("an image converter to image_size", size, shown_size(spec.image_size), instead)
        crops = known.get("crop_to_aspect_ratio", True)
        return {"resize": "shortest" if crops else "squash", "interpolation": interpolation}


def _encoder_layer(name: str, key: str, spec: ViTSpec) -> dict[str, Piece]:
    width, mlp, heads = spec.hidden_size, spec.mlp_size, (spec.num_heads, spec.head_size)
    pieces = _norm(f"{name}/attention_norm", f"{key}/layer_norm_1", width)
    for part in ("query", "key", "value"):
        there, own = f"{key}/mha/{part}_dense/vars", f"{name}/attention/{part}"
        pieces[f"{own}/kernel"] = reshaped(f"{there}/0", (width, *heads), (width, width))
        pieces[f"{own}/bias"] = reshaped(f"{there}/1", heads, (width,))
    there, own = f"{key}/mha/output_dense/vars", f"{name}/attention/output"
    pieces[f"{own}/kernel"] = reshaped(f"{there}/0", (*heads, width), (width, width))
    pieces[f"{own}/bias"] = same(f"{there}/1", (width,))
    pieces |= _norm(f"{name}/mlp_norm", f"{key}/layer_norm_2", width)
    pieces |= _dense(f"{name}/mlp/dense_1", f"{key}/mlp/dense_1", (width, mlp))
    return pieces | _dense(f"{name}/mlp/dense_2", f"{key}/mlp/dense_2", (mlp, width))


def _dense(name: str, key: str, shape: tuple[int, ...]) -> dict[str, Piece]:
    return {f"{name}/kernel": same(f"{key}/vars/0", shape), f"{name}/bias": same(f"{key}/vars/1", shape[-1:])}


def _norm(name: str, key: str, width: int) -> dict[str, Piece]:
    return {f"{name}/scale": same(f"{key}/vars/0", (width,)), f"{name}/bias": same(f"{key}/vars/1", (width,))}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _all_whole(value: Any, count: int) -> bool:
    return isinstance(value, list | tuple) and len(value) == count and all(is_whole(number, 1) for number in value)
