"""`ulzoo plot`, `ulzoo report`, `ulzoo find` on a small store."""

import json
import shlex

import pytest

FACTOR = "decoder.weighting.loss_factor"


def row(factor: float, **other) -> dict:
    return {
        "point": str(factor),
        "series": "tiny",
        "seed": 0,
        "set": {FACTOR: factor},
        "spec": "tiny.yaml",
        "spec_hash": f"{factor:064}",
        "status": "done",
        "figures": {"bits_per_pixel": 0.1 * factor, "psnr_db": 20 + 2 * factor},
        **other,
    }


@pytest.fixture
def store(here):
    folder = here / "my store"
    folder.mkdir()
    rows = [row(factor) for factor in (1.0, 2.0, 3.0)]
    (folder / "results.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    return folder


def test_find_names_the_settings_and_the_next_point(ulzoo, store):
    result = ulzoo("find", "my store", "--psnr", 23)
    assert result.exit_code == 0 and result.stderr == ""
    lines = result.stdout.splitlines()
    assert lines[-1] == f"next  ulzoo sweep tiny.yaml --set {FACTOR}=1.5 --out 'my store'"
    assert any(line.split() == [f"{FACTOR}=1.5", "23.00", "0.1500", "1.0", "and", "2.0"] for line in lines)


def test_find_of_a_rate_as_json(ulzoo, store):
    data = json.loads(ulzoo("find", store, "--bits", 0.25, "--json").stdout)
    (setting,) = data["settings"]
    assert data["measured"] == pytest.approx([0.1, 0.3]) and setting["set"] == {FACTOR: 2.5} and setting["inside"]
    assert shlex.split(setting["command"])[-1] == str(store)


def test_find_uses_the_path_of_the_spec_and_fractions_where_a_key_takes_them(ulzoo, store):
    rows = [row(factor, spec="tiny", folder=f"points/{factor}") for factor in (1, 3)]
    (store / "results.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    sweep = f"name: s\nspec: ./../tiny.yaml\ncolumns: [psnr_db]\ngrid: {{{FACTOR}: [1, 3]}}\n"
    (store / "sweep.yaml").write_text(sweep)
    assert f"{FACTOR}=2 " in ulzoo("find", store, "--psnr", 23).stdout
    (store / "points/3").mkdir(parents=True)
    (store / "points/3/spec.yaml").write_text("decoder: {weighting: {loss_factor: 3.0}}\n")
    last = ulzoo("find", "my store", "--psnr", 23).stdout.splitlines()[-1]
    assert last == f"next  ulzoo sweep tiny.yaml --set {FACTOR}=1.5 --out 'my store'"


@pytest.mark.parametrize("version", ["old", "new"])
def test_the_proposed_command_repeats_what_the_measured_points_were_trained_with(ulzoo, here, version):
    """Two commands with different settings for all points: two series, each proposal with its own settings."""
    from ulzoo.registry.sweeps.jobs import plan_jobs
    from ulzoo.registry.sweeps.options import sweep_from_options
    from ulzoo.registry.sweeps.point import make_row
    from ulzoo.registry.sweeps.store import Store

    store = Store("s")
    for steps, psnr in ((4, 20.0), (40, 30.0)):
        settings = [f"train.latents.steps={steps}", "train.base.lr=0.5", f"{FACTOR}=1,3"]
        sweep, overrides = sweep_from_options("tiny.yaml", {}, settings)
        for number, job in enumerate(plan_jobs(sweep, store, overrides=overrides)):
            entry = make_row(job, 1.0, figures={"psnr_db": psnr + 2 * number, "bits_per_pixel": 0.1 + number})
            if version == "old":
                (store.folder / job.folder).mkdir(parents=True)
                (store.folder / job.folder / "spec.yaml").write_text(json.dumps(entry["resolved"]))
                del entry["resolved"], entry["overrides"]
            store.append(entry)
        store.write_sweep(sweep)
    assert "outside the measured range, 20 to 32" in ulzoo("find", "s", "--psnr", 40).stderr
    for steps, psnr in ((4, 21), (40, 31)):
        words = shlex.split(ulzoo("find", "s", "--psnr", psnr).stdout.splitlines()[-1])
        assert {f"{FACTOR}=2.0", f"train.latents.steps={steps}", "train.base.lr=0.5"} <= set(words)
        assert words.count("--set") == 3
    result = ulzoo("find", "s", "--psnr", 25)
    assert "lies between measured points" in result.stderr


def test_find_of_a_measured_point_suggests_no_run(ulzoo, store):
    result = ulzoo("find", store, "--psnr", 24)
    assert "measured: 2.0" in result.stdout and "next" not in result.stdout


def test_find_outside_the_measured_range(ulzoo, store):
    result = ulzoo("find", store, "--psnr", 26.5)
    assert result.exit_code == 0
    assert "26.5 dB PSNR is outside the measured range, 22 to 26" in result.stderr
    assert "beyond 3.0" in result.stdout and f"{FACTOR}=3.25" in result.stdout.splitlines()[-1]


def test_find_between_points_that_no_line_joins(ulzoo, store):
    rows = [row(1.0), row(1.1), row(2.0, set={FACTOR: 2.0, "latent.channels": 8})]
    (store / "results.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    result = ulzoo("find", store, "--psnr", 23)
    assert result.exit_code == 0 and "lies between measured points" in result.stderr


def test_plot_and_report_print_the_files_they_write(ulzoo, store):
    result = ulzoo("plot", store)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.split("\n")[:-1] == [str(store / f"plots/rate_psnr.{kind}") for kind in ("png", "svg")]
    assert ulzoo("plot", store, "--out", "pictures").stdout.startswith("pictures/rate_psnr.png")
    result = ulzoo("report", store)
    assert result.stdout == f"{store}/report.html\n" and (store / "report.html").stat().st_size > 20_000
    assert ulzoo("report", store, "--out", "new/page.html").stdout == "new/page.html\n"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("plot", "nowhere"), "no such folder"),
        (("report", "."), "has no results.jsonl"),
        (("find", "tiny.yaml", "--psnr", 1), "is a file"),
        (("find", "my store"), "give one target"),
        (("find", "my store", "--psnr", 1, "--bits", 1), "give one target"),
    ],
)
def test_wrong_use_is_one_line_and_status_2(ulzoo, store, args, message):
    result = ulzoo(*args)
    assert result.exit_code == 2 and message in result.stderr and len(result.stderr.splitlines()) == 1
