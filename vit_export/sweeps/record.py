"""What a sweep found, as sweep.json has it: each cell, the front, and what to ship."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vit_export.base.json_file import json_text
from vit_export.base.machine import cpu
from vit_export.base.signal import json_ready
from vit_export.base.text import without_secrets
from vit_export.base.versions import versions
from vit_export.base.wording import worded
from vit_export.sweeps.accuracy import Measure
from vit_export.sweeps.cell import Cell, Outcome
from vit_export.sweeps.plan import SweepRequest
from vit_export.sweeps.store import CELLS, PAGE, RECORD, Store, write_text

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class SweepResult:
    """What a sweep found, as `sweep.json` has it, and the folder that it is in."""

    record: Mapping[str, Any]
    folder: Path

    def __repr__(self) -> str:
        """The cells in numbers, and the file to ship."""
        ship = self.record["ship"]["id"] or "nothing"
        return f"<SweepResult {len(self.cells)} cells in {self.folder}/, ship {ship}>"

    @property
    def cells(self) -> Sequence[Mapping[str, Any]]:
        """The cells in the order of the grid."""
        cells: Sequence[Mapping[str, Any]] = self.record["cells"]
        return cells

    @property
    def failures(self) -> tuple[str, ...]:
        """A sentence for each reason why cells could not be made or evaluated; a verdict is a result, none of them."""
        return self._reasons("refused", "failed", "done")

    @property
    def not_evaluated(self) -> tuple[str, ...]:
        """Of `failures` those of cells that were made."""
        return self._reasons("done")

    def _reasons(self, *statuses: str) -> tuple[str, ...]:
        ids: dict[str, list[str]] = {}
        for cell in self.cells:
            if cell["reason"] and cell["status"] in statuses:
                ids.setdefault(cell["reason"], []).append(cell["id"])
        more = {reason: f" and {len(some) - 1} more" if len(some) > 1 else "" for reason, some in ids.items()}
        return tuple(f"{some[0]}{more[reason]}: {worded(reason)}" for reason, some in ids.items())

    @property
    def passed(self) -> bool:
        """Whether every cell was made and, with data, evaluated."""
        return not self.failures

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        return dict(self.record)


def told_of(
    cell: Cell,
    outcome: Outcome,
    cached: bool,
    evaluation: Mapping[str, Any] | None,
    times: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The cell as the record has it; `cached` is one that was done before."""
    done = outcome["status"] == "done"
    place = f"{CELLS}/{cell.id}"
    found = dict(evaluation or {})
    problem = found.pop("problem", None)
    figures = ("bytes", "verdict", "sqnr_median_db", "sqnr_worst_db", "agreement")
    return {
        **cell.told(),
        "status": outcome["status"],
        "reason": outcome["reason"] or problem,
        "cached": cached,
        "seconds": outcome["seconds"],
        "file": f"{place}/{outcome['file']}" if done else None,
        **{name: outcome.get(name) for name in figures},
        "failed_checks": outcome.get("failed_checks", []),
        "report": f"{place}/{outcome['report']}" if done else None,
        "evaluation": found or None,
        "latency": times,
    }


def record_of(
    request: SweepRequest,
    cells: Sequence[Mapping[str, Any]],
    measure: Measure | None,
    evaluations: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """The record of `cells`, each as `told_of` has it, with the front and what to ship within the budget."""
    from vit_export.report.recommendation import choose, front_of

    processor = cpu()
    features = f" ({', '.join(processor.features)})" if processor.features else ""
    budget = {name: getattr(request, name) for name in ("max_ms", "max_drop", "max_mb")}
    evaluation = None
    if measure is not None:
        counted = [found for found in evaluations.values() if "images" in found]
        sizes = {name: counted[0][name] if counted else 0 for name in ("images", "labelled")}
        evaluation = {"data": without_secrets(request.data or ""), "metric": measure.metric, **sizes}
    ready: list[dict[str, Any]] = json_ready(cells)
    record = {
        "schema_version": SCHEMA_VERSION,
        "versions": versions(),
        "processor": f"{processor.model}{features}",
        "threads": request.threads,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "evaluation": evaluation,
        "budget": budget,
        "cells": ready,
        "front": front_of(ready),
        "ship": choose(ready, budget),
    }
    return dict(json_ready(record))


def write_record(record: Mapping[str, Any], store: Store) -> None:
    """Write the record and its page into the sweep's folder."""
    from vit_export.report.sweep_page import sweep_page

    write_text(store.folder / RECORD, json_text(record) + "\n")
    write_text(store.folder / PAGE, sweep_page(record))
