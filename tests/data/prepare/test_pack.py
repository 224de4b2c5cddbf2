import hashlib
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ulzoo.data.prepare import pack
from ulzoo.data.prepare.kinetics600 import Clip
from ulzoo.data.prepare.pack import PackConfig, Progress
from ulzoo.data.prepare.transcode import VideoEncoding
from ulzoo.data.storage import manifest
from ulzoo.data.storage.manifest import SplitSummary, verify
from ulzoo.data.storage.output import writing_to

SMALL = VideoEncoding(16)
KEYS = [f"clip{i}" for i in range(7)]


@pytest.fixture
def videos(tmp_path: Path, make_video: Callable[..., bytes]) -> Path:
    folder = tmp_path / "videos"
    folder.mkdir()
    for key in KEYS[:5]:
        (folder / f"{key}.mp4").write_bytes(make_video(3 + KEYS.index(key)))
    (folder / "clip5.mp4").write_bytes(b"no video at all")
    return folder


def clips(videos: Path) -> list[Clip]:
    """Seven clips, of which the sixth is damaged and the seventh is missing."""
    paths = {path.stem: str(path) for path in videos.iterdir()}
    return [Clip(key, i % 3, paths.get(key), 0, 10, trimmed=True) for i, key in enumerate(KEYS)]


def make(
    out: Path, clips: list[Clip], split: str = "train", encoding: VideoEncoding = SMALL, **keys: Any
) -> SplitSummary:
    config = PackConfig(out, split, encoding, keys.pop("per_shard", 3), keys.pop("workers", 1))
    return pack.pack(clips, ["a", "b", "c"], config, unit="clips", **keys)


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir()}


def test_pack_and_resume(tmp_path: Path, videos: Path) -> None:
    out, seen = tmp_path / "out", []
    summary = make(out, clips(videos), on_progress=seen.append)
    assert (summary.count, summary.shards) == (5, 3)
    assert summary.failures == {"clip5": "Invalid data found when processing input", "clip6": Clip.absent}
    assert seen[0] == Progress(0, 0, 7) and seen[-1] == Progress(7, 2, 7)
    with tarfile.open(out / "train-00001.tar") as tar:
        assert tar.getnames() == ["clip3.mp4", "clip3.cls", "clip4.mp4", "clip4.cls"]
        member = tar.extractfile("clip4.cls")
        assert member is not None and member.read() == b"1"
    with tarfile.open(out / "train-00002.tar") as tar:
        assert tar.getnames() == []
    assert json.loads((out / "labels.json").read_text()) == ["a", "b", "c"]
    entry = json.loads((out / "manifest.json").read_text())["splits"]["train"]
    assert entry["complete"] and entry["settings"]["resolution"] == 16 and entry["settings"]["crf"] == 10
    assert entry["totals"] == {"clips": 5, "bytes": summary.bytes, "failures": 2}
    assert entry["failures"] == summary.failures
    for shard in entry["shards"]:
        content = (out / f"{shard['name']}.tar").read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (shard["bytes"], shard["sha256"])
    assert verify(out) == {"train": "5 clips"}

    complete = contents(out)  # the second time nothing is written, and no process is started
    times = {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    assert make(out, clips(videos)) == summary
    assert contents(out) == complete and times == {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar")}

    (out / "train-00000.json").unlink()  # killed between the shard and its description
    (out / "train-00001.tar").write_bytes(b"cut")
    (out / ".train-00002.tar.tmp").mkdir()
    (out / ".train-00002.tar.tmp" / "train-00002.tar").write_bytes(b"half")
    assert make(out, clips(videos)) == summary
    assert contents(out) == complete

    (videos / "clip6.mp4").write_bytes((videos / "clip0.mp4").read_bytes())  # a missing video was added
    more = make(out, clips(videos))
    assert (more.count, list(more.failures)) == (6, ["clip5"])
    assert verify(out) == {"train": "6 clips"}


def test_other_settings_are_refused_by_name(tmp_path: Path, videos: Path) -> None:
    out = tmp_path / "out"
    two_clips = clips(videos)[:2]
    make(out, two_clips)
    before = contents(out)
    with pytest.raises(ValueError, match=r"out: train was prepared with other settings: resolution was 16, now 32;"):
        make(out, two_clips, encoding=VideoEncoding(32))
    with pytest.raises(ValueError, match=r"frame_rate was None, now 4.0; clips_per_shard was 3, now 5; choose"):
        make(out, two_clips, encoding=VideoEncoding(16, 4.0), per_shard=5)
    with pytest.raises(ValueError, match="clips was 2, now 1; clips_sha256 was"):
        make(out, two_clips[:1])
    assert contents(out) == before


def test_folders_with_other_content(tmp_path: Path, videos: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "train-00000.tar").write_bytes(b"precious")
    with pytest.raises(ValueError, match=r"train-00000.tar: not listed in a manifest.json; choose another --out"):
        make(out, clips(videos))
    assert (out / "train-00000.tar").read_bytes() == b"precious"
    for text in ("{", "[]", '{"splits": {"train": {}}}', '{"splits": {"train": {"complete": true}}}', '{"splits": 3}'):
        (out / "manifest.json").write_text(text)
        with pytest.raises(ValueError, match=r"manifest.json: not a manifest of prepared data"):
            make(out, clips(videos))


def test_one_process_per_folder(tmp_path: Path, videos: Path) -> None:
    with writing_to(tmp_path, "none"), pytest.raises(ValueError, match="another process is preparing data there"):
        make(tmp_path, clips(videos))


def test_no_readable_example(tmp_path: Path, videos: Path) -> None:
    with pytest.raises(ValueError, match=r"none of 2 clips of train could be packed; the first, clip5: Invalid"):
        make(tmp_path / "out", clips(videos)[5:])


def test_verify_names_the_problems(tmp_path: Path, videos: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ValueError, match=r"out: no manifest.json in it"):
        verify(out)
    make(out, clips(videos)[:4], per_shard=1)
    good = contents(out)

    def wrong(message: str, **changed: bytes | None) -> None:
        for name, content in changed.items():
            path = out / name.replace("__", "-").replace("_", ".")
            path.unlink() if content is None else path.write_bytes(content)
        with pytest.raises(ValueError, match=message) as error:
            verify(out)
        assert "\n" not in str(error.value)
        for name, content in good.items():
            (out / name).write_bytes(content)

    tar = good["train-00000.tar"]
    wrong(r"train-00000.tar has SHA-256 [0-9a-f]{12}…, not", train__00000_tar=bytes([tar[0] ^ 1]) + tar[1:])
    wrong("train-00000.tar has 3 bytes, not", train__00000_tar=b"cut")
    wrong("train-00001.tar is missing", train__00001_tar=None)
    wrong("labels.json is missing", labels_json=None)
    wrong("labels.json differs from the one that was prepared", labels_json=b"[]")
    wrong("and 1 more", **{f"train__0000{i}_tar": b"" for i in range(4)})
    half = json.loads(good["manifest.json"])
    half["splits"]["train"]["complete"] = False
    wrong("train is not complete: run the same preparation again", manifest_json=json.dumps(half).encode())
    (out / "train-00009.tar").touch()
    wrong("train-00009.tar is not in the manifest")
    (out / "train-00009.tar").unlink()
    seen: list[tuple[int, int]] = []
    assert manifest.verify(out, lambda *done: seen.append(done)) == {"train": "4 clips"}
    assert seen == [(i, 4) for i in (1, 2, 3, 4)]


def test_a_full_disk_is_an_error_and_not_a_failed_example(
    tmp_path: Path, videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = PackConfig(tmp_path, "train", SMALL, per_shard=3)
    job = pack._ShardJob(config, "train-00000", tuple(clips(videos)[:2]), "settings", "clips")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pack, "_add", full)
    with pytest.raises(OSError, match="No space left"):
        job.write(lambda success: None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["videos"]
