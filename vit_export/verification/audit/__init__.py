"""What a file holds beside the reference's parameters: in int8, outputs do not show all that is wrong with it."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from vit_export.artifacts.facts import FileFacts, damage_told
from vit_export.base.errors import InputError
from vit_export.deployment.half_range import KEY, Fit, FittedParameters
from vit_export.model.artifact import Artifact
from vit_export.model.parameters import ParameterSource
from vit_export.model.record import ModelRecord
from vit_export.verification.audit.attributes import attributes
from vit_export.verification.audit.constants import constants
from vit_export.verification.audit.matching import parameters_found
from vit_export.verification.checks import Check


def audited(artifact: Artifact, facts: FileFacts, record: ModelRecord, parameters: ParameterSource) -> Iterator[Check]:
    """The checks "constants" and "attributes" of a file of ours, or how many parameters another tool's holds.

    `record` and `parameters` are the reference's. A file of ours that says that it is of another model is compared by
    that (`origin`); one that another tool changed is another tool's.
    """
    own = facts.record
    if own is not None and own.get("precision") == artifact.precision:
        told = ModelRecord.from_dict({**own})
        if told.spec.is_same_model(record.spec) and told.fingerprint in (None, record.fingerprint):
            fitted = FittedParameters(parameters, Fit.from_dict(told.weights.get(KEY)))
            yield from _ours(artifact, facts, record, fitted)
        return
    # What cannot be read of another tool's file is no fault of it.
    with suppress(InputError), damage_told(Path(facts.path), f".{facts.format}"):
        found, total = parameters_found(Path(facts.path), facts.format, parameters)
        yield Check("parameters_found", True, total, found)


def _ours(artifact: Artifact, facts: FileFacts, record: ModelRecord, parameters: ParameterSource) -> list[Check]:
    try:
        with damage_told(Path(facts.path), f".{facts.format}"):
            return [
                constants(artifact, facts, parameters, record.preprocessing),
                attributes(Path(facts.path), facts.format, parameters.spec),
            ]
    except InputError as error:
        return [Check("constants", False, detail=f"its constants cannot be read: {str(error).rstrip('.')}")]
