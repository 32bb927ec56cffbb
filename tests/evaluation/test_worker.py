"""What a worker answers: errors arrive as they were raised, and a refusal of the system is one of them."""

import pytest

from vit_export.base.errors import InputError, OutputError, VerificationFailed
from vit_export.evaluation.worker import failure, shard_done, told
from vit_export.runtimes.runner import RunnerError


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (InputError("--workers is 0."), InputError),
        (OutputError("No space left."), InputError),
        (VerificationFailed("It is killed."), VerificationFailed),
        (RunnerError("It cannot be run."), VerificationFailed),
    ],
)
def test_errors_arrive_with_their_sentence_and_exit_code(error, kind):
    found = failure(told(error))
    assert type(found) is kind
    assert (found.written, found.exit_code) == (error.written, error.exit_code)
    assert failure({}) is None


def test_rows_that_cannot_be_written_are_one_sentence(tmp_path):
    pytest.importorskip("pyarrow")
    shard = {"kind": "folder", "source": str(tmp_path), "part": [], "columns": {}}
    job = {
        "shards": [shard], "subjects": [], "classes": {"count": 1, "names": {}}, "embeddings": False,
        "folder": str(tmp_path / "gone"),
    }  # fmt: skip
    answer = shard_done(job, 0)
    assert answer["exit_code"] == 2
    assert "part-000000.parquet cannot be written (No such file or directory)" in answer["error"]
