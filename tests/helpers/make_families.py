"""Tiny encoders of every family that transformers' layout is read of, with what the library computes from them.

    python tests/helpers/make_families.py       writes tests/fixtures/transformers/ (ten seconds)

Needs torch, torchvision, transformers, safetensors (written with torch 2.13, transformers 5.24), but not this package.
Every folder is what `save_pretrained` of model and image processor write. Weights and pictures are reproducible;
outputs may differ in their last bits from machine to machine.
"""

import shutil
from pathlib import Path

import numpy as np
import torch
import transformers as hf
from make_originals import _nchw, pictures
from safetensors.torch import load_file, save_file

FAMILIES = Path(__file__).parents[1] / "fixtures" / "transformers"

SIDE, OTHER = 16, (24, 20)  # height and width of the other images: not square, larger than SIDE and smaller than 32
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 4}
MLP = 24
TEXT = {
    "vocab_size": 9,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "max_position_embeddings": 5,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LABELS = {"id2label": dict(enumerate("abcde")), "label2id": {label: index for index, label in enumerate("abcde")}}


def randomize(model, seed: int) -> None:
    """Give every parameter of `model` random values that matter: nothing is zero, one or the same as another."""
    random = np.random.default_rng(seed)
    for name, parameter in model.named_parameters():
        shape = tuple(parameter.shape)
        noise = random.standard_normal(shape)
        if name.endswith("lambda1") or ("norm" in name and name.endswith("weight")):
            noise = random.uniform(0.5, 1.5, shape)
        elif "norm" in name or name.endswith("bias"):
            noise = 0.3 * noise
        elif len(shape) == 4:
            noise = 1.3 * noise / np.prod(shape[1:]) ** 0.5
        elif name.endswith("weight") and "position" not in name:
            noise = 1.3 * noise / shape[-1] ** 0.5
        else:
            noise = 0.5 * noise  # tokens, positions, the probe of a pooling
        parameter.data = torch.from_numpy(np.asarray(noise, np.float32))


def _dino(kind, image=32, **changes):
    """Of the size whose positions were trained, larger than what images are shown in: DINOv2's 518 pixels and 224."""
    config = {"Dinov2": hf.Dinov2Config, "Dinov2WithRegisters": hf.Dinov2WithRegistersConfig}[kind]
    return config(image_size=image, mlp_ratio=2, layer_norm_eps=1e-6, **SIZES, **changes)


def _vision(config, **changes):
    return config(**{"image_size": SIDE, "intermediate_size": MLP, **SIZES, **changes})


def dinov2(images, other):
    model = made(hf.Dinov2Model(_dino("Dinov2")), 1)
    processor = hf.BitImageProcessor(
        size={"shortest_edge": 40}, crop_size=32, image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225]
    )
    return model, processor, {"features": model(images).pooler_output, "other": model(other).pooler_output}


def dinov2_classifier(images, other):
    model = made(hf.Dinov2ForImageClassification(_dino("Dinov2", **LABELS)), 2)
    return model, None, {"logits": model(images).logits, "other": model(other).logits}


def dinov2_registers(images, other):
    config = _dino("Dinov2WithRegisters", num_register_tokens=3, **LABELS)
    model = made(hf.Dinov2WithRegistersForImageClassification(config), 3)
    features = model.dinov2_with_registers(images).pooler_output
    return model, None, {"logits": model(images).logits, "other": model(other).logits, "features": features}


def dinov3(images, other):
    model = made(hf.DINOv3ViTModel(_vision(hf.DINOv3ViTConfig, num_register_tokens=4)), 4)
    processor = hf.DINOv3ViTImageProcessor(size={"height": SIDE, "width": SIDE})
    return model, processor, {"features": model(images).pooler_output, "other": model(other).pooler_output}


def clip(images, other):
    """The whole model with LAION's activation, whose config has the vision tower's in it."""
    vision = {"image_size": SIDE, "intermediate_size": MLP, "hidden_act": "gelu", **SIZES}
    config = hf.CLIPConfig(text_config=TEXT, vision_config=vision, projection_dim=12)
    model = made(hf.CLIPModel(config), 5)
    processor = hf.CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=SIDE)
    shown = model.get_image_features(other, interpolate_pos_encoding=True).pooler_output
    return model, processor, {"features": model.get_image_features(images).pooler_output, "other": shown}


def clip_projected(images, other):
    model = made(hf.CLIPVisionModelWithProjection(_vision(hf.CLIPVisionConfig, projection_dim=12)), 6)
    shown = model(other, interpolate_pos_encoding=True).image_embeds
    plain = model.vision_model(images).pooler_output
    return model, None, {"features": model(images).image_embeds, "other": shown, "class_token": plain}


def clip_vision(images, other):
    model = made(hf.CLIPVisionModel(_vision(hf.CLIPVisionConfig)), 7)
    shown = model(other, interpolate_pos_encoding=True).pooler_output
    return model, None, {"features": model(images).pooler_output, "other": shown}


def clip_classifier(images, other):
    vision = {"image_size": SIDE, "intermediate_size": MLP, **SIZES}
    config = hf.CLIPConfig(text_config=TEXT, vision_config=vision, projection_dim=12, **LABELS)
    return made(hf.CLIPForImageClassification(config), 8), None, {}


def siglip(images, other):
    """The whole model, for images of 18 pixels: the two at the right and lower border fill no patch."""
    vision = {"image_size": SIDE + 2, "intermediate_size": MLP, **SIZES}
    model = made(hf.SiglipModel(hf.SiglipConfig(text_config=TEXT, vision_config=vision)), 9)
    processor = hf.SiglipImageProcessor(size={"height": SIDE + 2, "width": SIDE + 2})
    wide = torch.nn.functional.pad(images, (0, 2, 0, 2), value=7)
    shown = model.get_image_features(other, interpolate_pos_encoding=True).pooler_output
    return model, processor, {"features": model.get_image_features(wide).pooler_output, "other": shown}


def siglip_vision(images, other):
    model = made(hf.SiglipVisionModel(_vision(hf.SiglipVisionConfig)), 10)
    shown = model(other, interpolate_pos_encoding=True).pooler_output
    return model, None, {"features": model(images).pooler_output, "other": shown}


def siglip_classifier(images, other):
    vision = {"image_size": SIDE, "intermediate_size": MLP, **SIZES}
    model = made(hf.SiglipForImageClassification(hf.SiglipConfig(text_config=TEXT, vision_config=vision, **LABELS)), 11)
    return model, None, {"logits": model(images).logits, "other": model(other, interpolate_pos_encoding=True).logits}


def deit(images, other):
    model = made(hf.DeiTModel(_vision(hf.DeiTConfig)), 12)
    processor = hf.DeiTImageProcessor(size={"height": 18, "width": 18}, crop_size=SIDE)
    shown = model(other, interpolate_pos_encoding=True).pooler_output
    return model, processor, {"features": model(images).pooler_output, "other": shown}


def deit_classifier(images, other):
    model = made(hf.DeiTForImageClassification(_vision(hf.DeiTConfig, **LABELS)), 13)
    return model, None, {"logits": model(images).logits, "other": model(other, interpolate_pos_encoding=True).logits}


def deit_distilled(images, other):
    model = made(hf.DeiTForImageClassificationWithTeacher(_vision(hf.DeiTConfig, **LABELS)), 14)
    return model, None, {"logits": model(images).logits, "other": model(other, interpolate_pos_encoding=True).logits}


def vit_mae(images, other):
    """With the decoder that it was trained with; nothing is masked here."""
    sizes = {"decoder_hidden_size": 8, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 1}
    config = _vision(hf.ViTMAEConfig, decoder_intermediate_size=8, mask_ratio=0.0, **sizes)
    model = made(hf.ViTMAEForPreTraining(config), 15)
    shown = model.vit(other, interpolate_pos_encoding=True).last_hidden_state[:, 0]
    return model, None, {"features": model.vit(images).last_hidden_state[:, 0], "other": shown}


def vit_msn(images, other):
    model = made(hf.ViTMSNForImageClassification(_vision(hf.ViTMSNConfig, **LABELS)), 16)
    return model, None, {"logits": model(images).logits, "other": model(other, interpolate_pos_encoding=True).logits}


MODELS = (
    *(dinov2, dinov2_classifier, dinov2_registers, dinov3, clip, clip_projected, clip_vision, clip_classifier),
    *(siglip, siglip_vision, siglip_classifier, deit, deit_classifier, deit_distilled, vit_mae, vit_msn),
)


def made(model, seed):
    randomize(model, seed)
    return model.eval()


def main() -> None:
    """Write all of it."""
    shutil.rmtree(FAMILIES, ignore_errors=True)
    images = pictures(SIDE, 4, seed=1)
    other = pictures(24, 2, seed=2)[:, :, : OTHER[1]]
    expected = {"images": images, "other_images": other}
    torch.set_grad_enabled(False)
    for make in MODELS:
        model, processor, outputs = make(_nchw(images), _nchw(other))
        folder = FAMILIES / make.__name__
        model.save_pretrained(folder)
        if make is vit_msn:  # transformers 5.24 leaves the layers out of `vit.`, in which transformers 4 has them
            stored = load_file(folder / "model.safetensors")
            stored = {key.replace("encoder.", "vit.encoder."): values for key, values in stored.items()}
            save_file(stored, folder / "model.safetensors")
        (folder / "model.safetensors").chmod(0o644)  # safetensors makes files that only their owner may read
        if processor is not None:
            processor.save_pretrained(folder)
        expected.update({f"{make.__name__}/{name}": tensor.numpy() for name, tensor in outputs.items()})
    np.savez_compressed(FAMILIES / "expected.npz", **expected)


if __name__ == "__main__":
    main()
