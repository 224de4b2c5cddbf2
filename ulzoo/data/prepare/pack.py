"""Packing examples into shards in parallel; after an interruption it resumes and produces identical bytes."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import multiprocessing
import os
import signal
import tarfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar, Protocol

from ulzoo.data.fingerprint import describe_files, digest, file_content, stamp
from ulzoo.data.source import Unreadable
from ulzoo.data.storage.manifest import LABELS, Manifest, Shard, SplitSummary
from ulzoo.data.storage.output import writing_to
from ulzoo.files.atomic import encode_text, write_atomically, write_text

POLL_SECONDS = 0.2


class ExampleEncoding(Protocol):
    """How the files of examples are encoded."""

    def settings(self) -> dict[str, Any]:
        """Everything that the encoded bytes depend on, as JSON data."""


class Example(Protocol):
    """An example to be packed; it is pickled for a worker process."""

    absent: ClassVar[str]
    """Reason recorded while the source file is missing; such an example is added by a later run."""

    @property
    def key(self) -> str:
        """Its name in the shard."""

    @property
    def label(self) -> int:
        """Number of its class; -1 for none."""

    def identity(self) -> tuple[Any, ...]:
        """Everything that the packed bytes depend on besides the content of the source files, as JSON data."""

    def inputs(self, encoding: Any) -> Sequence[str | Path]:
        """The source files, present or not."""

    def is_present(self) -> bool:
        """Whether the source file can be opened."""

    def files(self, encoding: Any) -> Iterable[tuple[str, bytes]]:
        """Suffix and content of its files in the shard. Raises Unreadable."""


@dataclass(frozen=True)
class PackConfig:
    """What to write, and where.

    Args:
        out: folder of the shards; created if it does not exist.
        split: "train" or "val".
        encoding: of the examples.
        per_shard: examples per shard.
        workers: worker processes; with 1, this process does the work.
    """

    out: Path
    split: str
    encoding: ExampleEncoding
    per_shard: int
    workers: int = 1


@dataclass(frozen=True)
class Progress:
    """The number of examples processed so far, how many of them failed, and their total."""

    done: int
    failed: int
    total: int


def pack(
    examples: Sequence[Example],
    labels: Sequence[str],
    config: PackConfig,
    *,
    unit: str,
    on_progress: Callable[[Progress], object] = lambda progress: None,
) -> SplitSummary:
    """Write `OUT/SPLIT-00000.tar`, ... with the files of each example, `labels.json` and `manifest.json`.

    Shard k contains the examples k·n to (k+1)·n - 1, n being `per_shard`, except those that cannot be read. It is the
    unit of work: one process writes it atomically and then describes it in `SPLIT-0000k.json`. A shard that has a
    description with the same settings and its recorded size is not written again, unless source files were added,
    replaced or repaired: those whose sizes and times of modification have changed are compared by content.

    Args:
        examples: the examples in order.
        labels: names of the classes; empty if there are no labels.
        config: what to write, and where.
        unit: name of the examples, "clips" or "images".
        on_progress: progress callback.

    Raises:
        ValueError: the folder was prepared with other settings or is in use, or no example can be read.
        OSError: an error of the operating system, such as a full disk; a worker process died.
    """
    assert examples and config.per_shard > 0 and config.workers > 0, (len(examples), config)
    out, split, per_shard = config.out, config.split, config.per_shard
    with writing_to(out, rf"{split}-\d+\.(tar|json)"):
        names = json.dumps(list(labels), indent=0, ensure_ascii=False) + "\n"
        settings = {
            **config.encoding.settings(),
            f"{unit}_per_shard": per_shard,
            unit: len(examples),
            f"{unit}_sha256": _digest([example.identity() for example in examples]),
            **({"labels_sha256": hashlib.sha256(encode_text(names)).hexdigest()} if labels else {}),
        }
        manifest = Manifest(out, unit)
        manifest.begin(split, settings)
        if labels:
            write_text(out / LABELS, names)
        shards = [
            _ShardJob(config, f"{split}-{k:05d}", tuple(examples[start : start + per_shard]), _digest(settings), unit)
            for k, start in enumerate(range(0, len(examples), per_shard))
        ]
        _write_unfinished(shards, config, on_progress)
        described = [shard.described() for shard in shards]
        assert all(described)
        summary = manifest.finish(split, [shard for shard in described if shard])
    if not summary.count:
        key, reason = next(iter(summary.failures.items()))
        raise ValueError(
            f"{out}: none of {len(examples)} {unit} of {split} could be packed; the first, {key}: {reason}"
        )
    return summary


@dataclass(frozen=True)
class _ShardJob:
    """A shard to be written."""

    config: PackConfig
    name: str
    examples: tuple[Example, ...]
    settings: str  # digest
    unit: str

    @property
    def tar(self) -> Path:
        return self.config.out / f"{self.name}.tar"

    @property
    def description(self) -> Path:
        return self.config.out / f"{self.name}.json"

    def described(self) -> Shard | None:
        """The shard as it was written before with the same settings."""
        try:
            row = json.loads(self.description.read_text("utf-8"))
            if row.pop("settings") != self.settings or self.tar.stat().st_size != row["bytes"]:
                return None
            row["count"] = row.pop(self.unit)
            return Shard(**row)
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None

    def finished(self) -> Shard | None:
        """The shard as it was written before, if writing it now would give the same result."""
        shard = self.described()
        if shard is None or any(shard.failures.get(e.key) == e.absent and e.is_present() for e in self.examples):
            return None
        files = self._files()
        if shard.files != files:
            if shard.inputs != self._inputs():
                return None
            self._describe(replace(shard, files=files))
        return shard

    def _files(self) -> str:
        """A digest of the sizes and times of modification of the source files."""
        encoding = self.config.encoding
        return stamp(describe_files(e.key, e.label, *e.inputs(encoding)) for e in self.examples)

    def _inputs(self) -> str:
        """A digest of the content of the source files."""
        return digest(file_content(path) for e in self.examples for path in e.inputs(self.config.encoding))

    def _describe(self, shard: Shard) -> None:
        row = {"settings": self.settings, **shard.to_dict(self.unit), "files": shard.files, "failures": shard.failures}
        write_text(self.description, json.dumps(row, indent=1) + "\n")

    def write(self, on_example: Callable[[bool], object]) -> None:
        """Write the shard and its description; call `on_example` after each example with whether it succeeded."""
        failures: dict[str, str] = {}
        files, inputs = self._files(), self._inputs()

        def write(path: Path) -> None:
            with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
                for example in self.examples:
                    try:
                        if not example.is_present():
                            raise Unreadable(example.absent)
                        files = list(example.files(self.config.encoding))
                    except Unreadable as error:
                        failures[example.key] = str(error)
                    else:
                        for suffix, content in files:
                            _add(tar, f"{example.key}.{suffix}", content)
                    on_example(example.key not in failures)

        write_atomically(self.tar, write)
        shard = Shard.of(self.tar, len(self.examples) - len(failures), failures)
        self._describe(replace(shard, inputs=inputs, files=files))


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)  # without owner, and dated 1970: the bytes depend on name and content only
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _write_unfinished(
    shards: Sequence[_ShardJob], config: PackConfig, on_progress: Callable[[Progress], object]
) -> None:
    """Write the shards that are not finished, and warn of those that were."""
    finished = {job.name: shard for job in shards if (shard := job.finished())}
    todo = [shard for shard in shards if shard.name not in finished]
    if again := sum(shard.described() is not None for shard in todo):
        words = "1 shard of {} is" if again == 1 else f"{again:,} shards of {{}} are"
        warnings.warn(
            f"{config.out}: {words.format(config.split)} written again: {todo[0].unit} were added, replaced or "
            "repaired since",
            stacklevel=3,
        )
    total = sum(len(shard.examples) for shard in shards)
    done_before = sum(len(shard.examples) for shard in shards if shard.name in finished)
    failed_before = sum(len(shard.failures) for shard in finished.values())

    def report(done: int, failed: int) -> None:
        on_progress(Progress(done_before + done, failed_before + failed, total))

    report(0, 0)
    if config.workers == 1 or len(todo) < 2:
        _write_here(todo, report)
    else:
        _write_in_parallel(todo, config.workers, report)


def _write_here(shards: Sequence[_ShardJob], report: Callable[[int, int], object]) -> None:
    done = failed = 0

    def on_example(success: bool) -> None:
        nonlocal done, failed
        done, failed = done + 1, failed + (not success)
        report(done, failed)

    for shard in shards:
        shard.write(on_example)


def _write_in_parallel(shards: Sequence[_ShardJob], workers: int, report: Callable[[int, int], object]) -> None:
    context = multiprocessing.get_context("spawn")
    counts = context.Array("q", 2)
    worker_end, parent_end = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(min(workers, len(shards)), context, _start_worker, (worker_end, counts))
    try:
        with (
            _sigint_blocked()
        ):  # workers start with the first shard, and inherit the mask: only this process is stopped
            running: set[Future[None]] = {pool.submit(_write_in_worker, shard) for shard in shards}
        while running:
            ended, running = wait(running, POLL_SECONDS, FIRST_EXCEPTION)
            for future in ended:
                future.result()
            report(counts[0], counts[1])
        pool.shutdown()
    except BrokenProcessPool:
        raise OSError(
            "a worker process died, possibly out of memory; finished shards are kept: run again with fewer --workers"
        ) from None
    finally:
        parent_end.close()  # workers that are still busy exit at once
        pool.shutdown(cancel_futures=True)
        worker_end.close()


@contextlib.contextmanager
def _sigint_blocked() -> Iterator[None]:
    """Block SIGINT, for good in processes that are started meanwhile."""
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


_counts: Any = None


def _start_worker(parent: Connection, counts: Any) -> None:
    """In a worker: exit when the parent process does."""
    global _counts
    if parent.poll():  # the parent exited while this process started
        os._exit(1)
    _counts = counts
    Thread(target=_exit_with, args=(parent,), daemon=True).start()


def _exit_with(parent: Connection) -> None:
    with contextlib.suppress(EOFError, OSError):
        parent.recv()  # nothing is ever sent: it returns when the parent closes its end or is killed
    os._exit(1)


def _write_in_worker(shard: _ShardJob) -> None:
    shard.write(_count)


def _count(success: bool) -> None:
    with _counts.get_lock():
        _counts[0] += 1
        _counts[1] += not success
