"""What the usual recipe makes of a Keras model, to compare ours with."""

from pathlib import Path
from typing import Any

import numpy as np

from vit_export.base.quiet import quiet


def stock_full_int8(model: Any, folder: Path, images: np.ndarray) -> Path:
    """The .tflite file of `model` by TFLiteConverter's full-integer mode on `images`, integer in and out."""
    import tensorflow as tf

    converter = converter_of(model, folder)
    converter.representative_dataset = lambda: ([image[np.newaxis]] for image in images)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    return written(converter, folder / "stock_full_int8.tflite")


def stock_dynamic(model: Any, folder: Path) -> Path:
    """The .tflite file of `model` by TFLiteConverter's dynamic-range mode: its optimization without images."""
    return written(converter_of(model, folder), folder / "stock_dynamic.tflite")


def converter_of(model: Any, folder: Path) -> Any:
    """A converter of Keras' own export of `model` to `folder`, with the default optimization."""
    import keras
    import tensorflow as tf

    size = model.spec.image_size
    saved_model = folder / "stock_saved_model"
    with quiet():
        export = keras.export.ExportArchive()
        export.track(model)
        signature = [tf.TensorSpec((1, size, size, 3), tf.float32)]
        export.add_endpoint("serve", model.exported_output, input_signature=signature)
        export.write_out(str(saved_model), verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(str(saved_model))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    return converter


def written(converter: Any, path: Path) -> Path:
    """`path`, with what `converter` makes."""
    with quiet():
        path.write_bytes(converter.convert())
    return path
