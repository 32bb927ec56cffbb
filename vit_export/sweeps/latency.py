"""How fast the files of a sweep are: measured when all else is over, alone, all of them taking turns."""

from collections.abc import Mapping
from typing import Any

from vit_export.base.errors import VitExportError
from vit_export.base.reporting import Reporter
from vit_export.base.text import counted
from vit_export.runtimes.benchmark import bench
from vit_export.sweeps.cell import Outcome
from vit_export.sweeps.keys import code, identity_of_machine, key_of
from vit_export.sweeps.store import LATENCY, Store
from vit_export.sweeps.telling import Within


def latencies(outcomes: Mapping[str, Outcome], threads: int, store: Store, say: Reporter) -> dict[str, dict[str, Any]]:
    """Milliseconds for one image of each file, by id, with their interval; none for a file that could not be run.

    Times of one run are of one state of the machine. So they are kept together, and where a file is new, all are
    measured again.
    """
    digests = {id: outcome["sha256"][outcome["file"]] for id, outcome in outcomes.items()}
    key = key_of(threads=threads, machine=identity_of_machine(), code=code())
    known = store.read(store.folder / LATENCY, key) or {}
    if all(digest in known for digest in digests.values()):
        return {id: known[digest] for id, digest in digests.items()}
    paths = {id: store.cell(id) / outcome["file"] for id, outcome in outcomes.items()}
    say.step(f"Measuring latency: {counted(len(paths), 'file')}, taking turns")
    try:
        rows = {row.path: row for row in bench([*paths.values()], threads=threads, reporter=Within(say)).files}
    except VitExportError as error:  # of hours of work it is the last step
        say.note(f"Latency could not be measured: {error}")
        return {}
    found = {}
    for id, path in paths.items():
        row = rows[str(path)]
        if row.latency is not None:
            batch = row.latency.batch
            ends = (row.latency.low_ms, row.latency.high_ms)
            low, high = (None if end is None else end / batch for end in ends)
            found[id] = {"ms": row.latency.median_ms / batch, "low_ms": low, "high_ms": high}
        elif row.error:
            say.note(f"{id} has no latency: {row.error}")
    store.write(store.folder / LATENCY, key, {digests[id]: times for id, times in found.items()})
    return found
