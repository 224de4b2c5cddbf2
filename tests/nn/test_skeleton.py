"""Networks on "meta": as large as elsewhere, and built without what only values need."""

import pytest
import torch

from ulzoo.nn.skeleton import WithoutValues, table
from ulzoo.registry import SpecError, load_spec
from ulzoo.registry.compile import compile_model


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("tests/tiny.yaml", ["data.text_tokens=4", "data.text_width=6", "base.text_conditional=true"]),
        ("emoji32_curve", []),
        ("emoji_video64_tiny", ["encoder.causal=true"]),
        ("imagenet64_small", []),
    ],
)
def test_tensors_have_the_shapes_that_they_have_elsewhere(name, keys):
    models = [compile_model(load_spec(name, keys), device) for device in ("meta", "cpu")]
    for kind in ("named_parameters", "named_buffers"):
        on_meta, elsewhere = ({n: (t.shape, t.dtype) for n, t in getattr(model, kind)()} for model in models)
        assert on_meta == elsewhere and on_meta
    assert all(tensor.is_meta for tensor in [*models[0].parameters(), *models[0].buffers()])


def test_a_table_is_computed_but_on_meta():
    assert table((2,), lambda: torch.ones(2)).tolist() == [1, 1]
    with torch.device("meta"):
        mask = table((2, 3), lambda: pytest.fail("computed"), torch.bool)
    assert mask.shape == (2, 3) and mask.dtype == torch.bool and mask.is_meta


def test_parameters_are_not_initialised():
    before = torch.full((3,), 7.0)
    with WithoutValues():
        for fill in (torch.nn.init.normal_, torch.nn.init.uniform_, torch.Tensor.normal_):
            assert fill(before) is before
        assert torch.nn.init.constant_(tensor=before, val=0.0) is before
    assert before.tolist() == [7, 7, 7]


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_a_head_that_is_too_narrow_for_its_positions_is_an_error(device):
    spec = load_spec("emoji32_tiny", ["prior.backbone.positions=rotary", "prior.backbone.heads=48"])
    with pytest.raises(SpecError, match="rotary ones in 2 dimensions need an even head width of at least 4, got 2"):
        compile_model(spec, device)
