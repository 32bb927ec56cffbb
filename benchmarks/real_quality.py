"""How near a file's features are to the float model's: on photographs, and for a linear probe fitted to the latter."""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from real_files import Material
from real_weights import CACHE

from vit_export.base.machine import usable_cores
from vit_export.images.split import find_images
from vit_export.model.preprocessing import Preprocessing, normalize
from vit_export.runtimes.process import RunnerProcess

FITTED, JUDGED = 600, 300
"""Digits that the probe is fitted to, and others that it is judged on."""
SLOW = 1.0
"""Seconds an image of the photographs may take for digits to follow: 300 of them would be many minutes."""
CHUNK = 16
"""Images that are normalized at a time."""

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Quality:
    """Of one file: dB and cosine of the features of held-out photographs, and the linear probe's accuracy on them.

    The ratio of signal to quantization noise is that of one image, 10 log10(sum ref² / sum (ref - found)²). `same` is
    the share of digits for which the probe says the same as with the float model's features. The last two are None
    without a probe, or where an image takes more than SLOW seconds.
    """

    sqnr_median: float
    sqnr_worst: float
    cosine_worst: float
    probe: float | None = None
    same: float | None = None


class Judge:
    """The float model's features (made once by the SavedModel, and kept), and what is measured against them.

    The photographs that judge are those of `folder`, or the held-out ones of `material`.
    """

    def __init__(self, material: Material, tell: Tell, folder: Path | None = None, *, probe: bool) -> None:
        self._material, self._tell, self._folder, self._with_probe = material, tell, folder, probe

    @property
    def _preprocessing(self) -> Preprocessing:
        return self._material.record.preprocessing

    @cached_property
    def _photographs(self) -> np.ndarray:
        if self._folder is None:
            return self._material.data.held_out.pixels()
        return find_images(self._folder, self._preprocessing)[0].pixels()

    @cached_property
    def _wanted(self) -> np.ndarray:
        return self._reference(self._photographs, "photographs")

    @cached_property
    def _digits(self) -> tuple[np.ndarray, np.ndarray]:
        return digits(self._preprocessing.image_size)

    @cached_property
    def probe(self) -> tuple[Any, np.ndarray, float]:
        """The classifier fitted to the float model's features; what it says of the judged digits, and its accuracy."""
        pixels, labels = self._digits
        known = self._reference(pixels, "digits")
        classifier = fitted(known[:FITTED], labels[:FITTED])
        said = classifier.predict(known[FITTED:])
        return classifier, said, float((said == labels[FITTED:]).mean())

    def judge(self, process: RunnerProcess) -> Quality:
        """The quality of the file that `process` runs.

        Raises:
            RunnerError: it cannot be run.
        """
        began = time.monotonic()
        found = self._features(process, self._photographs).astype(np.float64)
        each = (time.monotonic() - began) / len(found)
        wanted = self._wanted.astype(np.float64)
        sqnr = sqnr_db(wanted, found)
        norms = np.linalg.norm(wanted, axis=1) * np.linalg.norm(found, axis=1)
        cosine = np.divide((wanted * found).sum(1), norms, out=np.zeros_like(norms), where=norms > 0)
        near = Quality(float(np.median(sqnr)), float(sqnr.min()), float(cosine.min()))
        if each > SLOW:
            self._tell(f"No probe: an image takes {each:.1f} s")
        if not self._with_probe or each > SLOW:
            return near
        classifier, floats, _ = self.probe
        pixels, labels = self._digits
        said = classifier.predict(self._features(process, pixels[FITTED:]))
        accuracy, same = float((said == labels[FITTED:]).mean()), float((said == floats).mean())
        return Quality(near.sqnr_median, near.sqnr_worst, near.cosine_worst, accuracy, same)

    def _features(self, process: RunnerProcess, pixels: np.ndarray) -> np.ndarray:
        """The output of each of `pixels`, uint8 [n, s, s, 3]: float32 [n, width]."""
        parts = (pixels[start : start + CHUNK] for start in range(0, len(pixels), CHUNK))
        return np.concatenate([process.run(normalize(part, self._preprocessing)) for part in parts])

    def _reference(self, pixels: np.ndarray, what: str) -> np.ndarray:
        """The float model's features of `pixels`, kept under the sha256 of the parameters and of what they are fed."""
        record = self._material.record
        told = f"{record.fingerprint} {record.spec} {self._preprocessing} {pixels.shape}"
        path = CACHE / "features" / f"{hashlib.sha256(told.encode() + pixels.tobytes()).hexdigest()}.npy"
        if not path.is_file():
            self._tell(f"The float model's features of {len(pixels)} {what}")
            with RunnerProcess(self._material.saved_model, "saved_model", usable_cores()) as process:
                features = self._features(process, pixels)
            path.parent.mkdir(exist_ok=True)
            partial = path.with_name(f"{path.name}.part")
            with open(partial, "wb") as file:
                np.save(file, features)
            partial.rename(path)
        return np.load(path)


def sqnr_db(wanted: np.ndarray, found: np.ndarray) -> np.ndarray:
    """10 log10(sum wanted² / sum (wanted - found)²) of each row, in dB; infinite where both are equal."""
    with np.errstate(divide="ignore"):
        return 10 * np.log10(np.square(wanted).sum(1) / np.square(wanted - found).sum(1))


def fitted(features: np.ndarray, labels: np.ndarray) -> Any:
    """The linear probe: scikit-learn's pipeline of a StandardScaler and logistic regression."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)).fit(features, labels)


def digits(size: int) -> tuple[np.ndarray, np.ndarray]:
    """FITTED + JUDGED of scikit-learn's digits, drawn by a fixed seed: RGB pictures and their labels [n].

    The digits, grey and 8 x 8, become uint8 [n, size, size, 3].
    """
    from PIL import Image
    from sklearn.datasets import load_digits

    stored = load_digits()
    chosen = np.random.default_rng(0).permutation(len(stored.target))[: FITTED + JUDGED]
    grey = np.round(stored.images[chosen] * (255 / 16)).astype(np.uint8)
    larger = (Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC).convert("RGB") for image in grey)
    return np.stack([np.asarray(image) for image in larger]), stored.target[chosen]
