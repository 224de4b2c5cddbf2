"""Stored latents: the files, training on them as on the images, and latents that are refused."""

import json
import shutil
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from ulzoo.data import ImageFolder, Latents, batches
from ulzoo.data.fingerprint import Fingerprint, spread
from ulzoo.data.source import Unreadable
from ulzoo.data.storage.manifest import verify
from ulzoo.data.storage.remote import StoragePath
from ulzoo.media.pixels import from_uint8
from ulzoo.registry import open_model
from ulzoo.registry.compile import open_source
from ulzoo.registry.runs import encode as encoding
from ulzoo.registry.runs.encode import EncodeOptions, encode, encoder_hash
from ulzoo.registry.runs.train import RunOptions, train

STEPS = ("train.latents.steps=4", "train.base.steps=6", "train.base.log_every=1", "train.base.checkpoint_every=3")


@pytest.fixture(scope="module")
def latents_run(tiny, tmp_path_factory) -> Path:
    """A run with a finished stage 1."""
    folder = tmp_path_factory.mktemp("encode") / "run"
    train(tiny(*STEPS), folder, RunOptions(stage="latents"))
    return folder


def encoded(run: Path, out: StoragePath, split: str = "train", **keys) -> StoragePath:
    loaded = open_model(run)
    source = open_source(loaded.spec, split)
    options = EncodeOptions(**{"batch_size": 7, "images_per_shard": 20, **keys})
    encode(loaded.model, loaded.spec, source, out, split, options=options)
    return out


@pytest.fixture(scope="module")
def exact(latents_run, tmp_path_factory) -> Path:
    return encoded(latents_run, tmp_path_factory.mktemp("latents") / "exact", dtype="float32")


def on(path: StoragePath) -> tuple[str, str]:
    return "train.base.data.kind=latents", f"train.base.data.path={path}"


def losses(folder: Path) -> list[float]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if row["stage"] == "base"]


def trained(run: Path, spec, folder: Path) -> list[float]:
    shutil.copytree(run, folder)
    train(spec, folder, RunOptions(stage="base"))
    return losses(folder)


def test_the_stored_latents_are_those_of_the_encoder(latents_run, exact):
    loaded = open_model(latents_run)
    images, latents = open_source(loaded.spec, "train"), Latents("train", path=str(exact))
    assert len(latents) == len(images) == 44 and latents.hflip and latents.encoded
    assert latents.contract == images.contract
    assert sorted(path.name for path in exact.glob("*.safetensors")) == [f"train-0000{i}.safetensors" for i in range(3)]
    assert verify(exact) == {"train": "44 images"}
    for i in (0, 19, 20, 43):
        image, sample = images[i], latents[i]
        assert (sample.key, sample.label, sample.text) == (image.key, image.label, None)
        both = torch.stack([image.pixels, image.pixels.flip(-1)])
        expected = loaded.model.encode(from_uint8(both)).detach()
        torch.testing.assert_close(sample.pixels, expected[0])
        torch.testing.assert_close(latents.mirror(i, sample).pixels, expected[1])
        assert not torch.allclose(expected[1], expected[0].flip(-1))  # the encoder is not equivariant


def test_batches_are_the_encoded_batches_of_images(latents_run, exact):
    """The same keys and flips in the same order, for any number of workers and wherever it resumes."""
    loaded = open_model(latents_run)
    images, latents = open_source(loaded.spec, "train"), Latents("train", path=str(exact))
    theirs = list(islice(batches(images, 16, seed=1, start=16), 5))
    for workers in (0, 2):
        ours = list(islice(batches(latents, 16, seed=1, start=16, workers=workers), 5))
        for a, b in zip(theirs, ours, strict=True):
            assert a["key"] == b["key"] and torch.equal(a["label"], b["label"])
            torch.testing.assert_close(loaded.model.encode(a["x"]).detach(), b["x"], rtol=1e-4, atol=1e-5)


def test_training_on_latents_equals_training_on_images(tiny, latents_run, exact, tmp_path):
    expected = trained(latents_run, tiny(*STEPS), tmp_path / "images")
    assert trained(latents_run, tiny(*STEPS, *on(exact)), tmp_path / "exact") == pytest.approx(expected, rel=1e-4)
    for dtype, close in (("bfloat16", 1e-2), ("float16", 1e-3)):
        path = encoded(latents_run, tmp_path / dtype, dtype=dtype)
        assert Latents("train", path=str(path))[0].pixels.dtype == getattr(torch, dtype)
        assert trained(latents_run, tiny(*STEPS, *on(path)), tmp_path / f"on_{dtype}") == pytest.approx(
            expected, rel=close
        )
    shutil.copytree(exact, tmp_path / "moved")
    spec = tiny(*STEPS, *on(tmp_path / "moved"), "train.base.steps=8")
    train(spec, tmp_path / "exact", RunOptions(stage="base", resume=True))  # the path may change in a resumed run
    assert len(losses(tmp_path / "exact")) == 8
    results = json.loads((tmp_path / "exact" / "figures.json").read_text())
    assert results["figures"]["psnr_db"] > 0 and results["trained"]["step"] == 8


@pytest.fixture
def written(monkeypatch) -> list[str]:
    """The names of the shards that were written; the third is interrupted, counted from when the list is empty."""
    write, names = encoding.write_latents, []

    def interrupted(path, z_clean, **content):
        if len(names) == 2:
            raise KeyboardInterrupt
        names.append(path.name)
        write(path, z_clean, **content)

    monkeypatch.setattr(encoding, "write_latents", interrupted)
    return names


def test_an_interrupted_encoding_continues_to_the_same_bytes(latents_run, exact, tmp_path, written):
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        encoded(latents_run, out, dtype="float32")
    with pytest.raises(ValueError, match="out: train is not completely encoded: run `ulzoo encode` again"):
        Latents("train", path=str(out))
    (out / written[0]).write_bytes((out / written[0]).read_bytes()[:1000])
    written.clear()
    encoded(latents_run, out, dtype="float32")
    assert written == ["train-00000.safetensors", "train-00002.safetensors"]
    for path in exact.iterdir():
        assert (out / path.name).read_bytes() == path.read_bytes()
    with pytest.raises(ValueError, match="prepared with other settings: dtype was float32, now bfloat16"):
        encoded(latents_run, out)


@pytest.mark.slow
def test_latents_in_an_object_store_are_those_of_a_folder(tiny, latents_run, exact, s3, tmp_path, written):
    with pytest.raises(KeyboardInterrupt):
        encoded(latents_run, s3, dtype="float32")
    with pytest.raises(ValueError, match=f"{s3}: train is not completely encoded: run `ulzoo encode` again"):
        Latents("train", path=str(s3))
    written.clear()
    encoded(latents_run, s3, dtype="float32")
    assert written == ["train-00002.safetensors"]
    for path in exact.glob("[!.]*"):
        assert (s3 / path.name).read_bytes() == path.read_bytes()
    for workers in (0, 2):
        ours = islice(batches(Latents("train", path=str(s3)), 16, seed=1, workers=workers), 3)
        theirs = islice(batches(Latents("train", path=str(exact)), 16, seed=1), 3)
        for a, b in zip(ours, theirs, strict=True):
            assert a["key"] == b["key"] and torch.equal(a["x"], b["x"]) and torch.equal(a["label"], b["label"])
    on_folder = trained(latents_run, tiny(*STEPS, *on(exact)), tmp_path / "folder")
    assert trained(latents_run, tiny(*STEPS, *on(s3)), tmp_path / "store") == on_folder
    (s3 / "train-00001.safetensors").remove()
    with pytest.raises(ValueError, match=r"train-00001\.safetensors: missing, or of another size than"):
        Latents("train", path=str(s3))


def refused(message: str, spec, run: Path, **options) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=message) as error:
        train(spec, run, RunOptions(**options))
    assert "\n" not in str(error.value)
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_latents_of_other_encoders_or_data_are_refused(tiny, latents_run, exact, tmp_path):
    other = tmp_path / "other"
    train(tiny(*STEPS, "train.latents.seed=1"), other, RunOptions(stage="latents"))
    spec = tiny(*STEPS, "train.latents.seed=1", *on(exact))
    words = r"train\.base\.data\.path.*: .*exact contains latents of another encoder \(of tiny, SHA-256 "
    refused(words, spec, other, stage="base")
    a, b = open_model(other), open_model(latents_run)
    assert (
        encoder_hash(a.spec, a.model)
        != encoder_hash(b.spec, b.model)
        == encoder_hash(b.spec, open_model(latents_run).model)
    )
    refused(r"train\.base\.data.*: latents of the encoder that this run is about to train: run --stage latents first",
            tiny(*STEPS, *on(exact)), tmp_path / "all")  # fmt: skip
    settings = json.loads((exact / "manifest.json").read_text())
    settings["splits"]["train"]["settings"]["data"]["hflip"] = False
    changed = Path(shutil.copytree(exact, tmp_path / "changed"))
    (changed / "manifest.json").write_text(json.dumps(settings))
    spec = tiny(*STEPS, *on(changed))
    refused("changed contains latents of other data: data.hflip was False, now True", spec, latents_run, stage="base")
    refused(r"absent: no latents of train in it; `ulzoo encode", tiny(*STEPS, *on(tmp_path / "absent")), latents_run,
            stage="base")  # fmt: skip
    (changed / "manifest.json").write_bytes((exact / "manifest.json").read_bytes())
    (changed / "train-00001.safetensors").write_bytes(b"short")
    refused(
        r"train-00001\.safetensors: missing, or of another size than",
        tiny(*STEPS, *on(changed)),
        latents_run,
        stage="base",
    )


def test_latents_only_as_data_of_the_base(tiny, exact):
    from ulzoo.registry.compile import compile_model

    with pytest.raises(ValueError, match="only latents is allowed here: a base is trained on the spec's data"):
        tiny("train.base.data.kind=emoji3d")
    from ulzoo.registry import spec_from_dict

    spec = spec_from_dict({**tiny().to_dict(), "data": {"kind": "latents", "path": str(exact)}})
    with pytest.raises(ValueError, match=r"data must be the images themselves: set latents as train\.base\.data"):
        compile_model(spec, "meta")


def test_latents_that_cannot_be_stored(tiny, tiny_video, tmp_path):
    from ulzoo.registry.compile import compile_model

    for spec, words in (
        (tiny("latent.variance=learned"), r"samples z_clean \(latent\.variance: learned\)"),
        (tiny_video(), "only latents of images can be stored"),
    ):
        with pytest.raises(ValueError, match=words):
            encode(compile_model(spec), spec, open_source(spec, "val"), tmp_path / "out", "val")
    model = compile_model(tiny())
    model.encode = lambda x, generator=None: torch.full((len(x), *model.contract.latent_shape), 1e5)
    with pytest.raises(ValueError, match=r"exceeds the range of torch\.float16; use --dtype bfloat16"):
        encode(model, tiny(), open_source(tiny(), "val"), tmp_path / "out", "val", options=EncodeOptions("float16"))


def damageable(spec):
    """The validation data of a spec; the images whose numbers are in its `damaged` cannot be read."""
    source = open_source(spec, "val")
    read = type(source).__getitem__

    class Damaged(type(source)):
        def __getitem__(self, index):
            if index in self.damaged:
                raise Unreadable(f"{index} is damaged")
            return read(self, index)

    source.__class__, source.damaged = Damaged, set()
    return source


def test_unreadable_images_are_listed(tiny, tmp_path):
    from ulzoo.registry.compile import compile_model

    spec = tiny()
    source, model = damageable(spec), compile_model(spec)
    source.damaged = {2}
    with pytest.raises(Unreadable, match="2 is damaged"):
        encode(model, spec, source, tmp_path / "out", "val")
    source.skips_unreadable = True
    summary = encode(model, spec, source, tmp_path / "out", "val")
    assert (summary.count, summary.failures) == (5, {"2": "2 is damaged"})
    assert [Latents("val", path=str(tmp_path / "out"))[i].key for i in (1, 2)] == [source[1].key, source[3].key]
    source.damaged = set(range(6))
    with pytest.raises(ValueError, match="none of the 6 images of val can be read; the first, 0: 0 is damaged"):
        encode(model, spec, source, tmp_path / "none", "val")


def draw(root: Path, classes: tuple[str, str], count: int, seed: int = 0) -> Path:
    """A folder of images of noise in two classes, all files of one size: `count` in train, two in val."""
    rng = np.random.default_rng(seed)
    for split, number in (("train", count), ("val", 2)):
        for i in range(number):
            folder = root / split / classes[i % 2]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(folder / f"{i:02}.bmp")
    return root


@pytest.fixture
def animals(latents_run, tmp_path) -> SimpleNamespace:
    """`encode(root)` into the folder `out`, and `check(root)` as training does, by the encoder of `latents_run`."""
    from ulzoo.registry.spec.loading import spec_from_dict

    loaded, out = open_model(latents_run), tmp_path / "animals"

    def spec(root: Path):
        content = loaded.spec.to_dict()
        content["data"] |= {"root": str(root), "num_classes": 2}
        content["train"]["base"]["data"] = {"kind": "latents", "path": str(out)}
        return spec_from_dict(content)

    def encode_all(root: Path):
        source, options = open_source(spec(root), "train"), EncodeOptions("float32", 8, 8)
        return encode(loaded.model, spec(root), source, out, "train", options=options)

    def check(root: Path) -> None:
        sources = {"train.base.data": Latents("train", path=str(out))}
        encoding.check_encoded(spec(root), loaded.model, ("base",), sources)

    return SimpleNamespace(encode=encode_all, check=check, out=out)


def test_latents_of_other_animals_are_refused(animals, tmp_path):
    pets, wild = draw(tmp_path / "pets", ("cat", "dog"), 24), draw(tmp_path / "wild", ("fox", "owl"), 10, seed=1)
    animals.encode(pets)
    animals.check(pets)
    animals.check(Path(shutil.copytree(pets, tmp_path / "copy", copy_function=shutil.copyfile)))
    words = "number of examples: 24 and 10; keys; labels; sizes of the files; label names; content of the examples"
    with pytest.raises(
        ValueError, match=rf"train\.base\.data\.path: .*animals contains latents of other images: {words}"
    ):
        animals.check(wild)
    with pytest.raises(
        ValueError, match=rf"animals: contains latents of other images of train: {words}; choose another"
    ):
        animals.encode(wild)
    (tmp_path / "pets/train/cat").rename(tmp_path / "pets/train/ape")
    (tmp_path / "pets/val/cat").rename(tmp_path / "pets/val/ape")
    with pytest.raises(ValueError, match=r"contains latents of other images: keys; label names$"):
        animals.check(tmp_path / "pets")


def test_latents_of_images_that_were_replaced_are_refused(animals, tmp_path):
    """All of them, or a single one of the same size that is none of those in the fingerprint."""
    pets = draw(tmp_path / "pets", ("cat", "dog"), 100)
    animals.encode(pets)
    before = {path: path.read_bytes() for path in animals.out.glob("*.safetensors")}
    content = {path: path.read_bytes() for path in (pets / "train").rglob("*.bmp")}
    draw(pets, ("cat", "dog"), 100, seed=1)
    for call in (animals.check, animals.encode):
        with pytest.raises(ValueError, match=r"contains latents of other images.*: content of the examples"):
            call(pets)
    for path, old in content.items():
        path.write_bytes(old)
    animals.check(pets)
    replaced = ImageFolder("train", root=str(pets), resolution=16, num_classes=2).paths[50]
    assert 50 not in spread(100)
    Image.new("RGB", (16, 16)).save(replaced)
    with pytest.raises(ValueError, match="contains latents of other images: 1 of the 32 images that were written last"):
        animals.check(pets)
    assert before == {path: path.read_bytes() for path in before}
    animals.encode(pets)  # the same fingerprint, but a shard whose files were written since
    assert [path.name for path, old in before.items() if path.read_bytes() != old] == ["train-00006.safetensors"]
    animals.check(pets)


def test_an_image_that_was_repaired_is_encoded(tiny, tmp_path):
    """The damaged one was skipped; without a change of its file, too, it is read again."""
    from ulzoo.registry.compile import compile_model

    spec, out = tiny(), tmp_path / "out"
    source, model = damageable(spec), compile_model(spec)
    source.skips_unreadable = True
    identity = encoding.fingerprint(source).identity
    source.damaged = {2}
    with pytest.MonkeyPatch.context() as patch:  # as if it were none of the 32 in the fingerprint
        patch.setattr(encoding, "fingerprint", lambda source: Fingerprint(identity, None))
        assert encode(model, spec, source, out, "val").count == 5
        assert encode(model, spec, source, out, "val").count == 5
        source.damaged = set()
        summary = encode(model, spec, source, out, "val")
    assert (summary.count, summary.failures) == (6, {}) and len(Latents("val", path=str(out))) == 6


def test_latents_of_earlier_versions_are_used_with_a_warning(animals, tmp_path):
    pets = draw(tmp_path / "pets", ("cat", "dog"), 6)
    animals.encode(pets)
    manifest = json.loads((animals.out / "manifest.json").read_text())
    del manifest["splits"]["train"]["settings"]["fingerprint"]
    (animals.out / "manifest.json").write_text(json.dumps(manifest))
    with pytest.warns(
        UserWarning, match="animals: does not record its images, as in earlier versions: encode them again"
    ):
        animals.check(pets)


def test_latents_without_their_images_are_used_with_a_warning(animals, tmp_path):
    pets = draw(tmp_path / "pets", ("cat", "dog"), 6)
    animals.encode(pets)
    shutil.rmtree(pets / "train" / "cat")
    with pytest.warns(UserWarning, match="animals: cannot be compared with its images: .*has 1 class folders"):
        animals.check(pets)
