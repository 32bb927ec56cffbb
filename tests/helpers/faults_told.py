"""Faults of what a file tells other programs: TFLite Metadata, labels in its zip, metadata_props, first tensors."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from helpers.faults_bench import IMAGENET, LABELS, Bench
from helpers.faults_edits import Maker, TFLiteFile, associated_files, described_again, edited_tflite
from helpers.faults_table import LAYER, Fault, only
from vit_export.model.record import ModelRecord

_MEAN, _STD = IMAGENET
_EXCHANGED = (LABELS[0], LABELS[4], *LABELS[2:4], LABELS[1], *LABELS[5:])


def _retold(kind: str, change: Callable[[ModelRecord], ModelRecord], *, input: str = "normalized") -> Maker:
    """The good .tflite file with the TFLite Metadata and the labels of another record, its own left as it was."""

    def make(bench: Bench, path: Path):
        from vit_export.tflite.metadata import set_tflite_metadata
        from vit_export.tflite.stream import write_model

        good = bench.good(kind)
        mapped = TFLiteFile(Path(good.path)).mapped
        files = set_tflite_metadata(mapped.model, mapped.buffers, change(bench.record), "float32", input)
        write_model(mapped.model, mapped.buffers, path, files=files)
        return described_again(good, path)

    return make


def _pixels(**changes: Any) -> Callable[[ModelRecord], ModelRecord]:
    return lambda record: replace(record, preprocessing=replace(record.preprocessing, **changes))


def _labels(labels: tuple[str, ...] | None) -> Callable[[ModelRecord], ModelRecord]:
    return lambda record: replace(record, labels=labels)


def _without_zip(bench: Bench, path: Path):
    good = bench.good("tflite float32")
    data = Path(good.path).read_bytes()
    (content,) = associated_files(Path(good.path)).values()
    path.write_bytes(data[: data.rindex(content) - 30 - len("labels.txt")])
    return described_again(good, path)


def _without_metadata(file: TFLiteFile) -> None:
    file.model.metadata = [entry for entry in file.model.metadata if entry.name != b"TFLITE_METADATA"]


def _first_output(*names: str) -> Callable[[TFLiteFile], None]:
    """The main graph gives these tensors, in this order; the signature is as it was."""

    def edit(file: TFLiteFile) -> None:
        called = [tensor.name.decode() for tensor in file.graph.tensors]
        file.graph.outputs = [called.index(name) for name in names]

    return edit


def _properties(kind: str = "onnx float32", taken: str = "NHWC", **changes: Any) -> Maker:
    """The good .onnx file that takes a layout, with other metadata_props; None takes one away."""

    def make(bench: Bench, path: Path):
        import onnx

        good = bench.good(kind, **({} if taken == "NHWC" else {"layout": taken}))
        model = onnx.load(good.path)
        kept = {entry.key: entry.value for entry in model.metadata_props} | changes
        del model.metadata_props[:]
        for key, value in kept.items():
            if value is not None:
                model.metadata_props.add(key=key, value=value)
        onnx.save(model, path)
        return described_again(good, path)

    return make


_PIXELS, _ANSWERS, _FIRST = only("metadata_pixels"), only("metadata_labels"), only("first_tensors")

TOLD = (
    Fault(
        "TFLite Metadata with mean and std in BGR order",
        _retold("tflite float32", _pixels(mean=_MEAN[::-1], std=_STD[::-1])),
        _PIXELS,
        cause="told_bgr",
    ),
    Fault(
        "TFLite Metadata with another mean",
        _retold("tflite float32", _pixels(mean=(0.5, 0.456, 0.406))),
        _PIXELS,
        says=r"other pixels than the reference takes: mean \[127\.5, .*expected \[123\.675",
    ),
    Fault(
        "TFLite Metadata with another std, tflite int8 full",
        _retold("tflite int8 full", _pixels(std=(0.229, 0.224, 0.23))),
        _PIXELS,
        says=r"std \[.*58\.65\], expected",
    ),
    Fault(
        "TFLite Metadata of a file that takes 0 to 1",
        _retold("tflite int8 dynamic", lambda record: record, input="0..1"),
        _PIXELS,
        cause="told_other_pixels",
    ),
    Fault(
        "TFLite Metadata with another size",
        _retold("tflite float32", lambda record: replace(record, spec=record.spec.with_(image_size=64))),
        _PIXELS,
        says=r"size \[64, 64\], expected \[32, 32\]",
    ),
    Fault("no TFLite Metadata", edited_tflite(_without_metadata), only("metadata"), says="it has no TFLite Metadata"),
    Fault(
        "labels.txt with two names exchanged",
        _retold("tflite float32", _labels(_EXCHANGED)),
        _ANSWERS,
        cause="told_exchanged_labels",
    ),
    Fault(
        "labels.txt that begins with a background class",
        _retold("tflite int8 static", _labels(("background", *LABELS))),
        _ANSWERS,
        cause="told_background",
    ),
    Fault(
        "labels.txt of other classes",
        _retold("tflite float32", _labels(tuple(f"class {i}" for i in range(10)))),
        _ANSWERS,
        says=r"labels of other classes \(class 0 is 'class 0', expected 'tench'\)",
    ),
    Fault(
        "no labels.txt and no word of it",
        _retold("tflite float32", _labels(None)),
        _ANSWERS,
        cause="told_no_labels",
    ),
    Fault("labels.txt cut off", _without_zip, only("metadata"), says="'labels.txt', which is not in the zip"),
    Fault(
        "the main graph gives a tensor before the logits",
        edited_tflite(_first_output(f"{LAYER}3/mlp/dense_2")),
        _FIRST,
        cause="told_another_tensor",
        may=only("runs"),
    ),
    Fault(
        "the main graph gives another tensor first",
        edited_tflite(_first_output(f"{LAYER}3/mlp/dense_2", "logits"), "tflite int8 dynamic"),
        _FIRST,
        cause="told_another_tensor",
    ),
    Fault(
        "metadata_props with mean and std in BGR order",
        _properties(mean=json.dumps(_MEAN[::-1]), std=json.dumps(_STD[::-1])),
        _PIXELS,
        cause="told_bgr",
    ),
    Fault(
        "metadata_props with mean and std for pixels to 255",
        _properties(mean=json.dumps([255 * m for m in _MEAN]), std=json.dumps([255 * s for s in _STD])),
        _PIXELS,
        says=r"mean \[31537\.1, ",
    ),
    Fault(
        "metadata_props with another size",
        _properties("onnx int8 dynamic", image_size="224"),
        _PIXELS,
        says="size .*'224'.*expected",
    ),
    Fault(
        "metadata_props with another kind of input",
        _properties(input="0..255"),
        _PIXELS,
        says="input '0\\.\\.255', expected 'normalized'",
    ),
    Fault("metadata_props that say BGR", _properties(channel_order="BGR"), _PIXELS, says="colors 'BGR'"),
    Fault("metadata_props that say NCHW", _properties(layout="NCHW"), _PIXELS, says="layout 'NCHW'"),
    Fault(
        "metadata_props of an NCHW file that say NHWC",
        _properties(taken="NCHW", layout="NHWC"),
        _PIXELS,
        says="layout 'NHWC', expected 'NCHW'",
    ),
    Fault("metadata_props without a mean", _properties(mean=None), _PIXELS, says="mean none, expected"),
    Fault(
        "metadata_props with two labels exchanged",
        _properties(labels=json.dumps(_EXCHANGED)),
        _ANSWERS,
        cause="told_exchanged_labels",
    ),
    Fault("metadata_props without labels", _properties(labels=None), _ANSWERS, cause="told_no_labels"),
    Fault("metadata_props with another output", _properties(output="features"), _ANSWERS, says="output 'features'"),
)
