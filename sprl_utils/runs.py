"""What every notebook begins and ends with: folders, seeds, and the provenance record of its results."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_fabric import seed_everything

from sprl_utils.figures import banner
from sprl_utils.provenance import environment, keep_record, repo_root, tune_process, write_json


@dataclass(frozen=True)
class NotebookRun:
    """One notebook with one profile.

    Args:
        record: name of the provenance record in ``results``.
        root: the repository.
        runs, results: ``runs/<profile>/`` and ``results/<profile>/``.
        process: what `tune_process` has set.
    """

    profile: str
    record: str
    root: Path
    runs: Path
    results: Path
    process: dict[str, Any]

    def finish(
        self,
        settings: Mapping[str, Any],
        inputs: Iterable[Path] = (),
        outputs: Iterable[Path] = (),
        trained_in: Path | None = None,
    ) -> None:
        """Write the provenance record: code, versions, hardware, settings, hashes of inputs and outputs.

        Args:
            trained_in: folder of the training run that the notebook shows. One that was finished before
                keeps the record of the code and the machine that trained it.

        Raises:
            FileNotFoundError: an input or output is not there.
        """
        used = {"profile": self.profile, **settings, **self.process}
        found = environment(used, inputs, outputs)
        write_json(self.results / self.record, keep_record(trained_in, found) if trained_in else found)


def start_run(profile: str, record: str, seed: int) -> NotebookRun:
    """Tune this process, seed everything, and show the banner of a smoke run; call it before any work."""
    root, process = repo_root(), tune_process()
    seed_everything(seed, verbose=False)
    banner(profile)
    return NotebookRun(profile, record, root, root / "runs" / profile, root / "results" / profile, process)
