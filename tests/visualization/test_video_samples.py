"""Clips of several models: their arrangement, titles and notes, and the files."""

import av
import pytest
import torch
from PIL import Image

from ulzoo.data import in_order
from ulzoo.data.subset import spread_out
from ulzoo.model.contract import Contract
from ulzoo.registry.compile import compile_model, open_source
from ulzoo.visualization import Clips, SampleRequest, reconstructed_clips, sampled_clips, save_clips, video_samples


@pytest.fixture(scope="module")
def model(tiny_video):
    return compile_model(tiny_video("base.class_conditional=true"))


@pytest.fixture(scope="module")
def source(tiny_video):
    return open_source(tiny_video(), "val")


def titles(bands):
    return [[(clips.title, len(clips.clips), clips.context_frames) for clips in band] for band in bands]


def test_continued_clips_are_below_the_ground_truth(model, source):
    ((truth, first, second),) = sampled_clips({"a": model, "b": model}, SampleRequest(3), source=source)
    assert titles([[truth, first, second]]) == [[("truth", 3, 0), ("a", 3, 3), ("b", 3, 3)]]
    assert truth.notes == [sample.key for sample in map(spread_out(source, 3).__getitem__, range(3))]
    assert torch.equal(first.clips[:, :, :3], truth.clips[:, :, :3])
    assert not torch.equal(first.clips[:, :, 3:], truth.clips[:, :, 3:])
    assert torch.equal(first.clips, second.clips)  # one seed for both
    assert all(note.endswith(" dB") for note in first.notes)


def test_continued_clips_of_classes(model, source):
    ((_, clips),) = sampled_clips({"a": model}, SampleRequest(4, labels="0,2"), source=source)
    names = [note.rpartition(" · ")[0] for note in clips.notes]
    assert names == [model.contract.label_names[i] for i in (0, 0, 2, 2)]


def test_whole_clips_by_class(model, source):
    bands = sampled_clips({"a": model}, SampleRequest(3, labels="0,2", whole_clips=True))
    first, last = (model.contract.label_names[i] for i in (0, 2))
    assert titles(bands) == [[(f"a · {first}", 1, 0)], [(f"a · {last}", 2, 0)]]
    assert titles(sampled_clips({"a": model}, SampleRequest(2, whole_clips=True))) == [[("a", 2, 0)]]
    assert titles(sampled_clips({"a": model}, SampleRequest(2, network="prior"))) == [[("a", 2, 0)]]


def test_samples_depend_on_the_seed_only(model):
    def sampled(seed=0):
        return sampled_clips({"a": model}, SampleRequest(2, seed=seed, whole_clips=True))[0][0].clips

    assert torch.equal(sampled(), sampled())
    assert not torch.equal(sampled(), sampled(seed=1))


def test_noise_depends_on_neither_the_number_nor_the_batch_nor_the_rate(model, source, monkeypatch):
    monkeypatch.setattr(video_samples, "spread_batch", lambda source, n: next(in_order(source, n)))  # the first n

    def clips(n, rate_samples=2):
        (sampled,) = sampled_clips({"a": model}, SampleRequest(n), source=source)
        (reconstructed,) = reconstructed_clips({"a": model}, source, n, rate_samples=rate_samples)
        return [sampled[1].clips, reconstructed[1].clips], reconstructed[1].notes

    (three, notes), (four_draws, _) = clips(3), clips(3, 4)
    assert torch.equal(three[1], four_draws[1])
    monkeypatch.setattr(video_samples, "BATCH_SIZE", 2)
    in_batches, notes_in_batches = clips(3)
    torch.testing.assert_close(in_batches, three, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(clips(2)[0], [two[:2] for two in three], rtol=1e-4, atol=1e-5)
    assert notes_in_batches == notes


def test_reconstructions_have_notes_of_psnr_and_rate(model, source):
    ((truth, clips),) = reconstructed_clips({"a": model}, source, 2, rate_samples=1)
    assert titles([[truth, clips]]) == [[("truth", 2, 0), ("a", 2, 0)]]
    assert all("dB" in note and "bits/pixel" in note for note in clips.notes)


def test_a_decoder_that_needs_context_frames_gets_them(tiny_video, source):
    model = compile_model(tiny_video("conditioning.decoder_dropout=0"))
    ((truth, clips),) = reconstructed_clips({"a": model}, source, 2, rate_samples=1)
    assert clips.context_frames == 3 and torch.equal(clips.clips[:, :, :3], truth.clips[:, :, :3])


def test_models_of_another_size(tiny_video, source):
    other = compile_model(tiny_video("data.frames=6"))
    message = r"other: is a model of clips of shape \(3, 6, 32, 32\)"
    with pytest.raises(ValueError, match=message):
        sampled_clips({"other": other}, SampleRequest(2), source=source)
    with pytest.raises(ValueError, match=message):
        reconstructed_clips({"other": other}, source, 2)


@pytest.mark.parametrize(("name", "animated"), [("x.png", ".webp"), ("x.mp4", ".webp"), ("x.gif", ".gif")])
def test_three_files_side_by_side(tmp_path, name, animated):
    bands = [[Clips("a", torch.rand(1, 3, 4, 8, 8) * 2 - 1)]]
    for rate, expected in ((12.0, 12), (None, 8)):
        contract = Contract((4, 8, 8), 3, (1, 1, 1), 1, 5.0, frame_rate=rate)
        written = save_clips(tmp_path / name, bands, contract)
        assert written == [tmp_path / f"x{suffix}" for suffix in (".png", ".mp4", animated)]
        assert sorted(tmp_path.iterdir()) == sorted(written)
        with av.open(str(written[1])) as video:
            assert video.streams.video[0].average_rate == expected
        with Image.open(written[2]) as image:
            assert image.n_frames == 4


def test_more_clips_than_fit_into_a_video(model, source):
    message = "space for 128 clips of each model, not 129"
    with pytest.raises(ValueError, match=message):
        sampled_clips({"a": model}, SampleRequest(129), source=source)
    with pytest.raises(ValueError, match=message):
        reconstructed_clips({"a": model}, source, 129)
