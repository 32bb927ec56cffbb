"""What other quantizers make of the same weights and images, each by its own defaults (one also per channel).

The stock TFLite converter is given the Keras model; AI Edge Quantizer this package's float32 .tflite file; ONNX Runtime
and NNCF its float32 .onnx file of opset 17, where GELU and attention are ordinary operators.
"""

import importlib.util
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from real_files import File, Material, Runtime, basis
from stock import stock_dynamic, stock_full_int8

from vit_export.base.quiet import quiet

OPSET = 17
PRESETS = ("dynamic_wi8_afp32", "dynamic_wi8c_hr_afp32", "weight_only_wi8_afp32", "static_wi8_ai8", "static_wi8_ai16")
"""AI Edge Quantizer's recipes with int8 weights."""


def peers(material: Material) -> list[File]:
    """The files of every other quantizer; those of one that is not installed say so in `missing`."""
    float_tflite = partial(material.exported, "tflite", "float32")
    float_onnx = partial(material.exported, "onnx", "float32", opset=OPSET)

    def file(label: str, runtime: Runtime, given: Callable[[], Any], make: Callable[..., Path], *packages: str) -> File:
        """The file that `make` makes of what `given` returns."""
        reference = basis(runtime)
        return File(label, runtime, reference, lambda: make(given()), given, ours=False, missing=_missing(packages))

    def keras() -> Any:
        return material.keras_model

    def prepared() -> Path:
        return _prepared(material, float_onnx())

    def stock_full(model: Any) -> Path:
        return stock_full_int8(model, material.folder, material.calibration)

    return [
        file("stock tflite dynamic range", "tflite", keras, lambda model: stock_dynamic(model, material.folder)),
        file("stock tflite full int8", "tflite", keras, stock_full),
        *(file(f"AI Edge {name}", "tflite", float_tflite, partial(_ai_edge, name, material)) for name in PRESETS),
        File(f"onnx float32, opset {OPSET}", "onnx", basis("onnx"), float_onnx, ours=False),
        file("ORT dynamic, int8 weights", "onnx", prepared, partial(_ort_dynamic, "QInt8", material)),
        file("ORT dynamic, uint8 weights", "onnx", prepared, partial(_ort_dynamic, "QUInt8", material)),
        file(
            "ORT dynamic, int8 per channel", "onnx", prepared, partial(_ort_dynamic, "QInt8", material, channels=True)
        ),
        file("ORT static, MatMul and Gemm", "onnx", prepared, partial(_ort_static, material)),
        file(basis("openvino"), "openvino", float_onnx, lambda path: path, "openvino"),
        file("NNCF, transformer", "openvino", float_onnx, partial(_nncf, material), "openvino", "nncf"),
    ]


def _missing(packages: Sequence[str]) -> str:
    lacking = [name for name in packages if importlib.util.find_spec(name) is None]
    return f"{' and '.join(lacking)} not installed: pip install '.[peers]'" if lacking else ""


def _ai_edge(preset: str, material: Material, given: Path) -> Path:
    from ai_edge_quantizer import recipe
    from ai_edge_quantizer.quantizer import Quantizer

    quantizer = Quantizer(str(given), getattr(recipe, preset)())
    with quiet():
        feeds = [{"images": image[np.newaxis]} for image in material.calibration]
        ranges = quantizer.calibrate({"serving_default": feeds}) if quantizer.need_calibration else None
        made = quantizer.quantize(ranges, enable_progress_report=False)
    path = material.folder / f"{preset}.tflite"
    made.export_model(str(path))
    return path


def _prepared(material: Material, given: Path) -> Path:
    """The float32 ONNX file after ONNX Runtime's own preparation, which its documentation asks for."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    path = material.folder / "prepared.onnx"
    if not path.is_file():
        quant_pre_process(str(given), str(path), skip_symbolic_shape=True)  # all shapes are known
    return path


def _ort_dynamic(weights: str, material: Material, given: Path, *, channels: bool = False) -> Path:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    path = material.folder / f"dynamic_{weights}{'_channels' if channels else ''}.onnx"
    quantize_dynamic(str(given), str(path), weight_type=QuantType[weights], per_channel=channels)
    return path


def _ort_static(material: Material, given: Path) -> Path:
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, quantize_static

    path = material.folder / "static.onnx"
    name = onnx.load(str(given), load_external_data=False).graph.input[0].name
    feeds = ({name: image[np.newaxis]} for image in material.calibration)

    class Reader(CalibrationDataReader):
        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(feeds, None)

    operators, ranges = ["MatMul", "Gemm"], CalibrationMethod.MinMax
    quantize_static(str(given), str(path), Reader(), op_types_to_quantize=operators, calibrate_method=ranges)
    return path


def _nncf(material: Material, given: Path) -> Path:
    import nncf
    import openvino

    path, kind = material.folder / "nncf.xml", nncf.ModelType.TRANSFORMER
    images = list(material.calibration[:, np.newaxis])
    model = openvino.Core().read_model(str(given))
    with redirect_stdout(sys.stderr):  # its progress
        made = nncf.quantize(model, nncf.Dataset(images), model_type=kind, subset_size=len(images))
    openvino.save_model(made, str(path), compress_to_fp16=False)
    return path
