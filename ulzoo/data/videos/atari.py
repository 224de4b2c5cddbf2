"""Clips of Atari games under random actions: an unlimited supply of video, with the games from a package."""

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
FRAME_SKIP = 4
BURN_IN = 250  # steps
GAMES = ("asterix", "beam_rider", "breakout", "ms_pacman", "pong", "qbert", "seaquest", "space_invaders")


class Atari(Source):
    """Clips of Atari 2600 games with uniformly random actions; the label is the game.

    The emulator and the games are those of the package `ale-py` (GPL-2; the extra `ulzoo[atari]`), which is only
    imported when this source is used. Clip i shows game i modulo the number of games and is a function of (split, game,
    i): the emulator is reset, runs up to 250 random steps that are not recorded, then the clip. A step repeats one
    action for `frame_skip` emulator frames. Its image is the per-pixel and per-channel maximum of the last two frames,
    since many games draw their sprites in every second frame only. A game that ends is restarted, also within a clip.
    Images are cropped to the shorter side (160 of 160×210 pixels) by `square` in `ulzoo.data.images.decode`.

    Args:
        split: "train" or "val".
        resolution: side of the square in pixels.
        games: names as in ale-py, such as ms_pacman; their order defines the labels.
        frames: frames per clip.
        frame_skip: emulator frames (60 per second) per frame of a clip.
        clips: number of training clips; val has a tenth as many different ones, but at least one per game.

    Raises:
        ValueError: ale-py is not installed, an unknown game, or keys out of range.
    """

    def __init__(
        self,
        split: str,
        *,
        resolution: int,
        games: tuple[str, ...] = GAMES,
        frames: int = 16,
        frame_skip: int = FRAME_SKIP,
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
        available = _ale().roms.get_all_rom_ids()
        for game in games:
            if game not in available:
                close = get_close_matches(game, available, n=1)
                raise ValueError(f"games: ale-py has no {game!r}{f'; did you mean {close[0]!r}?' if close else ''}")

    @classmethod
    def describe(
        cls, *, resolution: int, games: tuple[str, ...], frames: int, frame_skip: int, clips: int, **_: object
    ) -> DataContract:
        """The contract for these keys. Raises ValueError for a number below 1, no games, or duplicate games."""
        numbers = {"resolution": resolution, "frames": frames, "frame_skip": frame_skip, "clips": clips}
        for key, value in numbers.items():
            if value < 1:
                raise ValueError(f"{key} must be at least 1, not {value}")
        if not games or len(set(games)) < len(games):
            raise ValueError(f"games must be one or more different names, not {list(games)}")
        return DataContract(3, resolution, len(games), tuple(games), frames, FRAMES_PER_SECOND / frame_skip)

    def __len__(self) -> int:
        return self.clips

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(index)
        label = index % len(self.games)
        game = self.games[label]
        emulator = open_emulator(game)
        rng = random.Random(derive_seed("atari", self.split, game, index))
        emulator.reset()
        for action in rng.choices(emulator.actions, k=int(rng.random() * (BURN_IN + 1))):
            emulator.advance(action, self.frame_skip)
        frames, resolution, _ = self.contract.size
        images = [
            emulator.render_square(action, self.frame_skip, resolution)
            for action in rng.choices(emulator.actions, k=frames)
        ]
        clip = torch.from_numpy(np.stack(images)).permute(3, 0, 1, 2).contiguous()  # (3, T, H, W)
        return Sample(clip, label, f"{self.split}/{game}/{index:07d}")


class Emulator:
    """A game that can be reset to its initial state, including the state of its random generator."""

    def __init__(self, game: str) -> None:
        ale = _ale()
        ale.ALEInterface.setLoggerMode(ale.LoggerMode.Error)
        self.machine = ale.ALEInterface()
        self.machine.setInt("random_seed", 0)
        self.machine.setFloat("repeat_action_probability", 0.0)
        self.machine.loadROM(ale.roms.get_rom_path(game))
        self.actions = self.machine.getMinimalActionSet()
        self.initial_state = self.machine.cloneSystemState()

    def reset(self) -> None:
        self.machine.restoreSystemState(self.initial_state)

    def advance(self, action: Any, frames: int) -> None:
        for _ in range(frames):
            self.machine.act(action)
            if self.machine.game_over():
                self.machine.reset_game()

    def render(self, action: Any, frame_skip: int) -> np.ndarray:
        """Run one step and return its image, uint8 (height, width, 3)."""
        self.advance(action, frame_skip - 1)
        previous = self.machine.getScreenRGB()
        self.advance(action, 1)
        return np.maximum(previous, self.machine.getScreenRGB())

    def render_square(self, action: Any, frame_skip: int, resolution: int) -> np.ndarray:
        """Run one step and return its image as `square` crops and resizes it, uint8 (resolution, resolution, 3)."""
        return np.asarray(square(Image.fromarray(self.render(action, frame_skip)), resolution))


@cache
def open_emulator(game: str) -> Emulator:
    """One emulator per process and game, since loading a game takes longer than playing a clip."""
    return Emulator(game)


def _ale() -> Any:
    try:
        import ale_py
        import ale_py.roms
    except ImportError:
        raise ValueError("kind atari needs the package ale-py: pip install 'ulzoo[atari]'") from None
    return ale_py
