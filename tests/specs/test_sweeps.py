"""The sweeps of the paper: every point compiles, has the paper's values, and has a counterpart in `paper/small`."""

import json
from functools import cache

import pytest

from ulzoo.registry import find_specs, find_sweeps, load_spec, load_sweep
from ulzoo.registry.cost.summary import summarize
from ulzoo.registry.spec.schema import diff

TABLES = (
    "table1_text2image",
    "table2_loss_factor",
    "table3_channels",
    "table4_shape",
    "table5_regularisation",
    "table6_ablations",
    "figure4_imagenet512",
    "figure6_text2image",
    "figure8_bias",
    "figure9_kinetics600",
    "appendix_b",
)
POINTS = [f"{sweep}:{point.name}" for sweep in find_sweeps() for point in load_sweep(sweep).list_points()]

# The paper's values by column; rows by the names of our points.
PAPER = {
    "table1_text2image": (
        ("gfid_30k", "clip_score"),
        {"ul-300g": (4.1, 27.1), "pixels-300g": (5.0, 27.0), "sd_latents-300g": (6.8, 27.0)},
    ),
    "table2_loss_factor": (
        ("bits_per_pixel", "rfid_50k", "psnr_db", "gfid_50k"),
        {
            "1.3": (0.035, 0.79, 25.7, 1.42),
            "1.5": (0.059, 0.47, 27.6, 1.54),
            "1.7": (0.083, 0.36, 28.9, 1.77),
            "1.9": (0.101, 0.31, 29.6, 2.02),
            "2.1": (0.116, 0.27, 30.1, 2.38),
            "1.3-medium": (0.035, 0.79, 25.7, 1.37),
            "1.5-medium": (0.059, 0.47, 27.6, 1.31),
            "1.7-medium": (0.083, 0.36, 28.9, 1.38),
            "1.9-medium": (0.101, 0.31, 29.6, 1.45),
            "2.1-medium": (0.116, 0.27, 30.1, 1.58),
        },
    ),
    "table3_channels": (
        ("rfid_50k", "gfid_50k"),
        {"4": (7.19, None), "8": (1.53, None), "16": (0.54, 1.76), "32": (0.42, 1.60), "64": (0.48, 1.77)},
    ),
    "table4_shape": (
        ("rfid_50k", "gfid_50k"),
        {"downsample8": (0.40, 2.12), "downsample16": (0.41, 1.63), "downsample32": (1.41, 1.74)},
    ),
    "table5_regularisation": (
        ("bits_per_dimension", "base_bits_per_dimension", "rfid_50k", "gfid_50k"),
        {
            "diffusion-diffusion": (0.079, 0.079, 0.86, 1.4),
            "diffusion-mse-diffusion": (0.072, 0.072, 1.1, 2.4),
            "normal-diffusion": (0.39, 0.26, 0.83, 2.5),
        },
    ),
    "table6_ablations": (
        ("bits_per_pixel", "rfid_50k", "gfid_50k"),
        {
            "baseline": (0.059, 0.47, 1.54),
            "a-no_prior_gradient": (0.121, 1.81, 7.80),
            "b-logsnr10": (0.008, 28.27, None),
            "c-other_data": (0.034, 1.37, 1.63),
            "d-learned_variance_logsnr10": (0.060, 0.69, 1.81),
        },
    ),
    "figure4_imagenet512": ((), {}),
    "figure6_text2image": ((), {}),
    "figure8_bias": ((), {}),
    "figure9_kinetics600": (("fvd_k600_64",), {"small": (1.7,), "medium": (1.3,)}),
    "appendix_b": (("gfid_50k",), {"ii-random_logsnr": (4.0,)}),
}


@cache
def fits(architecture: str) -> bool:
    """Compile a spec on `meta` and run every network once; specs of one architecture share that."""
    from ulzoo.registry.spec.loading import spec_from_dict

    summarize(spec_from_dict(json.loads(architecture)))
    return True


def architecture(spec) -> str:
    """The spec without the keys that affect no shape: weighting of the loss, stages, sampling."""
    data = spec.to_dict() | {"name": "x", "description": "", "sample": {}}
    for part in ("decoder", "base"):
        if data[part] and "weighting" in data[part]:
            data[part]["weighting"] = {"kind": "elbo"}
    if data["train"]["base"]:
        data["train"]["base"]["milestone_every"] = None
    return json.dumps(data)


@pytest.mark.parametrize("name", find_specs())
def test_every_spec_compiles(name):
    assert fits(architecture(load_spec(name)))


@pytest.mark.parametrize("point", POINTS)
def test_every_point_compiles(point):
    assert fits(architecture(load_spec(point)))


def test_every_table_has_a_sweep():
    assert set(find_sweeps()) == {f"paper/{name}" for name in TABLES} | {f"paper/small/{name}" for name in TABLES}


@pytest.mark.parametrize("name", find_sweeps())
def test_the_description_of_a_sweep(name):
    sweep = load_sweep(name)
    assert sweep.name == name
    assert sweep.source in {*(f"Table {i}" for i in range(1, 7)), *(f"Figure {i}" for i in (4, 6, 8, 9)), "Appendix B"}
    assert 10 < len(sweep.description) <= 100 and 10 < len(sweep.expect) <= 120


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("folder", ["paper", "paper/small"])
def test_the_values_are_the_papers(folder, name):
    columns, rows = PAPER[name]
    points = load_sweep(f"{folder}/{name}").list_points()
    published = {point.name: tuple(point.paper.get(column) for column in columns) for point in points if point.paper}
    assert published == {point: numbers for point, numbers in rows.items() if point in {point.name for point in points}}
    assert all(set(point.paper) <= set(columns) for point in points)


@pytest.mark.parametrize("name", TABLES)
def test_the_small_sweep_has_the_same_points_on_another_base(name):
    paper, small = load_sweep(f"paper/{name}"), load_sweep(f"paper/small/{name}")
    assert small.spec == ("emoji_video64_tiny" if name == "figure9_kinetics600" else "emoji32_tiny")
    assert all(point.spec == small.spec for point in small.list_points())
    changed = {point.name: set(point.set) for point in paper.list_points()}
    for point in small.list_points():
        if name != "figure8_bias":  # its names contain the biases
            assert changed[point.name] <= set(point.set)
    assert paper.grid.keys() == small.grid.keys() and paper.set.keys() <= small.set.keys()
    assert set(paper.columns) <= set(small.columns)


def resolved(name: str, spec: str = "imagenet512_small") -> dict[str, set[str]]:
    """Point -> the keys of the spec that it changes, to a depth of three."""
    base = load_spec(spec)
    return {
        point.name: {".".join(key.split(".")[:3]) for key in diff(base, spec_of_point)}
        for point, spec_of_point in load_sweep(name).resolve()
    }


def test_points_change_the_keys_of_their_table():
    assert resolved("paper/table2_loss_factor")["1.9"] == {"decoder.weighting.loss_factor"}
    assert resolved("paper/table2_loss_factor")["1.5"] == set()
    assert resolved("paper/table3_channels")["4"] == {"latent.channels", "decoder.weighting.loss_factor"}
    assert resolved("paper/table4_shape")["downsample32"] == {"latent.downsample", "decoder.weighting.loss_factor"}
    assert resolved("paper/small/table3_channels", "emoji32_tiny")["4"] == {"latent.channels"}
    assert resolved("paper/small/table4_shape", "emoji32_tiny")["downsample16"] == set()
    ablations = resolved("paper/table6_ablations")
    assert ablations["baseline"] == set() and ablations["d-learned_variance"] == {"latent.variance"}
    logsnrs = {"latent.logsnr", "prior.schedule.logsnr_max", "base.schedule.logsnr_max"}
    assert ablations["b-logsnr10"] == logsnrs
    assert ablations["d-learned_variance_logsnr10"] == {"latent.variance", *logsnrs}
    grid = load_sweep("paper/figure8_bias").grid
    assert grid["decoder.weighting.loss_factor"] == (1.5, 1.75, 2, 3, 4)


def test_the_regression_and_the_final_decoder_have_the_diffusion_decoders_network():
    for folder in ("paper", "paper/small"):
        points = {point.name: spec for point, spec in load_sweep(f"{folder}/table5_regularisation").resolve()}
        decoder = points["diffusion-diffusion"].decoder
        assert points["diffusion-mse"].decoder.backbone == decoder.backbone
        both = points["diffusion-mse-diffusion"]
        assert both.final_decoder == decoder
        common = ("steps", "batch_size", "optimizer", "lr", "decay", "warmup_steps", "ema", "precision")
        assert all(getattr(both.train.decoder, key) == getattr(both.train.latents, key) for key in common)


def test_single_stage_training_samples_with_the_network_of_the_two_stages():
    for name, spec in (("paper/appendix_b", "imagenet512_medium"), ("paper/small/appendix_b", "emoji32_tiny")):
        for _, single in load_sweep(name).resolve():
            assert single.base is None and single.stages == ("latents",)
            assert single.prior.backbone == load_spec(spec).base.backbone


def test_text_to_image_has_no_guidance():
    """The paper's Table 1 and Figure 6 are of samples without guidance; only its Figure 10 has guidance 2."""
    names = [f"{folder}/{name}" for folder in ("paper", "paper/small") for name in TABLES if "text2image" in name]
    points = [(point.name, spec) for name in names for point, spec in load_sweep(name).resolve()]
    assert len(points) > 30 and all(spec.base.text_conditional for _, spec in points)
    assert [name for name, spec in points if spec.sample.base.guidance != 1] == []
    assert all(load_spec(name).sample.base.guidance == 1 for name in find_specs() if "text2image512" in name)


def test_the_baselines_have_convolutions_instead_of_large_patches():
    points = {point.name: spec for point, spec in load_sweep("paper/table1_text2image").resolve()}
    for name, patch in (("pixels", 2), ("sd_latents", 1)):
        for size in (100, 300, 970):
            backbone = points[f"{name}-{size}g"].base.backbone
            assert (backbone.kind, backbone.patch) == ("uvit", patch) and backbone.blocks
    curves = {point.name: spec.base.backbone for point, spec in load_sweep("paper/figure4_imagenet512").resolve()}
    assert (curves["sd_latents-unet"].kind, curves["sd_latents-unet"].patch) == ("uvit", 1)
    for size in ("small", "medium"):
        assert curves[f"sd_latents-{size}"].model_copy(update={"patch": 1}) == curves[f"ul-{size}"]


def test_curves_over_training_keep_milestones():
    for name in ("figure4_imagenet512", "figure9_kinetics600"):
        for folder in ("paper", "paper/small"):
            for _, spec in load_sweep(f"{folder}/{name}").resolve():
                assert spec.train.base.steps // spec.train.base.milestone_every >= 5
