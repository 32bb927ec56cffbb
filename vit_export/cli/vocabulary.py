"""The options of all commands by what they are about, and what people type who mean one of them."""

from collections.abc import Collection

GROUPS: dict[str, tuple[str, ...]] = {
    "What is made": (
        *("--saved-model", "--tflite", "--onnx", "--float32", "--float16", "--int8", "--returns", "--features"),
        *("--pooled", "--l2-normalize", "--batch", "--layout", "--hf-layout", "--opset", "--target", "--ort"),
        *("--precisions", "--families", "--delegates"),
    ),
    "Weights": (
        "--weights",
        "--num-heads",
        "--num-classes",
        "--labels",
        "--licence",
        "--reference",
        "--baseline",
        "--benchmark-model",
    ),
    "Images": (
        *("--image-size", "--input", "--mean", "--std", "--resize", "--crop-fraction", "--interpolation"),
        *("--calibration", "--calibration-images", "--held-out-images", "--data", "--train", "--images"),
        "--labels-from",
    ),
    "int8": ("--int8-scheme", "--min-sqnr", "--min-agreement"),
    "Output": ("--name", "--output", "--report", "--junit", "--plot", "--overwrite", "--top", "--json", "--quiet"),
    "Checks and runs": (
        *("--no-verify", "--precision", "--output-name", "--probabilities", "--locate", "--no-latency"),
        *("--on", "--verify-on", "--gpu-precision", "--knn"),
        *("--no-measure", "--no-sha256", "--time-limit", "--threads", "--seed", "--workers", "--ray", "--resume"),
        *("--max-ms", "--max-drop", "--max-mb"),
        *("--adb", "--serial"),
    ),
}
"""Headings of every `--help`, in this order, with the options below each in theirs."""

_MEANT: dict[str, str] = {
    "half fp16 f16": "--float16",
    "fp32 f32 full-precision": "--float32",
    "quantize quantise quant quantized quantised int-8 8bit": "--int8",
    "precision dtype": "--float32 --float16 --int8",
    "format formats": "--tflite --onnx --saved-model",
    "lite litert tf-lite": "--tflite",
    "savedmodel keras": "--saved-model",
    "size img-size imgsz input-size resolution": "--image-size",
    "classes nb-classes n-classes num-labels": "--num-classes",
    "heads": "--num-heads",
    "w model model-name checkpoint ckpt pretrained path file input-model": "--weights --reference",
    "o out out-dir output-dir output-path output-file dir folder dest destination": "--output --report",
    "calib calibrate calibration-data calibration-dir representative representative-dataset dataset": "--calibration "
    "--data",
    "names class-names label-file id2label": "--labels",
    "task embeddings embedding no-top": "--features",
    "normalize": "--l2-normalize",
    "batch-size bs": "--batch",
    "dynamic dynamic-batch dynamic-axes": "--batch dynamic",
    "nchw channels-first": "--layout NCHW",
    "opset-version": "--opset",
    "scheme mode": "--int8-scheme",
    "sqnr": "--min-sqnr",
    "agreement accuracy": "--min-agreement",
    "f y force yes": "--overwrite",
    "num-threads jobs num-workers cpus": "--threads --workers",
    "random-seed": "--seed",
    "skip-verify skip-verification no-check no-validation": "--no-verify",
    "top-k topk": "--top",
    "platform": "--target",
    "gpu place": "--on --verify-on",
    "license": "--licence",
    "q silent": "--quiet",
}
"""By what is typed: options that are meant; those that a command has are proposed, with a value where that is said."""

NOT_THERE = {
    "device cuda cpu": "Exports and checks run on the CPU: leave it out.",
    "simplify optimize optimise": "Graphs are simplified always: leave it out.",
    "no-latency": "Exports time their files for some seconds: leave it out, or compare later with `vit-export verify`.",
    "v verbose debug": "Every step is told anyway: leave it out (`vit-export --version` is the version).",
    "trust-remote-code": "No code of a repository is run, ever: leave it out.",
}
"""What other tools ask, and why there is no such option here."""


_COMMANDS = {
    "convert quantize quantise to-tflite to-onnx tflite onnx": "export",
    "infer inference classify run test embed": "predict",
    "benchmark time profile speed latency": "bench",
    "check validate compare-files": "verify",
    "info show summary describe netron": "inspect",
    "pack package zip": "bundle",
    "grid matrix search tune": "sweep",
    "models variants ls": "list",
    "help man usage": "--help",
}
"""By what is typed: the command that does it."""


def command_meant(typed: str) -> str | None:
    """The command that people mean who type `typed`, which is none."""
    return _row(_COMMANDS, typed) or None


def meant(typed: str, known: Collection[str]) -> list[str]:
    """The options among `known` that people mean who type `typed`, which is none of them."""
    row = _row(_MEANT, typed).replace(" --", "\n--").split("\n")
    return [option for option in row if option.partition(" ")[0] in known]


def not_there(typed: str) -> str:
    """The sentence on an option that other tools have; "" for what none has."""
    return _row(NOT_THERE, typed)


def _row(table: dict[str, str], typed: str) -> str:
    word = typed.lstrip("-").lower().replace("_", "-")
    return next((value for words, value in table.items() if word in words.split()), "")
