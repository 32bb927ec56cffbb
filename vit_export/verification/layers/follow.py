"""The comparison itself: a file's residual stream beside the reference's, image by image."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from vit_export.artifacts.onnx_file import require_own_data
from vit_export.artifacts.read import read_facts
from vit_export.base.errors import InputError, VitExportError, first_line
from vit_export.base.machine import release_memory, usable_cores
from vit_export.base.quiet import import_tensorflow
from vit_export.deployment.half_range import KEY, Fit
from vit_export.model.artifact import Artifact, Precision
from vit_export.model.outputs import RETURNS, transformers_names
from vit_export.model.record import ModelRecord, read_record
from vit_export.runtimes.runner import Runner, RunnerError, open_runner
from vit_export.verification import metrics
from vit_export.verification.checks import LIMITS, Limits, figures, limits_of
from vit_export.verification.evidence import Location
from vit_export.verification.layers.judge import judge
from vit_export.verification.layers.matching import Match, forms, match
from vit_export.verification.layers.onnx import OnnxInterior
from vit_export.verification.layers.reference import ReferenceStream, point_names
from vit_export.verification.layers.tensors import Interior
from vit_export.verification.layers.tflite import TFLiteInterior
from vit_export.verification.layers.trail import Figures, Pair, strangers

IMAGES = 4
"""Images that are looked at: a fault shows on every one, and each takes two runs of the reference."""

_OTHERS: dict[Precision, Limits] = {
    "float32": LIMITS["onnx", "float32", None],
    "float16": LIMITS["onnx", "float16", None],
    "int8": LIMITS["onnx", "int8", "qdq"],
}
"""For files of a scheme that has no row of its own."""


def locate(
    saved_model: Path,
    artifact: Artifact,
    images: np.ndarray,
    fed: np.ndarray,
    *,
    output: str | None = None,
    trained: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Location:
    """The first point of the residual stream where the file `artifact` departs from `saved_model`, one of this package.

    `images` are normalized, float32 [n, s, s, 3]; `fed` the same pictures in the file's own numbers
    (`input_kinds.feed`), also where it takes channels first. The first 4 are looked at. `output` is that of the file
    that is compared, its first one by default; `trained` decides on its limits (`checks.limits_of`). `progress` is told
    (images done, images in all).

    Nothing departs in a file whose output keeps to its limits on these images. In any other the first point departs
    whose SQNR is below that limit, or where what is added to the stream is off by itself: compared with what the
    reference makes of the file's own tensor at the point before.

    Raises:
        InputError: `saved_model` cannot be used, `artifact` is no .tflite or .onnx file, or not one picture for each.
        RunnerError: the file cannot be run, or not with its interior tensors kept.
        StructureError: the SavedModel's graph does not belong to its parameters.
    """
    if artifact.format not in ("tflite", "onnx"):
        raise InputError(f"Layers of a {artifact.format} cannot be compared: expected a .tflite or .onnx file.")
    if not len(images) or images.shape != fed.shape:
        raise InputError(
            f"There are images {list(images.shape)} and {list(fed.shape)} as the file takes them: expected the same."
        )
    images, fed = images[:IMAGES], fed[:IMAGES]
    import_tensorflow()
    path = Path(artifact.path)
    if artifact.format == "onnx":
        with _reading(path):
            require_own_data(path)
    truth = open_runner(saved_model, "saved_model")
    first = truth.output.name
    names = transformers_names(read_record(saved_model).spec)
    others = {*RETURNS, *names.values()} - {first, names.get(first)}
    if first == "tokens" or output in others:
        raise InputError("Layers are compared by the vector that a model returns, which is not what was compared.")
    wanted = _outputs(truth, images)
    runner = open_runner(path, artifact.format, usable_cores(), output)
    given, entry, place = _outputs(runner, fed), runner.inputs[0], runner.outputs.index(runner.output)
    del runner
    release_memory()
    record = read_facts(path).record
    fit = Fit.from_dict(ModelRecord.from_dict(dict(record)).weights.get(KEY)) if record else Fit()
    reference = ReferenceStream(saved_model, fit) if fit else ReferenceStream(saved_model)
    with _reading(path):
        interior = (TFLiteInterior if artifact.format == "tflite" else OnnxInterior)(path, entry, place)
        trail = _Trail(reference, interior)
        for done, (image, own) in enumerate(zip(images, fed, strict=True)):
            if progress:
                progress(done, len(images))
            trail.follow(image, own, wanted[done], given[done])
    if progress:
        progress(len(images), len(images))
    limits = limits_of(artifact, trained=trained) or _OTHERS[artifact.precision]
    return judge(
        trail.figures,
        limits.sqnr_db,
        artifact.precision,
        len(images),
        agrees=_agree(wanted, given, limits),
        hidden=_agree(wanted, np.stack(trail.outputs), limits),
    )


class _Trail:
    """The stream of one file, followed through one image after the other; `outputs` are with interior tensors kept."""

    def __init__(self, reference: ReferenceStream, interior: Interior) -> None:
        self._reference, self._interior = reference, interior
        self._matches: list[Match | None] | None = None
        self.figures = [Figures(name) for name in point_names(reference.spec.num_layers)]
        self.outputs: list[np.ndarray] = []

    @np.errstate(all="ignore")
    def follow(self, image: np.ndarray, own: np.ndarray, wanted: np.ndarray, given: np.ndarray) -> None:
        """Take in one image [s, s, 3], normalized and as the file takes it, and both outputs for it."""
        reference, interior = self._reference, self._interior
        stream = reference.stream(image)
        reference.require_output(stream[-1], wanted)
        (rows, width), kept = stream[0].shape, reference.spec.kept_tokens
        matches = self._matches or match(
            reference, stream, interior.candidates(own, {rows * width, kept * width, width})
        )
        values = interior.read(own, [m.tensor for m in matches if m])
        self.outputs.append(values[interior.output])
        points = {
            point: Pair(forms(reference, stream, point)[m.form], m.tokens(values[m.tensor], width))
            for point, m in enumerate(matches)
            if m
        }
        if self._matches is None:
            for point in strangers({p: pair for p, pair in points.items() if p <= reference.last}):
                matches[point] = None
                del points[point]
            self._matches = matches
            for figures, m in zip(self.figures, matches, strict=False):
                figures.tensor = m.tensor if m else None
        self._compare(points)
        last = self.figures[-1]
        if wanted.shape == given.shape:
            last.tensor = interior.output
            last.compare(Pair(wanted, given))
            if reference.last in points:
                last.compare_whole(Pair(reference.output(points[reference.last].found), given))

    def _compare(self, points: dict[int, Pair]) -> None:
        """Take in one image's tokens at each point that the file has."""
        reference, before = self._reference, None
        for point, pair in points.items():
            figures = self.figures[point]
            figures.compare(pair)
            if point == 0:
                figures.compare_whole(pair)
            elif before is not None and point <= reference.last:
                start = points[before].found
                follows = reference.after(before, point, start)
                if len(follows) >= len(pair.found):  # from the kept rows alone no others follow
                    rows = slice(len(pair.found))
                    figures.compare_added(start[rows], Pair(follows[rows], pair.found))
            elif before == reference.last:
                tokens = points[before].found
                either = (Pair(make(tokens), pair.found) for make in (reference.normed, reference.unscaled))
                figures.compare_whole(min(either, key=lambda own: own.error))
            before = point


def _outputs(runner: Runner, images: np.ndarray) -> np.ndarray:
    """What a file gives for `images`, one at a time, as [n, outputs]."""
    return np.concatenate([runner.run(image[np.newaxis]) for image in images]).reshape(len(images), -1)


def _agree(wanted: np.ndarray, given: np.ndarray, limits: Limits) -> bool:
    """Whether outputs keep to `limits`, agreement of classes apart."""
    if wanted.shape != given.shape or not np.isfinite(given).all():
        return False
    comparison = metrics.compare(wanted, given, classes=False)
    return all(check.passed for check in figures(comparison, limits, [""] * len(wanted), trained=False))


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what a runtime raises inside the block into a RunnerError."""
    try:
        yield
    except VitExportError:
        raise
    except Exception as error:  # each runtime raises classes of its own
        raise RunnerError(f"{path.name} cannot be run with its interior tensors kept: {first_line(error)}") from error
