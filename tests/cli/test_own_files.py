"""Images and data on the command line: reconstruct, evaluate, encode, sample; moved runs and received exports."""

import json
import shutil

import pytest

from tests.cli.conftest import TINY
from ulzoo.cli.options import bind_lists

QUICK = ("--limit", 4, "--rate-samples", 1)


@pytest.fixture
def photographs(here, images):
    """Twelve images in `photographs`, some deeper, in the working directory, where a run is too."""
    (here / "photographs" / "deep").mkdir(parents=True)
    for number, path in enumerate(sorted(images.glob("train/*/*.png"))[:12]):
        shutil.copy(path, here / "photographs" / ("deep" if number < 6 else ".") / f"{number}.png")
    return here / "photographs"


def results_of(result):
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def line_of(result) -> str:
    assert result.exit_code == 2 and result.stderr.count("\n") == 1, result.stderr
    return result.stderr.strip()


def test_reconstruct_a_folder_or_files(ulzoo, run, photographs):
    files = sorted(photographs.glob("*.png"))
    for arguments in (("run", "--images", "photographs"), ("--images", *files, "run", "--out", "b.png")):
        result = ulzoo("reconstruct", *arguments)
        assert result.exit_code == 0 and not result.stderr, result.stderr
    assert (run.parent / "reconstructions.png").stat().st_size > (run.parent / "b.png").stat().st_size
    assert (
        "there are 12 images in all, not 20" in ulzoo("reconstruct", "run", "--images", photographs, "--n", 20).stderr
    )


def test_metrics_of_the_same_images_are_comparable_wherever_they_are(ulzoo, run, photographs):
    shutil.copytree(photographs, run.parent / "copied")
    first, copied, files, own = (
        results_of(ulzoo("evaluate", "run", *QUICK, "--json", *arguments))
        for arguments in (("--images", "photographs"), ("--images", "copied"), ("--images", "photographs/7.png"), ())
    )
    assert first["protocol"]["split"] == "all" and "root" not in first["protocol"]["data"]
    assert first["protocol"] == copied["protocol"] and first["hashes"] == copied["hashes"]
    assert first["figures"] == copied["figures"] and first["spec_hash"] == own["spec_hash"]
    for other in (files, own):
        assert not {*first["hashes"].values()} & {*other["hashes"].values()}
    (run.parent / "copied" / "7.png").write_bytes((photographs / "8.png").read_bytes())
    changed = results_of(ulzoo("evaluate", "run", *QUICK, "--json", "--images", "copied", "--limit", 12))
    assert changed["protocol"]["fingerprint"]["content"] != first["protocol"]["fingerprint"]["content"]


def test_encode_own_images_and_train_a_base_on_them(ulzoo, run, photographs):
    result = ulzoo("encode", "run", "--images", "photographs", "--out", "latents", "--device", "cpu")
    assert result.exit_code == 0 and "images of train in 1 files" in result.stdout, result.stderr
    base = TINY.replace("{kind: emoji3d, resolution: 32}", "{kind: image_folder, root: photographs, resolution: 32}")
    base = base.replace(", class_conditional: true", "").replace("name: tiny", "name: base")
    base += "init: {model: run, freeze: [encoder, prior, decoder], parts: [encoder, prior, decoder]}\n"
    base = base.replace(
        "  latents: {steps: 2, batch_size: 4, lr: 1e-3, log_every: 1, checkpoint_every: 1}\n", "  latents: null\n"
    )
    (run.parent / "base.yaml").write_text(base)
    keys = ("--set", "train.base.data.kind=latents", "--set", "train.base.data.path=latents")
    result = ulzoo("train", "base.yaml", "--out", "trained", "--device", "cpu", *keys)
    assert result.exit_code == 0, result.stderr


def test_files_are_encoded_into_any_split(ulzoo, run, photographs):
    files = sorted(photographs.glob("*.png"))
    result = ulzoo("encode", "run", "--out", "latents", "--split", "val", "--images", *files)
    assert result.exit_code == 0 and "6 images of val" in result.stdout, result.stderr


def test_a_moved_run_asks_for_its_data_by_the_option_that_gives_it(ulzoo, here, images, monkeypatch):
    project = here / "project"
    shutil.copytree(images, project / "pictures")
    spec = TINY.replace("{kind: emoji3d, resolution: 32}", "{kind: image_folder, root: pictures, resolution: 32}")
    (project / "my.yaml").write_text(spec.replace(", class_conditional: true", ""))
    result = ulzoo("train", "project/my.yaml", "--out", "project/run", "--device", "cpu")
    assert result.exit_code == 0, result.stderr
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    before = results_of(ulzoo("evaluate", "../project/run", *QUICK, "--json"))
    exported = ulzoo("export", "../project/run", "--out", "received.safetensors")
    assert exported.exit_code == 0 and str(here) not in (here / "elsewhere/received.safetensors").read_text("latin-1")
    shutil.move(project / "run", "moved")
    shutil.move(project / "pictures", here / "images")
    for model in ("moved", "received.safetensors"):
        for command in ("evaluate", "reconstruct", "encode"):
            line = line_of(ulzoo(command, model, *(("--out", "latents") if command == "encode" else ())))
            assert "no such folder" in line and "give --data root=PATH, or --images with a folder or files" in line
        after = results_of(ulzoo("evaluate", model, *QUICK, "--json", "--data", f"root={here / 'images'}"))
        assert after["hashes"] == before["hashes"] and after["figures"] == before["figures"]
    assert ulzoo("sample", "moved", "--n", 1).exit_code == 0  # needs no data


def test_show_a_run_an_export_a_checkpoint_and_a_release(ulzoo, run):
    shown = json.loads(ulzoo("show", "run", "--json").stdout)
    spec = json.loads(ulzoo("show", "tiny.yaml", "--json").stdout)
    assert (
        shown["hash"] == spec["hash"]
        and shown["summary"] == spec["summary"]
        and "psnr_db" in shown["results"]["figures"]
    )
    assert "PSNR of reconstructions" in ulzoo("show", "run").stdout
    checkpoint = next((run / "checkpoints").iterdir())
    for model in ("run/model.safetensors", checkpoint, "run/spec.yaml"):
        assert results_of(ulzoo("show", model, "--json"))["hash"] == spec["hash"], model
    changed = json.loads(ulzoo("show", "run", "--json", "--set", "sample.base.steps=7").stdout)
    assert changed["spec"]["sample"]["base"]["steps"] == 7
    assert "no difference" in ulzoo("show", "--diff", "run", "tiny.yaml").stdout
    (run / "model.safetensors").unlink()  # an unfinished run
    assert json.loads(ulzoo("show", "run", "--json").stdout)["hash"] == spec["hash"]
    released = json.loads(ulzoo("show", "released:emoji32_tiny", "--json").stdout)
    assert released["spec"]["name"] == "emoji32_tiny" and "psnr_db" in released["results"]["figures"]
    (run.parent / "empty").mkdir()
    assert "so it is no run directory" in line_of(ulzoo("show", "empty"))
    assert "did you mean" in line_of(ulzoo("show", "emoji32_tin"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--images", "absent"), "--images: absent: no such file or folder"),
        (("--images", "photographs", "tiny.png"), "--images: tiny.png: no such file or folder"),
        (("--images", "photographs", "photographs/7.png"), "photographs is a folder: give one folder, or files"),
        (("--images", "photographs", "--data", "root=x"), "--images and --data exclude each other"),
        (("--images", "run/samples.txt"), "no such file or folder"),
        (("--images", "run/checkpoints"), "no images in it"),
        (("--images", "photographs", "--split", "test"), "split must be 'train' or 'val', not 'test'"),
        (("--split", "all"), "split must be 'train' or 'val', not 'all'"),
        (("--data", "root=x"), "data.root: unknown key"),
        (("--data", "kind=image_folder", "root=x"), "x: no such folder"),
    ],
)
def test_a_mistake_is_one_line(ulzoo, run, photographs, arguments, message):
    for command in ("reconstruct", "evaluate"):
        assert message in line_of(ulzoo(command, "run", *arguments))


def test_a_file_that_is_no_image_and_a_comparison(ulzoo, run):
    assert "tiny.yaml" in line_of(ulzoo("reconstruct", "run", "--images", "tiny.yaml"))
    assert "takes none" in line_of(ulzoo("sample", "run", "--data", "hflip=true"))
    assert "--compare measures nothing" in line_of(ulzoo("evaluate", "run", "run", "--compare", "--images", "x.png"))


def test_lists_end_where_the_next_argument_begins():
    assert bind_lists(["a", "--images", "x", "y.PNG", "m", "--n", "3"]) == [
        *("a", "--images", "x", "--images", "y.PNG", "m", "--n", "3")
    ]
    assert bind_lists(["m", "--data", "root=x", "kind=y", "z"]) == ["m", "--data", "root=x", "--data", "kind=y", "z"]
    assert bind_lists(["--images"]) == ["--images"] and bind_lists(["--", "--images", "a", "b.png"])[1:] == [
        *("--images", "a", "b.png")
    ]
