"""The reference model: a Vision Transformer in Keras 3, the truth that every exported file is compared with.

Architecture: Dosovitskiy et al. (2021), section 3.1: patch embedding, class token first, learnt position embedding,
pre-LayerNorm encoder, final LayerNorm, linear classifier on the class token.
"""

import os
from dataclasses import replace
from typing import Any

os.environ["KERAS_BACKEND"] = "tensorflow"  # as in base.quiet, for who imports this module first

import keras
from keras import layers, ops

from vit_export.base.adapters.keras import layers_of
from vit_export.base.errors import InputError
from vit_export.model.parameters import layer_name
from vit_export.model.preprocessing import Preprocessing
from vit_export.model.record import ModelRecord
from vit_export.model.spec import ViTSpec

if keras.backend.backend() != "tensorflow":
    raise InputError(
        f"Keras was imported before vit_export, with the backend {keras.backend.backend()}, expected tensorflow: set "
        "KERAS_BACKEND=tensorflow, or import vit_export first."
    )

_PACKAGE = "vit_export"


def _gelu(form: str) -> Any:
    return lambda x: ops.gelu(x, approximate=form == "tanh")


@keras.saving.register_keras_serializable(package=_PACKAGE)
class Embedding(layers.Layer):
    """Images [batch, size, size, 3] to tokens [batch, 1 + patches, width]: patches, class token, position embedding."""

    def __init__(self, patch_size: int, hidden_size: int, dropout: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.patch_size, self.hidden_size, self.dropout_rate = patch_size, hidden_size, dropout
        self.patch_embedding = layers.Conv2D(
            hidden_size,
            patch_size,
            strides=patch_size,
            padding="valid",
            data_format="channels_last",  # whatever the user's keras.json says
            name="patch_embedding",
            dtype=self.dtype_policy,
        )
        self.dropout = layers.Dropout(dropout, name="dropout", dtype=self.dtype_policy)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create the weights for square images of `input_shape`."""
        patches = (input_shape[1] // self.patch_size) * (input_shape[2] // self.patch_size)  # type: ignore[operator]
        self.patch_embedding.build(input_shape)
        self.class_token = self.add_weight(shape=(1, 1, self.hidden_size), initializer="zeros", name="class_token")
        self.position_embedding = self.add_weight(
            shape=(1, patches + 1, self.hidden_size),
            initializer=keras.initializers.RandomNormal(stddev=0.02),
            name="position_embedding",
        )

    def call(self, images: Any, training: bool | None = None) -> Any:
        """Tokens of `images`; the class token is token 0."""
        patches = ops.reshape(self.patch_embedding(images), (ops.shape(images)[0], -1, self.hidden_size))
        class_token = ops.broadcast_to(
            ops.cast(self.class_token, patches.dtype), (ops.shape(images)[0], 1, self.hidden_size)
        )
        tokens = ops.concatenate([class_token, patches], axis=1)
        return self.dropout(tokens + ops.cast(self.position_embedding, tokens.dtype), training=training)

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        own = {"patch_size": self.patch_size, "hidden_size": self.hidden_size, "dropout": self.dropout_rate}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(package=_PACKAGE)
class SelfAttention(layers.Layer):
    """Multi-head self-attention, softmax(QKᵀ/√d)V (Vaswani et al., 2017), over tokens [batch, tokens, width]."""

    def __init__(self, num_heads: int, hidden_size: int, dropout: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_heads, self.hidden_size, self.dropout_rate = num_heads, hidden_size, dropout
        self.query, self.key, self.value, self.output_projection = (
            layers.Dense(hidden_size, name=name, dtype=self.dtype_policy)
            for name in ("query", "key", "value", "output")
        )
        self.dropout = layers.Dropout(dropout, name="dropout", dtype=self.dtype_policy)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create the four projections."""
        for dense in (self.query, self.key, self.value, self.output_projection):
            dense.build(input_shape)

    def call(self, tokens: Any, training: bool | None = None) -> Any:
        """Attended tokens, same shape as `tokens`."""
        batch, length = ops.shape(tokens)[0], ops.shape(tokens)[1]
        head_size = self.hidden_size // self.num_heads

        def heads(projected: Any) -> Any:  # [batch, tokens, width] -> [batch, heads, tokens, head size]
            return ops.transpose(ops.reshape(projected, (batch, length, self.num_heads, head_size)), (0, 2, 1, 3))

        query = heads(self.query(tokens)) * head_size**-0.5
        scores = ops.matmul(query, ops.transpose(heads(self.key(tokens)), (0, 1, 3, 2)))
        weights = self.dropout(ops.softmax(scores, axis=-1), training=training)
        attended = ops.transpose(ops.matmul(weights, heads(self.value(tokens))), (0, 2, 1, 3))
        return self.output_projection(ops.reshape(attended, (batch, length, self.hidden_size)))

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        own = {"num_heads": self.num_heads, "hidden_size": self.hidden_size, "dropout": self.dropout_rate}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(package=_PACKAGE)
class EncoderLayer(layers.Layer):
    """Pre-LayerNorm encoder layer: x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(
        self,
        num_heads: int,
        hidden_size: int,
        mlp_size: int,
        layer_norm_epsilon: float = 1e-6,
        gelu: str = "erf",
        dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._own = {
            "num_heads": num_heads,
            "hidden_size": hidden_size,
            "mlp_size": mlp_size,
            "layer_norm_epsilon": layer_norm_epsilon,
            "gelu": gelu,
            "dropout": dropout,
        }
        policy = self.dtype_policy
        self.attention_norm = layers.LayerNormalization(epsilon=layer_norm_epsilon, name="attention_norm", dtype=policy)
        self.attention = SelfAttention(num_heads, hidden_size, dropout, name="attention", dtype=policy)
        self.mlp_norm = layers.LayerNormalization(epsilon=layer_norm_epsilon, name="mlp_norm", dtype=policy)
        self.dense_1 = layers.Dense(mlp_size, name="dense_1", dtype=policy)
        self.activation = _gelu(gelu)
        self.dense_2 = layers.Dense(hidden_size, name="dense_2", dtype=policy)
        self.dropout = layers.Dropout(dropout, name="dropout", dtype=policy)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create the weights for tokens of `input_shape`."""
        for layer in (self.attention_norm, self.attention, self.mlp_norm, self.dense_1):
            layer.build(input_shape)
        self.dense_2.build((*input_shape[:-1], self._own["mlp_size"]))

    def call(self, tokens: Any, training: bool | None = None) -> Any:
        """Encoded tokens, same shape as `tokens`."""
        attended = self.attention(self.attention_norm(tokens), training=training)
        tokens = tokens + self.dropout(attended, training=training)
        hidden = self.activation(self.dense_1(self.mlp_norm(tokens)))
        hidden = self.dense_2(self.dropout(hidden, training=training))
        return tokens + self.dropout(hidden, training=training)

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {**super().get_config(), **self._own}


@keras.saving.register_keras_serializable(package=_PACKAGE)
class VisionTransformer(keras.Model):
    """A Vision Transformer of `spec`.

    Called on float32 images [batch, size, size, 3] it returns logits [batch, classes], or with `include_top=False`
    the token sequence [batch, 1 + patches, width], class token first, after the final LayerNorm. `record` says what
    pixels it takes, what its classes are called and where its weights come from; saving and exporting keep it.
    """

    def __init__(
        self,
        spec: ViTSpec,
        include_top: bool = True,
        dropout: float = 0.0,
        record: ModelRecord | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("name", spec.name)
        super().__init__(**kwargs)
        self.built: bool
        self.spec = spec if include_top else spec.with_(num_classes=None)
        self.dropout_rate = dropout
        self.record = record or ModelRecord(self.spec, Preprocessing(spec.image_size), {"source": "random"})
        policy = self.dtype_policy
        self.embedding = Embedding(spec.patch_size, spec.hidden_size, dropout, name="embedding", dtype=policy)
        self.encoder_layers = [
            EncoderLayer(
                spec.num_heads,
                spec.hidden_size,
                spec.mlp_size,
                spec.layer_norm_epsilon,
                spec.gelu,
                dropout,
                name=f"layer_{index}",
                dtype=policy,
            )
            for index in range(spec.num_layers)
        ]
        self.norm = layers.LayerNormalization(epsilon=spec.layer_norm_epsilon, name="norm", dtype=policy)
        self.pre_logits = None
        if spec.pre_logits_size is not None:
            self.pre_logits = layers.Dense(spec.pre_logits_size, activation="tanh", name="pre_logits", dtype=policy)
        # Logits stay float32 under mixed precision, as losses and softmax need them.
        self.head = layers.Dense(self.spec.num_classes, name="head", dtype="float32") if self.include_top else None
        self.build((None, spec.image_size, spec.image_size, 3))

    @property
    def current_record(self) -> ModelRecord:
        """The record as it stands: `trained` says what it said, or that an optimizer has changed the weights since."""
        known = replace(self.record, spec=self.spec, fingerprint=None).saying(trained=self.record.trained)
        return known.saying(trained=True, fitted_in="python") if was_fitted(self) else known

    @property
    def is_float32(self) -> bool:
        """Whether every layer computes in float32, as the reference does (a global policy can say otherwise)."""
        return all(layer.dtype_policy.name == "float32" for layer in layers_of(self))

    @property
    def include_top(self) -> bool:
        """Whether the model ends in a classifier."""
        return self.spec.num_classes is not None

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create every weight, so that a model can be counted, loaded and saved before its first call."""
        if self.built:
            return
        tokens = (None, self.spec.num_tokens, self.spec.hidden_size)
        self.embedding.build(input_shape)
        for layer in (*self.encoder_layers, self.norm):
            layer.build(tokens)
        if self.pre_logits is not None:
            self.pre_logits.build((None, self.spec.hidden_size))
        if self.head is not None:
            self.head.build((None, self.spec.representation_size))
        self.built = True

    def tokens(self, images: Any, training: bool | None = None) -> Any:
        """Token sequence [batch, 1 + patches, width] after the final LayerNorm; the class token is token 0."""
        tokens = self.embedding(images, training=training)
        for layer in self.encoder_layers:
            tokens = layer(tokens, training=training)
        return self.norm(tokens)

    def call(self, images: Any, training: bool | None = None) -> Any:
        """Logits, or the token sequence when the model has no classifier."""
        tokens = self.tokens(images, training=training)
        return tokens if self.head is None else self.head(self._representation(tokens))

    def extract_features(self, images: Any, training: bool = False) -> Any:
        """Class-token features [batch, width] of `images` [batch, size, size, 3], before any pre-logits layer."""
        # Through the model itself where it returns tokens: in a functional model it is then one layer.
        tokens = self(images, training=training) if self.head is None else self.tokens(images, training=training)
        return tokens[:, 0]

    def exported_output(self, images: Any) -> Any:
        """What the exported files return: logits [batch, classes], or without classifier what it would have read."""
        representation = self._representation(self.tokens(images, training=False))
        return representation if self.head is None else self.head(representation)

    def predict_output(self, images: Any) -> Any:
        """`exported_output` of all `images` as one float32 numpy array [n, classes or width]."""
        return keras.ops.convert_to_numpy(self.exported_output(images)).astype("float32")

    def _representation(self, tokens: Any) -> Any:
        class_token = tokens[:, 0]
        return class_token if self.pre_logits is None else self.pre_logits(class_token)

    def parameters(self) -> dict[str, keras.Variable]:
        """Every weight under its canonical name (see `vit_export.model.parameters`)."""
        found: dict[str, keras.Variable] = {
            "patch_embedding/kernel": self.embedding.patch_embedding.kernel,
            "patch_embedding/bias": self.embedding.patch_embedding.bias,
            "class_token": self.embedding.class_token,
            "position_embedding": self.embedding.position_embedding,
        }

        def dense(name: str, layer: Any) -> None:
            found[f"{name}/kernel"], found[f"{name}/bias"] = layer.kernel, layer.bias

        def norm(name: str, layer: Any) -> None:
            found[f"{name}/scale"], found[f"{name}/bias"] = layer.gamma, layer.beta

        for index, layer in enumerate(self.encoder_layers):
            prefix, attention = layer_name(index), layer.attention
            norm(f"{prefix}/attention_norm", layer.attention_norm)
            for projection, module in (
                ("query", attention.query),
                ("key", attention.key),
                ("value", attention.value),
                ("output", attention.output_projection),
            ):
                dense(f"{prefix}/attention/{projection}", module)
            norm(f"{prefix}/mlp_norm", layer.mlp_norm)
            dense(f"{prefix}/mlp/dense_1", layer.dense_1)
            dense(f"{prefix}/mlp/dense_2", layer.dense_2)
        norm("encoder/norm", self.norm)
        if self.pre_logits is not None:
            dense("pre_logits", self.pre_logits)
        if self.head is not None:
            dense("head", self.head)
        return found

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments, the spec as a dict."""
        own = {
            "spec": self.spec.to_dict(),
            "include_top": self.include_top,
            "dropout": self.dropout_rate,
            "record": self.current_record.to_dict(),
        }
        return {"name": self.name, "trainable": self.trainable, "dtype": self.dtype_policy.name, **own}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "VisionTransformer":
        """The inverse of `get_config`."""
        config = dict(config)
        config["spec"] = ViTSpec.from_dict(config["spec"])
        if config.get("record") is not None:
            config["record"] = ModelRecord.from_dict(config["record"])
        return cls(**config)


def build_model(spec: ViTSpec, *, seed: int | None = None, **kwargs: Any) -> VisionTransformer:
    """A model of `spec`, without classifier when `spec.num_classes` is None, with random weights.

    `kwargs` go to `VisionTransformer`; without `dtype` it follows Keras' global policy, as any Keras model does.
    """
    if seed is not None:
        keras.utils.set_random_seed(seed)
    return VisionTransformer(spec, **kwargs)


def reference_model(spec: ViTSpec, *, seed: int | None = None, **kwargs: Any) -> VisionTransformer:
    """`build_model` in float32, whatever Keras' global policy says: the truth that files are compared with."""
    return build_model(spec, seed=seed, dtype="float32", **kwargs)


def was_fitted(model: keras.Model) -> bool:
    """Whether an optimizer has made a step with this model."""
    optimizer = getattr(model, "optimizer", None)
    return optimizer is not None and int(optimizer.iterations.numpy()) > 0
