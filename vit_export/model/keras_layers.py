"""The layers of the reference model, each as plain as its formula."""

import os
from typing import Any

os.environ["KERAS_BACKEND"] = "tensorflow"  # as in base.quiet, for who imports this module first

import keras
from keras import layers, ops

from vit_export.model.head import Step
from vit_export.model.spec import QUICK_GELU

_PACKAGE = "vit_export"


def gelu_function(form: str) -> Any:
    """GELU in the form that `ViTSpec.gelu` names."""
    if form == "quick":
        return lambda x: x * ops.sigmoid(QUICK_GELU * x)
    return lambda x: ops.gelu(x, approximate=form == "tanh")


def activation_function(step: Step) -> Any:
    """The activation that a step of `model.head` names."""
    kind, number = step
    if kind.startswith("gelu"):
        return gelu_function("tanh" if kind == "gelu_tanh" else "erf")
    function = getattr(keras.activations, kind)
    return function if number is None else lambda x: function(x, number)


def split_heads(projected: Any, num_heads: int) -> Any:
    """`projected` [batch, tokens, width] as [batch, heads, tokens, head size]."""
    split = ops.reshape(projected, (ops.shape(projected)[0], -1, num_heads, projected.shape[-1] // num_heads))
    return ops.transpose(split, (0, 2, 1, 3))


@keras.saving.register_keras_serializable(package=_PACKAGE)
class Embedding(layers.Layer):
    """Images [batch, height, width, 3] to tokens [batch, tokens, width]: class token, registers, patches.

    The position embedding, where there is one, is added to class token and patches; registers have none.
    """

    def __init__(
        self,
        patch_size: int,
        hidden_size: int,
        dropout: float = 0.0,
        has_class_token: bool = True,
        num_registers: int = 0,
        positions: str = "learned",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.patch_size, self.hidden_size, self.dropout_rate = patch_size, hidden_size, dropout
        self.has_class_token, self.num_registers, self.positions = has_class_token, num_registers, positions
        self.class_token = self.register_tokens = self.position_embedding = None
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
        """Create the weights for images of `input_shape`."""
        patches = (input_shape[1] // self.patch_size) * (input_shape[2] // self.patch_size)  # type: ignore[operator]
        self.patch_embedding.build(input_shape)
        if self.has_class_token:
            self.class_token = self.add_weight(shape=(1, 1, self.hidden_size), initializer="zeros", name="class_token")
        if self.num_registers:
            self.register_tokens = self.add_weight(
                shape=(1, self.num_registers, self.hidden_size),
                initializer=keras.initializers.RandomNormal(stddev=0.02),
                name="register_tokens",
            )
        if self.positions == "learned":
            self.position_embedding = self.add_weight(
                shape=(1, self.has_class_token + patches, self.hidden_size),
                initializer=keras.initializers.RandomNormal(stddev=0.02),
                name="position_embedding",
            )

    def call(self, images: Any, training: bool | None = None) -> Any:
        """Tokens of `images`; the class token is token 0."""
        patches = ops.reshape(self.patch_embedding(images), (ops.shape(images)[0], -1, self.hidden_size))

        def every(token: Any) -> Any:
            return ops.broadcast_to(ops.cast(token, patches.dtype), (ops.shape(images)[0], *token.shape[1:]))

        tokens = patches if self.class_token is None else ops.concatenate([every(self.class_token), patches], axis=1)
        if self.position_embedding is not None:
            tokens = tokens + ops.cast(self.position_embedding, tokens.dtype)
        if self.register_tokens is not None:
            first = int(self.has_class_token)
            tokens = ops.concatenate([tokens[:, :first], every(self.register_tokens), tokens[:, first:]], axis=1)
        return self.dropout(tokens, training=training)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """[batch, tokens, width] for images of `input_shape`; `summary()` shows it."""
        patches = (input_shape[1] // self.patch_size) * (input_shape[2] // self.patch_size)  # type: ignore[operator]
        return input_shape[0], self.has_class_token + self.num_registers + patches, self.hidden_size

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        own = {
            "patch_size": self.patch_size,
            "hidden_size": self.hidden_size,
            "dropout": self.dropout_rate,
            "has_class_token": self.has_class_token,
            "num_registers": self.num_registers,
            "positions": self.positions,
        }
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

    def call(self, tokens: Any, rotary: Any = None, training: bool | None = None) -> Any:
        """Attended tokens, same shape as `tokens`; `rotary` are the tables of `model.rotary`, None for no rotation."""

        def heads(projected: Any) -> Any:
            return split_heads(projected, self.num_heads)

        def turned(x: Any) -> Any:  # [batch, heads, tokens, head size]
            if rotary is None:
                return x
            cosines, sines = (ops.cast(table, x.dtype) for table in rotary)
            first, second = ops.split(x, 2, axis=-1)
            return x * cosines + ops.concatenate([second, first], axis=-1) * sines

        query = turned(heads(self.query(tokens))) * (self.hidden_size // self.num_heads) ** -0.5
        scores = ops.matmul(query, ops.transpose(turned(heads(self.key(tokens))), (0, 1, 3, 2)))
        weights = self.dropout(ops.softmax(scores, axis=-1), training=training)
        attended = ops.transpose(ops.matmul(weights, heads(self.value(tokens))), (0, 2, 1, 3))
        return self.output_projection(ops.reshape(attended, ops.shape(tokens)))

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
        self.activation = gelu_function(gelu)
        self.dense_2 = layers.Dense(hidden_size, name="dense_2", dtype=policy)
        self.dropout = layers.Dropout(dropout, name="dropout", dtype=policy)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create the weights for tokens of `input_shape`."""
        for layer in (self.attention_norm, self.attention, self.mlp_norm, self.dense_1):
            layer.build(input_shape)
        self.dense_2.build((*input_shape[:-1], self._own["mlp_size"]))

    def call(self, tokens: Any, rotary: Any = None, training: bool | None = None) -> Any:
        """Encoded tokens, same shape as `tokens`."""
        attended = self.attention(self.attention_norm(tokens), rotary=rotary, training=training)
        tokens = tokens + self.dropout(attended, training=training)
        hidden = self.activation(self.dense_1(self.mlp_norm(tokens)))
        hidden = self.dense_2(self.dropout(hidden, training=training))
        return tokens + self.dropout(hidden, training=training)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """That of the tokens; `summary()` shows it."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {**super().get_config(), **self._own}


@keras.saving.register_keras_serializable(package=_PACKAGE)
class AttentionPooling(layers.Layer):
    """Tokens [batch, tokens, width] to one vector [batch, width] by attention with a learned query, the probe.

    Followed by x + mlp(norm(x)) (Zhai et al., 2022, "Scaling Vision Transformers", the MAP head; SigLIP's `head`).
    """

    def __init__(
        self,
        num_heads: int,
        hidden_size: int,
        mlp_size: int,
        layer_norm_epsilon: float = 1e-6,
        gelu: str = "erf",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._own = {
            "num_heads": num_heads,
            "hidden_size": hidden_size,
            "mlp_size": mlp_size,
            "layer_norm_epsilon": layer_norm_epsilon,
            "gelu": gelu,
        }
        self.num_heads, self.hidden_size, policy = num_heads, hidden_size, self.dtype_policy
        self.query, self.key, self.value, self.output_projection = (
            layers.Dense(hidden_size, name=name, dtype=policy) for name in ("query", "key", "value", "output")
        )
        self.norm = layers.LayerNormalization(epsilon=layer_norm_epsilon, name="norm", dtype=policy)
        self.dense_1 = layers.Dense(mlp_size, name="dense_1", dtype=policy)
        self.activation = gelu_function(gelu)
        self.dense_2 = layers.Dense(hidden_size, name="dense_2", dtype=policy)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create the weights."""
        self.probe = self.add_weight(
            shape=(1, 1, self.hidden_size), initializer=keras.initializers.RandomNormal(stddev=0.02), name="probe"
        )
        row = (None, self.hidden_size)
        for layer in (self.query, self.key, self.value, self.output_projection, self.norm, self.dense_1):
            layer.build(row)
        self.dense_2.build((None, self._own["mlp_size"]))

    def call(self, tokens: Any) -> Any:
        """The pooled vector of each sequence of `tokens`."""

        def heads(projected: Any) -> Any:
            return split_heads(projected, self.num_heads)

        batch = ops.shape(tokens)[0]
        probe = ops.broadcast_to(ops.cast(self.probe, tokens.dtype), (batch, 1, self.hidden_size))
        query = heads(self.query(probe)) * (self.hidden_size // self.num_heads) ** -0.5
        weights = ops.softmax(ops.matmul(query, ops.transpose(heads(self.key(tokens)), (0, 1, 3, 2))), axis=-1)
        found = self.output_projection(ops.reshape(ops.matmul(weights, heads(self.value(tokens))), (batch, -1)))
        return found + self.dense_2(self.activation(self.dense_1(self.norm(found))))

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {**super().get_config(), **self._own}
