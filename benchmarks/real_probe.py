"""Classifiers of handwritten digits to evaluate and to sweep: models with a linear probe, and the digits as pictures.

    python benchmarks/real_probe.py        writes benchmarks/.cache/probe and prints what is in it

    digits/train/0..9, digits/held_out/0..9     600 and 300 of scikit-learn's digits, 224 x 224 PNG, as real_quality.py
                                                prepares them
    dinov2_s14                                  DINOv2-S/14, really trained (real_weights.py)
    vit_s16_random.keras, vit_s32_random.keras  NOT trained: random encoders, for want of weights that can be had here.
                                                What they lose by int8 says nothing of trained ones

Each model's classifier is the linear probe of real_quality.py, fitted to the float features of digits/train and folded
into one Dense layer. The digits are fed as they are: the models take images of 224 pixels, nothing is cropped.
"""

import json
from pathlib import Path

import click
import numpy as np
from real_quality import CHUNK, FITTED, digits, fitted
from real_weights import CACHE, CONFIG, SIZE, checkpoint, stored_in, timm_tensors, wheel

from vit_export import Preprocessing, VisionTransformer, create_vit
from vit_export.base.errors import InputError
from vit_export.model.preprocessing import normalize

RANDOM = ("vit_s16", "vit_s32")
CLASSES = [str(digit) for digit in range(10)]


def data(folder: Path = CACHE / "probe") -> tuple[Path, Path]:
    """The folders of the digits that probes are fitted to and are judged by, one folder a class."""
    from PIL import Image

    pixels, labels = digits(SIZE)
    folders = folder / "digits" / "train", folder / "digits" / "held_out"
    for number, (picture, label) in enumerate(zip(pixels, labels, strict=True)):
        path = folders[number >= FITTED] / str(label) / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
    return folders


def models(folder: Path = CACHE / "probe") -> list[Path]:
    """The checkpoints of the three models, each made if it is not there yet.

    Raises:
        InputError: the trained weights cannot be downloaded.
    """
    folder.mkdir(parents=True, exist_ok=True)
    made = {folder / "dinov2_s14": _trained, **{folder / f"{name}_random.keras": _random for name in RANDOM}}
    for path, make in made.items():
        if not path.exists():
            click.echo(f"Fitting the probe of {path.stem}", err=True)
            partial = path.with_name(f"part-{path.name}")
            make(partial)
            partial.rename(path)
    return list(made)


def _trained(path: Path) -> None:
    """DINOv2-S/14 with its probe in timm's layout, as real_weights.py has it without."""
    told = CONFIG["pretrained_cfg"]
    pixels = Preprocessing(SIZE, mean=told["mean"], std=told["std"])
    write_timm(path, *probe(create_vit(weights=checkpoint(), include_top=False, preprocessing=pixels)))


def write_timm(path: Path, kernel: np.ndarray, bias: np.ndarray) -> None:
    """Write DINOv2-S/14 with a classifier of `kernel` [width, 10] and `bias` [10] to the folder `path`."""
    from safetensors.numpy import save_file

    head = {"head.weight": np.ascontiguousarray(kernel.T, np.float32), "head.bias": bias.astype(np.float32)}
    path.mkdir(exist_ok=True)
    tensors = timm_tensors(stored_in(wheel(CACHE)))
    save_file({**tensors, **head}, path / "model.safetensors", metadata={"format": "pt"})
    pixels = {**CONFIG["pretrained_cfg"], "crop_pct": 1.0}
    config = {**CONFIG, "num_classes": len(CLASSES), "label_names": CLASSES, "pretrained_cfg": pixels}
    (path / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def _random(path: Path) -> None:
    """The variant that `path` is called after, with random weights and the probe on them."""
    name = next(name for name in RANDOM if name in path.name)
    model = create_vit(name, num_classes=len(CLASSES), labels=CLASSES, seed=0)
    for variable, values in zip((model.head.kernel, model.head.bias), probe(model), strict=True):
        variable.assign(values)
    model.save(path)


def probe(model: VisionTransformer) -> tuple[np.ndarray, np.ndarray]:
    """The linear probe on the model's features of the digits, as a Dense layer: kernel [width, 10] and bias [10]."""
    pixels, labels = (values[:FITTED] for values in digits(SIZE))
    parts = (pixels[at : at + CHUNK] for at in range(0, FITTED, CHUNK))
    known = np.concatenate([model.extract_features(normalize(part, model.record.preprocessing)) for part in parts])
    scaler, regression = (step for _, step in fitted(known, labels).steps)
    kernel = regression.coef_.T / scaler.scale_[:, None]
    return kernel, regression.intercept_ - scaler.mean_ @ kernel


if __name__ == "__main__":
    try:
        for written in (*data(), *models()):
            click.echo(written)
    except InputError as error:
        raise SystemExit(f"{error}") from error
