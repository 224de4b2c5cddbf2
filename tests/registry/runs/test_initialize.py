"""Weights of another model: what is loaded and why not, frozen networks, resuming, identity."""

import json
from pathlib import Path

import pytest
import torch

from ulzoo.files import tensor_file
from ulzoo.registry import SpecError, open_model
from ulzoo.registry.compile import compile_model, open_source
from ulzoo.registry.cost.plan import plan_training
from ulzoo.registry.runs import train as run_module
from ulzoo.registry.runs.callbacks import TrainingCallback
from ulzoo.registry.runs.encode import EncodeOptions, encode
from ulzoo.registry.runs.export import export, save_export
from ulzoo.registry.runs.initialize import initialize, open_init
from ulzoo.registry.runs.run_directory import read_spec
from ulzoo.registry.runs.train import RunOptions, train
from ulzoo.training.checkpointing import CheckpointManager
from ulzoo.training.trainer import Trainer, TrainerOptions

AUTOENCODER = ("encoder", "prior", "decoder")
SHORT = tuple(
    f"train.{stage}.{key}" for stage in ("latents", "base") for key in ("steps=3", "warmup_steps=1", "log_every=1")
)
FROZEN_AUTOENCODER = ("init.freeze=[encoder, prior, decoder]", "train.latents=null")


@pytest.fixture(scope="module", autouse=True)
def few_images():
    """Draw and evaluate little, for speed."""
    images, run_module.EVALUATED_IMAGES = run_module.EVALUATED_IMAGES, 4
    yield
    run_module.EVALUATED_IMAGES = images


def write_model(path: Path, spec, seed: int = 0) -> Path:
    """An export with random weights, none of them zero or those of a new model."""
    model, generator = compile_model(spec), torch.Generator().manual_seed(seed)
    for tensor in model.state_dict().values():
        tensor.copy_(0.1 * torch.randn(tensor.shape, generator=generator))
    save_export(path, model, spec, {})
    return path


@pytest.fixture(scope="module")
def source(tiny, tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("source") / "model.safetensors", tiny())


@pytest.fixture
def fine(tiny, source):
    """The tiny spec, three steps a stage, from the weights of `source`."""
    return lambda *overrides: tiny(*SHORT, f"init.model={source}", *overrides)


def options(**keys) -> RunOptions:
    return RunOptions(open_model=open_model, **keys)


def weights(path: Path) -> dict[str, torch.Tensor]:
    return tensor_file.read(path).tensors


def part(tensors: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    return {key: tensor for key, tensor in tensors.items() if key.startswith(f"{name}.")}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def loaded(spec):
    """The model of a spec with the weights of its source, and the report."""
    spec, source = open_init(spec, open_model)
    model = compile_model(spec)
    return model, initialize(model, spec, source)


# ------------------------------------------------------------------------------------------------------ what is loaded


def test_all_parts_of_an_equal_model(fine, source):
    model, report = loaded(fine())
    assert equal(model.state_dict(), weights(source))
    assert [row.part for row in report.parts] == [*AUTOENCODER, "base"]
    assert all(row.loaded == row.tensors and not row.new and not row.changed for row in report.parts)
    assert report.sha256 == open_model(source).weights_sha256


def test_some_parts(fine, source):
    spec = fine("init.parts=[decoder, encoder]")
    model, report = loaded(spec)
    assert [row.part for row in report.parts] == ["encoder", "decoder"]
    expected = {**compile_model(spec).state_dict(), **part(weights(source), "encoder")}
    assert equal(model.state_dict(), {**expected, **part(weights(source), "decoder")})


def test_class_tables_of_other_sizes_and_text_widths_are_new(fine, source):
    model, report = loaded(fine("data.num_classes=5", "data.text_tokens=4", "data.text_width=6",
                                "base.text_conditional=true"))  # fmt: skip
    base = report.parts[-1]
    new = {name for name in base.new if name.startswith(("network.text", "network.transformer"))}
    assert base.new["network.cond.labels.weight"] == "[3, 32] in that model, [6, 32] here"
    assert new and set(base.new) == {*new, "network.cond.labels.weight"}
    assert all(base.new[name] == "not in that model" for name in new)
    assert base.loaded == base.tensors - len(base.new) and base.loaded_parameters < base.parameters
    tensors, theirs = model.state_dict(), weights(source)
    assert all(torch.equal(tensors[f"base.{name}"], theirs[f"base.{name}"]) == (name not in base.new)
               for name in model.base.state_dict() if f"base.{name}" in theirs and name not in base.new)  # fmt: skip


def test_parts_that_only_one_model_has(tiny, fine, tmp_path):
    stage1 = tiny("base=null", "train.base=null")
    spec = fine(f"init.model={write_model(tmp_path / 'stage1.safetensors', stage1)}")
    base = loaded(spec)[1].parts[-1]
    assert (base.part, base.loaded, set(base.new.values())) == ("base", 0, {"not in that model"})
    with pytest.raises(SpecError, match=r"init.parts=\[base\]: .*stage1.safetensors has no base: leave it out"):
        loaded(fine(f"init.model={tmp_path / 'stage1.safetensors'}", "init.parts=[base]"))


def test_keys_that_change_the_output_are_reported(fine):
    decoder = loaded(fine("decoder.prediction=x", "decoder.label_dropout=0.3"))[1].parts[2]
    assert decoder.changed == ('decoder.prediction: "v" -> "x"',)
    with pytest.raises(SpecError, match=r'init.freeze.*: decoder cannot be frozen.*\(decoder.prediction: "v" -> "x"\)'):
        loaded(fine("decoder.prediction=x", "init.freeze=[decoder]"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["init.model=nowhere"], "nowhere: no such file, run directory or released model"),
        (["init.parts=[encoder]", "encoder={kind: resnet, channels: [8, 8], blocks: [1, 1]}"],
         "init.parts.*: no tensor of the encoder of .* fits; encoder..* is not in that model"),
        (["init.parts=[base]", "base.class_conditional=true", "data.num_classes=5", "init.freeze=[base]",
          "train.base=null"], r"init.freeze.*: base cannot be frozen, since not all of it is loaded; .*labels.weight"),
        ([f"init.sha256={'a' * 64}"], "init.sha256.*: the weights of .* have the SHA-256 .*, not aaaaaaaaaaaa…; give"),
        (["init.sha256=abc"], "init.sha256.*: a SHA-256 has 64 hexadecimal digits"),
        (["init.freeze=[encoder]", "init.parts=[prior]"], "init.freeze.*: encoder is not in init.parts"),
        (["init.parts=[final_decoder]"], "init.parts.*: the spec has no final_decoder: leave it out"),
        (["init.freeze=[encoder, prior, decoder]"],
         "train.latents: init.freeze has encoder and prior and decoder: set this to null"),
        (["init.freeze=[encoder, prior, decoder, base]", "train={latents: null, base: null}"],
         "init.freeze.*: all networks are frozen, so that no stage is left to train"),
    ],
)  # fmt: skip
def test_errors_are_one_line(fine, overrides, message):
    with pytest.raises(SpecError, match=message) as error:
        loaded(fine(*overrides))
    assert "\n" not in str(error.value)


def test_no_tensor_fits(tiny, source):
    other = ("encoder.width=16", "prior.backbone.width=16", "decoder.backbone.width=16", "base.backbone.width=16",
             "latent.channels=2", "latent.downsample=[8, 8]", "decoder.backbone.patch=8")  # fmt: skip
    spec = tiny(f"init.model={source}", *other)
    with pytest.raises(SpecError, match=r"init.model.*: no tensor of .* fits this spec's encoder, prior, dec"):
        loaded(spec)


# ----------------------------------------------------------------------------------------------------- frozen networks


class Recorder(TrainingCallback):
    def __init__(self) -> None:
        self.reports, self.stages, self.notes = [], [], []

    def on_init(self, report) -> None:
        self.reports.append(report)

    def on_stage(self, stage, config, start) -> None:
        self.stages.append((stage, start))

    def on_note(self, message) -> None:
        self.notes.append(message)


@pytest.mark.parametrize(
    ("frozen", "stages", "overrides"),
    [
        (("encoder",), ["latents", "base"], []),
        (("prior", "decoder"), ["latents", "base"], []),
        (AUTOENCODER, ["base"], ["train.latents=null"]),
        (("base",), ["latents"], ["train.base=null"]),
    ],
)
def test_frozen_networks_stay_bit_identical(fine, source, tmp_path, frozen, stages, overrides):
    spec, recorder = fine(f"init.freeze=[{', '.join(frozen)}]", *overrides), Recorder()
    assert spec.stages == tuple(stages)
    result = train(spec, tmp_path / "run", options(), callback=recorder)
    assert [stage for stage, _ in recorder.stages] == stages and len(recorder.reports) == 1
    ours, theirs = weights(result.export), weights(source)
    for name in (*AUTOENCODER, "base"):
        assert equal(part(ours, name), part(theirs, name)) == (name in frozen), name
    checkpoint = CheckpointManager(result.folder / "checkpoints").latest(stages[-1])
    trained = {"latents": AUTOENCODER, "base": ("base",)}[stages[-1]]
    averaged = {key.split(".")[0] for key in checkpoint.shapes("ema.")}
    assert averaged == set(trained) - set(frozen)
    moments = sum(key.endswith(".exp_avg") for key in checkpoint.shapes("optimizer."))
    assert moments == len(checkpoint.shapes("ema."))
    again = export(result.folder, tmp_path / "again.safetensors")
    assert equal(weights(again.path), ours) and open_model(result.folder).model.sample(1).isfinite().all()
    assert result.results["figures"]["psnr_db"] > 0 and result.results["figures"]["base_bits_per_pixel"] > 0


def test_a_final_decoder_on_a_frozen_autoencoder(fine, source, tmp_path):
    final = "final_decoder={backbone: {kind: vit, patch: 4, width: 16, depth: 1, heads: 2}}"
    stage = "train.decoder={steps: 2, batch_size: 4, lr: 1e-3}"
    spec = fine("init.parts=[encoder, prior, decoder]", *FROZEN_AUTOENCODER, final, stage)
    assert spec.stages == ("decoder", "base") and spec.frozen_stages == ("latents",)
    train(spec, tmp_path, options(stage="decoder"))
    assert open_model(tmp_path).model.stages == ("latents", "decoder")
    result = train(spec, tmp_path, options(stage="base"))
    ours, theirs = weights(result.export), weights(source)
    assert all(equal(part(ours, name), part(theirs, name)) for name in AUTOENCODER)
    assert part(ours, "final_decoder") and part(ours, "base")


DISTILLED = ("distilled={}", "train.distill={steps: 2, batch_size: 4, lr: 1e-3}")
FROZEN_WITHOUT_DECODER = ("init.freeze=[encoder, prior, distilled]", "train.latents=null", "train.distill=null")


@pytest.fixture(scope="module")
def without_decoder(tiny, tmp_path_factory) -> Path:
    """A model that its distilled decoder alone decodes."""
    folder = tmp_path_factory.mktemp("without")
    both = write_model(folder / "both.safetensors", tiny(*DISTILLED))
    return export(both, folder / "model.safetensors", without="decoder").path


def test_a_base_on_a_model_that_its_distilled_decoder_alone_decodes(tiny, without_decoder, tmp_path):
    keys = (*SHORT, *DISTILLED, f"init.model={without_decoder}", *FROZEN_WITHOUT_DECODER, "train.base.decay=constant")
    assert tiny(*keys).stages == ("base",)
    train(tiny(*keys, "train.base.steps=1"), tmp_path / "run", options())
    result = train(tiny(*keys), tmp_path / "run", options(resume=True))
    assert equal(weights(result.export), weights(train(tiny(*keys), tmp_path / "at once", options()).export))
    ours, theirs = weights(result.export), weights(without_decoder)
    for name in ("encoder", "prior", "distilled"):
        assert part(ours, name) and equal(part(ours, name), part(theirs, name))
    assert not part(ours, "decoder") and not equal(part(ours, "base"), part(theirs, "base"))
    assert result.results["protocol"]["decoder_network"] == "distilled"
    assert open_model(tmp_path / "run").model.sample(1).isfinite().all()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (FROZEN_AUTOENCODER, r"init.freeze.*: .* has no decoder: name distilled instead, which decodes"),
        (("init.freeze=[encoder, prior, distilled]", "train.distill=null"),
         "train.latents: init.freeze has encoder and prior and distilled in place of decoder: set this to null"),
        ((*FROZEN_WITHOUT_DECODER, "decoder.prediction=x"),
         r'distilled cannot be frozen, since .* something else \(decoder.prediction: "v" -> "x"\)'),
    ],
)  # fmt: skip
def test_errors_of_a_model_that_its_distilled_decoder_alone_decodes(tiny, without_decoder, overrides, message):
    with pytest.raises(SpecError, match=message):
        loaded(tiny(*SHORT, *DISTILLED, f"init.model={without_decoder}", *overrides))


def test_frozen_networks_have_no_gradients_and_no_dropout(fine, tmp_path):
    spec = fine("init.freeze=[encoder, decoder]")
    model, _ = loaded(spec)
    source = open_source(spec, "train")
    trainer = Trainer(model, "latents", spec.train.latents, source, tmp_path, TrainerOptions({"spec": spec.to_dict()}))
    modes = []
    model.decoder.register_forward_hook(lambda module, *_: modes.append(module.training))
    model.decoder.network.register_forward_hook(lambda module, *_: modes.append(module.training))
    trainer.optimizer.zero_grad = lambda: None  # keep the gradients of the last step
    trainer.run()
    assert modes and not any(modes)
    assert all(p.grad is None for name in ("encoder", "decoder") for p in getattr(model, name).parameters())
    assert all(p.grad is not None for p in model.prior.parameters())
    assert {id(p) for group in trainer.optimizer.param_groups for p in group["params"]} == {
        id(p) for p in model.prior.parameters()
    }


def test_a_base_on_the_latents_of_a_frozen_encoder(fine, source, tmp_path):
    """Encoded once with the source itself; the losses are those of training on images."""
    loaded_source = open_model(source)
    data = open_source(loaded_source.spec, "train")
    encode(loaded_source.model, loaded_source.spec, data, tmp_path / "z", "train", options=EncodeOptions("float32"))
    latents = f"train.base.data={{kind: latents, path: {tmp_path / 'z'}}}"
    losses = []
    for name, extra in {"images": [], "latents": [latents]}.items():
        train(fine(*FROZEN_AUTOENCODER, *extra), tmp_path / name, options(stage="base"))
        rows = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        losses.append([row["loss"] for row in rows])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4) and len(losses[0]) == 3
    with pytest.raises(SpecError, match="contains latents of another encoder"):
        other = write_model(tmp_path / "other.safetensors", fine(), seed=1)
        train(fine(f"init.model={other}", *FROZEN_AUTOENCODER, latents), tmp_path / "other", options())


def test_the_cost_of_frozen_networks(tiny, fine):
    flops, memory = {}, {}
    for frozen in ("", "encoder", "decoder", "encoder, decoder"):
        plan = plan_training(fine(f"init.freeze=[{frozen}]"), "latents", torch.device("cpu"))
        parts, flops[frozen] = plan.summary, plan.stages[0].flops_per_image
        if frozen in ("", "encoder, decoder"):
            memory[frozen] = plan.stages[0].memory
    encoder, decoder = parts.flops["encoder"], parts.flops["decoder"]
    assert flops[""] - flops["encoder"] == 2 * encoder and flops[""] - flops["decoder"] == decoder
    assert flops[""] - flops["encoder, decoder"] == 2 * (encoder + decoder)
    weights = 4 * (parts.parameters["encoder"] + parts.parameters["decoder"])
    assert memory["encoder, decoder"].frozen - memory[""].frozen == weights
    assert memory[""].gradients - memory["encoder, decoder"].gradients == weights
    assert memory[""].peak(8) > memory["encoder, decoder"].peak(8)
    plan = plan_training(fine(*FROZEN_AUTOENCODER), "all", torch.device("cpu"))
    assert [stage.stage for stage in plan.stages] == ["base"] and plan.summary.stages == ("base",)
    assert (
        plan.stages[0].flops_per_image == plan_training(tiny(), "base", torch.device("cpu")).stages[0].flops_per_image
    )


# ------------------------------------------------------------------------------------------------ identity and resuming


def test_the_source_is_part_of_the_identity(tiny, fine, source, tmp_path):
    plain, spec, recorder = tiny(*SHORT), fine("init.parts=[encoder]"), Recorder()
    assert "init" not in plain.to_dict() and plain.hash == tiny(*SHORT, "init=null").hash != spec.hash
    result = train(spec, tmp_path / "run", options(), callback=recorder)
    digest, recorded = open_model(source).weights_sha256, read_spec(result.folder)
    assert recorded.init.sha256 == digest == recorder.reports[0].sha256
    assert recorded.hash == fine("init.parts=[encoder]", f"init.sha256={digest}").hash != spec.hash
    metadata = tensor_file.read_metadata(result.export)
    assert metadata["spec"]["init"]["sha256"] == digest and metadata["spec_hash"] == recorded.hash
    assert result.results["trained"]["spec_hash"] == recorded.hash
    report = json.loads((result.folder / "init.json").read_text())
    assert (report["model"], report["sha256"]) == (str(source), digest) and report["parts"][0]["part"] == "encoder"
    half = export(source, tmp_path / "again.safetensors", "float32")
    assert open_model(half.path).weights_sha256 == digest  # of the weights, not of the file


def test_resuming(fine, source, tmp_path):
    """A resumed run ends with the same bits, also if the source is missing; another source is refused."""
    mine = tmp_path / "mine.safetensors"
    mine.write_bytes(source.read_bytes())
    keys = (f"init.model={mine}", "init.freeze=[decoder]", "base=null", "train.base=null")
    train(fine(*keys, "train.latents.decay=constant", "train.latents.steps=1"), tmp_path / "run", options())
    mine.unlink()
    recorder = Recorder()
    spec = fine(*keys, "train.latents.decay=constant")
    result = train(spec, tmp_path / "run", options(resume=True), callback=recorder)
    assert recorder.stages == [("latents", 1)] and not recorder.reports
    write_model(mine, fine(), seed=1)
    with pytest.raises(ValueError, match=r"its run has another spec, init.sha256: .* -> "):
        train(spec, tmp_path / "run", options(resume=True))
    moved = fine(*keys, "train.latents.decay=constant", f"init.model={source}")
    assert equal(weights(train(moved, tmp_path / "run", options(resume=True)).export), weights(result.export))
    at_once = train(moved, tmp_path / "at once", options())
    assert equal(weights(at_once.export), weights(result.export))
    mine.unlink()
    other = fine(*keys, f"init.model={tmp_path / 'other'}")
    for missing, how in ((spec, {"fresh": True}), (other, {"resume": True})):
        with pytest.raises(SpecError, match=r"init.model.*: .*no such file"):
            train(missing, tmp_path / "run", options(**how))


def test_a_stage_that_begins_in_an_existing_run(fine, source, tmp_path):
    """Its networks come from the source, those of the stages before from the run."""
    keys = ("train.base.steps=1", "train.base.lr=1e-9", "train.base.weight_decay=0")
    train(fine(*keys), tmp_path, options(stage="latents"))
    stage1, recorder = weights(tmp_path / "model.safetensors"), Recorder()
    result = train(fine(*keys), tmp_path, options(stage="base"), callback=recorder)
    assert [row.part for row in recorder.reports[0].parts] == ["base"]
    ours = weights(result.export)
    assert all(equal(part(ours, name), part(stage1, name)) for name in AUTOENCODER)
    for name, tensor in part(weights(source), "base").items():
        torch.testing.assert_close(ours[name], tensor, atol=1e-6, rtol=0)
