"""Content keys: what a result depends on, and nothing else, as one sha256. Another key means that it is made anew."""

import hashlib
import json
import platform
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from vit_export.base.files import digest_of_file, input_errors
from vit_export.base.machine import cpu
from vit_export.base.reporting import Reporter
from vit_export.base.signal import json_ready
from vit_export.base.versions import PACKAGES, versions
from vit_export.evaluation.data import DataSet
from vit_export.images.split import DataSplit
from vit_export.model.record import ModelRecord

_VERSION = 1
_ROOT = Path(__file__).parents[1]


def key_of(**parts: Any) -> str:
    """The sha256, in hex, of `parts` (JSON-ready but for numbers that JSON lacks)."""
    text = json.dumps({"version": _VERSION, **json_ready(parts)}, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


@cache
def code() -> dict[str, str]:
    """What computes: releases of the packages, and a digest of this one's own files, which a version may not tell."""
    digest = hashlib.sha256()
    for path in sorted(path for path in _ROOT.rglob("*") if path.is_file() and "__pycache__" not in path.parts):
        digest.update(f"{path.relative_to(_ROOT).as_posix()}\0{digest_of_file(path)}\n".encode())
    return {"python": platform.python_version(), **versions(*PACKAGES, "pillow"), "code": digest.hexdigest()}


def identity_of_model(record: ModelRecord, identity: Mapping[str, Any]) -> dict[str, Any]:
    """What a model is: its weights, and all that its record says but where they lie and what it is called."""
    told = record.to_dict()
    spec = {name: value for name, value in told["spec"].items() if name != "name"}
    rest = {name: value for name, value in told.items() if name not in ("weights", "fingerprint", "spec")}
    return {"weights": dict(identity), "trained": record.trained, "spec": spec, **rest}


def identity_of_images(images: DataSplit) -> dict[str, Any]:
    """The images that calibrate and those that verify, wherever they lie."""
    sides = {"representative": images.representative.images, "held_out": images.held_out.images}
    return {name: {"files": list(side.files), "digest": side.digest} for name, side in sides.items()}


def identity_of_data(data: DataSet, say: Reporter) -> str:
    """The digest of a data set: of its files' bytes; names and sizes alone where they have an address."""
    files: dict[str, None] = {}  # a file may be the source of several shards
    for shard in data.shards:
        names = (
            [str(Path(shard.source, str(name))) for name in shard.part] if shard.kind == "folder" else [shard.source]
        )
        files |= dict.fromkeys(name for name in names if "://" not in name)
    digest = hashlib.sha256(data.digest.encode())
    for number, name in enumerate(files):
        say.progress(number, len(files))
        with input_errors(name):
            digest.update(digest_of_file(Path(name)).encode())
    return digest.hexdigest()


def identity_of_machine() -> dict[str, Any]:
    """What times are of."""
    return {"machine": platform.machine(), **cpu().to_dict()}
