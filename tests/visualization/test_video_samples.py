"""Clips of several models: what is drawn beside what, under which name, and the files of it."""

import av
import pytest
import torch
from PIL import Image

from ulzoo.model.contract import Contract
from ulzoo.registry.compile import compile_model
from ulzoo.registry.runs.train import open_source
from ulzoo.visualization.video import Clips
from ulzoo.visualization.video_samples import reconstructed_clips, sampled_clips, save_clips


@pytest.fixture(scope="module")
def model(tiny_video):
    return compile_model(tiny_video("base.class_conditional=true"))


@pytest.fixture(scope="module")
def source(tiny_video):
    return open_source(tiny_video(), "val")


def titles(bands):
    return [[(clips.title, len(clips.clips), clips.given) for clips in band] for band in bands]


def test_continued_clips_stand_under_the_truth(model, source):
    ((truth, first, second),) = sampled_clips({"a": model, "b": model}, source, 3)
    assert titles([[truth, first, second]]) == [[("truth", 3, 0), ("a", 3, 3), ("b", 3, 3)]]
    assert truth.notes == [source[i][2] for i in range(3)]
    assert torch.equal(first.clips[:, :, :3], truth.clips[:, :, :3])
    assert not torch.equal(first.clips[:, :, 3:], truth.clips[:, :, 3:])
    assert torch.equal(first.clips, second.clips)  # one seed for both
    assert all(note.endswith(" dB") for note in first.notes)


def test_continued_clips_of_classes(model, source):
    ((_, clips),) = sampled_clips({"a": model}, source, 4, labels="0,2")
    names = [note.rpartition(" · ")[0] for note in clips.notes]
    assert names == [model.contract.label_names[i] for i in (0, 0, 2, 2)]


def test_whole_clips_by_class(model, source):
    bands = sampled_clips({"a": model}, None, 3, labels="0,2", whole=True)
    first, last = (model.contract.label_names[i] for i in (0, 2))
    assert titles(bands) == [[(f"a · {first}", 1, 0)], [(f"a · {last}", 2, 0)]]
    assert titles(sampled_clips({"a": model}, None, 2, whole=True)) == [[("a", 2, 0)]]
    assert titles(sampled_clips({"a": model}, None, 2, network="prior")) == [[("a", 2, 0)]]


def test_a_seed_fixes_a_sample(model):
    def drawn(**options):
        return sampled_clips({"a": model}, None, 2, whole=True, **options)[0][0].clips

    assert torch.equal(drawn(), drawn())
    assert not torch.equal(drawn(), drawn(seed=1))


def test_reconstructions_say_how_good_they_are(model, source):
    ((truth, clips),) = reconstructed_clips({"a": model}, source, 2, rate_samples=1)
    assert titles([[truth, clips]]) == [[("truth", 2, 0), ("a", 2, 0)]]
    assert all("dB" in note and "bits/pixel" in note for note in clips.notes)


def test_a_decoder_that_must_be_given_frames_is(tiny_video, source):
    model = compile_model(tiny_video("conditioning.decoder_dropout=0"))
    ((truth, clips),) = reconstructed_clips({"a": model}, source, 2, rate_samples=1)
    assert clips.given == 3 and torch.equal(clips.clips[:, :, :3], truth.clips[:, :, :3])


def test_models_of_another_size(tiny_video, source):
    other = compile_model(tiny_video("data.frames=6"))
    for draw in (sampled_clips, reconstructed_clips):
        with pytest.raises(ValueError, match=r"other: is a model of clips of shape \(3, 6, 32, 32\)"):
            draw({"other": other}, source, 2)


@pytest.mark.parametrize(("asked", "moving"), [("x.png", ".webp"), ("x.mp4", ".webp"), ("x.gif", ".gif")])
def test_three_files_lie_side_by_side(tmp_path, asked, moving):
    bands = [[Clips("a", torch.rand(1, 3, 4, 8, 8) * 2 - 1)]]
    for rate, shown in ((12.0, 12), (None, 8)):
        contract = Contract((4, 8, 8), 3, (1, 1, 1), 1, 5.0, frame_rate=rate)
        written = save_clips(tmp_path / asked, bands, contract)
        assert written == [tmp_path / f"x{suffix}" for suffix in (".png", ".mp4", moving)]
        assert sorted(tmp_path.iterdir()) == sorted(written)
        with av.open(str(written[1])) as film:
            assert film.streams.video[0].average_rate == shown
        with Image.open(written[2]) as film:
            assert film.n_frames == 4


def test_more_clips_than_a_film_has_room_for(model, source):
    for draw in (sampled_clips, reconstructed_clips):
        with pytest.raises(ValueError, match="room for 128 clips of each model, not 129"):
            draw({"a": model}, source, 129)
