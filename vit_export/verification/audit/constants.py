"""Every constant of a file of ours against the reference's parameter that it stands for, each within its rounding.

The parameters are made anew, by the rewrites that made the file (`deployment.rewrites`, `int8.equalize`), with what was
moved between them read off the file (`undo`). One tensor is in memory at a time.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vit_export.artifacts.facts import FileFacts
from vit_export.base.lazy import LazyTensor, Tensors
from vit_export.deployment.rewrites import FoldedInput, folded_parameters, plain_parameters
from vit_export.int8.equalize import EqualizedParameters, Factors, norm_groups
from vit_export.int8.told import rounded_by_error, told
from vit_export.model.artifact import Artifact
from vit_export.model.parameters import ParameterSource, layer_name
from vit_export.model.preprocessing import Preprocessing
from vit_export.verification.audit.held import Held, HeldParameters
from vit_export.verification.audit.undo import Undone, undo
from vit_export.verification.checks import Check, check

QUERY_FOLDED = ("qdq", "symmetric", "w8a16")
"""Schemes of ONNX whose query kernels hold 1/√d; those of TFLite all do."""

IN_PAIRS = ("dynamic", "qdq")
"""Schemes of ONNX whose weights are in pairs, and channels in an order that suits these."""

SLACK = 1e-5
"""What sums in float32 may be off, in parts of the largest terms."""
ROUNDED_BY_ERROR = 0.02
"""The part of a kernel's weights beyond half a step from which on it was rounded by the error of its output, where the
file's record, an older one, does not say which were."""
MOST_STEPS, MOST_RMS, MOST_GAIN = 16.0, 1.5, 0.015
"""How far such a weight may be from its parameter in steps, an output channel in all of its weights (root mean square),
and the size of a channel in parts."""


@dataclass(frozen=True)
class Difference:
    """One constant that is not what it should be: by `times` what its rounding allows, at its worst element."""

    name: str
    times: float
    detail: str


@np.errstate(all="ignore")
def constants(artifact: Artifact, facts: FileFacts, reference: ParameterSource, preprocessing: Preprocessing) -> Check:
    """Whether the file of ours holds the parameters of `reference`, and all of them."""
    held = HeldParameters(Path(facts.path), facts.format)
    known = told(facts.record or {}, reference.spec)
    if known is not None and facts.format != "tflite":
        known = replace(known, outliers={})  # no .onnx has such groups
    grouped = tuple(f"{mlp}/" for mlp in known.outliers) if known is not None else ()
    plain = {name: parameter for name, parameter in plain_parameters(reference).items() if not name.startswith(grouped)}
    if found := _of_other_size(held, plain):
        return found
    expected, uncertain = _expected(artifact, facts, held, known, reference, preprocessing)
    if found := _of_other_size(held, expected):
        return found
    wrong, compared = [], 0
    for name, parameter in expected.items():
        if name not in held:
            wrong.append(Difference(name, np.inf, f"{name} is not in the file"))
        elif name not in uncertain.unknown:
            compared += 1
            if difference := _difference(name, held.read(name), parameter.read(), uncertain):
                wrong.append(difference)
    worst = sorted(wrong, key=lambda difference: -difference.times)
    more = f" (and {len(worst) - 1} more of {len(expected)})" if len(worst) > 1 else ""
    detail = f"a constant is not the reference's parameter: {worst[0].detail}{more}" if worst else ""
    return check("constants", not worst, len(expected), compared, detail)


def _of_other_size(held: HeldParameters, expected: Tensors) -> Check | None:
    """The check failed by a parameter that has another size in the file than in `expected`."""
    for name, parameter in expected.items():
        if name in held and held.size(name) != math.prod(parameter.shape):
            sizes = f"{held.size(name)} numbers, expected {math.prod(parameter.shape)}"
            return Check("constants", False, detail=f"{name} has {sizes}")
    return None


@dataclass(frozen=True)
class Uncertain:
    """How far parameters may be off by more than rounding: `undone` factors, and those of which nothing is known.

    `by_error` are the kernels that were rounded by the error of their outputs, None where the file does not tell.
    """

    undone: Undone
    int8: bool
    by_error: frozenset[str] | None
    unknown: frozenset[str]
    norm_of: dict[str, str]
    expected: dict[str, LazyTensor]

    def may_be_by_error(self, name: str, part: float) -> bool:
        """Whether the parameter called `name`, `part` of which is beyond its rounding, was rounded by error."""
        if not (self.int8 and name.startswith("encoder/") and name.endswith("/kernel")):
            return False
        return part > ROUNDED_BY_ERROR if self.by_error is None else name in self.by_error


def _expected(
    artifact: Artifact,
    facts: FileFacts,
    held: HeldParameters,
    known: Factors | None,
    reference: ParameterSource,
    preprocessing: Preprocessing,
) -> tuple[dict[str, LazyTensor], Uncertain]:
    """What the file should hold, by name; kernels [in, out]. `known` is what its record tells."""
    spec, tflite, int8 = reference.spec, facts.format == "tflite", artifact.precision == "int8"
    factor = spec.head_size**-0.5 if tflite or artifact.scheme in QUERY_FOLDED else 1.0
    in_pairs = not tflite and artifact.scheme in IN_PAIRS
    undone = Undone(Factors())
    if int8:
        undone = undo(held, reference, known or Factors(), query_factor=factor, in_pairs=in_pairs)
    kind = (artifact.inputs[0].values if artifact.inputs else "") or "normalized"

    def stored(kernel: np.ndarray) -> np.ndarray:
        own = held.read("patch_embedding/kernel").values if "patch_embedding/kernel" in held else kernel
        return own.astype(np.float32)

    source = FoldedInput(EqualizedParameters(reference, undone.factors), preprocessing, kind, stored)
    norms = {norm: f"{norm}/scale" in held for norm in norm_groups(spec)}
    if tflite:
        scales = frozenset((*(norm for norm, is_held in norms.items() if is_held), *undone.factors.outputs))
        extras = replace(undone.factors.extras, scales=scales)
        found = {
            name: _turned(parameter) if name.endswith("/kernel") else parameter
            for name, parameter in folded_parameters(source, extras=extras).items()
        }
    else:
        found = {
            name: _times(parameter, factor) if "/attention/query/" in name and factor != 1 else parameter
            for name, parameter in plain_parameters(source).items()
        }
    unknown = set[str]()
    for index in range(spec.num_layers):
        attention, mlp = f"{layer_name(index)}/attention", f"{layer_name(index)}/mlp"
        for writer, reader in ((f"{mlp}/dense_1", f"{mlp}/dense_2"), (f"{attention}/value", f"{attention}/output")):
            _reorder(found, undone, writer, reader)
        if f"{mlp}/hidden/scale" in held:
            _unscale(found, held, mlp)
        if int8 and known is None:
            biases = (f"{attention}/key", f"{attention}/value", f"{attention}/output", f"{mlp}/dense_2")
            unknown |= {f"{dense}/bias" for dense in biases}
    norm_of = {dense: norm for norm, group in norm_groups(spec).items() for dense in group}
    norm_of |= {f"{mlp}/outliers/dense_1": f"{mlp}_norm" for mlp in undone.factors.outliers}
    return found, Uncertain(undone, int8, rounded_by_error(facts.record or {}), frozenset(unknown), norm_of, found)


def _turned(parameter: LazyTensor) -> LazyTensor:
    return LazyTensor(parameter.name, parameter.shape[::-1], parameter.dtype, lambda: parameter.read().T)


def _times(parameter: LazyTensor, factor: float) -> LazyTensor:
    return LazyTensor(parameter.name, parameter.shape, parameter.dtype, lambda: parameter.read() * np.float32(factor))


def _reorder(found: dict[str, LazyTensor], undone: Undone, writer: str, reader: str) -> None:
    """Put the channels that `writer` writes and `reader` reads in the file's order."""
    order = undone.orders.get(writer)
    if order is None:
        return

    def indexed(name: str, rows: bool) -> None:
        parameter = found[name]
        place = order if rows else (..., order)
        found[name] = LazyTensor(name, parameter.shape, parameter.dtype, lambda: parameter.read()[place])

    indexed(f"{writer}/kernel", rows=False)
    indexed(f"{writer}/bias", rows=False)
    indexed(f"{reader}/kernel", rows=True)


def _unscale(found: dict[str, LazyTensor], held: HeldParameters, mlp: str) -> None:
    """Give the rows of the second kernel the inverse of what the file multiplies GELU's output with."""
    name = f"{mlp}/dense_2/kernel"
    parameter = found[name]

    def read() -> np.ndarray:
        scale = held.read(f"{mlp}/hidden/scale").values.reshape(-1, 1)
        return parameter.read() / np.where(scale == 0, 1, scale)

    found[name] = LazyTensor(name, parameter.shape, parameter.dtype, read)


def _difference(name: str, own: Held, wanted: np.ndarray, uncertain: Uncertain) -> Difference | None:
    """What is wrong with one parameter; None where nothing is."""
    wanted = wanted.astype(np.float64)
    if own.values.shape != wanted.shape:
        wanted = wanted.reshape(own.values.shape)
    if not np.isfinite(own.values).all():
        return Difference(name, np.inf, f"{name} has values that are not finite")
    allowed = own.rounding + SLACK * _largest(name, wanted) + _doubt(name, wanted, uncertain)
    error = np.abs(own.values - wanted)
    beyond = ~(error <= allowed * (1 + 1e-6))  # what is no number is beyond everything
    part = float(beyond.mean())
    if not beyond.any():
        return None
    if uncertain.may_be_by_error(name, part):
        return _by_error(name, replace(own, values=np.where(np.isinf(allowed), wanted, own.values)), wanted)
    return _worst(name, own, wanted, error / np.maximum(allowed, 1e-30), f"{100 * part:.2g} % of its values are off")


def _by_error(name: str, own: Held, wanted: np.ndarray) -> Difference | None:
    """The same of a kernel whose weights make up for each other's rounding."""
    error = np.abs(own.values - wanted)
    if not (own.step > 0).all():
        return _worst(name, own, wanted, error / max(float(np.abs(wanted).max()), 1e-30), "it is another kernel")
    steps = error / own.step
    rms = np.sqrt((steps**2).mean(axis=0))
    power = (wanted**2).sum(axis=0)
    gain = np.where(power > 0, (own.values * wanted).sum(axis=0) / np.where(power > 0, power, 1), 1.0)
    # A column of few levels says less of its size.
    spread = MOST_GAIN + 4 * np.sqrt((error**2).mean(axis=0) / np.maximum(power, 1e-30))
    times = max(steps.max() / MOST_STEPS, rms.max() / MOST_RMS, (np.abs(gain - 1) / spread).max())
    if times <= 1:
        return None
    column = int(np.argmax(np.maximum(rms / MOST_RMS, np.abs(gain - 1) / spread)))
    return Difference(
        name,
        float(times),
        f"{name} is off by up to {steps.max():.3g} levels, output {column} by {rms[column]:.2g} of them (root mean "
        f"square), and {gain[column]:.3g} times the reference's",
    )


def _worst(name: str, own: Held, wanted: np.ndarray, times: np.ndarray, text: str) -> Difference:
    place = np.unravel_index(int(times.argmax()), times.shape)
    at = ", ".join(map(str, place))
    found, expected = own.values[place], wanted[place]
    return Difference(
        name, float(times[place]), f"{name}[{at}] is {found:.6g}, expected {expected:.6g} to rounding ({text})"
    )


def _largest(name: str, wanted: np.ndarray) -> float:
    """The size of the terms that a parameter is summed up from, about."""
    largest = float(np.abs(wanted).max(initial=0.0))
    return max(largest, 1.0) if name.endswith("/bias") else largest


def _times_size(part: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    return np.where(np.isinf(part), np.inf, part * np.abs(wanted))


def _doubt(name: str, wanted: np.ndarray, uncertain: Uncertain) -> np.ndarray:
    """How far the parameter may be off because factors are known no better."""
    dense, _, part = name.rpartition("/")
    undone = uncertain.undone
    found = np.zeros((1,) * wanted.ndim)
    doubt = undone.doubt.get(dense)
    if doubt is not None and part in ("kernel", "bias"):
        if not dense.endswith("/output"):
            found = found + _times_size(doubt, wanted)
        elif part == "kernel":
            found = found + _times_size(doubt[:, np.newaxis], wanted)
    norm = undone.norm_doubt.get(uncertain.norm_of.get(dense, ""))
    if norm is not None and part == "kernel":
        found = found + _times_size(norm[0][:, np.newaxis], wanted)
    if norm is not None and part == "bias":
        # The factor of a row is in its kernel; a centre is moved by the kernel as the reference has it.
        kernel = (
            np.abs(uncertain.expected[f"{dense}/kernel"].read())
            / np.abs(undone.factors.norms[uncertain.norm_of[dense]])[:, np.newaxis]
        )
        found = found + norm[1] @ kernel
    return found
