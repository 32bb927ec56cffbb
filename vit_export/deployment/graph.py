"""The deployment graph: the same Vision Transformer as a pure function, written for what phones run fast.

Static batch, tokens kept two-dimensional [batch·tokens, width] so that every Dense is one FULLY_CONNECTED (TFLite) or
Gemm (ONNX), nothing above rank 4, no strided slice that drops an axis, an explicit transpose instead of adj_x/adj_y.
Weights are arguments, not constants: the converters see shapes only, and gigabytes never pass through them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vit_export.deployment.activations import activation, gelu
from vit_export.deployment.rewrites import Shapes
from vit_export.model.head import DENSE, NORM
from vit_export.model.parameters import layer_name
from vit_export.model.spec import QUICK_GELU, UNIT_EPSILON, ViTSpec

INPUT_NAME = "images"


@dataclass(frozen=True)
class Dialect:
    """What one target wants the graph to look like; goes with the parameters made for it in `rewrites`."""

    name: str
    kernels_transposed: bool
    """Dense kernels are [out, in] (FULLY_CONNECTED) rather than [in, out] (Gemm)."""
    folded: bool
    """LayerNorm scale and shift, and 1/√d, are in the Dense weights already."""


TFLITE = Dialect("tflite", kernels_transposed=True, folded=True)
ONNX = Dialect("onnx", kernels_transposed=False, folded=False)

# A '/' in an argument's name does not survive every converter; this stands for it and is turned back afterwards.
SEPARATOR = "__"


def argument_name(parameter: str) -> str:
    """The graph input that stands for `parameter`."""
    return parameter.replace("/", SEPARATOR)


def parameter_name(argument: str) -> str:
    """The inverse of `argument_name`."""
    return argument.replace(SEPARATOR, "/")


def trace(spec: ViTSpec, shapes: Shapes, dialect: Dialect, batch: int = 1, dtype: str = "float32") -> Any:
    """The deployment graph as a `tf.function` concrete function.

    Its inputs are `images`, [batch, height, width, 3] of `dtype` (float32 or uint8), then every parameter of
    `shapes` by `argument_name`; its outputs are those of `deployment_outputs`, in that order.
    """
    import tensorflow as tf

    names = [name for name, _ in shapes]
    images_shape = (batch, *spec.image_sides, 3)
    signature = [tf.TensorSpec(images_shape, tf.as_dtype(dtype), name=INPUT_NAME)]
    signature += [tf.TensorSpec(shape, tf.float32, name=argument_name(name)) for name, shape in shapes]

    @tf.function(input_signature=signature, autograph=False)
    def deployment(images: Any, *weights: Any) -> Any:
        outputs = deployment_outputs(spec, images, dict(zip(names, weights, strict=True)), dialect)
        return [tf.identity(output, name=name) for name, output in outputs.items()]

    return deployment.get_concrete_function()


def deployment_graph(spec: ViTSpec, images: Any, weights: Mapping[str, Any], dialect: Dialect) -> Any:
    """The first of `deployment_outputs`, which apps read."""
    return deployment_outputs(spec, images, weights, dialect)[spec.output_name]


def deployment_outputs(spec: ViTSpec, images: Any, weights: Mapping[str, Any], dialect: Dialect) -> dict[str, Any]:
    """What `spec` returns of `images` [batch, height, width, 3], by name: `spec.outputs`, each [batch, …].

    Images that are not float32 are cast, first of all; their values stay what they are.
    """
    import tensorflow as tf

    if images.dtype != tf.float32:
        images = tf.cast(images, tf.float32)
    graph = Graph(spec, weights, dialect, batch=images.shape[0])
    tokens = graph.embed(images)
    for index in range(spec.num_layers):
        tokens = graph.encoder_layer(tokens, layer_name(index), last=index == spec.num_layers - 1)
    return graph.outputs(tokens)


class Graph:
    """The pieces of one deployment graph; every tensor of tokens is [batch·tokens, width].

    Traced for the converters, and run a piece at a time to choose how to quantize (`vit_export.int8`).
    """

    def __init__(self, spec: ViTSpec, weights: Mapping[str, Any], dialect: Dialect, batch: int) -> None:
        import tensorflow as tf

        self.tf, self.spec, self.weights, self.dialect, self.batch = tf, spec, weights, dialect, batch

    def visit(self, site: str, x: Any) -> Any:
        """Called with each tensor that int8 may round: here unchanged, in a simulation rounded.

        Sites are called as the tensors are in a .tflite file: a Dense's output by the Dense, the products of attention
        `…/scores`, `…/scores/softmax` and `…/mixed`; the input of a Dense is `<dense>:input`.
        """
        del site
        return x

    def embed(self, images: Any) -> Any:
        """Patches cut out by reshape and transpose (rank 4 at most), one Dense, class token, position embedding.

        A convolution whose kernel does not overlap is the same matrix product; as a Dense it also runs on the int8
        kernels, where a convolution over three channels would pad each tap.
        """
        tf, spec, batch = self.tf, self.spec, self.batch
        (rows, columns), patch, width = spec.grid, spec.patch_size, spec.hidden_size
        if spec.image_sides != (rows * patch, columns * patch):
            images = images[:, : rows * patch, : columns * patch]
        strips = tf.reshape(images, (batch * rows, patch, columns, patch * 3))
        patches = tf.reshape(tf.transpose(strips, (0, 2, 1, 3)), (batch * spec.num_patches, patch * patch * 3))
        tokens = tf.reshape(self.dense(patches, "patch_embedding"), (batch, spec.num_patches, width))
        prefix = [self.weights[name] for name in ("class_token", "register_tokens") if name in self.weights]
        if prefix:
            tokens = tf.concat(
                [*(tf.concat([token] * batch, 0) if batch > 1 else token for token in prefix), tokens], 1
            )
        if "position_embedding" in self.weights:
            tokens = tokens + self.weights["position_embedding"]
        tokens = tf.reshape(tokens, (batch * spec.num_tokens, width))
        return self.layer_norm(tokens, "embedding_norm") if spec.embedding_norm else tokens

    def encoder_layer(self, tokens: Any, prefix: str, *, last: bool) -> Any:
        """One encoder layer; the last one computes the rows alone that are read after it."""
        kept = self.kept_rows(tokens) if last else tokens
        tokens = kept + self.attention_branch(tokens, prefix, last=last)
        return tokens + self.mlp_branch(tokens, prefix)

    def attention_branch(self, tokens: Any, prefix: str, *, last: bool) -> Any:
        """What attention adds to the residual stream: to every row, or in the last layer to those that are kept."""
        normed = self.layer_norm(tokens, f"{prefix}/attention_norm")
        return self.attention(normed, self.kept_rows(normed) if last else normed, f"{prefix}/attention")

    def mlp_branch(self, tokens: Any, prefix: str) -> Any:
        """What the MLP adds to the residual stream."""
        normed, mlp = self.layer_norm(tokens, f"{prefix}/mlp_norm"), f"{prefix}/mlp"
        found = self.hidden(normed, mlp)
        # Hidden channels far larger than the others, where int8 gives them ranges of their own.
        outliers = f"{mlp}/outliers"
        return found + self.hidden(normed, outliers) if f"{outliers}/dense_1/kernel" in self.weights else found

    def hidden(self, normed: Any, mlp: str) -> Any:
        """The two Dense layers of `mlp`, and GELU between them."""
        return self.dense(self.gelu(self.dense(normed, f"{mlp}/dense_1")), f"{mlp}/dense_2")

    def answer(self, tokens: Any) -> Any:
        """The first of `outputs`, by which int8 is tuned."""
        return self.outputs(tokens)[self.spec.output_name]

    def outputs(self, tokens: Any) -> dict[str, Any]:
        """`spec.outputs` of the kept tokens [batch·kept, width]."""
        tf, spec, found = self.tf, self.spec, dict[str, Any]()
        normed = tokens if spec.pooling == "mean_norm" else self.layer_norm(tokens, "encoder/norm")
        if "tokens" in spec.outputs:
            found["tokens"] = tf.reshape(normed, (self.batch, *spec.outputs["tokens"]))
        if not spec.embeds:
            return found
        pooled = self.pool(normed)
        if "features" in spec.outputs:
            found["features"] = self.unit(self.rows(normed, 0, 1) if spec.joins else pooled)
        if spec.pre_logits_size is not None:
            pooled = self.dense(pooled, "pre_logits")
            if spec.pre_logits_activation == "tanh":
                pooled = tf.tanh(pooled)
        if "pooled" in spec.outputs:
            found["pooled"] = self.unit(pooled)
        if "logits" in spec.outputs:
            for name, step, _, _ in spec.head_steps:
                if step.kind == DENSE:
                    pooled = self.dense(pooled, name)
                elif step.kind == NORM:
                    pooled = self.layer_norm(pooled, name, step.value)
                else:
                    pooled = activation(step, pooled)
            found["logits"] = self.dense(pooled, "head")
        return {name: found[name] for name in spec.outputs}

    def unit(self, embedding: Any) -> Any:
        """`embedding` [batch, size], divided by its length where the spec says so.

        By the operators of a LayerNorm: every runtime that takes the rest takes them.
        """
        tf, size = self.tf, embedding.shape[-1]
        if not self.spec.l2_normalize:
            return embedding
        squared = tf.reduce_mean(embedding * embedding, axis=-1, keepdims=True)
        return embedding * (tf.math.rsqrt(squared + UNIT_EPSILON / size) * size**-0.5)

    def pool(self, normed: Any) -> Any:
        """What a classifier reads [batch, pooled size] of the kept tokens after the final LayerNorm.

        Of those before it, where it follows the mean of them.
        """
        spec, pooling = self.spec, self.spec.pooled_by
        if pooling == "class":
            return self.rows(normed, 0, 1)
        if pooling == "attention":
            return self.attention_pool(normed)
        if pooling in ("mean", "mean_all"):
            return self.mean(normed, first=spec.num_prefix_tokens if pooling == "mean" else 0)
        if pooling == "mean_norm":
            return self.layer_norm(self.mean(normed, first=spec.num_prefix_tokens), "encoder/norm")
        if pooling == "class_and_distillation":
            # The two rows of an image lie side by side.
            return self.tf.reshape(self.rows(normed, 0, 2), (self.batch, spec.pooled_size))
        patches = self.mean(normed, first=spec.num_prefix_tokens)
        return self.tf.concat([self.rows(normed, 0, 1), patches], axis=-1)

    def mean(self, tokens: Any, first: int) -> Any:
        """The mean [batch, width] of the rows of each image from `first` on."""
        spec = self.spec
        sequence = self.tf.reshape(tokens, (self.batch, spec.num_tokens, spec.hidden_size))
        return self.tf.reduce_mean(sequence[:, first:] if first else sequence, axis=1)

    def attention_pool(self, tokens: Any) -> Any:
        """`keras_layers.AttentionPooling`; the query is in the weights of the scores (`rewrites.score_kernel`)."""
        tf, spec = self.tf, self.spec
        scores = tf.reshape(self.dense(tokens, "pooling/scores"), (self.batch, spec.num_tokens, spec.num_heads))
        shape = (self.batch, spec.num_heads, 1, spec.num_tokens)
        weights = tf.nn.softmax(tf.reshape(tf.transpose(scores, (0, 2, 1)), shape))
        value = self.heads(self.dense(tokens, "pooling/value"), (0, 2, 1, 3))
        mixed = tf.reshape(tf.matmul(weights, value), (self.batch, spec.hidden_size))
        found = self.dense(mixed, "pooling/output")
        return found + self.hidden(self.layer_norm(found, "pooling/norm"), "pooling/mlp")

    def attention(self, tokens: Any, queries: Any, prefix: str) -> Any:
        """Multi-head attention of `queries` (rows of `tokens`, or all of them) over `tokens`."""
        tf, spec = self.tf, self.spec
        query = self.heads(self.dense(queries, f"{prefix}/query"), (0, 2, 1, 3), turned=True)
        key = self.heads(self.dense(tokens, f"{prefix}/key"), (0, 2, 3, 1), turned=True)
        value = self.heads(self.dense(tokens, f"{prefix}/value"), (0, 2, 1, 3))
        if not self.dialect.folded:
            query = query * spec.head_size**-0.5
        scores = self.visit(f"{prefix}/scores", tf.matmul(query, key))
        weights = self.visit(f"{prefix}/scores/softmax", tf.nn.softmax(scores))
        attended = self.visit(f"{prefix}/mixed", tf.matmul(weights, value))
        merged = tf.reshape(tf.transpose(attended, (0, 2, 1, 3)), (-1, spec.hidden_size))
        return self.dense(tf.ensure_shape(merged, queries.shape), f"{prefix}/output")

    def heads(self, projected: Any, order: tuple[int, int, int, int], *, turned: bool = False) -> Any:
        """[batch·tokens, width] as [batch, tokens, heads, head size], turned by place, transposed to `order`."""
        tf, spec = self.tf, self.spec
        tokens = projected.shape[0] // self.batch
        split = tf.reshape(projected, (self.batch, tokens, spec.num_heads, spec.head_size))
        # Fewer than all tokens are class token and registers, which have no place.
        if turned and spec.positions == "rotary" and tokens == spec.num_tokens:
            half = spec.head_size // 2
            swapped = tf.concat([split[..., half:], split[..., :half]], axis=-1)
            split = split * self.weights["rotary/cosines"] + swapped * self.weights["rotary/sines"]
        return tf.transpose(split, order)

    def kept_rows(self, tokens: Any) -> Any:
        """The rows of each image that are read after the last layer, [batch·kept, width]."""
        return self.rows(tokens, 0, self.spec.kept_tokens)

    def rows(self, tokens: Any, first: int, end: int) -> Any:
        """Rows `first` to `end` of each image: a slice that keeps its axis, then a reshape; all of them as they are.

        Of rank 3 also where one image could be sliced as it lies: the GPU delegate takes slices of rank 3 and 4 only.
        """
        count = tokens.shape[0] // self.batch
        if (first, end) == (0, count):
            return tokens
        sequence = self.tf.reshape(tokens, (self.batch, count, self.spec.hidden_size))
        return self.tf.reshape(sequence[:, first:end], (-1, self.spec.hidden_size))

    def layer_norm(self, x: Any, name: str, epsilon: float | None = None) -> Any:
        """LayerNorm (Ba et al., 2016) over the last axis; scale and shift unless they are folded away."""
        tf, epsilon = self.tf, self.spec.layer_norm_epsilon if epsilon is None else epsilon
        centred = x - tf.reduce_mean(x, axis=-1, keepdims=True)
        variance = tf.reduce_mean(centred * centred, axis=-1, keepdims=True)
        normed = centred * tf.math.rsqrt(variance + epsilon)
        if f"{name}/scale" in self.weights:
            normed = normed * self.weights[f"{name}/scale"] + self.weights[f"{name}/bias"]
        return normed

    def dense(self, x: Any, name: str) -> Any:
        """x·kernel + bias on two-dimensional x, times the scale of each channel where the Dense has one."""
        transposed = self.dialect.kernels_transposed
        x = self.visit(f"{name}:input", x)
        y = self.tf.matmul(x, self.weights[f"{name}/kernel"], transpose_b=transposed) + self.weights[f"{name}/bias"]
        y = self.visit(name, y)
        return y * self.weights[f"{name}/scale"] if f"{name}/scale" in self.weights else y

    def gelu(self, x: Any) -> Any:
        """GELU of an MLP's hidden layer, in the form that the spec names."""
        return x * self.tf.sigmoid(QUICK_GELU * x) if self.spec.gelu == "quick" else gelu(x, self.spec.gelu)
