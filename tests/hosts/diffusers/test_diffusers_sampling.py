"""Samplers by name, prompts of any length, and sampling itself."""

from __future__ import annotations

import pytest

pytest.importorskip("diffusers")

import torch

from lib_layerdiffusion.errors import SettingsError
from lib_layerdiffusion.hosts.diffusers.prompts import encode_prompts
from lib_layerdiffusion.hosts.diffusers.samplers import SAMPLER_NAMES, describe_sampler, make_scheduler
from lib_layerdiffusion.hosts.diffusers.sampling import SamplingRequest, sample
from tests.tiny_family import shared_pipeline


@pytest.fixture
def no_gradients():
    with torch.no_grad():
        yield


CONFIG = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "prediction_type": "v_prediction",
          "steps_offset": 1, "num_train_timesteps": 1000}  # fmt: skip


@pytest.mark.parametrize("name", SAMPLER_NAMES)
def test_every_sampler_keeps_the_models_noise_schedule_and_prediction(name):
    try:
        made = make_scheduler(name, CONFIG)
    except SettingsError:
        # LMS needs scipy, and some releases of diffusers have no third order here: said before a run, not in it.
        assert name in {"LMS", "DPM++ 3M SDE"}
        return
    assert made.config.beta_schedule == "scaled_linear"
    assert made.config.prediction_type == "v_prediction"
    made.set_timesteps(7)
    latents = torch.randn(1, 4, 8, 8)
    for timestep in made.timesteps:
        latents = made.step(torch.zeros_like(latents), timestep, latents).prev_sample
    assert torch.isfinite(latents).all()
    assert describe_sampler(name, made) == {"Sampler": name}


def test_a_schedule_may_stand_behind_a_name():
    made = make_scheduler("dpm++ 2m karras", CONFIG)
    assert made.config.use_karras_sigmas
    assert describe_sampler("DPM++ 2M Karras", made) == {"Sampler": "DPM++ 2M", "Schedule type": "Karras"}
    assert make_scheduler("Euler SGM Uniform", CONFIG).config.timestep_spacing == "trailing"


def test_a_choice_does_not_outlive_its_sampler():
    karras = make_scheduler("DPM++ 2M SDE Karras", CONFIG)
    plain = make_scheduler("DPM++ 2M", karras.config)
    assert not plain.config.use_karras_sigmas
    assert plain.config.algorithm_type == "dpmsolver++"


def test_diffusers_own_names():
    made = make_scheduler("UniPCMultistepScheduler", CONFIG)
    assert type(made).__name__ == "UniPCMultistepScheduler"
    assert describe_sampler("UniPCMultistepScheduler", made) == {"Sampler": "UniPC"}


@pytest.mark.parametrize("name", ["Eulr", "Karras", "DDIM Karras", "UNet2DConditionModel", "Scheduler", " "])
def test_unknown_samplers_are_refused(name):
    with pytest.raises(SettingsError, match="ampler"):
        make_scheduler(name, CONFIG)


@pytest.mark.usefixtures("no_gradients")
class TestPrompts:
    def test_a_short_prompt_is_what_the_pipeline_itself_makes_of_it(self):
        pipeline = shared_pipeline()
        own, negative = pipeline.encode_prompt("a red apple", "cpu", 1, True, "blurry")
        ours = encode_prompts(pipeline, ["a red apple", "blurry"])
        assert torch.equal(ours[0].context, own)
        assert torch.equal(ours[1].context, negative)

    def test_the_same_for_sdxl(self):
        pipeline = shared_pipeline(xl=True)
        own, _, pooled, _ = pipeline.encode_prompt("a red apple", do_classifier_free_guidance=False)
        ours = encode_prompts(pipeline, ["a red apple"])[0]
        assert torch.equal(ours.context, own)
        assert torch.equal(ours.pooled, pooled)

    def test_long_prompts_keep_their_end_and_short_ones_are_filled_up(self):
        pipeline = shared_pipeline()
        long = "x" * 80
        first, second, empty = encode_prompts(pipeline, [long + "a", long + "b", ""])
        assert first.context.shape == empty.context.shape == (1, 154, 32)
        assert torch.equal(first.context[:, :77], second.context[:, :77])
        assert not torch.equal(first.context[:, 77:], second.context[:, 77:])
        assert torch.equal(empty.context[:, :77], empty.context[:, 77:])


def request(pipeline, seeds, **values):
    prompt, negative = encode_prompts(pipeline, ["an apple", ""])
    values = {"width": 64, "height": 64, "steps": 4, "guidance": 3.0} | values
    return SamplingRequest(prompt=prompt, negative=negative, seeds=seeds, **values)


@pytest.mark.parametrize("xl", [False, True])
class TestSampling:
    def test_a_picture_depends_on_its_seed_and_not_on_its_batch(self, xl):
        pipeline = shared_pipeline(xl=xl)
        both, alone = sample(pipeline, request(pipeline, [5, 6])), sample(pipeline, request(pipeline, [6]))
        assert torch.allclose(both[1:], alone, atol=1e-4)
        assert not torch.allclose(both[:1], alone, atol=1e-2)

    def test_what_lies_outside_the_mask_stays(self, xl):
        pipeline = shared_pipeline(xl=xl)
        start, mask = torch.randn(2, 4, 8, 8), torch.zeros(1, 1, 8, 8)
        mask[..., 3:] = 1
        made = sample(pipeline, request(pipeline, [1, 2], start=start, strength=0.75, mask=mask))
        assert torch.equal(made[..., :3], start[..., :3])
        assert (made[..., 3:] - start[..., 3:]).abs().mean() > 0.1

    def test_little_strength_stays_near_the_start(self, xl):
        pipeline = shared_pipeline(xl=xl)
        start = torch.randn(1, 4, 8, 8)
        near = sample(pipeline, request(pipeline, [1], start=start, strength=0.1, steps=20))
        far = sample(pipeline, request(pipeline, [1], start=start, strength=1.0, steps=20))
        assert (near - start).norm() < (far - start).norm()

    def test_progress_is_told_to_the_end_and_may_stop_the_run(self, xl):
        pipeline, seen = shared_pipeline(xl=xl), []
        sample(pipeline, request(pipeline, [1], progress=lambda done, total: seen.append((done, total))))
        assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]

        def stop(_done, _total):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            sample(pipeline, request(pipeline, [1], progress=stop))


@pytest.mark.parametrize("xl", [False, True])
class TestGuidanceLater:
    def test_it_sets_in_after_its_share_of_the_steps(self, xl, monkeypatch):
        pipeline, seen = shared_pipeline(xl=xl), []
        step = pipeline.scheduler.step
        monkeypatch.setattr(
            pipeline.scheduler, "step", lambda *a, **k: (seen.append(pipeline.guidance_scale), step(*a, **k))[1]
        )
        later = sample(pipeline, request(pipeline, [1], guidance_start=0.5))
        assert seen == pytest.approx([1, 1, 3, 3], abs=1e-6)
        assert (later - sample(pipeline, request(pipeline, [1]))).abs().max() > 1e-3

    def test_never_is_the_same_as_none(self, xl):
        pipeline = shared_pipeline(xl=xl)
        never = sample(pipeline, request(pipeline, [1], guidance_start=1.1))
        assert torch.allclose(never, sample(pipeline, request(pipeline, [1], guidance=1.0)), atol=1e-4)
        weaker = request(pipeline, [1], guidance=0.5, guidance_start=1.1)
        assert torch.equal(sample(pipeline, weaker), sample(pipeline, request(pipeline, [1], guidance=0.5)))

    def test_a_picture_to_start_from_lies_later_in_the_schedule(self, xl):
        pipeline, start = shared_pipeline(xl=xl), torch.randn(1, 4, 8, 8)
        values = {"start": start, "strength": 0.5}
        later = sample(pipeline, request(pipeline, [1], guidance_start=0.5, **values))
        assert torch.equal(later, sample(pipeline, request(pipeline, [1], **values)))
