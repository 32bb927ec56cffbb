"""SavedModels that do more than compute: each would leave the file `mark` when it is loaded or run."""

import shutil
from pathlib import Path

import numpy as np


def write_program(good: Path, out: Path, mark: Path) -> Path:
    """A SavedModel with the record and the variables of `good` whose graph writes `mark` when it is run."""
    import tensorflow as tf

    size, classes = 32, 10

    @tf.function(input_signature=[tf.TensorSpec([None, size, size, 3], tf.float32, name="images")])
    def serve(images):
        with tf.control_dependencies([tf.io.write_file(str(mark), tf.io.read_file(__file__))]):
            return {"logits": tf.reduce_mean(images, [1, 2])[:, :1] * tf.range(float(classes))[tf.newaxis]}

    return _saved(serve, out, good)


def write_liar(good: Path, out: Path) -> Path:
    """A SavedModel with the record and the variables of `good` whose graph computes something else."""
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec([None, 32, 32, 3], tf.float32, name="images")])
    def serve(images):
        return {"logits": tf.reduce_mean(images, [1, 2])[:, :1] * tf.range(10.0)[tf.newaxis]}

    return _saved(serve, out, good)


def _saved(serve, out, good):
    import tensorflow as tf

    module = tf.Module()
    module.serve = serve
    tf.saved_model.save(module, str(out), signatures={"serving_default": serve})
    shutil.rmtree(out / "variables")
    for part in ("variables", "assets.extra"):
        shutil.copytree(good / part, out / part)
    return out


def module_of(body, **held):
    """A module whose signature `serving_default`, [n, 4, 4, 3] to [n, 3], is the mean of an image after `body` ran."""
    import tensorflow as tf

    module = tf.Module()
    for name, value in held.items():
        setattr(module, name, value)

    @tf.function(input_signature=[tf.TensorSpec([None, 4, 4, 3], tf.float32, name="images")], autograph=False)
    def serve(images):
        made = body(images)
        with tf.control_dependencies([made] if made is not None else []):
            return {"means": tf.reduce_mean(images, [1, 2])}

    module.serve = serve
    return module


def save(module, out: Path) -> Path:
    """`module` as a SavedModel."""
    import tensorflow as tf

    tf.saved_model.save(module, str(out), signatures={"serving_default": module.serve})
    return out


def edited(path: Path, edit) -> Path:
    """The SavedModel at `path` after `edit` changed the message in its saved_model.pb."""
    from tensorflow.core.protobuf import saved_model_pb2

    file = path / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    edit(model)
    file.write_bytes(model.SerializeToString())
    return path


IMAGES = np.linspace(0, 1, 2 * 4 * 4 * 3, dtype=np.float32).reshape(2, 4, 4, 3)
