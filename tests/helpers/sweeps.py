"""Records of sweeps, as `sweep.json` has them, without a file that was made."""

import math


def wilson(share, total):
    """The interval of a share, by the formula that `share_interval` takes from scipy."""
    z = 1.959964
    middle, spread = share + z * z / (2 * total), z * math.sqrt(share * (1 - share) / total + (z / (2 * total)) ** 2)
    low, high = ((middle + sign * spread) / (1 + z * z / total) for sign in (-1, 1))
    return {"share": share, "low": low, "high": high, "correct": round(share * total), "total": total}


def evaluated(accuracy, drop=0.0, images=50_000, gained=None):
    """An evaluation of `images` of which the share `accuracy` is right, `drop` points fewer than of the reference's.

    Where nothing is lost nor gained it is that of the reference.
    """
    net = round(drop * images / 100)
    gained = max(0, -net) + (0 if drop == 0 else round(0.002 * images)) if gained is None else gained
    lost = gained + net
    worse = lost > gained + 2 * math.sqrt(lost + gained)
    return {
        "accuracy": wilson(accuracy, images),
        "reference": wilson(min(1.0, accuracy + drop / 100), images),
        "drop": drop,
        "mcnemar": {"lost": lost, "gained": gained, "p": 0.0001 if worse else 0.4, "worse": worse}
        if lost or gained
        else None,
    }


def cell(name, ms=10.0, mb=20.0, *, accuracy=None, drop=0.0, images=50_000, width=0.01, worst_db=30.0, **more):
    """A cell that was done and passed; `ms` None is one that was not timed."""
    timed = None if ms is None else {"ms": ms, "low_ms": (1 - width) * ms, "high_ms": (1 + width) * ms}
    found = {
        "id": name, "key": "0" * 64, "model": "vit_s32", "weights": None, "trained": True, "image_size": [224, 224],
        "format": "tflite", "precision": "int8", "scheme": "dynamic", "status": "done", "reason": None,
        "cached": False, "seconds": 12.5, "file": f"cells/{name}/{name}.tflite", "bytes": mb * 1e6, "verdict": "pass",
        "failed_checks": [], "sqnr_median_db": worst_db + 5, "sqnr_worst_db": worst_db, "agreement": 1.0,
        "report": f"cells/{name}/report.html", "latency": timed,
        "evaluation": None if accuracy is None else evaluated(accuracy, drop, images),
    }  # fmt: skip
    return {**found, **more}


def without_result(name, status, reason, **more):
    """A cell that was refused, or that failed."""
    nothing = ("file", "bytes", "verdict", "sqnr_median_db", "sqnr_worst_db", "agreement", "report", "latency")
    return {
        **cell(name), **dict.fromkeys(nothing), "evaluation": None, "status": status, "reason": reason, **more,
    }  # fmt: skip


def sweep_of(cells, *, evaluation=True, **budget):
    """The whole record of a sweep of `cells`; `budget` has max_ms, max_drop and max_mb."""
    from vit_export.report.recommendation import choose, front_of

    limits = {"max_ms": None, "max_drop": None, "max_mb": None, **budget}
    return {
        "schema_version": 1,
        "versions": {"vit-export": "0.20.0", "tensorflow": "2.19.0", "onnxruntime": "1.22.0"},
        "processor": "A processor, avx2 avx512_vnni",
        "threads": 1,
        "date": "2026-11-26T16:00:00+00:00",
        "evaluation": {"data": "imagenet/val", "metric": "top-1", "images": 50_000, "labelled": 50_000}
        if evaluation
        else None,
        "budget": limits,
        "cells": cells,
        "front": front_of(cells),
        "ship": choose(cells, limits),
    }


def models():
    """Cells of three models, among them a file that fails, an export that was refused and one that broke."""
    s16 = {"model": "vit_s16", "weights": "checkpoints/s16.npz"}
    s32 = {"model": "vit_s32", "weights": "checkpoints/s32.npz"}
    toy = {"model": "vit_ti16", "weights": "checkpoints/ti16.npz"}
    plain = {"precision": "float32", "scheme": None}
    return [
        cell("vit_s16-224-tflite-float32", 62.0, 88.2, accuracy=0.8137, worst_db=128.0, **s16, **plain),
        cell("vit_s16-224-tflite-int8-auto", 21.0, 23.4, accuracy=0.8101, drop=0.36, **s16, scheme="auto"),
        cell("vit_s16-224-tflite-int8-static", 14.0, 22.9, accuracy=0.7790, drop=3.47, verdict="fail",
             failed_checks=["sqnr", "agreement"], worst_db=9.0, **s16, scheme="static"),
        cell("vit_s16-224-onnx-int8-w8a16", 33.0, 23.1, accuracy=0.8130, drop=0.07, format="onnx", scheme="w8a16",
             **s16),
        cell("vit_s32-224-tflite-float32", 17.0, 91.5, accuracy=0.7610, worst_db=127.0, **s32, **plain),
        cell("vit_s32-224-tflite-int8-auto", 6.5, 24.0, accuracy=0.7581, drop=0.29, **s32, scheme="auto"),
        cell("vit_ti16-224-tflite-int8-auto", 5.1, 6.2, accuracy=0.7370, drop=0.5, **toy, scheme="auto"),
        without_result("vit_s32-224-onnx-float16", "refused", "ONNX Runtime has no float16 kernels on the CPU: "
                       "such a file would not run.", **s32, format="onnx", precision="float16", scheme=None),
        without_result("vit_ti16-224-onnx-int8-static", "failed", "The process that ran the file was killed by "
                       "SIGKILL, as by a full memory.", **toy, format="onnx", scheme="static"),
    ]  # fmt: skip
