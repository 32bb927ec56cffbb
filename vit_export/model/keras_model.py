"""The reference model: a Vision Transformer in Keras 3, the truth that every exported file is compared with.

Architecture: Dosovitskiy et al. (2021), section 3.1: patch embedding, class token first, learnt position embedding,
pre-LayerNorm encoder, final LayerNorm, linear classifier on the class token; and what of its successors `ViTSpec` can
say: registers, rotary positions, a LayerNorm before the encoder, other poolings.
"""

import os
from dataclasses import replace
from typing import Any

os.environ["KERAS_BACKEND"] = "tensorflow"  # as in base.quiet, for who imports this module first

import keras
from keras import layers, ops

from vit_export.base.adapters.keras import layers_of
from vit_export.base.errors import InputError
from vit_export.model.head import DENSE, NORM, Placed
from vit_export.model.in_memory import fingerprint_in_memory
from vit_export.model.keras_layers import AttentionPooling, Embedding, EncoderLayer, activation_function
from vit_export.model.keras_training import loss_of_logits, metrics_of_logits
from vit_export.model.parameters import layer_name
from vit_export.model.preprocessing import Preprocessing
from vit_export.model.record import ModelRecord
from vit_export.model.rotary import rotary_tables
from vit_export.model.spec import UNIT_EPSILON, ViTSpec

if keras.backend.backend() != "tensorflow":
    raise InputError(
        f"Keras was imported before vit_export, with the backend {keras.backend.backend()}, expected tensorflow: set "
        "KERAS_BACKEND=tensorflow, or import vit_export first."
    )

_PACKAGE = "vit_export"


@keras.saving.register_keras_serializable(package=_PACKAGE)
class VisionTransformer(keras.Model):
    """A Vision Transformer of `spec`.

    Called on float32 images [batch, height, width, 3] it returns logits [batch, classes], or with `include_top=False`
    the token sequence [batch, tokens, width], class token first, after the final LayerNorm. `record` says what
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
        self.spec = spec if include_top or spec.num_classes is None else spec.with_(num_classes=None, returns=())
        self.dropout_rate = dropout
        self.record = record or ModelRecord(self.spec, Preprocessing(spec.image_size), {"source": "random"})
        policy = self.dtype_policy
        self.embedding = Embedding(
            spec.patch_size,
            spec.hidden_size,
            dropout,
            spec.class_token,
            spec.num_registers,
            spec.positions,
            name="embedding",
            dtype=policy,
        )
        self.embedding_norm = None
        if spec.embedding_norm:
            self.embedding_norm = layers.LayerNormalization(
                epsilon=spec.layer_norm_epsilon, name="embedding_norm", dtype=policy
            )
        self.rotary = rotary_tables(spec) if spec.positions == "rotary" else None
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
        self.norm = None
        if self.spec.final_norm:
            self.norm = layers.LayerNormalization(epsilon=spec.layer_norm_epsilon, name="norm", dtype=policy)
        self.pooling = None
        if self.spec.attention_pooling:
            self.pooling = AttentionPooling(
                spec.num_heads,
                spec.hidden_size,
                spec.mlp_size,
                spec.layer_norm_epsilon,
                spec.gelu,
                name="pooling",
                dtype=policy,
            )
        self.pre_logits = None
        if spec.pre_logits_size is not None:
            self.pre_logits = layers.Dense(
                spec.pre_logits_size, activation=spec.pre_logits_activation, name="pre_logits", dtype=policy
            )
        self.head_layers = [self._head_layer(step) for step in self.spec.head_steps]
        # Logits stay float32 under mixed precision, as losses and softmax need them.
        self.head = layers.Dense(self.spec.num_classes, name="head", dtype="float32") if self.include_top else None
        self.build((None, *spec.image_sides, 3))
        # A file says in its record which weights are the untrained ones; it loads them after this.
        self._untrained = self.record.fingerprint
        if self._untrained is None:
            self.keep_as_recorded()

    def _head_layer(self, placed: Placed) -> layers.Layer:
        name, (kind, value) = placed.name.rpartition("/")[2] or None, placed.step
        if kind == DENSE:
            return layers.Dense(placed.outputs, name=name, dtype=self.dtype_policy)
        if kind == NORM:
            return layers.LayerNormalization(epsilon=value, name=name, dtype=self.dtype_policy)
        return layers.Activation(activation_function(placed.step), dtype=self.dtype_policy)

    @property
    def current_record(self) -> ModelRecord:
        """The record as it stands: `trained` says what it said, or that the weights have changed since, whoever did it.

        Weights that are still the untrained ones have their `fingerprint` in it, by which a model that is loaded from
        a file knows them.
        """
        known = replace(self.record, spec=self.spec, fingerprint=None).saying(trained=self.record.trained)
        if was_fitted(self):
            return known.saying(trained=True, fitted_in="python")
        if known.trained:
            return known
        now = fingerprint_in_memory(self)
        if now is None or now != self._untrained:
            return known.saying(trained=True, changed_in="python")
        return replace(known, fingerprint=now)

    def keep_as_recorded(self) -> None:
        """Take the weights as they are now for those that the record speaks of, where it calls them untrained."""
        self._untrained = None if self.record.trained else fingerprint_in_memory(self)

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
        for layer in (self.embedding_norm, *self.encoder_layers, self.norm, self.pooling):
            if layer is not None:
                layer.build(tokens)
        if self.pre_logits is not None:
            self.pre_logits.build((None, self.spec.pooled_size))
        for layer, step in zip(self.head_layers, self.spec.head_steps, strict=True):
            layer.build((None, step.inputs))
        if self.head is not None:
            self.head.build((None, self.spec.classifier_inputs))
        self.built = True

    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        loss_weights: Any = None,
        metrics: Any = None,
        weighted_metrics: Any = None,
        **options: Any,
    ) -> None:
        """Configure training, as `keras.Model.compile` does, but that losses and metrics of a name are those of logits.

        'sparse_categorical_crossentropy' and its kind are taken with `from_logits=True`, and said so once, since a
        classifier returns logits; a loss that is an object stays as it is.
        """
        if self.head is not None:
            loss = loss_of_logits(loss)
            metrics, weighted_metrics = (
                metrics_of_logits(given, self.spec.num_classes or 0) for given in (metrics, weighted_metrics)
            )
        super().compile(optimizer, loss, loss_weights, metrics, weighted_metrics, **options)

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compile as `config` says, which `get_compile_config` gave: what loading a `.keras` file does."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.optimizer is not None:
            self.optimizer.build(self.trainable_variables)

    def tokens(self, images: Any, training: bool | None = None) -> Any:
        """Token sequence [batch, tokens, width] after the final LayerNorm: class token, registers, patches.

        Where the final LayerNorm is that of the mean of the patches, tokens are what the mean is taken of.
        """
        return self._sequence(self._encoded(images, training=training))

    def call(self, images: Any, training: bool | None = None) -> Any:
        """Logits, or the token sequence when the model has no classifier."""
        encoded = self._encoded(images, training=training)
        return self._sequence(encoded) if self.head is None else self._logits(self._representation(encoded))

    def extract_features(self, images: Any, training: bool = False) -> Any:
        """What is pooled of `images` [batch, height, width, 3], before any pre-logits layer: [batch, width].

        The class token, where the model pools it; see `model.spec.Pooling` for the others.
        """
        # Through the model itself where it returns tokens: in a functional model it is then one layer.
        sequence = self(images, training=training) if self.head is None else self.tokens(images, training=training)
        return self._features(sequence)

    def exported_outputs(self, images: Any) -> dict[str, Any]:
        """What the exported files return, by name: `spec.outputs`, each [batch, …]."""
        return self.outputs_of(self._encoded(images, training=False))

    def outputs_of(self, encoded: Any) -> dict[str, Any]:
        """`exported_outputs` of the tokens [batch, tokens, width] that leave the last encoder layer."""
        spec, sequence = self.spec, self._sequence(encoded)
        found = {"tokens": sequence}
        if "features" in spec.outputs:
            found["features"] = self._unit(self._features(sequence))
        if {"logits", "pooled"} & set(spec.outputs):
            pooled = self._pooled(sequence)
            representation = pooled if self.pre_logits is None else self.pre_logits(pooled)
            found["pooled"] = self._unit(representation)
            if self.head is not None:
                found["logits"] = self._logits(representation)
        return {name: found[name] for name in spec.outputs}

    def exported_output(self, images: Any) -> Any:
        """The first of `exported_outputs`, which apps read."""
        return self.exported_outputs(images)[self.spec.output_name]

    def predict_outputs(self, images: Any) -> dict[str, Any]:
        """`exported_outputs` of all `images`, each a float32 numpy array [n, …]."""
        if len(self.spec.outputs) == 1:
            return {self.spec.output_name: self.predict_output(images)}
        return {name: _numpy(values) for name, values in self.exported_outputs(images).items()}

    def predict_output(self, images: Any) -> Any:
        """`exported_output` of all `images` as one float32 numpy array."""
        return _numpy(self.exported_output(images))

    def _encoded(self, images: Any, training: bool | None) -> Any:
        """Tokens before the final LayerNorm."""
        tokens = self.embedding(images, training=training)
        if self.embedding_norm is not None:
            tokens = self.embedding_norm(tokens)
        for layer in self.encoder_layers:
            tokens = layer(tokens, rotary=self.rotary, training=training)
        return tokens

    def _sequence(self, encoded: Any) -> Any:
        return encoded if self.norm is None or self.spec.pooling == "mean_norm" else self.norm(encoded)

    def _representation(self, encoded: Any) -> Any:
        pooled = self._pooled(self._sequence(encoded))
        return pooled if self.pre_logits is None else self.pre_logits(pooled)

    def _logits(self, representation: Any) -> Any:
        for layer in self.head_layers:
            representation = layer(representation)
        return self.head(representation)  # type: ignore[misc]

    def _features(self, tokens: Any) -> Any:
        """What is pooled [batch, width] of `tokens` where nothing is joined to the class token."""
        return tokens[:, 0] if self.spec.joins else self._pooled(tokens)

    def _pooled(self, tokens: Any) -> Any:
        """What is pooled [batch, pooled size] of `tokens`, which are those of `tokens()`."""
        pooling = self.spec.pooled_by
        if self.pooling is not None:
            return self.pooling(tokens)
        if pooling == "mean":
            return self._mean(tokens)
        if pooling == "mean_all":
            return ops.mean(tokens, axis=1)
        if pooling == "mean_norm" and self.norm is not None:
            return self.norm(self._mean(tokens))
        if pooling == "class":
            return tokens[:, 0]
        other = tokens[:, 1] if pooling == "class_and_distillation" else self._mean(tokens)
        return ops.concatenate([tokens[:, 0], other], axis=-1)

    def _unit(self, embedding: Any) -> Any:
        """`embedding` [batch, size], of length 1 where the spec says so."""
        if not self.spec.l2_normalize:
            return embedding
        return embedding * ops.rsqrt(ops.sum(embedding * embedding, axis=-1, keepdims=True) + UNIT_EPSILON)

    def _mean(self, tokens: Any) -> Any:
        return ops.mean(tokens[:, self.spec.num_prefix_tokens :], axis=1)

    def parameters(self) -> dict[str, keras.Variable]:
        """Every weight under its canonical name (see `vit_export.model.parameters`)."""
        found: dict[str, keras.Variable] = {
            "patch_embedding/kernel": self.embedding.patch_embedding.kernel,
            "patch_embedding/bias": self.embedding.patch_embedding.bias,
        }
        for name in ("class_token", "register_tokens", "position_embedding"):
            variable = getattr(self.embedding, name)
            if variable is not None:
                found[name] = variable

        def dense(name: str, layer: Any) -> None:
            found[f"{name}/kernel"], found[f"{name}/bias"] = layer.kernel, layer.bias

        def norm(name: str, layer: Any) -> None:
            found[f"{name}/scale"], found[f"{name}/bias"] = layer.gamma, layer.beta

        if self.embedding_norm is not None:
            norm("embedding_norm", self.embedding_norm)
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
        if self.norm is not None:
            norm("encoder/norm", self.norm)
        if self.pooling is not None:
            found["pooling/probe"] = self.pooling.probe
            for projection in ("query", "key", "value"):
                dense(f"pooling/{projection}", getattr(self.pooling, projection))
            dense("pooling/output", self.pooling.output_projection)
            norm("pooling/norm", self.pooling.norm)
            dense("pooling/mlp/dense_1", self.pooling.dense_1)
            dense("pooling/mlp/dense_2", self.pooling.dense_2)
        if self.pre_logits is not None:
            dense("pre_logits", self.pre_logits)
        for layer, step in zip(self.head_layers, self.spec.head_steps, strict=True):
            if step.name:
                (dense if step.step.kind == DENSE else norm)(step.name, layer)
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


def _numpy(values: Any) -> Any:
    return keras.ops.convert_to_numpy(values).astype("float32")


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
