import io
import tarfile
from importlib.resources import files

import av
import numpy as np
import pytest
import torch

from ulzoo.data import Emoji3D, Emoji3DVideo
from ulzoo.data.images import emoji3d


@pytest.fixture(scope="module")
def val() -> Emoji3DVideo:
    return Emoji3DVideo("val")


def test_content_and_order_are_those_of_the_shard(val: Emoji3DVideo) -> None:
    content = (files("ulzoo.data") / "embedded" / "emoji3d-video-64-val.tar.gz").read_bytes()
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    names = [name.removesuffix(".mp4") for name in members if name.endswith(".mp4")]
    assert names == val.keys and len(val) == len(names) == 47
    for i in (0, 20, 46):
        with av.open(io.BytesIO(members[f"{names[i]}.mp4"])) as video:
            frames = np.stack([frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)])
        middle = (len(frames) - 16) // 2
        pixels, label, key, _ = val[i]
        assert (label, key) == (int(members[f"{names[i]}.cls"]), names[i])
        assert np.array_equal(pixels.permute(1, 2, 3, 0).numpy(), frames[middle : middle + 16])


def test_clips_at_other_positions(val: Emoji3DVideo) -> None:
    video = val.videos[0]
    last = video.shape[1] - 16
    assert last > 3
    for first, position in ((0, 0.0), (last // 3, (last // 3 + 0.5) / (last + 1)), (last, 1 - 1e-9)):
        assert torch.equal(val.draw(0, position)[0], video[:, first : first + 16])


def test_keeps_its_contract(val: Emoji3DVideo) -> None:
    assert val.contract == Emoji3DVideo.describe(resolution=64, frames=16, hflip=True)
    assert val.shape == (3, 16, 64, 64) == tuple(val[0][0].shape)
    assert val[0][0].dtype == torch.uint8
    assert val.contract.frame_rate == 8 and val.num_classes == 9 and val.hflip
    assert len({tuple(val[i][0].shape) for i in range(len(val))}) == 1


def test_32_is_the_mean_of_boxes_of_64_as_in_the_images(val: Emoji3DVideo) -> None:
    small = Emoji3DVideo("val", resolution=32, frames=5)
    assert small.shape == (3, 5, 32, 32)
    boxes = val.videos[7].unflatten(-1, (32, 2)).unflatten(-3, (32, 2)).int().sum((-1, -3))
    assert torch.equal(small.videos[7], ((boxes + 2) // 4).to(torch.uint8))


def test_the_background_is_white_and_something_moves(val: Emoji3DVideo) -> None:
    corners = torch.stack([val[i][0][..., 0, 0] for i in range(len(val))])
    assert corners.float().mean() > 254
    assert all((val[i][0].int().diff(dim=1) != 0).any() for i in range(len(val)))


def test_the_splits_share_no_video(val: Emoji3DVideo) -> None:
    train = [sample["__key__"] for sample in emoji3d.read_shard("emoji3d-video-64-train.tar.gz")]
    assert len(set(train)) == len(train) == 468
    assert not set(train) & set(val.keys)


def test_label_names_are_those_of_the_images(val: Emoji3DVideo) -> None:
    assert val.label_names == Emoji3D.describe(resolution=64, captions=False, classes=None).label_names


@pytest.mark.parametrize(
    ("keys", "message"),
    [({"resolution": 48}, "32 or 64, not 48"), ({"frames": 17}, "1 to 16, .* not 17"), ({"frames": 0}, "not 0")],
)
def test_bad_keys(keys: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Emoji3DVideo("val", **keys)  # type: ignore[arg-type]
