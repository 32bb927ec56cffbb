"""Models as people build them around a frozen backbone: what is taken, and what is refused by the name of a layer."""

import keras
import numpy as np
from keras import layers, ops

from vit_export.model.keras_model import build_model
from vit_export.model.spec import ViTSpec

BARE = ViTSpec(
    name="toy", patch_size=4, num_layers=1, hidden_size=16, mlp_size=24, num_heads=2, image_size=16, num_classes=None
)


def backbone(**more):
    spec = BARE.with_(**more)
    return build_model(spec, seed=0, include_top=spec.num_classes is not None)


def around(head, before=lambda x: x, **more):
    """A functional model: `head` of the tokens of a backbone, which reads what is `before` it."""
    inputs = keras.Input((16, 16, 3))
    return keras.Model(inputs, head(backbone(**more)(before(inputs), training=False)))


def pooled(head, **more):
    return around(lambda tokens: head(tokens[:, 0, :]), **more)


def of(*steps):
    def chained(x):
        for step in steps:
            x = step(x)
        return x

    return chained


def dense(units=3, activation=None, **more):
    return layers.Dense(units, activation=activation, **more)


def sequential(*steps):
    return keras.Sequential([keras.Input((16, 16, 3)), *steps])


def extracted(**more):
    inputs = keras.Input((16, 16, 3))
    return keras.Model(inputs, dense()(backbone(**more).extract_features(inputs)))


def averaged(tokens):
    return layers.GlobalAveragePooling1D()(tokens)


ACTIVATIONS = (
    *("relu", "relu6", "leaky_relu", "elu", "selu", "gelu", "tanh", "sigmoid", "silu", "swish", "softplus"),
    *("softsign", "hard_silu", "hard_sigmoid", "mish", "linear"),
)
LAYERS = (
    *(layers.LeakyReLU(), layers.ELU(0.5), layers.ReLU(6), layers.ReLU(negative_slope=0.1), layers.ReLU()),
    *(ops.gelu, keras.activations.gelu, ops.silu, lambda x: ops.leaky_relu(x, 0.3), layers.Activation("swish")),
)
NORMALIZATION = {"mean": [0.485, 0.456, 0.406], "variance": [0.229**2, 0.224**2, 0.225**2]}

TAKEN = {
    "old readme": lambda: pooled(of(dense(24, "relu"), layers.Dropout(0.3), dense(5, "softmax"))),
    "norm, sigmoid": lambda: pooled(of(layers.LayerNormalization(), dense(5, "sigmoid"))),
    "mean of all": lambda: around(of(averaged, layers.BatchNormalization(), dense(8, "gelu"), dense())),
    "mean of patches": lambda: around(
        lambda x: of(averaged, dense(8), layers.BatchNormalization(), layers.Activation("tanh"), dense())(x[:, 1:])
    ),
    "mean by ops": lambda: around(lambda x: dense()(ops.mean(x[:, 1:], axis=1))),
    "class and mean": lambda: around(lambda x: dense()(layers.Concatenate()([x[:, 0], averaged(x[:, 1:])]))),
    "norm of tokens": lambda: around(lambda x: dense()(layers.LayerNormalization(epsilon=1e-6)(x)[:, 0])),
    "flattened row": lambda: around(lambda x: dense()(layers.Flatten()(x[:, :1]))),
    "cropped": lambda: around(of(layers.Cropping1D((0, 16)), layers.Flatten(), dense())),
    "batch norm, relu": lambda: pooled(of(layers.BatchNormalization(), layers.ReLU(), dense())),
    "batch norm behind a norm": lambda: pooled(
        of(layers.LayerNormalization(), layers.BatchNormalization(scale=False), layers.ReLU(), dense())
    ),
    "no bias": lambda: pooled(of(dense(6, "tanh", use_bias=False), layers.BatchNormalization(), dense(use_bias=False))),
    "noise": lambda: pooled(of(layers.GaussianNoise(0.1), layers.ActivityRegularization(l2=0.1), dense())),
    "activations": lambda: pooled(of(*(dense(9, name) for name in ACTIVATIONS), dense())),
    "layers": lambda: pooled(of(*(step for layer in LAYERS for step in (dense(9), layer)), dense(), ops.softmax)),
    "ends in relu": lambda: pooled(dense(1, "relu")),
    "ends in a norm": lambda: pooled(of(dense(6), layers.LayerNormalization())),
    "no head": lambda: around(lambda x: x[:, 0]),
    "no head, mean": lambda: around(averaged),
    "tokens": lambda: around(lambda x: x),
    "rescaling": lambda: pooled(dense(), before=layers.Rescaling(1 / 127.5, offset=-1)),
    "rescaling to 1": lambda: pooled(dense(), before=layers.Rescaling(1 / 255)),
    "augmented, normalized": lambda: pooled(
        dense(),
        before=of(layers.RandomFlip(), layers.Rescaling(1 / 255), layers.Normalization(**NORMALIZATION)),
    ),
    "augmented": lambda: pooled(dense(), before=keras.Sequential([layers.RandomRotation(0.1), layers.RandomZoom(0.1)])),
    "nested": lambda: pooled(keras.Sequential([dense(7, "relu"), layers.Dropout(0.1), dense(3, "softmax")])),
    "sequential": lambda: sequential(layers.Rescaling(1 / 255), backbone(), layers.GlobalAveragePooling1D(), dense()),
    "classifier, softmax": lambda: sequential(backbone(num_classes=4), layers.Softmax()),
    "classifier, more": lambda: sequential(
        backbone(num_classes=4, head=(("dense", 6), ("relu", None))), layers.ReLU(), dense(2)
    ),
    "features of mean": lambda: extracted(pooling="mean", num_registers=2),
    "features of mean_norm": lambda: extracted(pooling="mean_norm"),
    "features of attention": lambda: extracted(pooling="attention", class_token=False),
}
"""Models that are taken apart, from memory and from their files."""


def residual(x):
    return layers.Add(name="residual")([x, dense(16)(x)])


def two_outputs():
    inputs = keras.Input((16, 16, 3))
    tokens = backbone()(inputs)
    return keras.Model(inputs, [dense()(tokens[:, 0]), dense()(tokens[:, 0])])


def ensemble():
    inputs = keras.Input((16, 16, 3))
    models = [build_model(BARE.with_(num_classes=3, name=name), seed=0) for name in ("first", "second")]
    return keras.Model(inputs, layers.Average()([ops.softmax(model(inputs)) for model in models]))


REFUSED = {
    "all tokens": (lambda: around(of(layers.Flatten(name="flat"), dense())), r"flat \(Flatten\) cannot be taken apart"),
    "maximum": (
        lambda: around(of(layers.GlobalMaxPooling1D(name="most"), dense())),
        r"most \(GlobalMaxPooling1D\) cannot be taken apart: expected .* Dense",
    ),
    "each token": (lambda: around(dense(name="each")), r"each of several tokens \(each\)"),
    "another token": (lambda: around(lambda x: dense()(x[:, 1])), "takes token 1, which is not the class token"),
    "part of the mean": (lambda: around(lambda x: dense()(averaged(x[:, 2:]))), "the mean of a part of the tokens"),
    "head before the mean": (
        lambda: around(of(dense(8, name="early"), averaged, dense())),
        "takes the mean behind early",
    ),
    "residual": (lambda: pooled(of(residual, dense())), r"residual \(Add\) joins 2 tensors"),
    "softmax within": (
        lambda: pooled(of(dense(4, "softmax", name="soft"), dense())),
        "soft is a softmax, expected none",
    ),
    "exponential": (
        lambda: pooled(dense(activation="exponential", name="grows")),
        "grows .* the activation exponential",
    ),
    "weights of another": (
        lambda: pooled(of(layers.PReLU(name="slopes"), dense())),
        r"slopes \(PReLU\) cannot be taken",
    ),
    "resizing": (
        lambda: pooled(dense(), before=layers.Resizing(16, 16, name="fit")),
        r"fit \(Resizing\) changes the images .* Preprocessing.resize",
    ),
    "crops": (lambda: pooled(dense(), before=layers.RandomCrop(16, 16, name="cut")), r"cut \(RandomCrop\) changes"),
    "unknown pixels": (
        lambda: pooled(dense(), before=layers.Rescaling(2.0, name="double")),
        "double changes the images before the backbone, and not as pixels from 0 to 255 are",
    ),
    "two outputs": (two_outputs, "has not one input and one output"),
    "ensemble": (
        ensemble,
        "holds 2 VisionTransformers, .* export each of them, and let the app average their softmaxes",
    ),
}
"""Models that are refused, and what is said of them."""


def shaken(model):
    """`model` with weights of which every one matters."""
    random = np.random.default_rng(0)
    for variable in model.weights:
        if variable.path.partition("/")[0] != "toy" and "seed" not in variable.path:
            values = variable.numpy() + random.normal(0, 0.3, variable.shape).astype(np.float32)
            variable.assign(np.abs(values) + 0.1 if "variance" in variable.path else values)
    return model
