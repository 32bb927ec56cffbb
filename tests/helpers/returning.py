"""Models with several outputs, one for each way in which outputs can share what the encoder gives."""

from conftest import toy_spec

ALL_OF_A_CLASSIFIER = "everything"

_CLIP = {
    "embedding_norm": True,
    "gelu": "quick",
    "num_classes": None,
    "pre_logits_size": 20,
    "pre_logits_activation": "linear",
}
_BARE = {"num_classes": None}
_SIGLIP = {**_BARE, "class_token": False, "pooling": "attention"}

CASES = {
    ALL_OF_A_CLASSIFIER: {"pre_logits_size": 20, "returns": ("tokens", "logits", "features", "pooled")},
    "clip": {**_CLIP, "returns": ("pooled", "tokens")},
    "clip, of length 1": {**_CLIP, "returns": ("features", "pooled", "tokens"), "l2_normalize": True},
    "registers": {"num_registers": 4, "pooling": "class_and_mean", "returns": ("logits", "features", "tokens")},
    "class token beside class and mean": {"pooling": "class_and_mean", "returns": ("logits", "features")},
    "distilled": {"num_registers": 1, "pooling": "class_and_distillation", "returns": ("logits", "features")},
    "tokens": {**_BARE, "returns": ("tokens",)},
    "features and tokens": {**_BARE, "returns": ("features", "tokens")},
    "attention": {**_SIGLIP, "returns": ("pooled", "tokens"), "l2_normalize": True},
    "tokens without attention pooling": {**_SIGLIP, "returns": ("tokens",)},
    "mean": {"pooling": "mean", "returns": ("logits", "features", "tokens")},
    "norm of the mean": {"pooling": "mean_norm", "returns": ("logits", "features", "tokens")},
    "tokens without the norm of the mean": {**_BARE, "pooling": "mean_norm", "returns": ("tokens",)},
}


def spec_of(case):
    """The toy of `case`."""
    return toy_spec(**CASES[case])
