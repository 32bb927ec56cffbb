"""Reports with everything in them, made of the records themselves, and names that would like to be more than names."""

import json
import math
from dataclasses import replace

import numpy as np

from vit_export.base.machine import Cpu
from vit_export.model.artifact import Artifact, TensorSpec
from vit_export.model.record import RECORD_VERSION, ModelRecord
from vit_export.report.content import build_report
from vit_export.runtimes.process import Memory
from vit_export.runtimes.timing.latency import Latency
from vit_export.verification.checks import Check
from vit_export.verification.evidence import Cause, LayerPoint, Location, TopClasses
from vit_export.verification.metrics import accuracy, compare
from vit_export.verification.verdict import FileResult, Reference, Verification

CLASSES = 10
FAILURE = "worst difference 0.31 of the range on held_out/photo_3.jpg, limit 0.05"
MEMORY = Memory(312_000_000, 120_000_000, 40_000_000)

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(2)>',
    "{{7*7}}{% raw %}",
    "]]></style></script>-->",
    "\u202egpj.exe\u2066",
    "first\nsecond\r\x00\x1b[31m",
    "\ud800 lone surrogate \uffff",
    "javascript:alert(3)",
    "x" * 300,
    "' onload='alert(4)",
    "&lt;b&gt; &#60;",
)


def artifact(name, format, precision, scheme=None, size=88_123_456):
    return Artifact(
        path=f"/somewhere/{name}",
        format=format,
        precision=precision,
        inputs=(TensorSpec("images", (1, 224, 224, 3), "float32", "NHWC", values="normalized"),),
        outputs=(TensorSpec("logits", (1, CLASSES), "float32"),),
        bytes=size,
        sha256="ab" * 32,
        scheme=scheme,
        notes=("Runs on anything",),
        quantization={"modes": {"head": "dynamic"}} if precision == "int8" else None,
    )


def latency(median, reference=72.5, seed=0):
    calls = np.sort(median * np.random.default_rng(seed).uniform(0.98, 1.1, 60))
    return Latency(
        median_ms=median,
        low_ms=0.99 * median,
        high_ms=1.01 * median,
        p90_ms=1.1 * median,
        p99_ms=1.2 * median,
        runs=60,
        rounds=12,
        reference_median_ms=reference,
        speedup=reference / median,
        speedup_low=0.98 * reference / median,
        speedup_high=1.02 * reference / median,
        samples_ms=tuple(calls),
    )


def top(outputs):
    shares = np.exp(outputs - outputs.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    best = np.argsort(-outputs, axis=1)[:, :5]
    return tuple(
        TopClasses(tuple(map(int, row)), tuple(float(s) for s in share[row]))
        for row, share in zip(best, shares, strict=True)
    )


def location(departs="encoder layer 1 mlp"):
    names = ["embedding", *(f"encoder layer {i} {half}" for i in range(3) for half in ("attention", "mlp"))]
    names += ["encoder norm", "output"]
    values = [60.0, 58.0, None, 55.0, 20.0, 18.0, 15.0, 14.0, 12.0]
    points = tuple(
        LayerPoint(n, v, None if v is None else 10 ** (-v / 20), None if v is None else f"t/{n}")
        for n, v in zip(names, values, strict=True)
    )
    return Location(points, departs, 40.0, 4, f"It leaves the reference at {departs}" if departs else "No point is off")


def verification(count=8, files=None, images=None):
    """Of `count` images: three files that pass, one that fails with all evidence, one that never ran."""
    random = np.random.default_rng(0)
    outputs = random.normal(size=(count, CLASSES)).astype(np.float32)
    classes = list(map(int, outputs.argmax(axis=1)))
    classes[0] = (classes[0] + 1) % CLASSES

    def result(name, format, precision, scheme, noise, median, limit, size, **more):
        found = outputs + np.float32(noise) * random.normal(size=outputs.shape).astype(np.float32)
        comparison = compare(outputs, found)
        worst = comparison.worst_relative
        good = worst <= limit
        checks = (
            Check("runs", True),
            Check("worst_difference", good, limit, worst, "" if good else FAILURE),
            Check("sqnr", True, 10.0, min(comparison.sqnr_db)),
        )
        made = artifact(name, format, precision, scheme, size)
        values = (comparison, latency(median), MEMORY, 0.5, 0.04, accuracy(found, classes), top(found))
        return FileResult(made, checks, *values, **more)

    found = files or (
        result("toy_float32.tflite", "tflite", "float32", None, 0.0, 60.0, 1e-4, 92_000_000),
        result("toy_float16.tflite", "tflite", "float16", None, 1e-3, 58.0, 1e-2, 46_000_000),
        result("toy_int8.tflite", "tflite", "int8", "static", 0.02, 30.0, 0.1, 24_000_000, location=location(None)),
        result(
            "toy_int8.onnx", "onnx", "int8", "dynamic", 0.6, 25.0, 0.05, 23_000_000,
            causes=(Cause("gelu_tanh", "GELU is the tanh form in it"),), location=location(),
        ),
        FileResult(
            artifact("toy_float32.onnx", "onnx", "float32"),
            (Check("runs", False, detail="The process running toy_float32.onnx was killed by SIGKILL"),),
        ),
    )  # fmt: skip
    bounds = float(outputs.max() - outputs.min())
    spec = TensorSpec("logits", (None, CLASSES), "float32")
    return Verification(
        reference=Reference(
            "/somewhere/saved_model", 93_000_000, (Check("runs", True),), spec, bounds,
            latency(72.5), MEMORY, 1.5, accuracy(outputs, classes), top(outputs),
        ),
        files=found,
        images=images or tuple(f"held_out/photo_{i}.jpg" for i in range(count)),
        trained=True,
        threads=1,
        cpu=Cpu("A processor", ("avx2", "avx512_vnni"), 2),
        latency_plan="together",
        warnings=("The machine did other work while latency was measured: p90 is up to 2.5 times the median.",),
    )  # fmt: skip


def built(values):
    """What `build_report` makes of the dicts of a record, and of the rest of `values`."""
    parts = {name: values[name] for name in ("spec", "preprocessing", "weights", "labels")}
    rest = {name: value for name, value in values.items() if name not in parts}
    return build_report(ModelRecord.from_dict({"record_version": RECORD_VERSION, **parts}), **rest)


def report_of(verification, **changes):
    """The report of `verification` as it is read back from its file."""
    names = list(verification.images) if verification else []
    values = {
        "spec": {
            "name": "vit_toy", "patch_size": 8, "num_layers": 3, "hidden_size": 48, "mlp_size": 96, "num_heads": 4,
            "image_size": 32, "num_classes": CLASSES, "layer_norm_epsilon": 1e-6, "gelu": "erf",
            "pre_logits_size": None,
        },
        "preprocessing": {
            "image_size": 32, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "resize": "squash",
            "crop_fraction": 1.0, "interpolation": "bilinear",
        },
        "weights": {"source": "test", "trained": True},
        "labels": [f"label {i}" for i in range(CLASSES)],
        "datasets": {
            "representative": {"folder": "photos", "files": ["representative/a.jpg"], "digest": "cd" * 32},
            "held_out": {"folder": "photos", "files": names, "digest": "ef" * 32},
            "skipped": [["broken.jpg", "it is empty"]],
            "note": None,
        },
        "settings": {"threads": 1, "output": "exports"},
        "commands": ["vit-export vit_toy --tflite --output exports", "vit-export verify exports"],
        "verification": verification,
        "artifacts": [file.artifact for file in verification.files] if verification else [],
    }  # fmt: skip
    return json.loads(json.dumps(built(values | changes), allow_nan=False))


def hostile_report():
    """A report in which everything that somebody else may name has a name of HOSTILE."""
    plain = verification(len(HOSTILE))
    files = tuple(
        replace(
            file,
            artifact=replace(file.artifact, path=f"/x/{name}", notes=(name,), scheme=name, quantization={name: name}),
            checks=tuple(replace(check, name=name, detail=name) for check in file.checks),
            causes=(Cause(name, name),),
            location=replace(location(name), detail=name, points=(LayerPoint(name, math.inf, None, name),) * 2),
        )
        for file, name in zip((*plain.files, *plain.files, plain.files[3]), HOSTILE, strict=True)
    )
    report = report_of(replace(plain, files=files, images=HOSTILE, warnings=HOSTILE))
    report["labels"] = list(HOSTILE)[:CLASSES]
    report["commands"] = list(HOSTILE)
    report["advice"] = [{"kind": name, "files": list(HOSTILE), "text": name, "command": name} for name in HOSTILE]
    report["spec"]["name"] = HOSTILE[0]
    report["weights"] = {"source": HOSTILE[1], "location": HOSTILE[4], HOSTILE[0]: HOSTILE}
    report["versions"] = {name: name for name in HOSTILE}
    report["created"] = HOSTILE[5]
    report["verification"]["cpu"]["model"] = HOSTILE[3]
    report["datasets"]["held_out"]["folder"] = HOSTILE[1]
    report["datasets"][HOSTILE[0]] = {"files": HOSTILE, "digest": HOSTILE[2], "folder": HOSTILE[0]}
    return report
