"""Attention sharing against the reference's results, and what frames, weight and contexts mean."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from lib_layerdiffusion.errors import InputError, WeightsError
from lib_layerdiffusion.networks.attention_sharing import (
    AttentionSharing,
    ConditionEncoder,
    SharingRun,
    SharingUnit,
    is_plain_linear,
)
from lib_layerdiffusion.networks.sharing_run import attend, is_weight_product
from tests.golden import expected, filled, relative_error, rgba, tensor

CASES = [(1, False), (2, False), (3, False), (2, True)]


class BaseAttention(nn.Module):
    """The layer of a host: projections and heads."""

    def __init__(self, channels: int, context: int, heads: int = 8) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(context, channels, bias=False)
        self.to_v = nn.Linear(context, channels, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])


@pytest.fixture(scope="module")
def signals() -> dict[int, torch.Tensor]:
    encoder = ConditionEncoder()
    encoder.load_state_dict(filled(encoder, "public/attn/condenc"))
    pixels = torch.from_numpy(rgba("public/attn/control", 64, 64)[..., :3] / 255 * 2 - 1).float()
    with torch.no_grad():
        return encoder(pixels.permute(2, 0, 1)[None])


@pytest.mark.parametrize("tokens", [64, 16, 4, 1])
def test_condition_signals_equal_the_reference(signals, tokens):
    assert relative_error(signals[tokens], expected(f"attention_sharing/control_signal_{tokens}")) <= 1e-4


@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize("cross", [True, False])
@pytest.mark.parametrize(("frames", "control"), CASES)
@torch.no_grad()
def test_unit_equals_the_reference(signals, frames, control, cross, fold):
    case = f"f{frames}_{'control' if control else 'plain'}_{'cross' if cross else 'self'}"
    salt = f"public/attn/{case}"
    base = BaseAttention(320, 768 if cross else 320)
    base.load_state_dict(filled(base, f"{salt}/base"))
    before = {key: value.clone() for key, value in base.state_dict().items()}
    unit = SharingUnit(320, 768 if cross else None, frames=frames, rank=256, signal_channels=256 if control else None)
    weights = filled(unit, f"{salt}/unit")
    unit.load_state_dict({key: value * 0.5 if "_lora" in key else value for key, value in weights.items()})
    run = SharingRun(
        frame_contexts=[None if i == 1 else tensor(f"{salt}/overwrite{i}", (1, 77, 768)) for i in range(frames)],
        signals=signals if control else {},
        can_fold=is_plain_linear if fold else lambda _layer, _rows: False,
        conditional=torch.arange(2 * frames) >= frames,
    )
    context = tensor(f"{salt}/context", (2 * frames, 77, 768)) if cross else None
    hidden = tensor(f"{salt}/hidden", (2 * frames, 64, 320))
    for _ in range(2):  # the second call runs on what the first one kept
        result = unit(hidden, base, context, run)
        assert relative_error(result, expected(f"attention_sharing/{case}")) <= 1e-4
    assert all(torch.equal(before[key], value) for key, value in base.state_dict().items())


def random_unit(frames: int, context: int | None = None) -> tuple[SharingUnit, BaseAttention]:
    torch.manual_seed(frames)
    unit = SharingUnit(32, context, frames=frames, rank=4, signal_channels=None)
    for parameter in unit.parameters():
        nn.init.normal_(parameter, std=0.2)
    return unit.eval(), BaseAttention(32, context or 32, heads=4)


@torch.no_grad()
def test_weight_zero_is_the_plain_layer_to_the_bit():
    unit, base = random_unit(2)
    hidden = torch.randn(4, 16, 32)
    run = SharingRun(weight=0.0)
    plain = base.to_out[0](run.attention(base.to_q(hidden), base.to_k(hidden), base.to_v(hidden), 4))
    assert torch.equal(unit(hidden, base, None, run), plain)


@pytest.mark.parametrize("frames", [1, 2])
@torch.no_grad()
def test_weight_scales_every_learned_addition(frames):
    signal = {16: torch.randn(1, 8, 4, 4)}
    torch.manual_seed(7)
    unit = SharingUnit(32, None, frames=frames, rank=4, signal_channels=8)
    for parameter in unit.parameters():
        nn.init.normal_(parameter, std=0.2)
    base, hidden = BaseAttention(32, 32, heads=4), torch.randn(2 * frames, 16, 32)
    half = unit(hidden, base, None, SharingRun(signals=signal, weight=0.5))
    for name, parameter in unit.named_parameters():
        if ".up." in name or "temporal_o" in name or (name.startswith("control_convs") and ".2." in name):
            parameter.mul_(0.5)
    torch.testing.assert_close(unit(hidden, base, None, SharingRun(signals=signal)), half)


@torch.no_grad()
def test_one_run_follows_changed_conditional_rows_and_weight():
    unit, base = random_unit(2, context=24)
    hidden, context = torch.randn(4, 16, 32), torch.randn(4, 6, 24)
    run = SharingRun([torch.randn(1, 6, 24)] * 2)
    for conditional, weight in (([0, 0, 1, 1], 1.0), ([1, 1, 1, 1], 1.0), ([1, 1, 1, 1], 0.3)):
        run.conditional, run.weight = torch.tensor(conditional, dtype=torch.bool), weight
        fresh = SharingRun(run.frame_contexts, weight=weight, conditional=run.conditional)
        assert torch.equal(unit(hidden, base, context, run), unit(hidden, base, context, fresh))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("frames", [1, 3])
@torch.no_grad()
def test_units_stored_in_half_precision_compute_in_the_dtype_of_the_states(frames, dtype):
    unit, base = random_unit(frames)
    hidden = torch.randn(frames, 16, 32)
    exact = unit(hidden, base, None, SharingRun())
    from_half = unit.to(dtype)(hidden, base, None, SharingRun())
    assert from_half.dtype == torch.float32
    assert (from_half - exact).norm() < 0.02 * exact.norm()
    rough = unit(hidden.to(dtype), base.to(dtype), None, SharingRun())
    assert rough.dtype == dtype
    assert (rough.float() - exact).norm() < 0.05 * exact.norm()


@pytest.mark.parametrize("frames", [1, 3])
@torch.no_grad()
def test_attention_between_frames_alone_may_be_less_exact(frames):
    unit, base = random_unit(frames)
    hidden = torch.randn(2 * frames, 16, 32)
    exact, rough = (unit(hidden, base, None, SharingRun(across_frames=kind)) for kind in (None, torch.bfloat16))
    assert rough.dtype is torch.float32
    assert 0 < (rough - exact).norm() < 0.01 * exact.norm()
    for parameter in unit.temporal_o.parameters():
        nn.init.zeros_(parameter)
    exact, rough = (unit(hidden, base, None, SharingRun(across_frames=kind)) for kind in (None, torch.bfloat16))
    assert torch.equal(rough, exact)


@torch.no_grad()
def test_more_positions_than_attention_kernels_take():
    unit, base = random_unit(2)
    hidden = torch.randn(2, 70_000, 32)
    run = SharingRun(attention=lambda q, k, v, heads: v)  # the layer's own attention is not what is looked at
    few = unit(hidden[:, :50], base, None, run)
    torch.testing.assert_close(unit(hidden, base, None, run)[:, :50], few, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_signal_of_another_shape_is_refused():
    unit = SharingUnit(32, None, frames=2, rank=4, signal_channels=8)
    with pytest.raises(InputError, match="size"):
        unit(torch.randn(2, 17, 32), BaseAttention(32, 32), None, SharingRun(signals={64: torch.zeros(1, 8, 8, 8)}))


@torch.no_grad()
def test_a_unet_that_works_on_fewer_tokens_gets_the_signal_of_that_size():
    """Kohya's HRFix makes all sizes of a UNet smaller for the first steps."""
    whole = torch.linspace(0, 1, 12 * 18).view(1, 1, 12, 18).expand(1, 8, 12, 18).contiguous()
    run = SharingRun(signals={12 * 18: whole})
    resized = run.signal(6 * 9)
    assert resized is not None
    assert resized.shape == (1, 8, 6, 9)
    pooled = torch.nn.functional.avg_pool2d(whole, 2)
    torch.testing.assert_close(resized[..., 1:-1, 1:-1], pooled[..., 1:-1, 1:-1], atol=1e-3, rtol=0)
    assert run.signal(6 * 9) is resized
    assert run.signal(12 * 18) is whole
    assert run.signal(7 * 31) is None
    assert SharingRun().signal(64) is None
    assert run.signal_size == (12, 18)


@torch.no_grad()
@pytest.mark.parametrize("frames", [1, 3])
def test_another_attention_gets_rows_in_the_batchs_order(frames):
    """Extensions tell conditional rows by their place in the batch."""
    unit, base = SharingUnit(32, None, frames=frames, rank=4, signal_channels=None), BaseAttention(32, 32)
    hidden, seen = torch.randn(2 * frames, 16, 32), []

    def other(q, k, v):
        seen.append((q, k, v))
        return attend(q, k, v, base.heads)

    plain = unit(hidden, base, None, SharingRun())
    torch.testing.assert_close(unit(hidden, base, None, SharingRun(replacement=other)), plain)
    for value, layer in zip(seen[0], (base.to_q, base.to_k, base.to_v), strict=True):
        torch.testing.assert_close(value, layer(hidden))


@torch.no_grad()
def test_folding_follows_a_changed_base_weight():
    unit, base = random_unit(2)
    hidden, run = torch.randn(2, 16, 32), SharingRun()
    first = unit(hidden, base, None, run)
    base.to_q.weight.mul_(3.0)
    changed = unit(hidden, base, None, run)
    assert not torch.allclose(first, changed)
    torch.testing.assert_close(changed, unit(hidden, base, None, SharingRun(can_fold=lambda _layer, _rows: False)))


@torch.no_grad()
def test_pictures_of_a_batch_do_not_see_each_other():
    unit, base = random_unit(3)
    hidden = torch.randn(6, 16, 32)
    both = unit(hidden, base, None, SharingRun())
    torch.testing.assert_close(both[:3], unit(hidden[:3], base, None, SharingRun()))
    swapped = hidden.clone()
    swapped[1] = 0
    assert not torch.allclose(unit(swapped, base, None, SharingRun())[0], both[0])


@torch.no_grad()
def test_frame_contexts_reach_conditional_rows_only_and_may_differ_in_length():
    unit, base = random_unit(2, context=24)
    hidden, context = torch.randn(4, 16, 32), torch.randn(4, 6, 24)
    own = torch.randn(1, 4, 24)
    conditional = torch.tensor([False, False, True, True])
    result = unit(hidden, base, context, SharingRun([own, None], conditional=conditional))
    plain = unit(hidden, base, context, SharingRun())
    torch.testing.assert_close(result[:2], plain[:2])
    replaced = context.repeat(1, 2, 1)
    replaced[2] = own.repeat(1, 3, 1)
    torch.testing.assert_close(result, unit(hidden, base, replaced, SharingRun()), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_rows_that_are_no_whole_pictures_are_refused():
    unit, base = random_unit(3)
    with pytest.raises(InputError, match="multiple of 3"):
        unit(torch.randn(4, 16, 32), base, None, SharingRun())


@pytest.mark.parametrize("condition", [None, (4, 8, 8, 8)])
@pytest.mark.parametrize("frames", [1, 2, 3])
def test_module_is_rebuilt_from_its_keys(frames, condition):
    module = AttentionSharing(
        [(16, None), (16, 24), (32, None), (32, 32)],
        frames=frames,
        rank=4,
        condition_channels=condition,
        condition_sizes=3,
    )
    again = AttentionSharing.from_state_dict(module.state_dict())
    assert again.frames == frames
    assert again.condition_count == (condition is not None)
    assert {key: value.shape for key, value in again.state_dict().items()} == {
        key: value.shape for key, value in module.state_dict().items()
    }
    damaged = module.state_dict()
    del damaged["hookers.layers.2.temporal_q.bias"]
    with pytest.raises(WeightsError, match=r"layers\.2\.temporal_q\.bias"):
        AttentionSharing.from_state_dict(damaged)
    for other in ({"a.weight": torch.zeros(1)}, {"hookers.layers.0.to_q_lora.0.down.weight": torch.zeros(1)}, {}):
        with pytest.raises(WeightsError):
            AttentionSharing.from_state_dict(other)


class Changed(nn.Linear):
    """A layer of a host that changes its weight in every call, as with LoRAs that are applied online."""

    def forward(self, x):
        return functional.linear(x, self.weight * 1.001, self.bias)


class Cast(nn.Linear):
    """A layer whose weight is kept in half precision and cast in every call."""

    def forward(self, x):
        return functional.linear(x, self.weight.to(x), None if self.bias is None else self.bias.to(x))


class Kept(nn.Linear):
    """A host's own class of a plain layer."""


@pytest.mark.parametrize(("kind", "folds"), [(nn.Linear, True), (Kept, True), (Changed, False), (Cast, False)])
def test_each_kind_of_layer_takes_the_path_that_is_right_for_it(kind, folds):
    torch.manual_seed(0)
    unit = SharingUnit(16, None, frames=2, rank=4, signal_channels=None)
    for parameter in unit.parameters():
        parameter.data.normal_(std=0.2)
    base = BaseAttention(16, 16, heads=2)
    for name in ("to_q", "to_k", "to_v"):
        setattr(base, name, kind(16, 16, bias=False))
    base.to_out = nn.ModuleList([kind(16, 16)])
    if kind is Cast:
        base.half()
    hidden = torch.randn(4, 6, 16)
    run = SharingRun(can_fold=is_weight_product)
    with torch.no_grad():
        slow = unit(hidden, base, None, SharingRun(can_fold=lambda _layer, _rows: False))
        torch.testing.assert_close(unit(hidden, base, None, run), slow, atol=1e-5, rtol=1e-5)
        assert any("folded" in key for key in run._kept) is folds
        base.to_q.weight = nn.Parameter(base.to_q.weight.data * -2)  # a LoRA is merged between two calls
        changed = unit(hidden, base, None, SharingRun(can_fold=lambda _layer, _rows: False))
        assert (changed - slow).abs().max() > 1e-3
        torch.testing.assert_close(unit(hidden, base, None, run), changed, atol=1e-5, rtol=1e-5)


def test_a_layer_that_turns_into_another_kind_is_asked_again_in_the_next_run():
    layer = Kept(8, 8, bias=False)
    rows = torch.randn(3, 8)
    assert is_weight_product(layer, rows)
    layer.forward = lambda x: functional.linear(x, layer.weight) + 1e-3
    assert not is_weight_product(layer, rows)
    assert not is_weight_product(layer, rows.half())
    packed = Kept(8, 8, bias=False)
    packed.weight = nn.Parameter(torch.zeros(8, 4, dtype=torch.uint8), requires_grad=False)
    assert not is_weight_product(packed, rows)
    assert not is_weight_product(lambda x: x, rows)


def test_what_follows_from_the_text_is_computed_when_the_text_or_a_weight_changes():
    torch.manual_seed(0)
    unit = SharingUnit(16, 24, frames=2, rank=4, signal_channels=None)
    for parameter in unit.parameters():
        parameter.data.normal_(std=0.2)
    base, hidden, text = BaseAttention(16, 24, heads=2), torch.randn(4, 6, 16), torch.randn(4, 5, 24)
    run = SharingRun(can_fold=is_plain_linear)
    products = []
    project = unit._project
    unit._project = lambda name, *rest: products.append(name) or project(name, *rest)

    def step(context):
        products.clear()
        made = unit(hidden, base, context, run)
        slow = unit(hidden, base, context, SharingRun(can_fold=lambda _layer, _rows: False))
        torch.testing.assert_close(made, slow, atol=1e-5, rtol=1e-5)
        return products[: products.index("out")]

    with torch.no_grad():
        assert step(text) == ["q", "k", "v"]
        assert step(text.clone()) == ["q"]  # hosts hand over another tensor at every step
        text[1, 2] += 1
        assert step(text) == ["q", "k", "v"]
        base.to_v.weight = nn.Parameter(base.to_v.weight.data * -2)
        assert step(text) == ["q", "v"]
        run.forget()
        assert step(text) == ["q", "k", "v"]
