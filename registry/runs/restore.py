"""Continue a run from the copies of its checkpoints in an object store."""

import warnings
from pathlib import Path

from ulzoo.data.storage.output import check_writable
from ulzoo.data.storage.remote import RemotePath, storage_path
from ulzoo.files.tensor_file import DamagedFile
from ulzoo.training.checkpoint_steps import CheckpointStep
from ulzoo.training.checkpointing import CheckpointManager
from ulzoo.training.posthoc_ema import SNAPSHOTS
from ulzoo.training.remote_checkpoints import RemoteCheckpoints


def open_store(url: str) -> RemotePath:
    """The folder of an object store for copies of checkpoints. Raises ValueError: not the URL of one."""
    store = storage_path(url)
    if isinstance(store, Path) or store.is_web:
        raise ValueError(f"--remote-checkpoints {url}: must be a URL of an object store, such as s3://bucket/run")
    return store


def check_store(remote: RemotePath, *, resume: bool) -> None:
    """Check, before training, that copies can be written.

    Raises:
        ValueError: nothing can be written; or there are checkpoints already, which a new run would replace.
    """
    check_writable(remote)
    if not resume and (steps := RemoteCheckpoints(remote / "checkpoints").list_complete()):
        raise ValueError(
            f"{remote}: already contains checkpoints, up to {steps[-1].name}; add --resume to continue from them, or "
            "use another URL"
        )


def restore(run: Path, remote: RemotePath) -> CheckpointStep | None:
    """Download the newest intact checkpoint if the run has none as new, and the snapshots up to it.

    Returns:
        What was downloaded; None if the run has the newest checkpoint.

    Raises:
        ValueError: no access, or all copies are damaged.
    """
    checkpoints, copies = CheckpointManager(run / "checkpoints"), RemoteCheckpoints(remote / "checkpoints")
    own, available, restored = checkpoints.steps(), copies.list_complete(), None
    newer = [step for step in available if not own or step > own[-1]]
    for step in reversed(newer):
        if _download(copies, step, checkpoints):
            restored = step
            break
    if newer and not restored and not own:
        raise ValueError(f"{remote}: every checkpoint is damaged; remove them, or use another URL")
    snapshots, copies = CheckpointManager(run / SNAPSHOTS), RemoteCheckpoints(remote / SNAPSHOTS)
    if restored:
        for step in copies.list_complete():
            if step <= restored and step not in snapshots.steps():
                _download(copies, step, snapshots)
    return restored


def _download(copies: RemoteCheckpoints, step: CheckpointStep, manager: CheckpointManager) -> bool:
    """Whether a copy was intact, and is now in the folder; else a warning names what is damaged."""
    try:
        copies.download(step, manager.folder / step.name)
    except DamagedFile as error:
        warnings.warn(f"{error}; it is not used", stacklevel=2)
        return False
    return True
