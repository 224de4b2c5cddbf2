import hashlib
import pickle
import subprocess
import sys
from itertools import islice

import pytest
import torch

from ulzoo.data import Atari, batches
from ulzoo.data.videos.atari import open_emulator

pytest.importorskip("ale_py")
KEYS = {"resolution": 32, "games": ("pong", "breakout"), "frames": 4, "clips": 40}


def opened(split: str = "train", **keys: object) -> Atari:
    return Atari(split, **{**KEYS, **keys})  # type: ignore[arg-type]


def test_clips_of_games() -> None:
    train, val = opened(), opened("val")
    assert (len(train), len(val)) == (40, 4)
    assert train.contract == val.contract
    assert (train.shape, train.label_names, train.contract.frame_rate) == ((3, 4, 32, 32), ("pong", "breakout"), 15.0)
    clip, label, key, _ = train[3]
    assert (clip.dtype, clip.shape, label, key) == (torch.uint8, train.shape, 1, "train/breakout/0000003")
    assert clip.is_contiguous() and clip.float().std() > 20
    assert val[3][2] == "val/breakout/0000003" and not torch.equal(val[3][0], clip)
    assert not torch.equal(train[5][0], clip)
    assert any((train[i][0][:, 1:] != train[i][0][:, :-1]).any() for i in range(4))
    with pytest.raises(IndexError):
        train[40]
    assert len(opened("val", clips=1)) == 2


@pytest.mark.slow
def test_a_clip_is_a_function_of_split_and_index() -> None:
    source = opened()
    once = [source[i][0] for i in range(6)]
    assert all(torch.equal(source[i][0], once[i]) for i in (5, 0, 3, 3))
    assert torch.equal(opened(games=("pong",))[0][0], once[0])
    copy = pickle.loads(pickle.dumps(source))
    assert torch.equal(copy[1][0], once[1])
    code = (
        "from ulzoo.data import Atari; import hashlib; "
        f"print(hashlib.sha256(Atari('train', **{KEYS})[5][0].numpy().tobytes()).hexdigest())"
    )
    elsewhere = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert elsewhere.stdout.strip() == hashlib.sha256(once[5].numpy().tobytes()).hexdigest()
    assert elsewhere.stderr == ""


def test_workers_give_the_same_batches() -> None:
    source = opened()
    serial, parallel = (next(islice(batches(source, 6, seed=1, workers=n), 1)) for n in (0, 1))
    assert serial["key"] == parallel["key"] and torch.equal(serial["x"], parallel["x"])
    assert len(set(serial["key"])) == 6


def test_an_image_is_the_maximum_of_two_frames() -> None:
    emulator = open_emulator("pong")
    emulator.reset()
    emulator.advance(emulator.actions[0], 200)
    state = emulator.machine.cloneSystemState()
    image = emulator.render(emulator.actions[2], 3)
    emulator.machine.restoreSystemState(state)
    screens = []
    for _ in range(3):
        emulator.machine.act(emulator.actions[2])
        screens.append(torch.from_numpy(emulator.machine.getScreenRGB().copy()))
    assert image.shape == (210, 160, 3)
    assert torch.equal(torch.from_numpy(image), torch.maximum(screens[1], screens[2]))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"games": ("pongg",)}, "games: ale-py has no 'pongg'; did you mean 'pong'?"),
        ({"games": ("../pong",)}, "games: ale-py has no"),
        ({"games": ()}, "games must be one or more different names, not "),
        ({"games": ("pong", "pong")}, "games must be one or more different names"),
        ({"frame_skip": 0}, "frame_skip must be at least 1, not 0"),
        ({"clips": 0}, "clips must be at least 1"),
        ({"frames": 0}, "frames must be at least 1"),
        ({"resolution": 0}, "resolution must be at least 1"),
    ],
)
def test_keys_out_of_range(keys: dict, message: str) -> None:
    with pytest.raises(ValueError) as error:
        opened(**keys)
    assert str(error.value).startswith(message)


def test_without_ale_py(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ale_py", None)
    assert Atari.describe(frame_skip=4, **KEYS).num_classes == 2  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"kind atari needs the package ale-py: pip install 'ulzoo\[atari\]'"):
        opened()
