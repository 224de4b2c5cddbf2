"""Protocols by which continuations of clips are compared in the literature, and the real clips of such a comparison."""

from dataclasses import dataclass, replace
from itertools import product

from torch import Tensor
from torch.nn import functional

from ulzoo.data.source import Placement, Sample, Source
from ulzoo.model.contract import Contract

FOLDS, SAMPLES = 4, 50_000


@dataclass(frozen=True)
class ClipProtocol:
    """A distance between continuations and real clips, as the mean over several sets of samples ("folds").

    The default numbers are those of MAGVIT's frame prediction on Kinetics-600 (Yu et al. 2023, arXiv 2212.05199,
    appendix B.3). What is published does not give the positions of windows and crops and the filter of the resize: ours
    are in `placements` and `resized`.

    Attributes:
        name: suffix of the metric's name.
        side: side in pixels at which clips are compared.
        frames: frames of a clip, context frames included; all of them are compared.
        context_frames: context frames of a clip.
        folds: number of sets of samples.
        samples: samples per fold.
        windows: real clips per video at different times, for each crop.
        crops: real clips per video at different places, for each window.

    Raises:
        ValueError: a number is below 1, or there are fewer than two samples.
    """

    name: str
    side: int
    frames: int = 16
    context_frames: int = 5
    folds: int = FOLDS
    samples: int = SAMPLES
    windows: int = 2
    crops: int = 3

    def __post_init__(self) -> None:
        for name in ("side", "folds", "windows", "crops"):
            if getattr(self, name) < 1:
                raise ValueError(f"{self.name}: {name} must be at least 1, not {getattr(self, name)}")
        if self.samples < 2:
            raise ValueError(f"{self.name}: a Fréchet distance needs at least 2 clips, not {self.samples}")

    def metric(self, features: str) -> str:
        """The metric's name with these features: "fvd_k600_64", or "fvd_k600_64_2x512" for 2 folds of 512 samples."""
        reduced = "" if (self.folds, self.samples) == (FOLDS, SAMPLES) else f"_{self.folds}x{self.samples}"
        return f"{features}_{self.name}{reduced}"

    @property
    def placements(self) -> tuple[Placement, ...]:
        """Windows in the middles of equal parts of the video, each with crops from one end of the longer side to the
        other."""
        times = [(i + 0.5) / self.windows for i in range(self.windows)]
        sides = [i / (self.crops - 1) for i in range(self.crops)] if self.crops > 1 else [0.5]
        return tuple(Placement(time, side) for time, side in product(times, sides))

    def resized(self, clips: Tensor) -> Tensor:
        """uint8 clips (B, C, T, H, W) at the side of the protocol: averages over areas of pixels, rounded to uint8."""
        if clips.shape[-1] == self.side:
            return clips
        frames = functional.interpolate(clips.float().flatten(1, 2), (self.side, self.side), mode="area")
        return frames.round().byte().unflatten(1, clips.shape[1:3])

    def check(self, contract: Contract) -> None:
        """Raise ValueError if a model of this contract does not generate such clips."""
        frames, *sides = contract.size
        if (frames, contract.context_frames) != (self.frames, self.context_frames):
            raise ValueError(
                f"{self.name} compares clips of {self.frames} frames that continue {self.context_frames}: this model "
                f"generates {frames}, given {contract.context_frames}"
            )
        if min(sides) < self.side:
            raise ValueError(f"{self.name} compares clips of {self.side} pixels a side, this model's have {min(sides)}")

    def describe(self, resize: str) -> dict[str, str]:
        """The protocol fields of the clips, where `resize` is how the data section resizes them."""
        return {
            "clip": f"{self.windows} windows in the middles of equal parts of each video × {self.crops} crops from one "
            "end of the longer side to the other",
            "resize": f"{resize}; then to {self.side} pixels a side, averages over areas, rounded to uint8",
            "compared": f"mean over {self.folds} folds of {self.samples} continuations of randomly drawn real clips",
        }


K600 = {protocol.name: protocol for protocol in (ClipProtocol("k600_64", 64), ClipProtocol("k600_128", 128))}
"""The protocols of Kinetics-600, at 64 pixels a side as MAGVIT and at 128."""


def choose_protocol(name: str | None, folds: int | None = None, samples: int | None = None) -> ClipProtocol | None:
    """The protocol of this name, with other numbers of folds and of samples per fold if they are given."""
    if name is None:
        return None
    return replace(K600[name], folds=folds or FOLDS, samples=samples or SAMPLES)


class RealClips(Source):
    """The clips of a source of videos at several placements.

    Args:
        source: the videos.
        placements: of the clips in each video.
        order: numbers of clips, of which `i` is the placement `i % len(placements)` of the video
            `i // len(placements)`, all of which can be read; all clips in order if None.
    """

    hflip = False

    def __init__(self, source: Source, placements: tuple[Placement, ...], order: list[int] | None = None) -> None:
        self.source, self.placements, self.order = source, placements, order
        self.contract, self.skips_unreadable = source.contract, source.skips_unreadable and order is None

    def __len__(self) -> int:
        return len(self.source) * len(self.placements) if self.order is None else len(self.order)

    def __getitem__(self, index: int) -> Sample:
        number = index if self.order is None else self.order[index]
        video, placement = divmod(number, len(self.placements))
        return self.source.place(video, self.placements[placement])
