"""The process that evaluates shards: started with the path of a job, it reads shards' numbers and answers each.

A process of its own for each worker, started by path as the runners of verification are, so that a program which calls
`evaluate` is not imported again, and one that the system kills takes its shard alone with it.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

_SETTINGS = {"OMP_NUM_THREADS": "1", "ORT_DISABLE_TELEMETRY": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}


def shard_rows(job: dict[str, Any], number: int, paths: dict[str, str] | None = None) -> bytes:
    """The rows of shard `number` of `job`, as a Parquet file.

    `paths` says where this machine has the files, by their sha256; without it they are where the job says.

    Raises:
        InputError: the shard cannot be read, or a label is called like no class.
        RunnerError: a file cannot be run.
    """
    from vit_export.evaluation.classes import Classes
    from vit_export.evaluation.data import Shard
    from vit_export.evaluation.rows import Subject, packed, rows_of

    told = job["shards"][number]
    shard = Shard(told["kind"], told["source"], tuple(told["part"]), told["columns"])
    subjects = [
        Subject(**{**entry, "path": (paths or {}).get(entry["sha256"], entry["path"])}) for entry in job["subjects"]
    ]
    return packed(rows_of(shard, subjects, Classes(**job["classes"]), embeddings=job["embeddings"]))


def shard_done(job: dict[str, Any], number: int) -> dict[str, Any]:
    """Evaluate shard `number` of `job` and write its rows; empty, or a sentence on why it failed."""
    from vit_export.base.errors import VitExportError
    from vit_export.evaluation.rows import write_rows

    try:
        write_rows(shard_rows(job, number), Path(job["folder"], part_name(number)))
    except VitExportError as error:
        return {"error": error.written, "exit_code": error.exit_code}
    except OSError as error:
        return {"error": f"The rows cannot be written ({error.strerror or error}).", "exit_code": 2}
    return {}


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
