"""What the usual recipe makes of a Keras model, to compare ours with."""

from pathlib import Path
from typing import Any

import numpy as np

from vit_export.base.quiet import quiet


def stock_full_int8(model: Any, folder: Path, images: np.ndarray) -> Path:
    """The .tflite file of `model`: Keras' own export, then TFLiteConverter's full-integer mode on `images`."""
    import keras
    import tensorflow as tf

    size = model.spec.image_size
    with quiet():
        export = keras.export.ExportArchive()
        export.track(model)
        signature = [tf.TensorSpec((1, size, size, 3), tf.float32)]
        export.add_endpoint("serve", lambda x: model(x, training=False), input_signature=signature)
        export.write_out(str(folder / "stock_saved_model"), verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(str(folder / "stock_saved_model"))
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([image[np.newaxis]] for image in images)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.int8
        data = converter.convert()
    path = folder / "stock_full_int8.tflite"
    path.write_bytes(data)
    return path
