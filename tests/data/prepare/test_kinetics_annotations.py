from pathlib import Path

import pytest

from ulzoo.data.prepare.kinetics_annotations import Annotation, find_videos, locate, read_annotations

ROWS = "label,youtube_id,time_start,time_end,split\nyoga,-b_CDEFGHIJK,5,15,train\nabseiling,aBCDEFGHIJK,0,10,train\n"


def read(tmp_path: Path, text: str | bytes, split: str = "train") -> tuple[list[Annotation], list[str]]:
    path = tmp_path / "a.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_annotations(path, split)


def fails(tmp_path: Path, text: str | bytes, message: str, split: str = "train") -> None:
    with pytest.raises(ValueError, match=message) as error:
        read(tmp_path, text, split)
    assert str(error.value).isprintable() and "a.csv" in str(error.value)


def test_rows_are_sorted_by_key_and_names_alphabetically(tmp_path: Path) -> None:
    rows, names = read(tmp_path, ROWS)
    assert [row.key for row in rows] == ["-b_CDEFGHIJK_000005_000015", "aBCDEFGHIJK_000000_000010"]
    assert rows[0] == Annotation("-b_CDEFGHIJK_000005_000015", "-b_CDEFGHIJK", 5.0, 15.0, "yoga")
    assert names == ["abseiling", "yoga"]


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff" + ROWS.replace("\n", "\r\n"),
        ROWS.replace("split", "split,is_cc").replace(",train", ",train,0") + "\n\n",
        ROWS.replace(",split", "").replace(",train", ""),
        ROWS.replace("label,youtube_id,time_start,time_end", "label-name,video-id,start-time,end-time"),
        ROWS.replace("label", "#Label").replace("youtube_id", " YouTube ID").replace("train", "Train"),
        "time_end,time_start,id,youtube_id,label\n15,5,1,-b_CDEFGHIJK,yoga\n10.0,0.0,2,aBCDEFGHIJK,abseiling\n",
        ROWS + "yoga,-b_CDEFGHIJK,5,15,train\n",
        ROWS + "swimming,cBCDEFGHIJK,0,10,validate\n,dBCDEFGHIJK,0,10,test\n",
    ],
    ids=["bom, crlf", "more columns", "no split", "ActivityNet", "decorated", "another order", "twice", "other splits"],
)
def test_variants_of_the_header(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, text) == read(tmp_path, ROWS)


def test_validation_rows_beside_train_rows(tmp_path: Path) -> None:
    rows, names = read(tmp_path, ROWS + "yoga,cBCDEFGHIJK,0,10,validate\n", "val")
    assert [row.youtube_id for row in rows] == ["cBCDEFGHIJK"]
    assert names == ["abseiling", "yoga"]


def test_errors_name_their_line(tmp_path: Path) -> None:
    fails(tmp_path, "", r"no column label, youtube_id, time_start, time_end \(it has: nothing\)")
    fails(tmp_path, "label,youtube_id,start\n", r"no column time_end \(it has: label, youtube_id, start\)")
    fails(tmp_path, ROWS + "yoga,abc\n", r"a.csv:4: 2 cells, fewer than the header has")
    fails(tmp_path, ROWS + "yoga,../x,0,10,train\n", r"a.csv:4: youtube_id '../x' is not a YouTube identifier")
    fails(tmp_path, ROWS + ",abc,0,10,train\n", "a.csv:4: no label")
    for start, end in (("5", "5"), ("-1", "9"), ("x", "9"), ("0", "inf"), ("nan", "9"), ("", "")):
        fails(tmp_path, ROWS + f"yoga,abc,{start},{end},train\n", "a.csv:4: time_start .* are not a segment in seconds")
    fails(tmp_path, ROWS + "yoga,abc,0,10,trial\n", "a.csv:4: unknown split 'trial'")
    fails(tmp_path, ROWS + "dancing,aBCDEFGHIJK,0,10,train\n", r"labelled 'abseiling' \(line 3\) and 'dancing'")
    fails(tmp_path, ROWS, "no rows of the split val, only of train", "val")
    fails(tmp_path, ROWS.splitlines()[0], "no rows of the split train, none at all")
    fails(tmp_path, b"label,\xff\xfe", "not a CSV file in UTF-8")
    with pytest.raises(ValueError, match="no such file"):
        read_annotations(tmp_path, "train")


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_videos_at_any_depth(tmp_path: Path) -> None:
    names = ("a.mp4", "train/yoga/b_000000_000010.webm", "val/c.MKV", "notes.txt", ".mp4")
    touch(tmp_path, *names)
    (tmp_path / "train" / "circle").symlink_to(tmp_path)
    videos = find_videos(tmp_path, "train")
    assert {stem: Path(path).name for stem, path in videos.items() if stem != ".mp4"} == {
        "a": "a.mp4",
        "b_000000_000010": "b_000000_000010.webm",
        "c": "c.MKV",
    }
    with pytest.raises(ValueError, match="absent: no such folder"):
        find_videos(tmp_path / "absent", "train")


def test_of_videos_with_one_name_the_split_s_own_is_preferred(tmp_path: Path) -> None:
    touch(tmp_path, "a/x.mp4", "b/x.mp4", "val/x.mp4", "train/x.mp4")
    assert find_videos(tmp_path, "train")["x"] == str(tmp_path / "train/x.mp4")
    assert find_videos(tmp_path, "val")["x"] == str(tmp_path / "val/x.mp4")
    (tmp_path / "train/x.mp4").unlink()
    assert find_videos(tmp_path, "train")["x"] == str(tmp_path / "a/x.mp4")


def test_a_trimmed_video_is_preferred() -> None:
    row = Annotation("x_000001_000002", "x", 1, 2, "yoga")
    assert locate(row, {"x": "full", "x_000001_000002": "trimmed"}) == ("trimmed", True)
    assert locate(row, {"x": "full"}) == ("full", False)
    assert locate(row, {"y": "other"}) == (None, False)
