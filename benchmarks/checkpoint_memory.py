"""Time and peak memory of exporting a large checkpoint, from files as their packages write them.

    python benchmarks/checkpoint_memory.py [--variants vit_l16,vit_h14] [--layout huggingface,google,timm]
    python benchmarks/checkpoint_memory.py --float32-onnx        also to ONNX
    python benchmarks/checkpoint_memory.py --variants dinov2_l14,siglip_so400m --layout huggingface

Each checkpoint holds random values, written a tensor at a time: Hugging Face's in shards of 1 GB with its config
files, timm's in one safetensors file, Google's in one .npz. It is exported by `vit-export --weights CHECKPOINT --tflite
--float16 --no-verify` in a process of its own. Peak memory is measured as in export_memory.py; mapped pages of a file
count in both columns. `--log` shows what the command printed, the seconds of each step among it.
"""

import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np
from process_tree import limit, run, weights

from vit_export.model.spec import ViTSpec

# The writers of every layout are the tests': written independently of what reads them.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from helpers.layouts import SeededParameters, write_google, write_huggingface, write_timm

SHARD_BYTES = 10**9
WRITERS = {
    "huggingface": lambda folder, source: write_huggingface(folder, source, shard_bytes=SHARD_BYTES),
    "google": write_google,
    "timm": write_timm,
}
FILES = {"float16 TFLite": ("--tflite", "--float16"), "float32 ONNX": ("--onnx", "--float32")}


ENCODERS = {
    "dinov2_l14": (
        {"model_type": "dinov2", "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}
        | {"image_size": 518, "patch_size": 14, "mlp_ratio": 4},
        ViTSpec("dinov2_l14", 14, 24, 1024, 4096, 16, image_size=518, num_classes=None),
        ("--image-size", "224"),
    ),
    "siglip_so400m": (
        {"model_type": "siglip_vision_model", "hidden_size": 1152, "num_hidden_layers": 27, "num_attention_heads": 16}
        | {"image_size": 384, "patch_size": 14, "intermediate_size": 4304},
        ViTSpec(
            *("siglip_so400m", 14, 27, 1152, 4304, 16),
            image_size=384,
            num_classes=None,
            class_token=False,
            pooling="attention",
            ignores_border=True,
        ),
        (),
    ),
}
"""Encoders of other families: their config.json, what they are, options of the export."""


def encoder_keys(config: dict, spec: ViTSpec) -> dict[str, tuple[int, ...]]:
    """The keys and shapes of transformers' model of `config`, read off its published checkpoints."""
    width, mlp, patch = spec.hidden_size, spec.mlp_size, spec.patch_size
    found: dict[str, tuple[int, ...]] = {}

    def dense(key: str, inputs: int, outputs: int) -> None:
        found[f"{key}.weight"], found[f"{key}.bias"] = (outputs, inputs), (outputs,)

    def norm(key: str) -> None:
        found[f"{key}.weight"] = found[f"{key}.bias"] = (width,)

    if config["model_type"] == "dinov2":
        found |= {"embeddings.cls_token": (1, 1, width), "embeddings.mask_token": (1, width)}
        found["embeddings.position_embeddings"] = (1, 1 + spec.num_patches, width)
        found["embeddings.patch_embeddings.projection.weight"] = (width, 3, patch, patch)
        found["embeddings.patch_embeddings.projection.bias"] = (width,)
        for layer in (f"encoder.layer.{index}" for index in range(spec.num_layers)):
            for name in ("query", "key", "value"):
                dense(f"{layer}.attention.attention.{name}", width, width)
            dense(f"{layer}.attention.output.dense", width, width)
            dense(f"{layer}.mlp.fc1", width, mlp)
            dense(f"{layer}.mlp.fc2", mlp, width)
            for name in ("norm1", "norm2"):
                norm(f"{layer}.{name}")
            found[f"{layer}.layer_scale1.lambda1"] = found[f"{layer}.layer_scale2.lambda1"] = (width,)
        norm("layernorm")
        return found
    found["vision_model.embeddings.patch_embedding.weight"] = (width, 3, patch, patch)
    found["vision_model.embeddings.patch_embedding.bias"] = (width,)
    found["vision_model.embeddings.position_embedding.weight"] = (spec.num_patches, width)
    for layer in (f"vision_model.encoder.layers.{index}" for index in range(spec.num_layers)):
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            dense(f"{layer}.self_attn.{name}", width, width)
        dense(f"{layer}.mlp.fc1", width, mlp)
        dense(f"{layer}.mlp.fc2", mlp, width)
        for name in ("layer_norm1", "layer_norm2"):
            norm(f"{layer}.{name}")
    norm("vision_model.post_layernorm")
    head = "vision_model.head"
    found |= {f"{head}.probe": (1, 1, width), f"{head}.attention.in_proj_bias": (3 * width,)}
    found[f"{head}.attention.in_proj_weight"] = (3 * width, width)
    dense(f"{head}.attention.out_proj", width, width)
    dense(f"{head}.mlp.fc1", width, mlp)
    dense(f"{head}.mlp.fc2", mlp, width)
    norm(f"{head}.layernorm")
    return found


def write_encoder(folder: Path, name: str) -> Path:
    """A folder as transformers writes it, with random weights."""
    from safetensors.numpy import save_file

    config, spec, _ = ENCODERS[name]
    random = np.random.default_rng(0)
    tensors = {
        key: (0.02 * random.standard_normal(shape, np.float32)) for key, shape in encoder_keys(config, spec).items()
    }
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def measure(variant: str, layout: str, kinds: list[str], log: bool, work: Path) -> None:
    """Write one checkpoint, export it to each of `kinds` and print a line for each."""
    spec = ENCODERS[variant][1] if variant in ENCODERS else ViTSpec.of(variant)
    options = ENCODERS[variant][2] if variant in ENCODERS else ()
    folder = work / "checkpoint"
    folder.mkdir()
    began = time.monotonic()
    encoder = variant in ENCODERS
    checkpoint = write_encoder(folder, variant) if encoder else WRITERS[layout](folder, SeededParameters(spec))
    click.echo(f"{variant}, {layout}: written in {time.monotonic() - began:.0f} s", err=True)
    for kind in kinds:
        command = ["--weights", str(checkpoint), *options, *FILES[kind], "--no-verify", "--output", str(work / "out")]
        usage = run(command, work)
        failed = "" if usage.code == 0 else f"  EXIT {usage.code}"
        peak = f"{weights(spec):9.2f} GB{usage.largest:9.2f} GB{usage.tree:9.2f} GB{limit(spec):9.2f} GB"
        click.echo(f"{f'{variant}, {layout}, {kind}':40}{peak}{usage.seconds:8.0f} s{failed}")
        if log or usage.code:
            click.echo((work / "log.txt").read_text(), err=True)
        (work / "log.txt").unlink()
        shutil.rmtree(work / "out", ignore_errors=True)
    shutil.rmtree(folder)


@click.command()
@click.option("--variants", default="vit_l16,vit_h14", show_default=True)
@click.option("--layout", default="huggingface,google", show_default=True, help="Of huggingface, google, timm.")
@click.option("--float32-onnx", is_flag=True, help="Export to ONNX too.")
@click.option("--log", is_flag=True, help="Show what each command printed.")
@click.option("--work", type=click.Path(path_type=Path), default=Path(), help="Folder for 7 GB of files.  [here]")
def main(variants: str, layout: str, float32_onnx: bool, log: bool, work: Path) -> None:
    """Measure and print one line per checkpoint and file."""
    kinds = list(FILES)[: 2 if float32_onnx else 1]
    click.echo(f"{'export':40}{'weights':>12}{'largest':>12}{'tree':>12}{'limit':>12}{'time':>10}")
    with tempfile.TemporaryDirectory(dir=work) as folder:
        for variant in variants.split(","):
            for name in layout.split(","):
                measure(variant, name, kinds, log, Path(folder).resolve())


if __name__ == "__main__":
    main()
