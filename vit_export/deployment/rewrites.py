"""Exact rewrites: the parameters of the deployment graph as float-equal functions of the canonical ones.

Nothing here holds the model: each deployment parameter is a `LazyTensor`, float32, that reads the few canonical tensors
it is made of. `vit_export.deployment.graph` is written against these names and shapes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from vit_export.base.errors import InputError
from vit_export.base.lazy import LazyTensor, Tensors, computed_together
from vit_export.model.head import DENSE, NORM
from vit_export.model.input_kinds import affine, kind_of
from vit_export.model.parameters import ParameterSource, layer_name, parameter_specs
from vit_export.model.preprocessing import Preprocessing
from vit_export.model.rotary import rotary_tables
from vit_export.model.spec import ViTSpec

_FLOAT32 = np.dtype(np.float32)

_LINE = 16
"""Float32 values of a cache line."""

Shapes = tuple[tuple[str, tuple[int, ...]], ...]
"""Names and shapes of deployment parameters, in their order: all that a converter sees of them."""


def shapes_of(parameters: Tensors) -> Shapes:
    """What a converter is to see of `parameters`."""
    return tuple((name, parameter.shape) for name, parameter in parameters.items())


@dataclass(frozen=True)
class Extras:
    """What the graph of an int8 .tflite file has beyond the plain one (see `int8.equalize`).

    `scales`: LayerNorms that keep scale and shift, and Dense layers whose output is multiplied with a `scale`.
    `outliers`: by the MLP (`…/mlp`), how many of its hidden channels have Dense layers of their own,
    `…/mlp/outliers/dense_1` and `dense_2`.
    """

    scales: frozenset[str] = frozenset()
    outliers: Mapping[str, int] = field(default_factory=dict)


PLAIN = Extras()

Rounding = Callable[[np.ndarray], np.ndarray]
"""A kernel [in, out], float32, as a file will hold it: the nearest values it can, in float32 again."""


class FoldedInput:
    """A `ParameterSource` equal to `source` on the same picture, for images of the input kind `kind`.

    With v the image's values, normalized = factor·(v - centre) per channel (`input_kinds.affine`), W the patch
    embedding's kernel and b its bias: normalized·W + b = v·W' + (b - centre·W'), where W' = diag(factor)·W. All other
    parameters are passed through.

    The bias is made from `stored(W')`: pixels are positive, so what a coarser type rounds away of the kernel would
    otherwise be added to every answer, multiplied by the mean pixel. So made, the file holds exactly the bias of the
    rounded kernel, and errs as little as one for normalized images.

    Raises:
        InputError: on construction, when there is no such kind.
    """

    def __init__(
        self, source: ParameterSource, preprocessing: Preprocessing, kind: str, stored: Rounding | None = None
    ) -> None:
        self._source, self._stored = source, stored
        self._folds = kind_of(kind).per_pixel is not None
        self._factor, self._centre = affine(kind, preprocessing)

    @property
    def spec(self) -> ViTSpec:
        """The model the parameters belong to."""
        return self._source.spec

    def read(self, name: str) -> np.ndarray:
        """The parameter called `name`, float32, in its canonical shape."""
        if self._folds and name == "patch_embedding/kernel":
            return (self._source.read(name) * self._factor[:, np.newaxis]).astype(np.float32)
        if self._folds and name == "patch_embedding/bias":
            kernel = self.read("patch_embedding/kernel")
            if self._stored is not None:
                kernel = self._stored(kernel.reshape(-1, kernel.shape[-1])).reshape(kernel.shape)
            return (self._source.read(name) - self._centre @ kernel.sum((0, 1), np.float64)).astype(np.float32)
        return self._source.read(name)


def plain_parameters(source: ParameterSource) -> Tensors:
    """The canonical parameters with Dense kernels [in, out] and the patch embedding as a matrix [P·P·3, D].

    Used for ONNX, whose LayerNormalization and Attention operators take scale, shift and 1/√d for free.
    """
    spec, scores = source.spec, _Scores(source)
    found: dict[str, LazyTensor] = {}
    for parameter in parameter_specs(spec):
        name, shape = parameter.name, parameter.shape
        if name == "patch_embedding/kernel":
            shape = (spec.patch_size**2 * 3, spec.hidden_size)
        if name == f"{layer_name(0)}/attention_norm/scale":
            found |= rotary_parameters(spec)
        if name == "position_embedding":
            found[name] = _positions(source)
        elif name.startswith(("pooling/query", "pooling/key", "pooling/probe")):
            if name == "pooling/probe":
                for part, wanted in (("kernel", (spec.hidden_size, spec.num_heads)), ("bias", (spec.num_heads,))):
                    found[f"pooling/scores/{part}"] = _parameter(scores, f"pooling/scores/{part}", wanted)
        else:
            found[name] = _parameter(source, name, shape)
    return found


def folded_parameters(  # noqa: PLR0912, PLR0915 - one line for each parameter, in the model's order
    source: ParameterSource, *, extras: Extras = PLAIN
) -> Tensors:
    """The parameters for TFLite: kernels [out, in], LayerNorm folded into the next Dense, 1/√d folded into the query.

    With y = scale·n + shift the LayerNorm's output and z = yW + b the next Dense: z = n(diag(scale)W) + (b + shift·W),
    which leaves the graph only the normalisation n. The final LayerNorm keeps its scale and shift when no Dense follows
    it, or not only one, as where it is an output; and so do those of `extras`. A mean over patches, or a part of
    the tokens, is between the two without harm. A Dense of `extras` has a `scale` that its output is multiplied with.
    """
    spec, kept = source.spec, extras.scales
    found: dict[str, LazyTensor] = {}

    def add(name: str, shape: tuple[int, ...], read: Callable[[], np.ndarray]) -> None:
        found[name] = LazyTensor(name, shape, _FLOAT32, read)

    def keep(norm: str, width: int = spec.hidden_size) -> None:
        for part in ("scale", "bias"):
            found[f"{norm}/{part}"] = _parameter(source, f"{norm}/{part}", (width,))

    def dense(name: str, shape: tuple[int, int], norm: str | None = None, factor: float = 1.0) -> None:
        if norm in kept:
            keep(norm)
            norm = None
        add(f"{name}/kernel", shape[::-1], lambda: fold_kernel(source, name, norm, factor))
        add(f"{name}/bias", shape[1:], lambda: fold_bias(source, name, norm, factor))
        if name in kept:
            found[f"{name}/scale"] = _parameter(source, f"{name}/scale", shape[1:])

    d, m, patch = spec.hidden_size, spec.mlp_size, spec.patch_size**2 * 3
    add(
        "patch_embedding/kernel",
        (d, patch),
        lambda: transposed(source.read("patch_embedding/kernel").reshape(patch, d)),
    )
    found["patch_embedding/bias"] = _parameter(source, "patch_embedding/bias", (d,))
    if "patch_embedding" in kept:
        found["patch_embedding/scale"] = _parameter(source, "patch_embedding/scale", (d,))
    for name in ("class_token", "register_tokens"):
        tokens = {"class_token": spec.class_token, "register_tokens": spec.num_registers}[name]
        if tokens:
            found[name] = _parameter(source, name, (1, int(tokens), d))
    if spec.positions == "learned":
        found["position_embedding"] = _positions(source)
    if spec.embedding_norm:
        keep("embedding_norm")
    found |= rotary_parameters(spec)
    for index in range(spec.num_layers):
        prefix = layer_name(index)
        norm_1, norm_2 = f"{prefix}/attention_norm", f"{prefix}/mlp_norm"
        dense(f"{prefix}/attention/query", (d, d), norm_1, spec.head_size**-0.5)
        dense(f"{prefix}/attention/key", (d, d), norm_1)
        dense(f"{prefix}/attention/value", (d, d), norm_1)
        dense(f"{prefix}/attention/output", (d, d))
        apart = extras.outliers.get(f"{prefix}/mlp", 0)
        dense(f"{prefix}/mlp/dense_1", (d, m - apart), norm_2)
        dense(f"{prefix}/mlp/dense_2", (m - apart, d))
        if apart:
            dense(f"{prefix}/mlp/outliers/dense_1", (d, apart), norm_2)
            dense(f"{prefix}/mlp/outliers/dense_2", (apart, d))
    final = "encoder/norm"
    norm: str | None = final if spec.final_norm else None
    if spec.returns_normed:
        kept |= {final}
    if spec.attention_pooling:
        if final in kept:
            keep(final)
        scores, folded = _Scores(source), None if final in kept else final
        add("pooling/scores/kernel", (spec.num_heads, d), lambda: fold_kernel(scores, "pooling/scores", folded))
        add("pooling/scores/bias", (spec.num_heads,), lambda: fold_bias(scores, "pooling/scores", folded))
        dense("pooling/value", (d, d), final)
        dense("pooling/output", (d, d))
        dense("pooling/mlp/dense_1", (d, m), "pooling/norm")
        dense("pooling/mlp/dense_2", (m, d))
        norm = None
    if spec.pre_logits_size is not None:
        dense("pre_logits", (spec.pooled_size, spec.pre_logits_size), norm)
        norm = None
    width = spec.hidden_size  # of `norm`, which nothing has read yet
    for name, step, inputs, outputs in spec.head_steps:
        if step.kind == DENSE:
            dense(name, (inputs, outputs), norm)
        elif norm is not None:
            keep(norm, width)
        norm, width = (name, inputs) if step.kind == NORM else (None, inputs)
    if spec.num_classes is not None:
        dense("head", (spec.classifier_inputs, spec.num_classes), norm)
    elif norm is not None:
        keep(norm)
    return found


def rotary_parameters(spec: ViTSpec) -> Tensors:
    """The tables of rotary positions [1, tokens, 1, head size], which are constants of the model; none without them."""
    if spec.positions != "rotary":
        return {}
    shape = (1, spec.num_tokens, 1, spec.head_size)
    tables = computed_together(
        [(name, shape, _FLOAT32) for name in ("rotary/cosines", "rotary/sines")],
        lambda: tuple(table.reshape(shape) for table in rotary_tables(spec)),
    )
    return {table.name: table for table in tables}


def score_kernel(source: ParameterSource) -> np.ndarray:
    """Kernel [width, heads] of the scores of attention pooling, float32: the same query asks every token.

    For each head, q·(xW + b)/√d is x(Wq/√d) and a constant, which the softmax over tokens leaves out.
    """
    spec = source.spec
    query = source.read("pooling/probe").reshape(1, -1) @ source.read("pooling/query/kernel")
    query = (query + source.read("pooling/query/bias")).reshape(spec.num_heads, spec.head_size)
    key = source.read("pooling/key/kernel").reshape(-1, spec.num_heads, spec.head_size)
    found = np.einsum("ihd,hd->ih", key, query, dtype=np.float64) * spec.head_size**-0.5
    return found.astype(np.float32)


class _Scores:
    """The `source` with the scores of attention pooling as a Dense of its own."""

    def __init__(self, source: ParameterSource) -> None:
        self._source, self.spec = source, source.spec

    def read(self, name: str) -> np.ndarray:
        if name == "pooling/scores/kernel":
            return score_kernel(self._source)
        if name == "pooling/scores/bias":
            return np.zeros(self.spec.num_heads, np.float32)
        return self._source.read(name)


def _positions(source: ParameterSource) -> LazyTensor:
    """The position embedding with rows of zeros for the registers, so that it is added to all tokens at once."""
    spec = source.spec
    first, rows = int(spec.class_token), np.zeros((1, spec.num_registers, spec.hidden_size), np.float32)

    def read() -> np.ndarray:
        values = source.read("position_embedding")
        return np.concatenate([values[:, :first], rows, values[:, first:]], axis=1) if spec.num_registers else values

    return LazyTensor("position_embedding", (1, spec.num_tokens, spec.hidden_size), _FLOAT32, read)


def fold_kernel(source: ParameterSource, dense: str, norm: str | None, factor: float = 1.0) -> np.ndarray:
    """Kernel [out, in] of `dense` with the scale of LayerNorm `norm` and a constant `factor` multiplied in.

    A Dense that reads two normalized vectors one after the other has the scale twice.
    """
    scale = source.read(f"{norm}/scale") if norm is not None else None
    kernel = source.read(f"{dense}/kernel")
    if scale is not None:
        kernel = kernel * np.tile(scale, len(kernel) // len(scale))[:, np.newaxis]
    return transposed(kernel * np.float32(factor) if factor != 1.0 else kernel)


def fold_bias(source: ParameterSource, dense: str, norm: str | None, factor: float = 1.0) -> np.ndarray:
    """Bias [out] of `dense` with the shift of LayerNorm `norm` carried through its kernel, times `factor`."""
    kernel = source.read(f"{dense}/kernel") if norm is not None else None
    bias = source.read(f"{dense}/bias")
    if kernel is not None:
        shift = source.read(f"{norm}/bias")
        bias = bias + np.tile(shift, len(kernel) // len(shift)) @ kernel
    return bias * np.float32(factor) if factor != 1.0 else bias


def transposed(matrix: np.ndarray) -> np.ndarray:
    """A contiguous transpose.

    Copied some rows at a time, each written to a cache line that is still there when the next one is: of kernels as
    wide as ViT-H's that takes a sixth of the time of copying all at once.
    """
    found = np.empty(matrix.shape[::-1], matrix.dtype)
    for start in range(0, len(matrix), _LINE):
        found[:, start : start + _LINE] = matrix[start : start + _LINE].T
    return found


def rounded_to_float16(values: np.ndarray, name: str) -> np.ndarray:
    """Round the parameter `name` to float16.

    Raises:
        InputError: a value is too large for float16 and would become infinite, or is not a number.
    """
    largest, limit = float(np.max(np.abs(values), initial=0.0)), float(np.finfo(np.float16).max)
    if not largest <= limit:
        raise InputError(
            f"{name} contains {largest:g}, which float16 cannot hold ({limit:g} at most): export float32 or int8."
        )
    return values.astype(np.float16)


def through_float16(kernel: np.ndarray) -> np.ndarray:
    """The patch embedding's kernel as float16 holds it (a `Rounding`).

    Raises:
        InputError: see `rounded_to_float16`.
    """
    return rounded_to_float16(kernel, "patch_embedding/kernel").astype(np.float32)


def halved(tensor: LazyTensor) -> LazyTensor:
    """`tensor` in float16.

    Raises:
        InputError: when it is read, see `rounded_to_float16`.
    """
    return replace(tensor, dtype=np.dtype(np.float16), read=lambda: rounded_to_float16(tensor.read(), tensor.name))


def _parameter(source: ParameterSource, name: str, shape: tuple[int, ...]) -> LazyTensor:
    return LazyTensor(name, shape, _FLOAT32, lambda: source.read(name).reshape(shape))
