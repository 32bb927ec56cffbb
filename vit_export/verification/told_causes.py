"""Why what a file tells other programs (`told`) is wrong: rows of a table that `causes` looks through."""

from collections.abc import Callable, Mapping

import numpy as np

from vit_export.model.input_kinds import KINDS, left_to_do
from vit_export.verification.told import same_numbers
from vit_export.verification.trial import Trial


def _mean_and_std(trial: Trial) -> tuple[list[float], list[float], np.ndarray, np.ndarray] | None:
    """Mean and std as they are told, and as they should be; None where they are the same, or no numbers."""
    if trial.told is None or not {"mean", "std"} <= {*trial.told.said} & {*trial.told.wanted}:
        return None
    (mean, std), wanted = ([facts[name] for name in ("mean", "std")] for facts in (trial.told.said, trial.told.wanted))
    if not isinstance(mean, list) or not isinstance(std, list):
        return None
    if same_numbers(mean, wanted[0]) and same_numbers(std, wanted[1]):
        return None
    return mean, std, np.array(wanted[0]), np.array(wanted[1])


def _told_bgr(trial: Trial) -> str | None:
    if (found := _mean_and_std(trial)) is None:
        return None
    mean, std, wanted_mean, wanted_std = found
    if not (same_numbers(mean, list(wanted_mean[::-1])) and same_numbers(std, list(wanted_std[::-1]))):
        return None
    return "the mean and std that the file tells other programs are in BGR order"


def _told_pixels(trial: Trial) -> str | None:
    if (found := _mean_and_std(trial)) is None or trial.record is None:
        return None
    mean, std, wanted_mean, wanted_std = found
    if same_numbers(mean, list(wanted_mean / 255)) and same_numbers(std, list(wanted_std / 255)):
        return "the mean and std that the file tells other programs are for values from 0 to 1, not for pixels to 255"
    for kind in KINDS:
        other = [255 * np.array(part) for part in left_to_do(kind, trial.record.preprocessing)]
        if same_numbers(mean, list(other[0])) and same_numbers(std, list(other[1])):
            return f"the mean and std that the file tells other programs are those of a file that takes {kind} images"
    return None


def _told_labels(trial: Trial) -> tuple[list[str], list[str]] | None:
    """The labels as they are told (empty where there are none) and as they should be; None where they are the same."""
    if trial.told is None or not trial.told.wanted.get("labels"):
        return None
    said, wanted = trial.told.said.get("labels", []), list(trial.told.wanted["labels"])
    return (said, wanted) if isinstance(said, list) and said != wanted else None


def _told_background(trial: Trial) -> str | None:
    if (found := _told_labels(trial)) is None or found[0][1:] != found[1]:
        return None
    return "the labels that the file tells other programs begin with a background class, which the model does not have"


def _told_exchanged(trial: Trial) -> str | None:
    if (found := _told_labels(trial)) is None or sorted(map(str, found[0])) != sorted(found[1]):
        return None
    return "the labels that the file tells other programs are the reference's in another order"


def _told_no_labels(trial: Trial) -> str | None:
    if trial.told is None or not trial.told.ours or (found := _told_labels(trial)) is None or found[0]:
        return None
    return "the file tells other programs no labels, though the model has them"


def _told_another_tensor(trial: Trial) -> str | None:
    first = trial.told.first if trial.told else {}
    strays = [side for side, (own, signed) in first.items() if own != signed]
    if not strays or trial.artifact.path in trial.options.read:
        return None
    return f"the first {' and the first '.join(strays)} of the file's main graph is another tensor than its signature's"


TOLD_HYPOTHESES: Mapping[str, Callable[[Trial], str | None]] = {
    "told_bgr": _told_bgr,
    "told_other_pixels": _told_pixels,
    "told_background": _told_background,
    "told_exchanged_labels": _told_exchanged,
    "told_no_labels": _told_no_labels,
    "told_another_tensor": _told_another_tensor,
}
"""Explanations of what a file tells other programs, by name; they run nothing."""
