"""One photograph and what the file says of it here: by it a page decides whether its GPU may answer."""

import base64
from pathlib import Path

import numpy as np

from vit_export.base.json_file import json_text
from vit_export.bundles.source import Subject
from vit_export.images.read import resize_and_crop
from vit_export.model.input_kinds import feed
from vit_export.runtimes.runner import open_runner

CHECK_NAME = "check.json"

_BEST = 5
_DIGITS = 4


def check(subject: Subject, path: Path) -> str:
    """JSON of `pixels` (a photograph at the model's size, uint8 [height, width, 3] as base64) and `answer`.

    `answer` is what the file at `path` says of it in its own runtime: the likeliest classes, best first, or all its
    numbers to four digits.
    """
    from skimage import data

    done = subject.record.preprocessing
    pixels = resize_and_crop(data.chelsea(), done)
    runner = open_runner(path, subject.artifact.format, 1)
    runner.load()
    found = runner.run(feed(pixels[None], subject.input.values, done))[0]
    answer = (
        [int(index) for index in np.argsort(-found, kind="stable")[:_BEST]]
        if subject.classifies
        else [float(f"{value:.{_DIGITS}g}") for value in found]
    )
    return json_text({"pixels": base64.b64encode(pixels.tobytes()).decode(), "answer": answer})
