"""What `vit-export evaluate` finds, as figures.json has it, without a file that was run."""

from helpers.sweeps import wilson


def share(correct, total):
    return wilson(correct / total, total)


def figures(name, correct=0.8137, lost=0, gained=0, images=50_000, **more):
    """A file of an evaluation; `lost` and `gained` both 0 is the reference."""
    compared = lost or gained
    found = {
        "path": f"exports/{name}", "sha256": "ab" * 32, "name": name, "images": images,
        "top1": share(round(correct * images), images), "top5": share(round(0.95 * images), images),
        "agreement": share(round(0.98 * images), images) if compared else None,
        "mcnemar": {"lost": lost, "gained": gained, "p": 0.0001 if lost > gained + 40 else 0.6,
                    "worse": lost > gained + 40} if compared else None,
        "sqnr_median_db": 31.2 if compared else None, "sqnr_worst_db": 18.4 if compared else None,
        "calibration_error": 0.021, "loss": 0.74, "worst_classes": [], "knn": None,
    }  # fmt: skip
    return {**found, **more}


def evaluation_of(files=None, **more):
    """The whole of a figures.json."""
    loss = {"index": 3, "total": 50, "correct": 31, "reference_correct": 44, "name": "tiger shark"}
    files = files or [
        figures("s16_float32.tflite"),
        figures("s16_int8.tflite", 0.8101, 280, 100, worst_classes=[loss, {**loss, "index": 7, "name": None}]),
        figures("s16_float16.onnx", 0.8136, 20, 15),
    ]
    return {
        "schema_version": 1, "created": "2026-11-26T16:00:00+00:00",
        "versions": {"python": "3.11.7", "onnxruntime": "1.22.0"},
        "machine": {"cpu": {"model": "A processor", "cores": 2, "features": ["avx2"]}},
        "commands": ["vit-export evaluate exports/s16-224/ --data imagenet/val --labels sorted --report out/"],
        "data": "imagenet/val", "reference": files[0]["name"], "shards": 98, "resumed_shards": 0, "rows": "rows",
        "images": 50_000, "labelled": 50_000,
        "unreadable": [["n01440764/broken.JPEG", "the file is truncated"]], "files": files, **more,
    }  # fmt: skip
