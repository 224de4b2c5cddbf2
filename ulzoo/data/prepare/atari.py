"""Atari games under random actions, rendered to shards: for `kind: webdataset` or `kind: video_shards`."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from io import BytesIO
from itertools import islice
from typing import Any, ClassVar

import av
import numpy as np
from PIL import Image

from ulzoo.data.prepare.pack import PackConfig, Progress, pack
from ulzoo.data.prepare.transcode import VideoEncoding, encode_mp4
from ulzoo.data.storage.manifest import MANIFEST, SplitSummary, describe_changes, read_splits
from ulzoo.data.storage.shard_index import write_index
from ulzoo.data.videos.atari import BURN_IN, FRAME_SKIP, FRAMES_PER_SECOND, GAMES, Atari, Emulator, open_emulator
from ulzoo.runtime.seeds import derive_seed

FRAME_RATE = Fraction(FRAMES_PER_SECOND, FRAME_SKIP)
STEPS_PER_ROLLOUT = 256  # that are recorded
STEPS_PER_IMAGE = 8
STEPS_PER_ACTION = 4  # on average
MAX_REPLACEMENTS = 64


@dataclass(frozen=True)
class RolloutEncoding:
    """How rollouts are rendered and stored: images as PNG, clips as H.264 that keeps every bit of the RGB pictures.

    Args:
        resolution: side of the square in pixels.
        frames: frames per clip; None for single images.
        games: names of the games as in `Atari`; their order defines the labels.

    Raises:
        ValueError: ale-py is not installed, an unknown game, a resolution below 1, fewer than two frames, or for clips
            a resolution that is odd or below 16.
    """

    resolution: int
    frames: int | None = None
    games: tuple[str, ...] = GAMES

    def __post_init__(self) -> None:
        Atari("train", resolution=self.resolution, games=self.games)
        if self.frames is not None:
            if self.frames < 2:
                raise ValueError(f"frames must be at least 2, not {self.frames}; leave it out for single images")
            self.video()

    @property
    def unit(self) -> str:
        return "images" if self.frames is None else "clips"

    @property
    def examples_per_rollout(self) -> int:
        return max(1, STEPS_PER_ROLLOUT // (self.frames or STEPS_PER_IMAGE))

    def settings(self) -> dict[str, Any]:
        """Everything that the bytes depend on besides the examples and the versions of the libraries."""
        stored = {"resolution": self.resolution, "format": "png"} if self.frames is None else self.video().settings()
        return {
            **stored,
            "frames": self.frames,
            "games": list(self.games),
            "frame_skip": FRAME_SKIP,
            "burn_in_frames": BURN_IN * FRAME_SKIP,
            "steps_per_action": STEPS_PER_ACTION,
            "steps_per_image": STEPS_PER_IMAGE if self.frames is None else 1,
            "examples_per_rollout": self.examples_per_rollout,
            "max_replacements": MAX_REPLACEMENTS if self.frames is None else 0,
        }

    def video(self) -> VideoEncoding:
        return VideoEncoding(self.resolution, float(FRAME_RATE), "lossless")

    def encode(self, pictures: np.ndarray) -> tuple[str, bytes]:
        """Suffix and content of the file of an example, uint8 (T, resolution, resolution, 3), T = 1 for an image."""
        if self.frames is None:
            content = BytesIO()
            Image.fromarray(pictures[0]).save(content, "png")
            return "png", content.getvalue()
        timed = ((float(i / FRAME_RATE), av.VideoFrame.from_ndarray(rgb, "rgb24")) for i, rgb in enumerate(pictures))
        return "mp4", encode_mp4(timed, self.video(), FRAME_RATE)


@dataclass(frozen=True)
class RolloutExample:
    """An image or a clip to be packed as KEY.png or KEY.mp4, and KEY.cls; see `ulzoo.data.prepare.pack.Example`.

    Its content is a function of the split, the game, its number among the examples of this game, and the encoding.
    """

    split: str
    game: str
    number: int
    label: int

    absent: ClassVar[str] = ""  # never used: there is no source file

    @property
    def key(self) -> str:
        return f"{self.split}/{self.game}/{self.number:07d}"

    def identity(self) -> tuple[Any, ...]:
        return self.key, self.label

    def inputs(self, encoding: RolloutEncoding) -> tuple[str, ...]:
        return ()

    def is_present(self) -> bool:
        return True

    def files(self, encoding: RolloutEncoding) -> Iterator[tuple[str, bytes]]:
        rollout, position = divmod(self.number, encoding.examples_per_rollout)
        yield encoding.encode(render_rollout(encoding, self.split, self.game, rollout)[position])
        yield "cls", str(self.label).encode()


@lru_cache(maxsize=1)  # its examples are packed one after another
def render_rollout(encoding: RolloutEncoding, split: str, game: str, number: int) -> np.ndarray:
    """The pictures of all examples of a rollout, uint8 (`examples_per_rollout`, T, resolution, resolution, 3).

    The emulator is reset and runs up to 1,000 frames that are not recorded. A step is 4 frames. An action is held for 4
    steps on average: after each the next is drawn with probability 1/4. Clips follow each other without a gap. An image
    is taken after every eighth step; while it equals an earlier image of the rollout, as when a game pauses and blinks,
    it is replaced by the image of the next step, up to 64 times.
    """
    emulator = open_emulator(game)
    rng = random.Random(derive_seed("atari rollout", split, game, number))
    emulator.reset()
    steps, remainder = divmod(int(rng.random() * (BURN_IN * FRAME_SKIP + 1)), FRAME_SKIP)
    actions = _actions(rng, emulator.actions)
    for action in islice(actions, steps):
        emulator.advance(action, FRAME_SKIP)
    emulator.advance(next(actions), remainder)  # else a serve could only start at every fourth frame
    count, side = encoding.examples_per_rollout, encoding.resolution
    if encoding.frames is None:
        return np.stack(list(islice(_different_images(emulator, actions, side), count)))[:, None]
    pictures = [emulator.render_square(action, FRAME_SKIP, side) for action in islice(actions, count * encoding.frames)]
    return np.stack(pictures).reshape(count, encoding.frames, side, side, 3)


def _actions(rng: random.Random, choices: Sequence[Any]) -> Iterator[Any]:
    while True:
        [action] = rng.choices(choices)
        yield action
        while rng.random() >= 1 / STEPS_PER_ACTION:
            yield action


def _different_images(emulator: Emulator, actions: Iterator[Any], side: int) -> Iterator[np.ndarray]:
    taken: set[bytes] = set()
    while True:
        for action in islice(actions, STEPS_PER_IMAGE - 1):
            emulator.advance(action, FRAME_SKIP)
        for action in islice(actions, 1 + MAX_REPLACEMENTS):
            image = emulator.render_square(action, FRAME_SKIP, side)
            if image.tobytes() not in taken:
                break
        taken.add(image.tobytes())
        yield image


def prepare_atari(
    config: PackConfig, *, count: int, on_progress: Callable[[Progress], object] = lambda progress: None
) -> SplitSummary:
    """Render one split of images or clips, balanced over the games; see `pack` for the files written and for resuming.

    Args:
        config: what to write, and where; its encoding is a `RolloutEncoding`.
        count: number of examples, at least 1.
        on_progress: progress callback.

    Raises:
        ValueError: another split in the folder has other settings; as `pack` raises.
    """
    encoding = config.encoding
    assert isinstance(encoding, RolloutEncoding), encoding
    _check_other_splits(config)
    summary = pack(
        _examples(encoding, config.split, count), encoding.games, config, unit=encoding.unit, on_progress=on_progress
    )
    if encoding.frames is None:
        write_index(config.out, config.split)
    return summary


def _examples(encoding: RolloutEncoding, split: str, count: int) -> list[RolloutExample]:
    """One rollout of each game in turn, so that every shard contains all games."""
    games, step = encoding.games, encoding.examples_per_rollout
    counts = [len(range(label, count, len(games))) for label in range(len(games))]
    return [
        RolloutExample(split, game, number, label)
        for start in range(0, counts[0], step)
        for label, game in enumerate(games)
        for number in range(start, min(start + step, counts[label]))
    ]


def _check_other_splits(config: PackConfig) -> None:
    settings = config.encoding.settings()
    for split, entry in read_splits(config.out / MANIFEST).items():
        stored = entry.get("settings", {})
        old = {key: stored.get(key) for key in settings}
        if split != config.split and (changes := describe_changes(old, settings)):
            raise ValueError(f"{config.out}: {split} was prepared with other settings: {changes}; choose another OUT")
