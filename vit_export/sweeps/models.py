"""The models of a sweep: each opened once for each image size, what it is, and by what its weights are told apart."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vit_export.base.errors import InputError, VitExportError
from vit_export.base.files import digest_of_folder
from vit_export.base.reporting import Reporter
from vit_export.base.wording import worded
from vit_export.model.record import ModelRecord, assumptions_told
from vit_export.model.spec import LONGEST_NAME, ImageSize, ViTSpec, shown_size
from vit_export.model.variants import VARIANTS, get_variant
from vit_export.sweeps.plan import SweepRequest
from vit_export.weights.checkpoint import Checkpoint
from vit_export.weights.naming import own_name
from vit_export.weights.open import open_checkpoint
from vit_export.weights.remote.fetch import is_remote, shown

_SEED = 0
_DIGESTS = ("sha256", "other_files", "revision")
"""What a record of weights says of their bytes: digests of the files that were read, or a commit."""


@dataclass(frozen=True)
class Model:
    """One model at one size: its `name` in the sweep, where it is as `given` (no password in it), and as it is opened.

    `location` is None for random weights. `record` says what it is and `identity`, JSON-ready, which weights it has;
    where it cannot be exported both are missing and `problem` is the sentence why.
    """

    name: str
    given: str
    location: str | None
    size: ImageSize | None
    record: ModelRecord | None = None
    identity: Mapping[str, Any] = field(default_factory=dict)
    problem: str | None = None

    @property
    def label(self) -> str:
        """Name and size: 'vit_s32-224'."""
        return self.name if self.size is None else f"{self.name}-{shown_size(self.size)}"


def open_models(request: SweepRequest, say: Reporter) -> list[Model]:
    """The models of `request`, each at every size; notes on a checkpoint are told once.

    Raises:
        InputError: something is neither a variant nor the place of a checkpoint, or a model has no such size.
    """
    for given in request.models:
        if given not in VARIANTS and not is_remote(given) and not os.path.exists(given):
            if os.sep in given or "." in given:
                raise InputError(f"There is no {given:.200}, expected a variant or a checkpoint: check the path.")
            get_variant(given)
    names = _names(request.models)
    found = []
    for given in request.models:
        told: set[str] = set()
        for size in request.image_sizes or (None,):
            model, notes = _opened(given, names[given], size, request, say)
            found.append(model)
            for note in notes:
                if note not in told:
                    say.note(worded(f"{names[given]}: {note}"))
                told.add(note)
    return found


def _names(models: Sequence[str]) -> dict[str, str]:
    """What each model is called: a variant, or as the place of the checkpoint says, each differently."""
    names: dict[str, str] = {}
    for given in models:
        base = given if given in VARIANTS else own_name(given) or "model"
        name, number = base, 1
        while name in names.values():
            number += 1
            name = f"{base[: LONGEST_NAME - 5]}-{number}"
        names[given] = name
    return names


def _opened(
    given: str, name: str, size: ImageSize | None, request: SweepRequest, say: Reporter
) -> tuple[Model, Sequence[str]]:
    """A model at `size`, its own where None, and what is to be noted of it."""
    returns, told = ("features",) if request.features else (), shown(given)
    if given in VARIANTS:
        spec = ViTSpec.of(given, **({} if size is None else {"image_size": size}))
        record = ModelRecord.random(spec.returning(returns or tuple(spec.outputs)), _SEED)
        return Model(name, told, None, spec.image_size, record, {"random": _SEED}), ()
    try:
        checkpoint = _checkpoint(given, size, say)
        spec = checkpoint.returning(returns)
    except VitExportError as error:
        return Model(name, told, given, size, problem=error.written), ()
    wanted = spec if size is None else spec.with_(image_size=size)  # a size it cannot have is refused before all else
    try:
        identity = _identity(checkpoint)
        checkpoint = checkpoint.named(name).adapted(wanted.with_(name=name)).described()
    except VitExportError as error:
        return Model(name, told, given, size, problem=error.written), ()
    record = checkpoint.stated
    revision = record.weights.get("revision")
    pinned = given.lower().startswith("hf:") and isinstance(revision, str)
    location = f"{given.partition('@')[0]}@{revision}" if pinned else given
    return (
        Model(name, told, location, wanted.image_size, record, identity),
        (*checkpoint.notes, *assumptions_told(record)),
    )


def _checkpoint(given: str, size: ImageSize | None, say: Reporter) -> Checkpoint:
    """The checkpoint, told its size only where it does not say that itself."""
    try:
        return open_checkpoint(given, progress=say.progress, note=say.note)
    except InputError:
        if size is None:
            raise
        return open_checkpoint(given, image_size=size, progress=say.progress, note=say.note)


def _identity(checkpoint: Checkpoint) -> dict[str, Any]:
    """Which weights they are, wherever they lie."""
    if checkpoint.saved_model is not None:
        return {"saved_model": digest_of_folder(checkpoint.saved_model)}
    return {name: value for name, value in checkpoint.record.weights.items() if name in _DIGESTS}
