"""Encoders of real sizes, written by transformers, through to every output of the files.

    pytest -m '' -s tests/pipeline/test_full_size_families.py      prints how far each output is from the original

Weights are random; the slow tests write up to 700 MB each into pytest's temporary folder and remove it again.
"""

from pathlib import Path

import helpers
import numpy as np
import pytest
from click.testing import CliRunner

from vit_export.cli.main import main
from vit_export.images.read import prepare
from vit_export.runtimes.runner import open_runner
from vit_export.weights.open import open_checkpoint

LIMIT = 1e-4
"""Of the range of each output, for float32 files."""


def dinov2_small(hf):
    model = hf.Dinov2Model(hf.Dinov2Config(hidden_size=384, num_attention_heads=6, image_size=518, patch_size=14))
    return model, lambda out: {"features": out.pooler_output, "tokens": out.last_hidden_state}


def dinov2_registers_small(hf):
    sizes = {"hidden_size": 384, "num_attention_heads": 6, "image_size": 518, "patch_size": 14}
    model = hf.Dinov2WithRegistersModel(hf.Dinov2WithRegistersConfig(**sizes))
    return model, lambda out: {"features": out.pooler_output, "tokens": out.last_hidden_state}


def dinov3_small(hf):
    model = hf.DINOv3ViTModel(hf.DINOv3ViTConfig(num_register_tokens=4))
    return model, lambda out: {"features": out.pooler_output, "tokens": out.last_hidden_state}


def clip_base(hf):
    model = hf.CLIPVisionModelWithProjection(hf.CLIPVisionConfig())
    return model, lambda out: {
        "pooled": out.image_embeds,
        "tokens": model.vision_model.post_layernorm(out.last_hidden_state),
    }


def siglip_base(hf):
    model = hf.SiglipVisionModel(hf.SiglipVisionConfig())
    return model, lambda out: {"pooled": out.pooler_output, "tokens": out.last_hidden_state}


def deit_small_distilled(hf):
    sizes = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536}
    model = hf.DeiTForImageClassificationWithTeacher(hf.DeiTConfig(**sizes, num_labels=100))
    return model, lambda out: {"logits": out.logits}


MAKERS = (dinov2_small, dinov2_registers_small, dinov3_small, clip_base, siglip_base, deit_small_distilled)


@pytest.mark.slow
@pytest.mark.parametrize("maker", MAKERS, ids=lambda maker: maker.__name__)
def test_every_output_is_the_librarys(maker, tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    hf = pytest.importorskip("transformers")
    monkeypatch.syspath_prepend(Path(helpers.__file__).parent)  # where its scripts find each other
    from make_families import randomize
    from skimage import data

    model, outputs_of = maker(hf)
    randomize(model, 3)
    model.eval().save_pretrained(tmp_path / "checkpoint")
    pixels = open_checkpoint(tmp_path / "checkpoint", image_size=224).preprocessing
    pixels = type(pixels)(224, pixels.mean, pixels.std, "shortest", 0.875, "bicubic")
    images = np.stack([prepare(image, pixels) for image in (data.astronaut(), data.chelsea(), data.coffee())])
    with torch.no_grad():
        wanted = outputs_of(model(torch.from_numpy(images).permute(0, 3, 1, 2)))
    out = tmp_path / "out"
    options = ["--image-size", "224", "--returns", ",".join(wanted), "--tflite", "--onnx", "--no-verify"]
    result = CliRunner().invoke(main, ["--weights", str(tmp_path / "checkpoint"), *options, "--output", str(out)])
    assert result.exit_code == 0, result.output
    for path in sorted(out.iterdir()):
        if path.suffix in (".tflite", ".onnx"):
            found = open_runner(path, path.suffix[1:]).run_all(images)
            assert list(found) == [name for name in ("logits", "pooled", "features", "tokens") if name in wanted]
            for name, values in found.items():
                expected = wanted[name].numpy()
                distance = float(np.abs(values - expected).max() / np.ptp(expected))
                print(path.name, name, f"{distance:.1e}")
                assert distance < LIMIT, (path.name, name)


@pytest.mark.slow
def test_zero_shot_classification_as_the_docs_do_it(tmp_path):
    """Image embeddings of our file and text embeddings of transformers make the logits of the whole model."""
    torch = pytest.importorskip("torch")
    hf = pytest.importorskip("transformers")
    folder = Path(helpers.__file__).parents[1] / "fixtures" / "transformers" / "clip"
    out = tmp_path / "out"
    options = ["--onnx", "--l2-normalize", "--no-verify", "--output", str(out)]
    result = CliRunner().invoke(main, ["--weights", str(folder), *options])
    assert result.exit_code == 0, result.output
    model = hf.CLIPModel.from_pretrained(folder).eval()
    images = np.random.default_rng(0).uniform(-1, 1, (3, 16, 16, 3)).astype(np.float32)
    ids = torch.tensor([[1, 3, 4, 2], [1, 5, 6, 2]])
    with torch.no_grad():
        texts = model.get_text_features(input_ids=ids)
        texts = getattr(texts, "pooler_output", texts).numpy()
        shown = torch.from_numpy(images).permute(0, 3, 1, 2)
        expected = model(input_ids=ids, pixel_values=shown).logits_per_image.numpy()
        texts = float(model.logit_scale.exp()) * texts / np.linalg.norm(texts, axis=1, keepdims=True)
    (path,) = out.glob("*.onnx")
    embedded = open_runner(path, "onnx").run(images)
    np.testing.assert_allclose(np.linalg.norm(embedded, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(embedded @ texts.T, expected, rtol=1e-4, atol=1e-4)
