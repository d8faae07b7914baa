"""What a layer file changes: merging, its key grammar, and refusing the wrong file."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from golden import expected, relative_error, tensor, thinned
from hypothesis import given
from hypothesis import strategies as st

from lib_layerdiffusion.errors import InputError, WeightsError
from lib_layerdiffusion.images.arithmetic import condition_image
from lib_layerdiffusion.methods import METHODS, Layer
from lib_layerdiffusion.settings.parsing import LayerSettings
from lib_layerdiffusion.unet.injection import (
    CONV_IN,
    Injection,
    WeightOffsets,
    WeightPatch,
    layer_prompt,
    plan_injection,
    read_layer_weights,
)

LINEAR = "input_blocks.4.1.proj_in.weight"


def offsets(conditions: int = 0) -> dict[str, torch.Tensor]:
    state = {
        f"diffusion_model.{LINEAR}::lora::0": torch.randn(6, 2),
        f"diffusion_model.{LINEAR}::lora::1": torch.randn(2, 5),
    }
    if conditions:
        state[f"diffusion_model.{CONV_IN}::diff::0"] = torch.randn(8, 4 + 4 * conditions, 3, 3)
    return state


def test_golden_low_rank_merge():
    patch = WeightPatch("lora", (tensor("public/patch/up", (320, 16)), tensor("public/patch/down", (16, 640))))
    merged = patch.merge(tensor("public/patch/linear", (320, 640)), 0.7)
    stored = expected("frozen_patch/lora_strength_0.7")
    assert float((thinned(merged, stored) - stored).abs().max()) <= 1e-5


def test_golden_widened_kernel():
    patch = WeightPatch("diff", (tensor("public/patch/diff", (320, 8, 3, 3)),))
    merged = patch.merge(tensor("public/patch/conv", (320, 4, 3, 3)), 1.0)
    stored = expected("frozen_patch/diff_widened")
    assert merged.shape == (320, 8, 3, 3)
    assert relative_error(merged, stored) <= 1e-6


@given(st.floats(0.01, 2), st.sampled_from([torch.float32, torch.float16, torch.bfloat16]))
def test_merging_is_linear_in_the_strength_and_keeps_the_weight(strength, dtype):
    torch.manual_seed(0)
    weight = torch.randn(6, 5).to(dtype)
    before = weight.clone()
    up, down = torch.randn(6, 2), torch.randn(2, 5)
    merged = WeightPatch("lora", (up, down)).merge(weight, strength)
    assert torch.equal(weight, before)
    assert merged.dtype is dtype
    wanted = weight.double() + strength * (up.double() @ down.double())
    assert torch.allclose(merged.double(), wanted, rtol=2 * torch.finfo(dtype).eps, atol=1e-5)


def test_strength_zero_changes_nothing_and_does_not_widen():
    weight = torch.randn(8, 4, 3, 3)
    assert WeightPatch("diff", (torch.randn(8, 8, 3, 3),)).merge(weight, 0) is weight


def test_a_low_rank_change_of_a_convolution_is_reshaped():
    weight = torch.zeros(6, 5, 1, 1)
    patch = WeightPatch("lora", (torch.ones(6, 2), torch.ones(2, 5)))
    assert torch.equal(patch.merge(weight, 0.5), torch.ones(6, 5, 1, 1))


@pytest.mark.parametrize(
    ("patch_shape", "weight_shape", "fits"),
    [
        ((8, 8, 3, 3), (8, 4, 3, 3), True),
        ((8, 4, 3, 3), (8, 4, 3, 3), True),
        ((8, 4, 3, 3), (8, 8, 3, 3), False),
        ((8, 8, 3, 3), (9, 4, 3, 3), False),
        ((8, 8, 1, 1), (8, 4, 3, 3), False),
        ((8,), (8,), True),
        ((8,), (9,), False),
        ((8, 5), (8, 4), False),
        ((8, 4), (8, 4, 1, 1), False),
    ],
)
def test_where_a_difference_fits(patch_shape, weight_shape, fits):
    assert WeightPatch("diff", (torch.zeros(patch_shape),)).fits(weight_shape) is fits


def test_where_a_low_rank_change_fits():
    patch = WeightPatch("lora", (torch.zeros(6, 2), torch.zeros(2, 45)))
    assert patch.fits((6, 45))
    assert patch.fits((6, 5, 3, 3))
    assert not patch.fits((6, 5, 1, 1))
    assert not patch.fits((5, 45))
    assert not patch.fits(())


def test_the_key_grammar():
    read = WeightOffsets.from_state_dict(offsets(conditions=2))
    assert sorted(read) == sorted([CONV_IN, LINEAR])
    assert read.condition_count == 2
    assert [part.shape for part in read[LINEAR].tensors] == [(6, 2), (2, 5)]
    assert WeightOffsets.from_state_dict(offsets()).condition_count == 0


def damaged(**changes: torch.Tensor | None) -> dict[str, torch.Tensor]:
    state = {**offsets(conditions=1), **{key: value for key, value in changes.items() if value is not None}}
    return {key: value for key, value in state.items() if key not in changes or changes[key] is not None}


@pytest.mark.parametrize(
    ("state", "complaint"),
    [
        ({}, "holds no weights"),
        (damaged(**{f"diffusion_model.{LINEAR}::lora::1": None}), "incomplete or doubled"),
        (damaged(**{f"diffusion_model.{LINEAR}::diff::0": torch.zeros(6, 5)}), "incomplete or doubled"),
        (damaged(**{f"diffusion_model.{LINEAR}::diff::1": torch.zeros(6, 5)}), "incomplete or doubled"),
        (damaged(**{"lora_unet_down.alpha": torch.zeros(1)}), "unknown form"),
        (damaged(**{f"diffusion_model.{LINEAR}::loha::0": torch.zeros(1)}), "unknown form"),
        (damaged(**{f"model.{LINEAR}::diff::0": torch.zeros(1)}), "unknown form"),
        (damaged(**{f"diffusion_model.{LINEAR}::diff::x": torch.zeros(1)}), "unknown form"),
    ],
)
def test_a_damaged_file_is_refused(state, complaint):
    with pytest.raises(WeightsError, match=complaint):
        WeightOffsets.from_state_dict(state)


def test_every_change_must_land_on_a_parameter():
    read = WeightOffsets.from_state_dict(offsets(conditions=1))
    shapes = {CONV_IN: (8, 4, 3, 3), LINEAR: (6, 5)}
    read.check(shapes)
    with pytest.raises(WeightsError, match=f"1 of 2 weights have no place, such as {LINEAR}"):
        read.check({**shapes, LINEAR: (6, 6)})
    with pytest.raises(WeightsError, match="2 of 2"):
        read.check({})


@pytest.mark.parametrize("name", ["transparent-conv", "fg-to-blend", "bg-blend-to-fg"])
def test_a_file_is_read_only_as_its_own_method(name):
    method = METHODS.find(name)
    for conditions in range(3):
        if conditions == len(method.inputs):
            assert read_layer_weights(method, offsets(conditions)).condition_count == conditions
        else:
            pictures = "picture" if conditions == 1 else "pictures"
            with pytest.raises(WeightsError, match=f"is not the file of .* {conditions} condition {pictures} instead"):
                read_layer_weights(method, offsets(conditions))


def test_an_offsets_file_is_no_attention_sharing_file():
    with pytest.raises(WeightsError):
        read_layer_weights(METHODS.find("everything"), offsets())


def test_a_plan_holds_conditions_in_order_and_prompts_by_frame():
    rng = np.random.default_rng(3)
    background, blended = (rng.integers(0, 256, (20, 30, 4), dtype=np.uint8) for _ in range(2))
    settings = LayerSettings(
        enabled=True,
        method=METHODS.find("bg-blend-to-fg"),
        weight=0.5,
        stop_at=0.25,
        pictures={Layer.BLENDED: blended, Layer.BACKGROUND: background},
        prompts={Layer.FOREGROUND: "cat", Layer.BACKGROUND: "unused"},
    )
    weights = WeightOffsets.from_state_dict(offsets(2))
    plan = plan_injection(settings, weights, 64, 128)
    assert (plan.strength, plan.stop_at, plan.frame_prompts) == (0.5, 0.25, ("cat",))
    for condition, picture in zip(plan.conditions, (background, blended), strict=True):
        wanted = torch.from_numpy(condition_image(picture, settings.resize_mode, 64, 128)).permute(2, 0, 1)[None]
        assert condition.shape == (1, 3, 64, 128)
        assert torch.equal(condition, wanted)
    with pytest.raises(InputError, match="needs a blended picture"):
        plan_injection(settings.with_values({"blended": ""}), weights, 64, 128)


def test_when_a_plan_leaves_the_model_plain():
    weights = WeightOffsets.from_state_dict(offsets())
    method = METHODS.find("transparent-conv")
    assert Injection(method, weights, strength=0).is_plain
    assert Injection(method, weights, stop_at=0).is_plain
    assert not Injection(method, weights, strength=0.1, stop_at=0.1).is_plain


def test_the_additional_prompt_stands_before_the_main_one():
    assert layer_prompt("an apple", "on a table") == "an apple, on a table"
    assert layer_prompt("  ", "on a table") == "on a table"
