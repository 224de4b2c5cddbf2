from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest

from ulzoo.data import Kinetics600, batches
from ulzoo.data.prepare.kinetics600 import prepare_kinetics600
from ulzoo.data.prepare.pack import PackConfig
from ulzoo.data.prepare.transcode import VideoEncoding
from ulzoo.data.storage.manifest import verify

Layout = Callable[..., Path]
KEYS = {"resolution": 32, "frames": 4, "num_classes": 9}


def prepare(root: Path, annotations: Path, split: str = "train"):
    config = PackConfig(root / "out", split, VideoEncoding(32), per_shard=8)
    return prepare_kinetics600(root / "videos", annotations, config)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, kinetics_layout: Layout) -> Path:
    root = tmp_path_factory.mktemp("kinetics")
    train = prepare(root, kinetics_layout(root, "train", 12))
    val = prepare(root, kinetics_layout(root, "val", 3), "val")
    assert (train.count, len(train.failures), val.count, len(val.failures)) == (12, 10, 3, 10)
    return root


def test_from_videos_to_batches(prepared: Path) -> None:
    assert verify(prepared / "out") == {"train": "12 clips", "val": "3 clips"}
    root = str(prepared / "out")
    train, val = (Kinetics600(split, root=root, **KEYS) for split in ("train", "val"))  # type: ignore[arg-type]
    assert (len(train), len(val)) == (12, 3)
    assert train.contract == val.contract
    assert train.label_names == tuple(f"class {i}" for i in range(9))
    assert Kinetics600.describe(root=root, frame_rate=None, stride=1, **KEYS).shape == train.shape == (3, 4, 32, 32)
    labels = {}
    for line in (prepared / "train.csv").read_text().splitlines()[1:]:
        label, youtube_id, *_ = line.split(",")
        labels[youtube_id] = int(label.removeprefix("class "))
    for i in range(12):
        _, label, key, _ = train[i]
        assert labels[key.removesuffix("_000005_000015")] == label
    batch = next(islice(batches(train, 6, seed=0), 1))
    assert batch["x"].shape == (6, 3, 4, 32, 32) and batch["x"].std() > 0.1


def test_missing_data_is_one_line_with_the_command(prepared: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError) as error:
        Kinetics600("train", root=str(tmp_path / "k600"))
    assert str(error.value) == (
        f"{tmp_path}/k600: no shards in it (expected train-*.tar); "
        "`ulzoo prepare kinetics600 --videos DIR --annotations FILE.csv --out DIR [--split val]` writes them"
    )
    with pytest.raises(ValueError, match="has 9 names, but num_classes is 600"):
        Kinetics600("train", root=str(prepared / "out"))


def test_errors_are_raised_before_any_work(prepared: Path, tmp_path: Path, kinetics_layout: Layout) -> None:
    with pytest.raises(ValueError, match="split must be 'train' or 'val'"):
        prepare(prepared, prepared / "train.csv", "test")
    annotations = kinetics_layout(tmp_path, "train", 2)
    for video in (tmp_path / "videos").rglob("*.mp4"):
        video.unlink()
    message = r"videos: has none of the 12 videos of train; looked for files such as train-000000_000005_000015.mp4 and"
    with pytest.raises(ValueError, match=message):
        prepare(tmp_path, annotations)
    (tmp_path / "videos" / "train-000000.mp4").write_bytes(b"present")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "labels.json").write_text('{"class 0": 0}')
    with pytest.raises(ValueError, match=r"labels.json: not a list of class names"):
        prepare(tmp_path, annotations)
    (tmp_path / "out" / "labels.json").write_text('["class 0", "yoga"]')
    with pytest.raises(ValueError, match=r"its classes are not those in .*: only one of them has 'class 1' \(9 such"):
        prepare(tmp_path, annotations)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["labels.json"]


def test_val_uses_the_numbers_of_train(prepared: Path, tmp_path: Path) -> None:
    rows = (prepared / "val.csv").read_text().splitlines()
    few = [rows[0], *(row for row in rows if row.split(",")[1] == "val-000000")]
    (tmp_path / "few.csv").write_text("\n".join(few))
    (tmp_path / "videos").symlink_to(prepared / "videos")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "labels.json").write_bytes((prepared / "out" / "labels.json").read_bytes())
    assert prepare(tmp_path, tmp_path / "few.csv", "val").count == 1
    source = Kinetics600("val", root=str(tmp_path / "out"), **KEYS)  # type: ignore[arg-type]
    assert source.label_names[source[0][1]] == few[1].split(",")[0]
    (tmp_path / "other.csv").write_text("\n".join([rows[0], few[1].replace("class", "glass")]))
    with pytest.raises(ValueError, match="only one of them has 'glass"):
        prepare(tmp_path, tmp_path / "other.csv", "val")
