"""Atari games as they are played by chance: real video without end, of which a package has the games."""

from __future__ import annotations

import random
from difflib import get_close_matches
from functools import cache
from typing import Any

import numpy as np
import torch
from PIL import Image

from ulzoo.data.images.decode import square
from ulzoo.data.source import DataContract, Sample, Source, check_split
from ulzoo.runtime.seeds import derive_seed

FRAMES_PER_SECOND = 60
BURN_IN = 250  # steps


class Atari(Source):
    """Clips of Atari 2600 games in which every action is drawn at random; the label is the game.

    The emulator and its games come from the package `ale-py` (GPL-2), the extra `ulzoo[atari]`, which is imported
    only when this source is used. Clip i is of game i modulo their number; what it shows is a function of
    (split, game, i) alone: an emulator in its first state, then up to 250 random steps that are not shown, then the
    clip. A step is `frame_skip` frames of the machine under one action, and a picture the brighter of a step's last
    two frames, pixel by pixel and channel by channel, since many games draw their figures in every second frame
    only. A game that ends starts anew, within a clip too. The shorter side (160 pixels of 160×210) fills the
    square; see `square` in `ulzoo.data.images.decode`.

    Args:
        split: "train" or "val".
        resolution: side of the square in pixels.
        games: names as in ale-py, such as ms_pacman; their order numbers the labels.
        frames: frames of a clip.
        frame_skip: frames of the machine, 60 a second, per frame of the clip.
        clips: how many clips there are to train; to validate there are a tenth as many others, but one a game at
            least.

    Raises:
        ValueError: no ale-py, an unknown game, or keys that make no sense.
    """

    def __init__(
        self,
        split: str,
        *,
        resolution: int,
        games: tuple[str, ...] = (
            "asterix",
            "beam_rider",
            "breakout",
            "ms_pacman",
            "pong",
            "qbert",
            "seaquest",
            "space_invaders",
        ),
        frames: int = 16,
        frame_skip: int = 4,
        clips: int = 100_000,
    ) -> None:
        check_split(split)
        self.contract = self.describe(
            resolution=resolution, games=games, frames=frames, frame_skip=frame_skip, clips=clips
        )
        self.hflip = False
        self.split = split
        self.games = tuple(games)
        self.frame_skip = frame_skip
        self.clips = clips if split == "train" else max(len(games), clips // 10)
        known = _ale().roms.get_all_rom_ids()
        for game in games:
            if game not in known:
                close = get_close_matches(game, known, n=1)
                raise ValueError(f"games: ale-py has no {game!r}{f'; did you mean {close[0]!r}?' if close else ''}")

    @classmethod
    def describe(
        cls, *, resolution: int, games: tuple[str, ...], frames: int, frame_skip: int, clips: int, **_: object
    ) -> DataContract:
        """The contract of these keys. Raises ValueError on a number below 1, no games, or one that is there twice."""
        numbers = {"resolution": resolution, "frames": frames, "frame_skip": frame_skip, "clips": clips}
        for key, value in numbers.items():
            if value < 1:
                raise ValueError(f"{key} must be at least 1, not {value}")
        if not games or len(set(games)) < len(games):
            raise ValueError(f"games must be one name or more, each once, not {list(games)}")
        return DataContract(3, resolution, len(games), tuple(games), frames, FRAMES_PER_SECOND / frame_skip)

    def __len__(self) -> int:
        return self.clips

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(index)
        label = index % len(self.games)
        game = self.games[label]
        emulator = _emulator(game)
        chance = random.Random(derive_seed("atari", self.split, game, index))
        emulator.restart()
        for action in chance.choices(emulator.actions, k=int(chance.random() * (BURN_IN + 1))):
            emulator.advance(action, self.frame_skip)
        frames, resolution, _ = self.contract.size
        pictures = [
            np.asarray(square(Image.fromarray(emulator.picture(action, self.frame_skip)), resolution))
            for action in chance.choices(emulator.actions, k=frames)
        ]
        clip = torch.from_numpy(np.stack(pictures)).permute(3, 0, 1, 2).contiguous()  # (3, T, H, W)
        return Sample(clip, label, f"{self.split}/{game}/{index:07d}")


class _Emulator:
    """A game that can be taken back to its first state, chance included."""

    def __init__(self, game: str) -> None:
        ale = _ale()
        ale.ALEInterface.setLoggerMode(ale.LoggerMode.Error)
        self.machine = ale.ALEInterface()
        self.machine.setInt("random_seed", 0)
        self.machine.setFloat("repeat_action_probability", 0.0)
        self.machine.loadROM(ale.roms.get_rom_path(game))
        self.actions = self.machine.getMinimalActionSet()
        self.first = self.machine.cloneSystemState()

    def restart(self) -> None:
        self.machine.restoreSystemState(self.first)

    def advance(self, action: Any, frames: int) -> None:
        for _ in range(frames):
            self.machine.act(action)
            if self.machine.game_over():
                self.machine.reset_game()

    def picture(self, action: Any, frame_skip: int) -> np.ndarray:
        """What a step shows, uint8 (height, width, 3)."""
        self.advance(action, frame_skip - 1)
        before = self.machine.getScreenRGB()
        self.advance(action, 1)
        return np.maximum(before, self.machine.getScreenRGB())


@cache
def _emulator(game: str) -> _Emulator:
    """One a process: to load a game takes longer than to play a clip."""
    return _Emulator(game)


def _ale() -> Any:
    try:
        import ale_py
        import ale_py.roms
    except ImportError:
        raise ValueError("kind atari needs the package ale-py: pip install 'ulzoo[atari]'") from None
    return ale_py
