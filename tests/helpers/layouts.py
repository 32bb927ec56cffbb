"""Canonical parameters written as other packages store them, a tensor at a time.

Keys, axes and what is concatenated are written down from the modules of each package (named at each function), not
from the tables in `vit_export.weights` that read them: what those get wrong cannot cancel out here. A tensor is given
as blocks that follow each other on its first axis and are made when they are written, so that a file may be larger
than the memory.
"""

import json
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vit_export.model.parameters import ParameterSource, parameter_specs
from vit_export.model.spec import ViTSpec

SHARD_BYTES = 5 * 10**9


class SeededParameters:
    """A ParameterSource of reproducible random values that make every parameter matter; nothing is kept in memory.

    `class_position` False leaves the class token's row of the position embedding zero, for layouts that have none.
    """

    def __init__(self, spec: ViTSpec, seed: int = 0, *, class_position: bool = True) -> None:
        self.spec, self._seed, self._class_position = spec, seed, class_position
        self._shapes = {parameter.name: parameter.shape for parameter in parameter_specs(spec)}

    def read(self, name: str) -> np.ndarray:
        """The parameter called `name`, float32."""
        random, shape = np.random.default_rng((self._seed, zlib.crc32(name.encode()))), self._shapes[name]
        if name.endswith("scale"):
            return random.random(shape, np.float32) + np.float32(0.5)
        spread = 0.3 if name.endswith("bias") else 0.5 if "kernel" not in name else 1.3 * np.prod(shape[:-1]) ** -0.5
        values = random.standard_normal(shape, np.float32)
        values *= np.float32(spread)
        if name == "position_embedding" and not self._class_position:
            values[:, 0] = 0
        return values


@dataclass(frozen=True)
class Stored:
    """One tensor of a file, float32: `blocks` make what follows each other on its first axis."""

    key: str
    shape: tuple[int, ...]
    blocks: tuple[Callable[[], np.ndarray], ...]

    @property
    def bytes(self) -> int:
        """Bytes of its values."""
        return 4 * int(np.prod(self.shape))


Tensors = Iterator[Stored]


# PyTorch: nn.Linear.weight is [out, in], nn.Conv2d.weight [out, in, height, width], nn.LayerNorm has weight and bias.


class _Torch:
    """State dict entries of PyTorch modules that hold the parameters of `source`."""

    def __init__(self, source: ParameterSource) -> None:
        self.source, self.spec = source, source.spec

    def plain(self, key: str, name: str, shape: tuple[int, ...]) -> Stored:
        return Stored(key, shape, (lambda: self.source.read(name),))

    def linear(self, module: str, name: str, inputs: int, outputs: int) -> Tensors:
        yield Stored(f"{module}.weight", (outputs, inputs), (lambda: self.source.read(f"{name}/kernel").T,))
        yield self.plain(f"{module}.bias", f"{name}/bias", (outputs,))

    def norm(self, module: str, name: str) -> Tensors:
        yield self.plain(f"{module}.weight", f"{name}/scale", (self.spec.hidden_size,))
        yield self.plain(f"{module}.bias", f"{name}/bias", (self.spec.hidden_size,))

    def conv(self, module: str) -> Tensors:
        size, width = self.spec.patch_size, self.spec.hidden_size

        def weight() -> np.ndarray:
            return np.einsum("hwio->oihw", self.source.read("patch_embedding/kernel"))

        yield Stored(f"{module}.weight", (width, 3, size, size), (weight,))
        yield self.plain(f"{module}.bias", "patch_embedding/bias", (width,))

    def query_key_value(self, weight: str, bias: str, name: str) -> Tensors:
        """One projection whose outputs are the query's, then the key's, then the value's."""
        width = self.spec.hidden_size

        def of(part: str, what: str) -> Callable[[], np.ndarray]:
            return lambda: self.source.read(f"{name}/{part}/{what}").T  # a bias is its own transpose

        parts = ("query", "key", "value")
        yield Stored(weight, (3 * width, width), tuple(of(part, "kernel") for part in parts))
        yield Stored(bias, (3 * width,), tuple(of(part, "bias") for part in parts))

    def tokens(self, class_token: str, position_embedding: str) -> Tensors:
        spec = self.spec
        yield self.plain(class_token, "class_token", (1, 1, spec.hidden_size))
        yield self.plain(position_embedding, "position_embedding", (1, spec.num_tokens, spec.hidden_size))


def timm(source: ParameterSource) -> Tensors:
    """timm/models/vision_transformer.py: VisionTransformer, Block, Attention; `qkv` is split as [3, heads, size]."""
    torch, spec = _Torch(source), source.spec
    width, mlp = spec.hidden_size, spec.mlp_size
    yield from torch.tokens("cls_token", "pos_embed")
    yield from torch.conv("patch_embed.proj")
    for index in range(spec.num_layers):
        module, name = f"blocks.{index}", f"encoder/layer_{index}"
        yield from torch.norm(f"{module}.norm1", f"{name}/attention_norm")
        yield from torch.query_key_value(f"{module}.attn.qkv.weight", f"{module}.attn.qkv.bias", f"{name}/attention")
        yield from torch.linear(f"{module}.attn.proj", f"{name}/attention/output", width, width)
        yield from torch.norm(f"{module}.norm2", f"{name}/mlp_norm")
        yield from torch.linear(f"{module}.mlp.fc1", f"{name}/mlp/dense_1", width, mlp)
        yield from torch.linear(f"{module}.mlp.fc2", f"{name}/mlp/dense_2", mlp, width)
    yield from torch.norm("norm", "encoder/norm")
    if spec.num_classes is not None:
        yield from torch.linear("head", "head", width, spec.num_classes)


def torchvision(source: ParameterSource, *, old: bool = False) -> Tensors:
    """torchvision/models/vision_transformer.py: VisionTransformer, EncoderBlock with nn.MultiheadAttention.

    The MLP was a block with `linear_1` and `linear_2` until 0.12 (`old`), and is a Sequential since: Linear, GELU,
    Dropout, Linear, Dropout.
    """
    torch, spec = _Torch(source), source.spec
    width, mlp = spec.hidden_size, spec.mlp_size
    first, second = ("linear_1", "linear_2") if old else ("0", "3")
    yield from torch.tokens("class_token", "encoder.pos_embedding")
    yield from torch.conv("conv_proj")
    for index in range(spec.num_layers):
        module, name = f"encoder.layers.encoder_layer_{index}", f"encoder/layer_{index}"
        attention = f"{module}.self_attention"
        yield from torch.norm(f"{module}.ln_1", f"{name}/attention_norm")
        yield from torch.query_key_value(
            f"{attention}.in_proj_weight", f"{attention}.in_proj_bias", f"{name}/attention"
        )
        yield from torch.linear(f"{attention}.out_proj", f"{name}/attention/output", width, width)
        yield from torch.norm(f"{module}.ln_2", f"{name}/mlp_norm")
        yield from torch.linear(f"{module}.mlp.{first}", f"{name}/mlp/dense_1", width, mlp)
        yield from torch.linear(f"{module}.mlp.{second}", f"{name}/mlp/dense_2", mlp, width)
    yield from torch.norm("encoder.ln", "encoder/norm")
    if spec.pre_logits_size is not None:
        yield from torch.linear("heads.pre_logits", "pre_logits", width, spec.pre_logits_size)
    if spec.num_classes is not None:
        yield from torch.linear("heads.head", "head", spec.representation_size, spec.num_classes)


def huggingface(source: ParameterSource, *, short: bool = False) -> Tensors:
    """transformers/models/vit/modeling_vit.py: ViTForImageClassification, or ViTModel where there is no classifier.

    `short` are the attributes of transformers 5; its files keep the long ones of transformers 4.
    """
    torch, spec = _Torch(source), source.spec
    width, mlp = spec.hidden_size, spec.mlp_size
    vit = "" if spec.num_classes is None else "vit."
    yield from torch.tokens(f"{vit}embeddings.cls_token", f"{vit}embeddings.position_embeddings")
    yield from torch.conv(f"{vit}embeddings.patch_embeddings.projection")
    for index in range(spec.num_layers):
        name = f"encoder/layer_{index}"
        if short:
            layer = f"{vit}layers.{index}"
            query, key, value, output = (f"attention.{letter}_proj" for letter in "qkvo")
            first, second = "mlp.fc1", "mlp.fc2"
        else:
            layer = f"{vit}encoder.layer.{index}"
            query, key, value = (f"attention.attention.{part}" for part in ("query", "key", "value"))
            output, first, second = "attention.output.dense", "intermediate.dense", "output.dense"
        for module, part in ((query, "query"), (key, "key"), (value, "value"), (output, "output")):
            yield from torch.linear(f"{layer}.{module}", f"{name}/attention/{part}", width, width)
        yield from torch.linear(f"{layer}.{first}", f"{name}/mlp/dense_1", width, mlp)
        yield from torch.linear(f"{layer}.{second}", f"{name}/mlp/dense_2", mlp, width)
        yield from torch.norm(f"{layer}.layernorm_before", f"{name}/attention_norm")
        yield from torch.norm(f"{layer}.layernorm_after", f"{name}/mlp_norm")
    yield from torch.norm(f"{vit}layernorm", "encoder/norm")
    if spec.num_classes is not None:
        yield from torch.linear("classifier", "head", width, spec.num_classes)
    elif spec.pre_logits_size is not None:
        yield from torch.linear("pooler.dense", "pre_logits", width, spec.pre_logits_size)


# Google: flax.linen.Dense.kernel is [in, out], Conv's [height, width, in, out]; LayerNorm has scale and bias.
# MultiHeadDotProductAttention projects to [heads, size] by DenseGeneral, and from there.


def google(source: ParameterSource, *, form: str = "released") -> Tensors:
    """google-research/vision_transformer, vit_jax/models_vit.py, or (`form` 'stacked') big_vision/models/vit.py.

    'released' numbers the modules of a block through, as the files on storage.googleapis.com have it; 'linen' numbers
    each class by itself; 'stacked' is big_vision's scan over layers, which adds positions to the patches alone.
    """
    spec = source.spec
    width, mlp, patch = spec.hidden_size, spec.mlp_size, spec.patch_size
    heads = (spec.num_heads, width // spec.num_heads)
    stacked = form == "stacked"
    attention_norm, attention, mlp_norm, block_mlp = {
        "released": ("LayerNorm_0", "MultiHeadDotProductAttention_1", "LayerNorm_2", "MlpBlock_3"),
        "linen": ("LayerNorm_0", "MultiHeadDotProductAttention_0", "LayerNorm_1", "MlpBlock_0"),
        "stacked": ("LayerNorm_0", "MultiHeadDotProductAttention_0", "LayerNorm_1", "MlpBlock_0"),
    }[form]

    def plain(key: str, name: str, shape: tuple[int, ...]) -> Stored:
        return Stored(key, shape, (lambda: source.read(name).reshape(shape),))

    yield plain("cls", "class_token", (1, 1, width))
    yield plain("embedding/kernel", "patch_embedding/kernel", (patch, patch, 3, width))
    yield plain("embedding/bias", "patch_embedding/bias", (width,))
    if stacked:

        def patches_alone() -> np.ndarray:
            values = source.read("position_embedding")
            assert not values[:, 0].any(), "big_vision has no position for the class token"
            return values[:, 1:]

        yield Stored("pos_embedding", (1, spec.num_patches, width), (patches_alone,))
    else:
        shape = (1, spec.num_tokens, width)
        yield plain("Transformer/posembed_input/pos_embedding", "position_embedding", shape)
    parts: list[tuple[str, str, tuple[int, ...]]] = []
    for key, name in ((attention_norm, "attention_norm"), (mlp_norm, "mlp_norm")):
        parts += [(f"{key}/{part}", f"{name}/{part}", (width,)) for part in ("scale", "bias")]
    for part in ("query", "key", "value"):
        parts.append((f"{attention}/{part}/kernel", f"attention/{part}/kernel", (width, *heads)))
        parts.append((f"{attention}/{part}/bias", f"attention/{part}/bias", heads))
    parts.append((f"{attention}/out/kernel", "attention/output/kernel", (*heads, width)))
    parts.append((f"{attention}/out/bias", "attention/output/bias", (width,)))
    for index, (inputs, outputs) in enumerate(((width, mlp), (mlp, width))):
        parts.append((f"{block_mlp}/Dense_{index}/kernel", f"mlp/dense_{index + 1}/kernel", (inputs, outputs)))
        parts.append((f"{block_mlp}/Dense_{index}/bias", f"mlp/dense_{index + 1}/bias", (outputs,)))

    def of(layer: int, name: str, shape: tuple[int, ...]) -> Callable[[], np.ndarray]:
        return lambda: source.read(f"encoder/layer_{layer}/{name}").reshape(shape)

    layers = range(spec.num_layers)
    for key, name, shape in parts:
        if stacked:
            blocks = tuple(of(layer, name, (1, *shape)) for layer in layers)
            yield Stored(f"Transformer/encoderblock/{key}", (len(layers), *shape), blocks)
        else:
            for layer in layers:
                yield Stored(f"Transformer/encoderblock_{layer}/{key}", shape, (of(layer, name, shape),))
    for part in ("scale", "bias"):
        yield plain(f"Transformer/encoder_norm/{part}", f"encoder/norm/{part}", (width,))
    dense = []
    if spec.pre_logits_size is not None:
        dense.append(("pre_logits", width, spec.pre_logits_size))
    if spec.num_classes is not None:
        dense.append(("head", spec.representation_size, spec.num_classes))
    for layer_name, inputs, outputs in dense:
        yield plain(f"{layer_name}/kernel", f"{layer_name}/kernel", (inputs, outputs))
        yield plain(f"{layer_name}/bias", f"{layer_name}/bias", (outputs,))


# Containers


def write_npz(path: Path, tensors: Tensors) -> None:
    """What np.savez writes, a block at a time."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for tensor in tensors:
            with archive.open(f"{tensor.key}.npy", "w", force_zip64=True) as stream:
                header = {"descr": "<f4", "fortran_order": False, "shape": tensor.shape}
                np.lib.format.write_array_header_1_0(stream, header)
                for block in _blocks(tensor):
                    stream.write(block.data.cast("B"))


def write_safetensors(path: Path, tensors: list[Stored]) -> None:
    """The safetensors format: length of the header, header, values one after the other."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        begin, end = end, end + tensor.bytes
        header[tensor.key] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            for block in _blocks(tensor):
                file.write(block.data)


def write_shards(folder: Path, tensors: Tensors, shard_bytes: int = SHARD_BYTES) -> None:
    """Shards of at most `shard_bytes` of tensors and their index, as save_pretrained writes a large model."""
    shards: list[list[Stored]] = [[]]
    for tensor in tensors:
        if shards[-1] and sum(known.bytes for known in shards[-1]) + tensor.bytes > shard_bytes:
            shards.append([])
        shards[-1].append(tensor)
    places = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        write_safetensors(folder / name, shard)
        places |= {tensor.key: name for tensor in shard}
    total = sum(tensor.bytes for shard in shards for tensor in shard)
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))


def _blocks(tensor: Stored) -> Iterator[np.ndarray]:
    count = 0
    for make in tensor.blocks:
        block = np.ascontiguousarray(make(), "<f4")
        assert block.shape[1:] == tensor.shape[1:], (tensor, block.shape)
        count += len(block)
        yield block
    assert count == tensor.shape[0], (tensor, count)


# Whole checkpoints


def write_timm(folder: Path, source: ParameterSource) -> Path:
    """model.safetensors and config.json as timm.models.save_for_hf writes them; what to open is returned."""
    spec = source.spec
    write_safetensors(folder / "model.safetensors", list(timm(source)))
    pretrained = {
        "tag": "augreg_in21k",
        "input_size": [3, spec.image_size, spec.image_size],
        "interpolation": "bicubic",
        "crop_pct": 0.9,
        "crop_mode": "center",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
    }
    config = {
        "architecture": "vit_base_patch16_224",
        "num_classes": spec.num_classes or 0,
        "num_features": spec.hidden_size,
        "global_pool": "token",
        "model_args": {"embed_dim": spec.hidden_size, "depth": spec.num_layers, "num_heads": spec.num_heads},
        "pretrained_cfg": pretrained,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_torchvision(folder: Path, source: ParameterSource, *, old: bool = False) -> Path:
    """A state dict saved as safetensors, nothing beside it."""
    path = folder / "weights.safetensors"
    write_safetensors(path, list(torchvision(source, old=old)))
    return path


def write_huggingface(
    folder: Path, source: ParameterSource, *, short: bool = False, shard_bytes: int | None = None
) -> Path:
    """What save_pretrained of model and image processor write; in shards where `shard_bytes` is given."""
    spec = source.spec
    tensors = huggingface(source, short=short)
    if shard_bytes is None:
        write_safetensors(folder / "model.safetensors", list(tensors))
    else:
        write_shards(folder, tensors, shard_bytes)
    config = {
        "architectures": ["ViTModel" if spec.num_classes is None else "ViTForImageClassification"],
        "attention_probs_dropout_prob": 0.0,
        "encoder_stride": 16,
        "hidden_act": {"erf": "gelu", "tanh": "gelu_pytorch_tanh"}[spec.gelu],
        "hidden_dropout_prob": 0.0,
        "hidden_size": spec.hidden_size,
        "image_size": spec.image_size,
        "initializer_range": 0.02,
        "intermediate_size": spec.mlp_size,
        "layer_norm_eps": spec.layer_norm_epsilon,
        "model_type": "vit",
        "num_attention_heads": spec.num_heads,
        "num_channels": 3,
        "num_hidden_layers": spec.num_layers,
        "patch_size": spec.patch_size,
        "pooler_act": "tanh",
        "pooler_output_size": spec.pre_logits_size or spec.hidden_size,
        "qkv_bias": True,
    }
    if spec.num_classes is not None:
        config["id2label"] = {str(index): f"LABEL_{index}" for index in range(spec.num_classes)}
        config["label2id"] = {f"LABEL_{index}": index for index in range(spec.num_classes)}
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    processor = {
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_processor_type": "ViTImageProcessor",
        "image_std": [0.5, 0.5, 0.5],
        "resample": 2,
        "rescale_factor": 1 / 255,
        "size": {"height": spec.image_size, "width": spec.image_size},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=2))
    return folder


def write_google(folder: Path, source: ParameterSource, *, form: str = "released") -> Path:
    """An .npz file, nothing beside it."""
    path = folder / "weights.npz"
    write_npz(path, google(source, form=form))
    return path
