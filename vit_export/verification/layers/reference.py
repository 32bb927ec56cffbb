"""The reference's residual stream, one image at a time and from any point of it."""

from pathlib import Path

import numpy as np

from vit_export.base.errors import StructureError
from vit_export.deployment.half_range import Fit, FittedParameters
from vit_export.model.in_memory import assign_parameters
from vit_export.model.saved_model import SavedModelParameters
from vit_export.verification import metrics
from vit_export.verification.checks import LIMITS


def point_names(num_layers: int) -> tuple[str, ...]:
    """Every point in the model's order: embedding, attention and mlp of each encoder layer (from 0), norm, output."""
    layers = (f"encoder layer {i} {part}" for i in range(num_layers) for part in ("attention", "mlp"))
    return ("embedding", *layers, "encoder norm", "output")


class ReferenceStream:
    """The Keras model of a SavedModel, run branch by branch.

    Points are counted as in `point_names`; `last` is the last mlp, behind which only the first `ViTSpec.kept_tokens`
    matter. Tokens are float32 [rows, width], one image's.

    `fit` says how the file's stream was fitted to 16-bit floats: this one is then the same.

    Raises:
        InputError: on construction, when the SavedModel is not one of this package or is damaged.
    """

    def __init__(self, saved_model: Path, fit: Fit | None = None) -> None:
        from vit_export.model.keras_model import reference_model

        parameters = FittedParameters(SavedModelParameters(saved_model), fit or Fit())
        self.spec = parameters.spec
        self.last = 2 * self.spec.num_layers
        self._path = saved_model
        self._model = reference_model(self.spec)
        assign_parameters(self._model, parameters.read)

    def stream(self, image: np.ndarray) -> list[np.ndarray]:
        """The tokens [tokens, width] of `image`, normalized float32 [s, s, 3], at every point up to `last`."""
        tokens, norm = self._model.embedding(image[np.newaxis]), self._model.embedding_norm
        found = [_numpy(tokens if norm is None else norm(tokens))]
        for point in range(1, self.last + 1):
            found.append(self.after(point - 1, point, found[-1]))
        return found

    def after(self, start: int, point: int, tokens: np.ndarray) -> np.ndarray:
        """The tokens at `point` (at most `last`) that follow from `tokens` at `start`.

        Attention needs all rows of an image, mlp takes any.
        """
        for step in range(start, point):
            index, is_mlp = divmod(step, 2)
            layer, x = self._model.encoder_layers[index], tokens[np.newaxis]
            if is_mlp:
                added = layer.dense_2(layer.activation(layer.dense_1(layer.mlp_norm(x))))
            else:
                added = layer.attention(layer.attention_norm(x), rotary=self._model.rotary)
            tokens = tokens + _numpy(added)
        return tokens

    def normed(self, tokens: np.ndarray) -> np.ndarray:
        """What leaves the final norm [rows, width], from the tokens at `last`: the kept ones, or their mean's."""
        norm = self._model.norm
        assert norm is not None, "models that return tokens alone are refused before"
        return _numpy(norm(self._before_norm(tokens)[np.newaxis]))

    def unscaled(self, tokens: np.ndarray) -> np.ndarray:
        """`normed` before its scale and shift, which a file may hold in the weights that follow."""
        rows = self._before_norm(tokens).astype(np.float64)
        centred = rows - rows.mean(axis=1, keepdims=True)
        variance = (centred**2).mean(axis=1, keepdims=True)
        return (centred / np.sqrt(variance + self.spec.layer_norm_epsilon)).astype(np.float32)

    def output(self, tokens: np.ndarray) -> np.ndarray:
        """The model's output [outputs], from the tokens at `last`."""
        return np.asarray(self._model.outputs_of(tokens[np.newaxis])[self.spec.output_name], np.float32)[0]

    def _before_norm(self, tokens: np.ndarray) -> np.ndarray:
        if self.spec.pooled_by == "mean_norm":
            return tokens[self.spec.num_prefix_tokens :].mean(axis=0, keepdims=True)
        return tokens[: self.spec.kept_tokens]

    def require_output(self, tokens: np.ndarray, wanted: np.ndarray) -> None:
        """Raise StructureError unless `tokens` at `last` lead to `wanted` [outputs], the SavedModel's own output."""
        worst = metrics.compare(wanted[np.newaxis], self.output(tokens)[np.newaxis], classes=False).worst_relative
        if not worst <= LIMITS["saved_model", "float32", None].worst_difference:
            raise StructureError(
                f"The layers of {self._path}, run one by one, differ from the SavedModel as a whole by {worst:.2g} of "
                "the range of its output: its graph does not belong to its parameters; export the model again."
            )


def _numpy(tokens: object) -> np.ndarray:
    """The tokens of the only image of `tokens` [1, rows, width]."""
    return np.asarray(tokens, np.float32)[0]
