"""Packing examples into shards: in parallel, and after any interruption from where it stopped to the same bytes."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import multiprocessing
import os
import signal
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar, Protocol

from ulzoo.data.source import Unreadable
from ulzoo.data.storage.manifest import LABELS, Manifest, Shard, SplitSummary
from ulzoo.files.atomic import remove_unfinished, write_atomically, write_text

SECONDS_BETWEEN_LOOKS = 0.2


class ExampleEncoding(Protocol):
    """How examples are encoded."""

    def settings(self) -> dict[str, Any]:
        """All that decides what is written, as plain data."""


class Example(Protocol):
    """One example to be packed; it goes to a worker process."""

    absent: ClassVar[str]
    """Why it is left out where it is not there; taken in by a later run."""

    @property
    def key(self) -> str:
        """Its name in the shard."""

    def described(self) -> tuple[Any, ...]:
        """What of it, besides the content of its files, decides what is written, as plain data."""

    def there(self) -> bool:
        """Whether its file can be opened."""

    def files(self, encoding: Any) -> Iterable[tuple[str, bytes]]:
        """Suffix and content of its files in the shard. Raises Unreadable."""


@dataclass(frozen=True)
class Progress:
    """Examples handled so far, those that failed among them, and how many there are."""

    done: int
    failed: int
    total: int


def pack(
    examples: Sequence[Example],
    labels: Sequence[str],
    out: Path,
    split: str,
    encoding: ExampleEncoding,
    *,
    unit: str,
    per_shard: int,
    workers: int,
    on_progress: Callable[[Progress], object] = lambda progress: None,
) -> SplitSummary:
    """Write `OUT/SPLIT-00000.tar`, ... with the files of each example, `labels.json` and `manifest.json`.

    Shard k holds examples k·n to (k+1)·n - 1 of the list, less those that cannot be read, and is a unit of work:
    written atomically by one process, then described in `SPLIT-0000k.json`. A shard so described, of the same settings
    and with the size it should have, is not made again, unless an example that was not there now is.

    Args:
        examples: what to pack, in order.
        labels: names of the classes; none where there are no labels.
        out: the folder; made if there is none.
        split: "train" or "val".
        encoding: of the examples.
        unit: what they are, "clips" or "images".
        per_shard: n.
        workers: processes; 1 works in this one.
        on_progress: told now and then how far it is.

    Raises:
        ValueError: prepared with other settings before, a folder that is in use, nothing that can be read.
        OSError: what the machine refuses, such as a full disk; a worker process that died.
    """
    assert examples and per_shard > 0 and workers > 0, (len(examples), per_shard, workers)
    out.mkdir(parents=True, exist_ok=True)
    with alone_in(out):
        names = json.dumps(list(labels), indent=0, ensure_ascii=False) + "\n"
        settings = {
            **encoding.settings(),
            f"{unit}_per_shard": per_shard,
            unit: len(examples),
            f"{unit}_sha256": _digest([example.described() for example in examples]),
            **({"labels_sha256": hashlib.sha256(names.encode()).hexdigest()} if labels else {}),
        }
        manifest = Manifest(out, unit)
        manifest.begin(split, settings)
        if labels:
            write_text(out / LABELS, names)
        shards = [
            _Work(
                out, f"{split}-{k:05d}", tuple(examples[begin : begin + per_shard]), encoding, _digest(settings), unit
            )
            for k, begin in enumerate(range(0, len(examples), per_shard))
        ]
        unfinished = rf"{split}-\d+\.(tar|json)"
        remove_unfinished(out, unfinished)
        try:
            _work(shards, workers, on_progress)
        finally:
            remove_unfinished(out, unfinished)
        finished = [shard.finished() for shard in shards]
        assert all(finished)
        summary = manifest.finish(split, [shard for shard in finished if shard])
    if not summary.count:
        key, reason = next(iter(summary.failures.items()))
        counted = f"{len(examples)} {unit} of {split}"
        raise ValueError(f"{out}: not one of {counted} could be packed; the first, {key}: {reason}")
    return summary


@dataclass(frozen=True)
class _Work:
    """One shard to be written."""

    out: Path
    name: str
    examples: tuple[Example, ...]
    encoding: ExampleEncoding
    settings: str
    unit: str

    @property
    def tar(self) -> Path:
        return self.out / f"{self.name}.tar"

    @property
    def sidecar(self) -> Path:
        return self.out / f"{self.name}.json"

    def finished(self) -> Shard | None:
        """What was written, if it is what would be written now."""
        try:
            described = json.loads(self.sidecar.read_text("utf-8"))
            if described.pop("settings") != self.settings or self.tar.stat().st_size != described["bytes"]:
                return None
            described["count"] = described.pop(self.unit)
            shard = Shard(**described)
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None
        late = any(shard.failures.get(one.key) == one.absent and one.there() for one in self.examples)
        return None if late else shard

    def write(self, on_example: Callable[[bool], object]) -> None:
        failures: dict[str, str] = {}

        def write(path: Path) -> None:
            with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
                for example in self.examples:
                    try:
                        if not example.there():
                            raise Unreadable(example.absent)
                        files = list(example.files(self.encoding))
                    except Unreadable as error:
                        failures[example.key] = str(error)
                    else:
                        for suffix, content in files:
                            _add(tar, f"{example.key}.{suffix}", content)
                    on_example(example.key not in failures)

        write_atomically(self.tar, write)
        shard = Shard.of(self.tar, len(self.examples) - len(failures), failures)
        described = {"settings": self.settings, **shard.to_dict(self.unit), "failures": failures}
        write_text(self.sidecar, json.dumps(described, indent=1) + "\n")


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)  # of nobody, of 1970: nothing in it but name, size and content
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, which the system lets go when this process ends, however it ends."""
    with open(folder / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{folder}: another process is preparing data there") from None
        yield


def _work(shards: Sequence[_Work], workers: int, on_progress: Callable[[Progress], object]) -> None:
    """Write the shards that are not finished."""
    finished = {shard.name: done for shard in shards if (done := shard.finished())}
    todo = [shard for shard in shards if shard.name not in finished]
    total = sum(len(shard.examples) for shard in shards)
    before = sum(len(shard.examples) for shard in shards if shard.name in finished)
    failed_before = sum(len(shard.failures) for shard in finished.values())

    def report(done: int, failed: int) -> None:
        on_progress(Progress(before + done, failed_before + failed, total))

    report(0, 0)
    if workers == 1 or len(todo) < 2:
        _write_here(todo, report)
    else:
        _write_in_parallel(todo, workers, report)


def _write_here(shards: Sequence[_Work], report: Callable[[int, int], object]) -> None:
    done = failed = 0

    def on_example(read: bool) -> None:
        nonlocal done, failed
        done, failed = done + 1, failed + (not read)
        report(done, failed)

    for shard in shards:
        shard.write(on_example)


def _write_in_parallel(shards: Sequence[_Work], workers: int, report: Callable[[int, int], object]) -> None:
    context = multiprocessing.get_context("spawn")
    counts = context.Array("q", 2)
    leash, held = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(min(workers, len(shards)), context, _begin, (leash, counts))
    try:
        with _interrupts_held():  # workers start with the first shard, and leave interrupts to this process
            running: set[Future[None]] = {pool.submit(_write, shard) for shard in shards}
        while running:
            ended, running = wait(running, SECONDS_BETWEEN_LOOKS, FIRST_EXCEPTION)
            for future in ended:
                future.result()
            report(counts[0], counts[1])
        pool.shutdown()
    except BrokenProcessPool:
        raise OSError(
            "a worker process died, perhaps for want of memory; finished shards stay: run again with fewer --workers"
        ) from None
    finally:
        held.close()  # workers that are still at it leave at once
        pool.shutdown(cancel_futures=True)
        leash.close()


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Let an interrupt wait, for ever in the processes that are started meanwhile."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_counts: Any = None


def _begin(leash: Connection, counts: Any) -> None:
    """In a worker: end with the parent."""
    global _counts
    if leash.poll():  # the parent went while this process started
        os._exit(1)
    _counts = counts
    Thread(target=_follow, args=(leash,), daemon=True).start()


def _follow(leash: Connection) -> None:
    with contextlib.suppress(EOFError, OSError):
        leash.recv()  # nothing ever comes: it ends when the parent lets go or is killed
    os._exit(1)


def _write(shard: _Work) -> None:
    shard.write(_count)


def _count(read: bool) -> None:
    with _counts.get_lock():
        _counts[0] += 1
        _counts[1] += not read
