"""Runs side by side, broken numbers, exhausted memory, values of every type: a sentence, and the next one works."""

from __future__ import annotations

import threading

import pytest

pytest.importorskip("diffusers")

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from lib_layerdiffusion.engine.latents import check_latent
from lib_layerdiffusion.engine.request import VALUES, parse_size, read_value
from lib_layerdiffusion.errors import (
    InputError,
    LayerDiffusionError,
    MemoryShortageError,
    ModelError,
    SettingsError,
    WeightsError,
    is_out_of_memory,
    within_memory,
)
from lib_layerdiffusion.hosts.diffusers.sources import open_source
from lib_layerdiffusion.transparency import LatentTransparency
from tests.tiny_family import changed, new_engine, picture, snapshot, write_family

NAN, INF = float("nan"), float("inf")
BROKEN = [NAN, INF, 1e30]
FILES = ["layer_xl_transparent_attn", "vae_transparent_decoder", "layer_sd15_transparent_attn"]
EXHAUSTED = [
    MemoryError(),
    RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
]
NOT_WHOLE = [1.5, True, False, "two", "1.7", [], {}, NAN, INF, 2j, b"3", object(), -1, 2**70, "9" * 5000]
DEFAULTS = ("method", "seed", "size", "batch", "steps", "guidance", "sampler", "strength", "weight")
NUMBERS = st.one_of(st.floats(), st.integers(), st.text())
ANYTHING = st.one_of(st.none(), st.booleans(), NUMBERS, st.text(st.characters()), st.lists(NUMBERS), st.binary())


def shown(value):
    return "a long number" if isinstance(value, int) and abs(value) > 2**70 else repr(value)[:20]


def bytes_of(result):
    return [np.asarray(image.rgba).tobytes() for image in result.images]


class TestRunsWaitTheirTurn:
    def test_many_threads_with_their_own_samplers_get_what_each_would_get_alone(self, engine):
        wishes = [
            {"seed": seed, "sampler": sampler, "method": method, "steps": 2, "size": 64, "decode_passes": 1}
            for seed, sampler in enumerate(["Euler a", "DDIM", "", "DPM++ 2M Karras"])
            for method in ("transparent", "everything")
        ]
        alone = [bytes_of(engine.generate("an apple", **wish)) for wish in wishes]
        before = snapshot(engine.host.pipeline)
        together: dict[int, object] = {}

        def make(number, wish):
            try:
                together[number] = bytes_of(engine.generate("an apple", **wish))
            except Exception as error:  # noqa: BLE001 - shown by the comparison
                together[number] = error

        threads = [threading.Thread(target=make, args=pair) for pair in enumerate(wishes)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [together[number] for number in range(len(wishes))] == alone
        assert changed(engine.host.pipeline, before) == []

    def test_encoding_and_decoding_wait_too(self, engine):
        latent = engine.encode(picture(64, 64))
        alone = np.asarray(engine.decode(latent, passes=1))
        found = []
        run = threading.Thread(target=lambda: engine.generate("an apple", steps=3, size=64, sampler="DDIM"))
        other = threading.Thread(target=lambda: found.append(np.asarray(engine.decode(latent, passes=1))))
        run.start()
        other.start()
        run.join()
        other.join()
        assert np.array_equal(found[0], alone)

    def test_the_sampler_goes_back_whatever_happens(self, engine):
        own = engine.host.pipeline.scheduler

        def stop(*_):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            engine.generate("x", sampler="Euler a", progress=stop)
        assert engine.host.pipeline.scheduler is own
        with pytest.raises(SettingsError, match="no sampler"):
            engine.generate("x", sampler="Quick")
        assert engine.host.pipeline.scheduler is own


class TestBrokenNumbers:
    @pytest.mark.parametrize("value", BROKEN)
    @pytest.mark.parametrize(
        "name", ["layer_xl_transparent_attn", "vae_transparent_decoder", "layer_sd15_transparent_attn"]
    )
    def test_in_a_file_of_ours_are_found_when_it_is_read(self, layers, tmp_path, value, name):
        for path in layers.glob("*.safetensors"):
            state = load_file(path)
            if path.stem == name:
                key = sorted(state)[len(state) // 2]
                state[key] = state[key].clone()
                state[key].view(-1)[-1] = value
            save_file(state, tmp_path / path.name)
        method = "(SD1.5) Only Generate Transparent Image (Attention Injection)" if "sd15" in name else "transparent"
        with pytest.raises(WeightsError, match=f"{name}.*is broken") as refused:
            new_engine(tmp_path).generate("an apple", method=method)
        assert key in str(refused.value)

    @pytest.mark.parametrize("value", BROKEN)
    @pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
    def test_in_a_checkpoint_are_found_when_it_is_loaded(self, tmp_path, value, part):
        folder = write_family(tmp_path / "family")
        path = next((folder / part).glob("*.safetensors"))
        state = load_file(path)
        key = max(state, key=lambda name: (state[name].is_floating_point(), state[name].numel()))
        state[key].view(-1)[3] = value
        save_file(state, path, metadata={"format": "pt"})
        with pytest.raises(ModelError, match=f"broken \\(the {part.replace('_', ' ')}'s"):
            open_source(folder, device="cpu")

    @pytest.mark.parametrize("value", BROKEN)
    @pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
    def test_in_a_pipeline_in_memory_are_found_at_the_latest_in_the_latents(self, layers, value, part):
        own = new_engine(layers)
        module = getattr(own.host.pipeline, part)
        parameter = max(module.parameters(), key=lambda p: p.numel())
        if part == "vae":
            parameter = module.post_quant_conv.weight
        kept = parameter.data.clone()
        parameter.data[...] = value
        with pytest.raises(ModelError, match=f"checkpoint is broken \\(the {part.replace('_', ' ')}'s"):
            own.generate("an apple", steps=1, size=64)
        parameter.data = kept
        assert own.generate("an apple", steps=1, size=64).images

    @pytest.mark.parametrize("value", BROKEN)
    def test_in_latents(self, engine, monkeypatch, value):
        sample = engine.host.sample

        def broken(*args):
            latents = sample(*args)
            latents[..., 0, 0] = value
            return latents

        with monkeypatch.context() as patch:
            patch.setattr(engine.host, "sample", broken)
            for method in ("transparent", "everything"):
                with pytest.raises(ModelError, match="values"):
                    engine.generate("an apple", method=method, steps=1, size=64)
        with pytest.raises(LayerDiffusionError):
            engine.decode(torch.full((1, 4, 8, 8), value))
        assert engine.generate("an apple", steps=1, size=64).images

    def test_what_overflows_in_half_precision_is_decoded_once_more_in_float32(self, engine, monkeypatch):
        vae = engine.host.pipeline.vae
        decode, seen = vae.decode, []

        def overflowing(latents, *args, **kwargs):
            seen.append(latents.dtype)
            if latents.dtype is not torch.float32:
                return type("Out", (), {"sample": torch.full((1, 3, 64, 64), float("inf"))})
            return decode(latents, *args, **kwargs)

        wanted = engine.host.decode_latents(torch.ones(1, 4, 8, 8))
        vae.to(torch.bfloat16)
        monkeypatch.setattr(vae, "decode", overflowing)
        try:
            got = engine.host.decode_latents(torch.ones(1, 4, 8, 8))
            assert vae.dtype is torch.bfloat16
        finally:
            vae.to(torch.float32)
        assert seen == [torch.bfloat16, torch.float32]
        assert (got - wanted).abs().max() < 0.05

    def test_so_does_the_transparency_decoder(self, engine, monkeypatch):
        from lib_layerdiffusion.methods import Family

        decoder = engine.store.decoder(Family.SDXL)
        forward = type(decoder).forward

        def overflowing(self, pixels, latent):
            result = forward(self, pixels, latent)
            return result if self.dtype is torch.float32 else result * float("nan")

        pair = LatentTransparency(decoder=decoder)
        pixels, latent = torch.rand(1, 3, 64, 64), torch.randn(1, 4, 8, 8)
        wanted = pair.decode(pixels, latent, passes=1)
        decoder.with_precision(torch.bfloat16)
        monkeypatch.setattr(type(decoder), "forward", overflowing)
        try:
            got = pair.decode(pixels, latent, passes=1)
            assert decoder.dtype is torch.bfloat16
        finally:
            decoder.with_precision(torch.float32)
        assert (got - wanted).abs().max() < 0.1


class TestMemory:
    @pytest.mark.parametrize("error", EXHAUSTED, ids=lambda error: str(error)[:20])
    @pytest.mark.parametrize(
        "place", ["encode_prompts", "encode_start", "injected", "sample", "decode_latents", "placed", "posterior"]
    )
    def test_running_out_is_a_sentence_anywhere_and_the_next_run_works(self, engine, monkeypatch, error, place):
        before = snapshot(engine.host.pipeline)

        def exhausted(*_args, **_kwargs):
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(engine.host, place, exhausted)
            with pytest.raises(MemoryShortageError, match="too little memory for a picture of 64x64"):
                engine.generate("x", init_image=picture(64, 64), steps=2, size=64)
        assert changed(engine.host.pipeline, before) == []
        assert engine.generate("x", steps=1, size=64).images

    def test_so_it_is_for_latents_and_for_loading(self, engine, monkeypatch):
        def exhausted(*_args, **_kwargs):
            raise MemoryError

        from lib_layerdiffusion.hosts.diffusers import sources

        with monkeypatch.context() as patch:
            patch.setattr(engine.host, "encode_start", exhausted)
            patch.setattr(engine.host, "decode_latents", exhausted)
            patch.setattr(sources, "load_pipeline", exhausted)
            for call in (
                lambda: engine.encode(picture(64, 64)),
                lambda: engine.decode(torch.zeros(1, 4, 8, 8)),
                lambda: open_source("anything", device="cpu"),
            ):
                with pytest.raises(MemoryShortageError):
                    call()

    def test_other_errors_stay_what_they_are(self):
        with pytest.raises(ZeroDivisionError), within_memory("this"):
            raise ZeroDivisionError
        assert not is_out_of_memory(KeyboardInterrupt("out of memory"))


class TestValuesOfEveryType:
    @pytest.mark.parametrize("value", NOT_WHOLE, ids=shown)
    @pytest.mark.parametrize("name", ["seed", "steps", "batch"])
    def test_whole_numbers(self, engine, name, value):
        with pytest.raises(SettingsError, match=f"{name} must be a whole number") as refused:
            engine.generate("x", **{name: value})
        assert len(str(refused.value)) < 200

    @pytest.mark.parametrize(
        ("name", "value"),
        [("method", 5), ("method", ["transparent"]), ("sampler", 5), ("sampler", True), ("layer_prompts", 5),
         ("layer_prompts", "blue"), ("layer_prompts", {"background": 5}), ("layer_prompts", {5: "x"}),
         ("size", float("inf")), ("size", float("nan")), ("size", True), ("size", 64.5), ("size", [64, 64, 64]),
         ("size", {}), ("size", [64, None]), ("size", 10**6000), ("size", "64x1e3"), ("guidance", True),
         ("guidance", "much"), ("negative_prompt", 5), ("prompt", 5), ("prompt", "\ud800"), ("options", 5),
         ("weight", True), ("weight", 10**400), ("decode_passes", 2.5), ("prompt_aid", 2)],
        ids=shown,
    )  # fmt: skip
    def test_everything_else(self, engine, name, value):
        arguments = {"prompt": "x", name: value}
        with pytest.raises(SettingsError) as refused:
            engine.generate(**arguments)
        str(refused.value).encode()
        assert len(str(refused.value).splitlines()) == 1

    def test_none_is_the_default_everywhere(self, engine):
        nothing = dict.fromkeys(
            ("method", "seed", "size", "batch", "steps", "guidance", "sampler", "strength", "weight")
        )
        result = engine.generate("x", **nothing)
        assert result.settings.method.name == "transparent"
        assert len(result.images) == 1

    @pytest.mark.parametrize("kind", [np.int8, np.int32, np.int64, np.uint8, np.float32, np.float64, int, float, str])
    def test_numbers_of_every_library(self, kind):
        for name, value in {"steps": 3, "seed": 7, "batch": 2, "width": 64}.items():
            got = read_value(name, kind(value))
            assert got == value
            assert type(got) is int

    @given(st.integers(0, 2**63 - 1))
    def test_seeds_are_exact(self, seed):
        assert read_value("seed", str(seed)) == read_value("seed", seed) == seed

    @given(
        st.sampled_from(sorted(VALUES)),
        st.one_of(
            st.none(),
            st.booleans(),
            st.floats(),
            st.integers(),
            st.text(st.characters()),
            st.lists(st.integers()),
            st.binary(),
        ),
    )
    def test_any_value_is_read_or_refused(self, name, value):
        try:
            got = read_value(name, value)
        except SettingsError as refused:
            str(refused).encode()
            return
        assert got is None or VALUES[name].read(name, got) == got

    @given(ANYTHING)
    def test_any_size_is_read_or_refused(self, value):
        try:
            width, height = parse_size(value)
        except SettingsError:
            return
        assert (type(width), type(height)) == (int, int)


class TestLatents:
    @pytest.mark.parametrize(
        "latent",
        [torch.zeros(3, 4, 8, 8), torch.zeros(4, 8), torch.zeros(1, 3, 8, 8), torch.zeros(1, 4, 0, 8),
         np.zeros((2, 4, 8, 8)),
         torch.zeros(1, 4, 8, 8, dtype=torch.int64), torch.zeros(1, 4, 8, 8, dtype=torch.complex64), "latent", None,
         torch.full((1, 4, 8, 8), float("nan")), torch.empty(1, 4, 8001, 8001, device="meta")],
        ids=lambda value: str(getattr(value, "shape", value)),
    )  # fmt: skip
    def test_what_is_not_one_latent_is_refused(self, engine, latent):
        with pytest.raises(InputError):
            engine.decode(latent)

    @given(st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]), st.booleans())
    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_every_float_and_both_shapes(self, dtype, single):
        latent = torch.ones(4, 8, 8, dtype=dtype)
        assert check_latent(latent if single else latent[None]).shape == (1, 4, 8, 8)
