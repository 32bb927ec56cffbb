"""The process that makes one cell: it reads a job, makes it, and answers what became of it.

A process of its own for each cell: one that the system kills takes nothing else with it, and memory that converters
keep is given back.
"""

import json
import os
import sys
import threading
from pathlib import Path

ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "ORT_DISABLE_TELEMETRY": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


def _end_with_parent() -> None:
    """End with the process that started this one, which holds the other end of stdin."""
    sys.stdin.read()
    os._exit(1)


def main() -> None:
    """Answer one job."""
    os.environ.update(ONE_THREAD)
    job, folder = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    answers, sys.stdout = sys.stdout, sys.stderr  # runtimes print what they like
    from vit_export.base.signal import json_ready
    from vit_export.sweeps.cell import done

    print(json.dumps(json_ready(done(job, Path(folder)))), file=answers, flush=True)
    os._exit(0)  # the thread waits for ever, and so would an orderly end


if __name__ == "__main__":
    main()
