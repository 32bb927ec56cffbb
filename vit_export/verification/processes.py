"""The processes of one verification."""

from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path

from vit_export.base.files import same_path
from vit_export.model.artifact import Artifact, Format
from vit_export.runtimes.places import CPU, Place
from vit_export.runtimes.process import RunnerProcess
from vit_export.runtimes.runner import ProcessKilled, RunnerError
from vit_export.verification.options import VerifyOptions
from vit_export.verification.ranges import Beyond, beyond_half
from vit_export.verification.trial import Trial


class Processes:
    """The processes of one verification; those that are kept are timed where they are.

    `kept` has the latter by the place in words (`RunnerProcess.where`), and there by the path of their file.
    """

    def __init__(self, options: VerifyOptions) -> None:
        self.options, self.kept = options, defaultdict[str, dict[str, RunnerProcess]](dict)
        self._stack = ExitStack()

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def of_file(self, artifact: Artifact, place: Place) -> RunnerProcess:
        """A process for `artifact`, as `of`, that runs it at `place`."""
        return self.of(artifact.path, artifact.format, place=place, output=self.options.read.get(artifact.path))

    def of(self, path: str, format: Format, *, place: Place = CPU, output: str | None = None) -> RunnerProcess:
        """A process, not started yet, for the file at `path`; it ends with the verification at the latest."""
        process = RunnerProcess(Path(path), format, self.options.threads, place=place, output=output)
        self._stack.callback(process.close)
        return process

    def beyond_half(self, trial: Trial) -> Beyond | None:
        """Where the file of `trial`, which it was run in, leaves 16-bit floats (`half_range.meets_half`)."""
        path, process = Path(trial.artifact.path), trial.process
        if process.pid is None:  # it does not run
            return None
        if process.place is CPU:
            return beyond_half(path, process, trial.fed)
        try:
            with self.of_file(trial.artifact, CPU) as own:
                return beyond_half(path, own, trial.fed)
        except ProcessKilled:
            raise
        except RunnerError:
            return None

    def settle(self, path: str, process: RunnerProcess, *, keep: bool) -> None:
        """Leave the `process` of `path` running to be timed, or end it; of one file one process a place is enough."""
        kept = self.kept[process.where]
        if keep and not any(same_path(Path(path), Path(other)) for other in kept):
            kept[path] = process
        else:
            process.close()
