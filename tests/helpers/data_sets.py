"""The held-out digits as a tree, tars and Parquet, which `vit-export evaluate` reads; and the files of the model."""

import io
import json
import tarfile

import numpy as np
from PIL import Image

from helpers.bundles import LABELS, digits_record
from helpers.digits import DigitsParameters, held_out, pictures

COUNT = 100
PER_SHARD = 40


def encoded(count=COUNT):
    """PNG bytes of the first `count` held-out digits, and their classes."""
    images, labels = pictures()
    kept = np.flatnonzero(held_out())[:count]
    found = []
    for index in kept:
        file = io.BytesIO()
        Image.fromarray(images[index]).save(file, "PNG")
        found.append(file.getvalue())
    return found, [int(label) for label in labels[kept]]


def folders(root, images, labels):
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        folder = root / LABELS[label].replace("/", "_")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:05d}.png").write_bytes(image)
    return str(root)


def tars(root, images, labels):
    """WebDataset: shards of images with .cls, the last one with .json."""
    root.mkdir(parents=True)
    starts = range(0, len(images), PER_SHARD)
    for shard, start in enumerate(starts):
        with tarfile.open(root / f"digits-{shard:04d}.tar", "w") as tar:
            for number in range(start, min(start + PER_SHARD, len(images))):
                label = (
                    ("json", json.dumps({"label": labels[number]}))
                    if start == starts[-1]
                    else ("cls", f"{labels[number]}\n")
                )
                for ending, data in (("png", images[number]), (label[0], label[1].encode())):
                    member = tarfile.TarInfo(f"digits/{number:05d}.{ending}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    return str(root / f"digits-{{0000..{len(starts) - 1:04d}}}.tar")


def parquet(root, images, labels):
    """As the Hugging Face hub has it: `image` with bytes and path, `label`; two files of several row groups."""
    import pyarrow as arrow
    from pyarrow.parquet import write_table

    root.mkdir(parents=True)
    half = len(images) // 2
    for name, part in (("train-0.parquet", slice(half)), ("train-1.parquet", slice(half, None))):
        table = arrow.table(
            {
                "image": [{"bytes": image, "path": None} for image in images[part]],
                "label": arrow.array(labels[part], arrow.int64()),
            }
        )
        write_table(table, root / name, row_group_size=17)
    return str(root)


FORMS = {"folders": folders, "tars": tars, "parquet": parquet}


def files(folder):
    """The trained model's float32 and int8 .onnx files and its float32 .tflite file."""
    from vit_export.onnx import write_onnx
    from vit_export.tflite.write import write_tflite

    source, record = DigitsParameters(), digits_record()
    made = [folder / name for name in ("digits_float32.onnx", "digits_int8.onnx", "digits_float32.tflite")]
    write_onnx(source, record, made[0])
    write_onnx(source, record, made[1], precision="int8", input="uint8")
    write_tflite(source, record, made[2])
    return made
