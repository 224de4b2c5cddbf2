"""A pilot: its rungs and cost, which runs follow from which rows, and the spec that it ends with."""

import pytest

from ulzoo.registry.spec.loading import SPECS, spec_from_source
from ulzoo.registry.spec.schema import diff
from ulzoo.registry.sweeps.extrapolation import Proposal, ShortRun
from ulzoo.registry.sweeps.jobs import Job, unsettled_jobs
from ulzoo.registry.sweeps.pilot import BIAS, Pilot, PilotOptions
from ulzoo.registry.sweeps.point import make_row
from ulzoo.registry.sweeps.store import Store

FACTOR = "decoder.weighting.loss_factor"
WEIGHTING = ("decoder.weighting.bias=5", "decoder.weighting.loss_factor=2", "train.latents.lr=0.01")
LONG = (*WEIGHTING, "train.latents.steps=16000", "train.latents.batch_size=4")


def rate(settings: dict, images: int) -> float:
    """Of a made-up training: falling with its length, rising with bias and loss factor."""
    return 0.6 * images**-0.1 * settings[BIAS] * (1 - 0.8 / settings[FACTOR])


def finish(pilot: Pilot, store: Store) -> tuple[list[list[Job]], list[ShortRun]]:
    """The jobs of every rung, with rows of the made-up training, whose best bias is 5; all runs."""
    rungs = []
    while missing := unsettled_jobs((jobs := pilot.plan(store)[1]), store.rows()):
        for job in missing:
            bits = rate(job.set, job.cost.training_images["latents"])
            psnr = 20 + bits - abs(job.set[BIAS] - 5)
            figures = {"bits_per_pixel": bits, "bits_per_pixel_se": 0.001, "psnr_db": psnr}
            store.append(make_row(job, 1.0, figures=figures))
        rungs.append(missing)
    return rungs, pilot.finished_runs(jobs, store.rows())


def test_one_bias_brackets_the_target_and_ends_on_it(tmp_path):
    pilot = Pilot("emoji32_tiny", PilotOptions(bits=0.5, settings=WEIGHTING))
    assert [(rung.runs, rung.steps, rung.batch_size) for rung in pilot.rungs] == [(2, 600, 8), (1, 600, 16)]
    assert pilot.share == 0.2 and pilot.images == 600 * 32
    rungs, runs = finish(pilot, Store(tmp_path))
    assert [[job.set[FACTOR] for job in rung] for rung in rungs] == [[1.41, 2.83], [runs[-1].loss_factor]]
    assert rungs[0][0].set["train.latents.lr"] == 0.005 and "train.latents.steps" not in rungs[0][0].set
    proposal = pilot.conclude(runs)
    full = rate({BIAS: 5.0, FACTOR: proposal.loss_factor}, pilot.full_images)
    assert proposal.reached and full == pytest.approx(0.5, rel=0.01) and proposal.low < full < proposal.high


def test_the_worse_half_of_the_biases_is_dropped_and_long_trainings_are_shortened(tmp_path):
    pilot, store = Pilot("emoji32_tiny", PilotOptions(bits=0.5, biases=(5, 6), settings=LONG)), Store(tmp_path)
    assert [(rung.runs, rung.steps, rung.batch_size) for rung in pilot.rungs] == [
        (4, 1333, 4),
        (2, 2666, 4),
        (1, 5333, 4),
    ]
    assert 0.199 < pilot.share <= 0.2
    rungs, _ = finish(pilot, store)
    assert [sorted(job.set[BIAS] for job in rung) for rung in rungs] == [[5, 5, 6, 6], [5, 6], [5]]
    first = rungs[0][0].spec["train"]["latents"]
    assert (first["warmup_steps"], first["prior_warmup_steps"]) == (8, 25)
    assert first["ema"] == pytest.approx(0.999 ** (16000 / 1333), abs=1e-6) and first["lr"] == 0.01
    assert len({row["folder"] for row in store.rows()}) == 7


def test_the_spec_extends_the_given_one(tmp_path):
    (tmp_path / "mine.yaml").write_text("extends: emoji32_tiny\nname: mine\n")
    for name in ("emoji32_tiny", str(tmp_path / "mine.yaml")):
        pilot = Pilot(name, PilotOptions(bits=0.5, settings=(*WEIGHTING, "train.latents.steps=200")))
        proposal = Proposal(5.0, 1.4, 0.5, 0.45, 0.55, 23.0, rising=False, reached=True)
        path = tmp_path / "new folder" / "proposed.yaml"
        pilot.write_spec(path, proposal)
        written = spec_from_source(SPECS.read(path))
        assert diff(pilot.spec, written) == {
            "name": (pilot.spec.name, f"{pilot.spec.name}_0.5bits"),
            FACTOR: (2.0, 1.4),
        }


def test_a_rung_costs_no_more_than_its_share_even_if_batches_cannot_be_smaller():
    settings = ("train.latents.steps=400", "train.latents.batch_size=2")
    pilot = Pilot("emoji32_tiny", PilotOptions(bits=0.5, settings=settings))
    assert [(rung.steps, rung.batch_size) for rung in pilot.rungs] == [(200, 1), (400, 1)] and pilot.share == 0.2


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"--bits 0: a rate is a positive number"):
        Pilot("emoji32_tiny", PilotOptions(bits=0))
    with pytest.raises(ValueError, match=r"--share 2: a share of a full sweep is above 0 and at most 1"):
        Pilot("emoji32_tiny", PilotOptions(bits=1, share=2))
    with pytest.raises(ValueError, match=r"a pilot finds one number, and a variable-rate model has a range"):
        Pilot("emoji32_tiny", PilotOptions(bits=1, settings=("decoder.weighting.loss_factor=[4, 16]",)))
    with pytest.raises(ValueError, match=r"a pilot varies loss_factor and bias, which this spec does not train"):
        Pilot("pixel512_300g", PilotOptions(bits=1))
