"""The process that evaluates shards: started with the path of a job, it reads shards' numbers and answers each.

A process of its own for each worker, started by path as the runners of verification are, so that a program which calls
`evaluate` is not imported again, and one that the system kills takes its shard alone with it.
"""

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vit_export.base.errors import VitExportError

_SETTINGS = {"OMP_NUM_THREADS": "1", "ORT_DISABLE_TELEMETRY": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}


def shard_rows(job: dict[str, Any], number: int, paths: dict[str, str] | None = None) -> bytes:
    """The rows of shard `number` of `job`, as a Parquet file.

    `paths` says where this machine has the files, by their sha256; without it they are where the job says.

    Raises:
        InputError: the shard cannot be read, or a label is called like no class.
        RunnerError: a file cannot be run.
    """
    from vit_export.base.files import input_errors
    from vit_export.evaluation.classes import Classes
    from vit_export.evaluation.data import Shard
    from vit_export.evaluation.rows import Subject, packed, rows_of

    entry = job["shards"][number]
    shard = Shard(entry["kind"], entry["source"], tuple(entry["part"]), entry["columns"])
    subjects = [
        Subject(**{**known, "path": (paths or {}).get(known["sha256"], known["path"])}) for known in job["subjects"]
    ]
    with input_errors(shard.source):
        return packed(rows_of(shard, subjects, Classes(**job["classes"]), embeddings=job["embeddings"]))


def shard_done(job: dict[str, Any], number: int) -> dict[str, Any]:
    """Evaluate shard `number` of `job` and write its rows; empty, or why it failed (see `told`)."""
    from vit_export.base.errors import VitExportError
    from vit_export.evaluation.rows import write_rows

    try:
        write_rows(shard_rows(job, number), Path(job["folder"], part_name(number)))
    except VitExportError as error:
        return told(error)
    return {}


def told(error: "VitExportError") -> dict[str, Any]:
    """`error` as another process is told of it, JSON-ready: what `failure` makes an error of again."""
    return {"error": error.written, "exit_code": error.exit_code}


def failure(answer: dict[str, Any]) -> "VitExportError | None":
    """The error that a worker's answer tells of, None where the shard was done."""
    from vit_export.base.errors import InputError, VerificationFailed, VitExportError

    if "error" not in answer:
        return None
    kind: type[VitExportError] = InputError if answer["exit_code"] == InputError.exit_code else VerificationFailed
    return kind(answer["error"])


def part_name(number: int) -> str:
    """The file of the rows of shard `number`."""
    return f"part-{number:06d}.parquet"


def main() -> None:
    """Answer shard numbers until there are no more."""
    os.environ.update(_SETTINGS)
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    answers, sys.stdout = sys.stdout, sys.stderr  # runtimes print what they like
    for line in sys.stdin:
        print(json.dumps(shard_done(job, int(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
