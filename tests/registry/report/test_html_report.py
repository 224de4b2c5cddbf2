"""The content of the report of a store, without a browser."""

import json
import re
import time

import pytest
from PIL import Image

from ulzoo.registry.report import html_report as report
from ulzoo.registry.report.html_report import describe, write_report
from ulzoo.registry.sweeps.store import Store


@pytest.fixture
def data(demo):
    return describe(Store(demo))


def test_the_head_and_the_tiles(data):
    assert (data["title"], data["source"], data["expect"]) == ("demo", "Table 2", "more bits, higher PSNR")
    tiles = {tile["name"]: tile["value"] for tile in data["tiles"]}
    assert (tiles["points"], tiles["runs"], tiles["series"], tiles["failed"]) == ("6", "12", "2", "1")
    assert tiles["dB PSNR"] == "22.85 – 24.00"
    assert data["footer"] == "ulzoo 0.1.0. Last row of 2026-11-23T12:00:00Z"


def test_the_values_of_a_row_are_in_the_order_of_the_columns(data):
    names = [column["name"] for column in data["columns"]]
    assert names == [
        "bits_per_pixel",
        "psnr_db",
        "fd_demo",
        "gflops",
        "training_flops",
        "parameters",
        "seconds",
    ]
    assert [column["better"] for column in data["columns"]] == ["lower", "higher", "lower", "", "", "", ""]
    first = data["rows"][0]
    assert first["values"] == pytest.approx([0.183848, 22.85, 7.7, 4.0, 2e12, 235_000, 12.5])
    assert first["paper"] == pytest.approx([0.26, 25.3, None, None, None, None, None])
    assert "paper" not in data["rows"][3] and len(data["rows"]) == 12


def test_keys_are_what_points_set_and_the_seed(data):
    assert data["keys"] == [
        {"name": "decoder.weighting.loss_factor", "number": True, "values": [1.3, 1.5, 1.7]},
        {"name": "latent.channels", "number": True, "values": [4, 8]},
        {"name": "seed", "number": True, "values": [0, 1]},
    ]
    assert data["rows"][7]["settings"] == [1.5, 4, 1]


def test_standard_errors_are_details_of_a_point(make_row):
    row = make_row(1.3, 4)
    row["figures"] = {"psnr_db": 20.0, "psnr_db_se": 0.1, "psnr_db_mc_se": 0.2}
    assert [(column.title, column.unit, column.detail) for column in report.list_columns([row])[:3]] == [
        ("PSNR", "dB", False),
        ("PSNR, standard error", "dB", True),
        ("PSNR, error of the noise", "dB", True),
    ]


def test_settings_that_are_not_numbers_or_missing(make_row):
    rows = [make_row(1.3, 4) | {"set": settings} for settings in ({"a": [2, 2], "b": 1}, {"a": "x"}, {"a": [2, 2]})]
    assert report.list_keys(rows) == [
        {"name": "a", "number": False, "values": [[2, 2], "x"]},
        {"name": "b", "number": True, "values": [1, None]},
    ]


def test_series_are_compared(data):
    (entry,) = data["compared"]
    assert entry["anchor"].endswith("channels=4") and entry["series"].endswith("channels=8")
    assert entry["why"] == "" and entry["psnr"] < 0 < entry["rate"]
    rows = {"a": [], "b": []}
    assert report.compare_series(rows) == []


def test_a_comparison_that_is_impossible_gives_the_reason(make_row):
    rows = [make_row(factor, c) for c in (4, 8) for factor in (1.3, 1.5)]
    rows[3]["figures"]["psnr_db"] = 1.0
    (entry,) = report.compare_series(report.average(rows))
    assert entry["rate"] is None and entry["psnr"] is None and "does not rise" in entry["why"]


def test_pictures_are_small_webp_of_the_first_seed(data):
    shown = [row["pictures"] for row in data["rows"]]
    assert all(len(pictures) == 1 for pictures in shown[:6]) and shown[6:] == [[]] * 6
    assert len(data["pictures"]) == 6
    import base64
    import io

    source = data["pictures"][0]["source"]
    picture = Image.open(io.BytesIO(base64.b64decode(source.removeprefix("data:image/webp;base64,"))))
    assert picture.size == (1200, 160)
    assert any("6 of 12 runs have their pictures" in notice for notice in data["notices"])


def test_pictures_within_a_number_and_a_size(demo, monkeypatch):
    rows = Store(demo).rows()
    monkeypatch.setattr(report, "MAX_PICTURED_POINTS", 2)
    pictures, pictured = report.embed_pictures(demo, rows)
    assert len(pictures) == len(pictured) == 2
    monkeypatch.setattr(report, "MAX_PICTURE_BYTES", len(pictures[0]["source"]) + 10)
    assert len(report.embed_pictures(demo, rows)[0]) == 1


def test_a_damaged_picture_is_skipped_with_a_warning(make_store, make_row):
    folder = make_store([make_row(1.3, 4)])
    (path,) = folder.glob("points/*/samples/*.png")
    path.write_bytes(b"no picture")
    with pytest.warns(UserWarning, match="not a picture"):
        assert describe(Store(folder))["pictures"] == []


def test_folders_outside_the_store_are_not_read(make_store, make_row):
    folder = make_store([make_row(1.3, 4)])
    (path,) = folder.glob("points/*")
    path.rename(folder.parent / "outside")
    for name in ("../outside", str(folder.parent / "outside")):
        assert report.embed_pictures(folder, [make_row(1.3, 4, folder=name)])[0] == []


def test_damaged_lines_and_several_protocols_are_reported(make_store, make_row):
    folder = make_store([make_row(1.3, 4), make_row(1.5, 4, protocol={"images": 5})])
    with (folder / "results.jsonl").open("a") as file:
        file.write('{"point": "half')
    with pytest.warns(UserWarning, match=r"results\.jsonl:3"):
        data = describe(Store(folder))
    assert data["notices"][0] == "1 damaged line(s) of results.jsonl were skipped: 3."
    assert "2 protocols" in data["notices"][1]
    assert data["protocols"][0] == {"rows": 1, "entries": [("data.kind", "emoji3d"), ("images", 327)]}


def test_a_store_without_rows_or_sweep(make_store, make_row):
    assert describe(Store(make_store([], sweep=False)))["title"] == "demo"
    rows = [make_row(1.3, 4) | {"status": "failed", "figures": {}, "error": "no"}]
    assert describe(Store(make_store(rows)))["failed"][0]["error"] == "no"


def test_the_page_is_one_file_that_loads_nothing(demo):
    text = write_report(Store(demo)).read_text("utf-8")
    assert "@@" not in text and "default-src 'none'" in text
    addresses = set(re.findall(r"https?://[^\s\"'<]+", text))
    assert addresses <= {"http://www.w3.org/2000/svg"}
    assert not re.search(r"<link|<iframe|@import|\ssrc=\"(?!data:)", text)
    assert "</script><script>document" not in text and "\\u003c/script>" in text


def test_the_embedded_data_can_be_read_back(demo):
    text = write_report(Store(demo)).read_text("utf-8")
    match = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    assert match and json.loads(match[1]) == json.loads(json.dumps(describe(Store(demo))))


def test_the_same_store_makes_the_same_page(demo, tmp_path):
    first, again = (write_report(Store(demo), tmp_path / name) for name in ("a.html", "sub/b.html"))
    assert first.read_bytes() == again.read_bytes()


@pytest.mark.slow
def test_ten_thousand_rows_in_seconds(make_store, make_row):
    rows = [make_row(1 + i / 1000, 4 + i % 7, spec_hash=f"{i:064x}", point=str(i)) for i in range(10_000)]
    store = Store(make_store(rows))
    started = time.process_time()
    path = write_report(store)
    assert time.process_time() - started < 10, "about 2 s"
    assert path.stat().st_size < 6e6
