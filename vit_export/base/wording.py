"""How messages name what a caller can give: as options where the shell called, as arguments where Python did.

Messages are written with options (`--num-heads 6`), which are unmistakable among words and which the shell reads as
they are. Python reads what `worded` makes of them (`num_heads=6`).
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager

# Options whose argument has another name, or whose presence alone says something.
_ARGUMENTS = {
    "tflite": "'tflite' in formats",
    "onnx": "'onnx' in formats",
    "float32": "'float32' in precisions",
    "float16": "'float16' in precisions",
    "int8": "'int8' in precisions",
    "features": "returns=['features']",
    "pooled": "returns=['pooled']",
    "pooled features": "pooled features",
    "labels-from": "labelled=True",
    "overwrite": "overwrite=True",
    "hf-layout": "hf_layout=True",
    "probabilities": "probabilities=True",
    "locate": "locate=True",
    "no-measure": "measure=False",
    "no-verify": "verify=False",
    # One argument, `preprocessing`, whose fields they are.
    "mean": "Preprocessing.mean",
    "std": "Preprocessing.std",
    "resize": "Preprocessing.resize",
    "crop-fraction": "Preprocessing.crop_fraction",
    "interpolation": "Preprocessing.interpolation",
}
_SAME = (
    *("batch", "calibration", "calibration-images", "data", "held-out-images", "image-size", "images", "input"),
    *("int8-scheme", "labels", "layout", "min-agreement", "min-sqnr", "num-classes", "num-heads", "opset", "output"),
    *("output-name", "precision", "reference", "returns", "seed", "threads", "weights"),
    *("gpu-precision", "on", "verify-on", "knn", "ray", "resume", "serial", "train", "workers"),
    *("max-drop", "max-mb", "max-ms"),
)
_ARGUMENTS |= {name: name.replace("-", "_") for name in _SAME}
_NUMBER = r"\d+(?:\.\d+)?"
_VALUE = rf"{_NUMBER}(?:,{_NUMBER})+|\d+x\d+|HEIGHTxWIDTH|{_NUMBER}"
_WORD = r"(?:uint8|normalized|0\.\.(?:1|255)|static|dynamic|nchw|squash|shortest|imagenet|folders|calibration|gpu)"
_OPTION = re.compile(
    # A command in backticks is to be typed as it is, and what stands in a path or a word is no option of ours.
    rf"`vit-export [^`]*`|(?<![\w/.'=-])--(?P<name>{'|'.join(sorted(_ARGUMENTS, key=len, reverse=True))})(?![\w-])"
    rf"(?: (?:(?P<words>{_WORD}(?:(?:, | or ){_WORD})*)|(?P<value>{_VALUE}))(?![\w.]*\w))?"
)

_shell = False


@contextmanager
def shell_reads() -> Iterator[None]:
    """In the block messages are for the shell, and name options: the command line runs in it, with all its threads."""
    global _shell  # noqa: PLW0603
    before, _shell = _shell, True
    try:
        yield
    finally:
        _shell = before


def worded(text: str) -> str:
    """`text`, written with options, as whoever called reads it; commands in backticks stay what one types."""
    return text if _shell else _OPTION.sub(_argument, text)


def _argument(found: re.Match[str]) -> str:
    if found["name"] is None:
        return found[0]
    argument = _ARGUMENTS[found["name"]]
    if "=" in argument or found["words"] is found["value"] is None:
        return argument
    if found["words"] == "imagenet":
        return f"{argument}=read_labels('imagenet')"
    if found["words"] is not None:
        return f"{argument}={re.sub(_WORD, lambda word: repr(word[0].replace('nchw', 'NCHW')), found['words'])}"
    numbers = re.findall(rf"{_NUMBER}|[A-Z]+", found["value"])
    return f"{argument}={numbers[0] if len(numbers) == 1 else '(' + ', '.join(numbers).lower() + ')'}"
