"""Which metrics are comparable, and the fields in which the protocols of the others differ."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from ulzoo.evaluation import EvaluationConfig, rate_distortion
from ulzoo.evaluation.protocol import (
    FIELDS,
    PARTS,
    Protocol,
    compare,
    differences,
    figure_hashes,
    protocol_hash,
    protocol_of,
)
from ulzoo.registry.compile import compile_model, open_source

DOCS = Path(__file__).parents[2] / "docs" / "evaluation.md"


def results(psnr=20.0, bits=0.5, **fields):
    protocol = {
        **{"data": {"kind": "emoji3d", "resolution": 32}, "split": "val", "images": 8, "seed": 0},
        **{"batch_size": 4, "fingerprint": {"examples": 8, "content": "ab"}},
        **{"rate_samples": 8, "decoder_steps": 4, "psnr": "mean", "rate": "bound"},
        "generated": {"figures": ["gfid_50k"], "network": "Inception", "samples": 50000},
    }
    figures = {"psnr_db": psnr, "bits_per_pixel": bits, "gfid_50k": 3.0, "psnr_db_by_frame": [1.0]}
    return {"figures": figures, "protocol": Protocol(**(protocol | fields))}


def test_metrics_of_the_same_protocol_are_comparable():
    comparisons = compare(results(), results(21, 0.4))
    assert [(c.figure, c.a, c.b, c.differences) for c in comparisons] == [
        ("psnr_db", 20.0, 21, ()),
        ("bits_per_pixel", 0.5, 0.4, ()),
        ("gfid_50k", 3.0, 3.0, ()),
    ]


@pytest.mark.parametrize(
    ("fields", "touched", "words"),
    [
        ({"decoder_steps": 8}, {"psnr_db"}, "decoder_steps: 4 and 8"),
        ({"rate_samples": 1}, {"bits_per_pixel"}, "rate_samples: 8 and 1"),
        ({"images": 9}, {"psnr_db", "bits_per_pixel"}, "images: 8 and 9"),
        (
            {"data": {"kind": "emoji3d", "resolution": 64}},
            {"psnr_db", "bits_per_pixel"},
            "data.resolution: 32 and 64",
        ),
        ({"left_out": 2}, {"psnr_db", "bits_per_pixel"}, "left_out: nothing and 2"),
        (
            {"fingerprint": {"examples": 8, "content": "cd"}},
            {"psnr_db", "bits_per_pixel"},
            'fingerprint.content: "ab" and "cd"',
        ),
        (
            {"generated": {"figures": ["gfid_50k"], "network": "Inception", "samples": 10000}},
            {"gfid_50k"},
            "samples: 50000 and 10000",
        ),
    ],
)
def test_a_metric_is_not_comparable_if_a_field_it_depends_on_differs(fields, touched, words):
    differing = {c.figure: c.differences for c in compare(results(), results(**fields))}
    assert {figure for figure, fields in differing.items() if fields} == touched
    assert all(differing[figure] == (words,) for figure in touched)
    hashes, others = figure_hashes(results()), figure_hashes(results(**fields))
    assert {figure for figure in differing if hashes[figure] != others[figure]} == touched


def test_the_hash_depends_on_the_content_only():
    a = Protocol(data={"kind": "x", "hflip": True, "games": ("a", "b")}, split="val")
    b = json.loads(json.dumps({"split": "val", "data": {"games": ["a", "b"], "hflip": False, "kind": "x"}}))
    assert a.hash == protocol_hash(b) == Protocol(**b).hash and differences(a, b) == []
    assert a.hash != Protocol(data={"kind": "x", "games": ["b", "a"]}, split="val").hash
    assert len(a.hash) == 12 and int(a.hash, 16) >= 0


def test_a_key_added_to_the_data_section_later_changes_nothing():
    old, new = Protocol(data={"kind": "x"}), Protocol(data={"kind": "x", "captions": False, "classes": None})
    assert old.hash == new.hash and differences(old, new) == []
    assert differences(old, Protocol(data={"kind": "x", "captions": True})) == ["data.captions: nothing and true"]


def test_metrics_of_unknown_images_are_not_comparable():
    """Results of earlier versions do not say which images they were measured on."""
    new, old = results(), results()
    del old["protocol"]["fingerprint"]
    for a, b, words in ((old, new, "unknown and recorded"), (new, old, "recorded and unknown"), (old, old, "unknown")):
        lines = {c.figure: c.differences for c in compare(a, b)}
        assert lines.pop("gfid_50k") == () and set(lines) == {"psnr_db", "bits_per_pixel"}
        assert all(len(line) == 1 and line[0].startswith(f"fingerprint: {words}") for line in lines.values())


def test_how_the_files_were_checked_changes_nothing():
    old, new = Protocol(data={"kind": "image_folder", "verify": True}), Protocol(data={"kind": "image_folder"})
    assert old.hash == new.hash == Protocol(data={"kind": "image_folder", "verify": False}).hash
    assert differences(old, new) == []


def test_frame_prediction_is_a_part():
    both = results(frame_prediction={"clips": 3})
    assert protocol_of(both, "prediction_psnr_db") == protocol_of(both, "copy_last_psnr_db") == {"clips": 3}


def test_no_metric_in_common():
    with pytest.raises(ValueError, match="no figure in common"):
        compare(results(), {"figures": {"fvd": 1.0}, "protocol": {}})


def test_every_field_has_a_description():
    with pytest.raises(AssertionError):
        Protocol(stepz=3)
    assert set(PARTS) < set(FIELDS)


def test_metrics_of_other_images_are_not_comparable(tiny, images, tmp_path):
    """The same spec, number of images and names of files; a copy of the folder is comparable."""
    model = compile_model(tiny())

    def measured(root: Path) -> dict:
        spec = tiny(f"data.root={root}")
        config = EvaluationConfig(spec.data_identity(), limit=4, rate_samples=1)
        return json.loads(json.dumps(rate_distortion(model, open_source(spec, "val"), config)))

    first = measured(images)
    copy = Path(shutil.copytree(images, tmp_path / "copy", copy_function=shutil.copyfile))
    assert all(c.differences == () for c in compare(first, measured(copy)))
    for path in (copy / "val").rglob("*.png"):
        Image.open(path).transpose(Image.Transpose.ROTATE_180).save(path)
    other = measured(copy)
    for comparison in compare(first, other):
        assert comparison.differences and all(line.startswith("fingerprint.") for line in comparison.differences)
        assert any(line.startswith("fingerprint.content: ") for line in comparison.differences)
    assert not set(figure_hashes(first).values()) & set(figure_hashes(other).values())
    for path in (copy / "val").rglob("*.png"):
        path.rename(path.with_stem(f"new{path.stem}"))
    assert any(line.startswith("fingerprint.keys: ") for line in compare(first, measured(copy))[0].differences)
