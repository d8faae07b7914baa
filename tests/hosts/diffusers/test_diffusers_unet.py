"""Injection into diffusers UNets: what it computes, what it refuses, and that undoing it leaves no trace."""

from __future__ import annotations

import pytest

pytest.importorskip("diffusers")

import torch
from diffusers.models.attention_processor import (
    Attention,
    AttnProcessor2_0,
    IPAdapterAttnProcessor2_0,
)
from torch import nn

from lib_layerdiffusion.errors import HostError, ModelError, WeightsError
from lib_layerdiffusion.hosts.diffusers.attention import SharedAttention
from lib_layerdiffusion.hosts.diffusers.host import DiffusersHost
from lib_layerdiffusion.hosts.diffusers.prompts import PromptEmbedding
from lib_layerdiffusion.hosts.diffusers.tiny import tiny_pipeline
from lib_layerdiffusion.hosts.diffusers.unet import (
    ParameterPlace,
    WeightExchange,
    base_parameters,
    inject_unet,
    is_injected,
    last_timestep,
    merge_offsets,
)
from lib_layerdiffusion.methods import METHODS, Family, Technique
from lib_layerdiffusion.networks.attention_sharing import SharingRun, SharingUnit
from lib_layerdiffusion.unet.injection import WeightOffsets, read_layer_weights
from lib_layerdiffusion.unet.ldm_keys import diffusers_to_ldm
from tests.golden import expected, filled, relative_error, rgba, tensor
from tests.tiny_family import ALL_METHODS, changed, injection, shared_files, shared_pipeline, snapshot

pytestmark = pytest.mark.usefixtures("no_gradients")
BATCH = 6
by_label = pytest.mark.parametrize("method", ALL_METHODS, ids=lambda method: method.weights)
OFFSETS = [m for m in ALL_METHODS if m.technique is Technique.WEIGHT_OFFSETS]
SHARING = [m for m in ALL_METHODS if m.technique is Technique.ATTENTION_SHARING]


@pytest.fixture
def no_gradients():
    with torch.no_grad():
        yield


def inputs(pipeline, rows=2 * BATCH):
    """Latents, text states and what SDXL wants beside them, for one call of a tiny UNet."""
    generator = torch.Generator().manual_seed(3)
    unet = pipeline.unet
    sample = torch.randn(rows, 4, 8, 8, generator=generator)
    context = torch.randn(rows, 5, unet.config.cross_attention_dim, generator=generator)
    added = None
    if unet.config.addition_embed_type:
        added = {"text_embeds": torch.randn(rows, 32, generator=generator), "time_ids": torch.ones(rows, 6)}
    return sample, context, added


def run(pipeline, timestep=500.0, **changes):
    sample, context, added = inputs(pipeline)
    call = {"sample": sample, "timestep": torch.tensor(timestep), "encoder_hidden_states": context} | changes
    return pipeline.unet(**call, added_cond_kwargs=added).sample


def encode(pixels):
    return nn.functional.avg_pool2d(pixels, 8)[:, [0, 1, 2, 0]]


def inject(pipeline, item, **options):
    return inject_unet(pipeline.unet, item, encode=encode, batch=BATCH, **options)


@by_label
@pytest.mark.parametrize("xl", [False, True])
def test_undoing_leaves_the_pipeline_bit_identical(method, xl):
    pipeline = shared_pipeline(xl=xl)
    before, plain = snapshot(pipeline), run(pipeline)
    addresses = {key: parameter.data_ptr() for key, parameter in pipeline.unet.named_parameters()}
    processors = dict(pipeline.unet.attn_processors)
    with inject(pipeline, injection(method, xl=xl)) as handle:
        assert not torch.equal(run(pipeline), plain)
    handle.release()  # twice is harmless
    assert changed(pipeline, before) == []
    assert {key: parameter.data_ptr() for key, parameter in pipeline.unet.named_parameters()} == addresses
    assert all(pipeline.unet.attn_processors[key] is value for key, value in processors.items())
    assert not is_injected(pipeline.unet)
    assert torch.equal(run(pipeline), plain)


@by_label
def test_undone_also_after_an_error_in_the_unet(method):
    pipeline = shared_pipeline()
    before = snapshot(pipeline)
    with pytest.raises(RuntimeError), inject(pipeline, injection(method)):
        run(pipeline, sample=torch.zeros(2 * BATCH, 3, 8, 8))
    assert changed(pipeline, before) == []
    assert not is_injected(pipeline.unet)


@by_label
@pytest.mark.parametrize("values", [{"strength": 0.0}, {"stop_at": 0.0}], ids=["weight 0", "stop at 0"])
def test_no_strength_and_no_share_of_the_steps_are_plain_to_the_bit(method, values):
    pipeline = shared_pipeline()
    plain = run(pipeline)
    with inject(pipeline, injection(method, **values)):
        assert torch.equal(run(pipeline), plain)


@by_label
def test_stop_at_hands_over_to_the_untouched_unet(method):
    pipeline = shared_pipeline()
    early, late = run(pipeline, 500.0), run(pipeline, 499.0)
    with inject(pipeline, injection(method, stop_at=0.5)):
        assert not torch.equal(run(pipeline, 500.0), early)
        assert torch.equal(run(pipeline, 499.0), late)
        assert pipeline.unet.conv_in.weight.shape[1] == 4
        assert not torch.equal(run(pipeline, 500.0), early)


@pytest.mark.parametrize(("share", "timestep"), [(0.25, 749.25), (0.5, 499.5), (1, float("-inf")), (0, float("inf"))])
def test_the_share_counts_timesteps_from_the_noisy_end(share, timestep):
    assert last_timestep(share) == timestep


@by_label
def test_strength_scales_the_change(method):
    pipeline = shared_pipeline()
    results = []
    for strength in (0.25, 0.5, 1.0):
        with inject(pipeline, injection(method, strength=strength)):
            results.append(run(pipeline))
    assert not torch.equal(results[0], results[1])
    assert not torch.equal(results[1], results[2])


@pytest.mark.parametrize("method", OFFSETS, ids=lambda method: method.weights)
def test_offsets_equal_a_unet_that_was_built_with_the_merged_weights(method):
    pipeline, item = shared_pipeline(), injection(method, strength=0.7)
    with inject(pipeline, item):
        injected = run(pipeline)
    other = tiny_pipeline().unet
    names = {theirs: ours for ours, theirs in diffusers_to_ldm(other.config).items()}
    assert isinstance(item.weights, WeightOffsets)
    for key, patch in item.weights.items():
        weight = other.get_parameter(names[key])
        if patch.kind == "lora":
            weight += 0.7 * (patch.tensors[0] @ patch.tensors[1]).reshape(weight.shape)
            continue
        wide = nn.Conv2d(patch.shape[1], weight.shape[0], 3, padding=1)
        wide.weight[:] = 0.7 * patch.tensors[0]
        wide.weight[:, :4] += weight
        wide.bias[:] = other.conv_in.bias
        other.conv_in = wide
    sample, context, _ = inputs(pipeline)
    latents = [encode(picture).expand(len(sample), -1, -1, -1) for picture in item.conditions]
    expected_result = other(torch.cat([sample, *latents], 1), torch.tensor(500.0), context).sample
    assert relative_error(injected, expected_result) <= 1e-5


def test_weight_merging_equals_the_reference():
    change = tensor("public/patch/diff", (320, 8, 3, 3))
    patch = {"diffusion_model.input_blocks.0.0.weight::diff::0": change}
    conv = tensor("public/patch/conv", (320, 4, 3, 3))
    merged = WeightOffsets.from_state_dict(patch)["input_blocks.0.0.weight"].merge(conv, 0.7)
    layer = nn.Conv2d(4, 320, 3)
    layer.weight = nn.Parameter(conv.clone())
    exchange = WeightExchange({"a": ParameterPlace(layer, "weight")}, {"a": merged})
    exchange.enable()
    widened = torch.zeros(320, 8, 3, 3)
    widened[:, :4] = conv
    assert torch.allclose(layer.weight, widened + 0.7 * change, atol=1e-5)
    exchange.disable()
    assert torch.equal(layer.weight, conv)


def test_every_key_must_land():
    pipeline = shared_pipeline()
    before = snapshot(pipeline)
    method = METHODS["(SDXL) Only Generate Transparent Image (Conv Injection)"]
    state = dict(shared_files()[method.weights])
    state["diffusion_model.input_blocks.77.0.weight::diff::0"] = torch.zeros(4, 4)
    item = injection(method)
    item = type(item)(method, WeightOffsets.from_state_dict(state))
    with pytest.raises(WeightsError, match=r"1 of .* input_blocks\.77\.0\.weight"):
        inject(pipeline, item)
    assert changed(pipeline, before) == []


@pytest.mark.parametrize("method", [OFFSETS[0], SHARING[0]], ids=["offsets", "sharing"])
def test_a_file_made_for_another_unet_is_refused(method):
    pipeline = shared_pipeline(xl=True)
    before = snapshot(pipeline)
    item = type(injection(method))(method, read_layer_weights(method, shared_files()[method.weights]))
    with pytest.raises(WeightsError, match="does not fit the loaded model"):
        inject(pipeline, item)
    assert changed(pipeline, before) == []


def test_a_batch_that_splits_a_picture_is_refused():
    joint = SHARING[-1]
    with pytest.raises(HostError, match="3 frames"):
        inject_unet(shared_pipeline().unet, injection(joint), encode=encode, batch=4)


def test_two_methods_at_once_are_refused():
    pipeline = shared_pipeline()
    plain = run(pipeline)
    with inject(pipeline, injection(OFFSETS[0])), pytest.raises(HostError, match="already"):
        inject(pipeline, injection(SHARING[0]))
    assert torch.equal(run(pipeline), plain)


def test_condition_pictures_of_another_size_are_refused():
    item = injection(OFFSETS[2], conditions=(torch.rand(1, 3, 128, 64),))
    with pytest.raises(HostError, match="another picture size"), inject(shared_pipeline(), item):
        run(shared_pipeline())


@pytest.mark.parametrize("xl", [False, True])
@pytest.mark.parametrize("method", [OFFSETS[0], SHARING[-1]], ids=["one frame", "three frames"])
def test_frame_prompts_replace_the_conditional_rows_of_their_frame_only(method, xl):
    pipeline = shared_pipeline(xl=xl)
    _, context, added = inputs(pipeline)
    frames = method.frame_count
    own = torch.randn(frames, 10, context.shape[2], generator=torch.Generator().manual_seed(9))
    pooled = torch.randn(frames, 32) if xl else None
    item = injection(method, xl=xl)
    with inject(pipeline, item, frame_prompts=PromptEmbedding(own, pooled)):
        result = run(pipeline)
    rows = context.repeat(1, 2, 1)  # 5 and 10 tokens meet at 10
    rows[BATCH:] = own.repeat(BATCH // frames, 1, 1)
    if xl:
        added["text_embeds"][BATCH:] = pooled.repeat(BATCH // frames, 1)
    with inject(pipeline, item):
        sample, _, _ = inputs(pipeline)
        by_hand = pipeline.unet(sample, torch.tensor(500.0), rows, added_cond_kwargs=added).sample
    assert relative_error(result, by_hand) <= 1e-5


def test_positional_arguments_of_the_unet_are_understood():
    pipeline = shared_pipeline()
    sample, context, _ = inputs(pipeline)
    with inject(pipeline, injection(OFFSETS[2])):
        by_position = pipeline.unet(sample, torch.tensor(500.0), context, None).sample
        assert torch.equal(by_position, run(pipeline))


def test_a_failing_exchange_is_rolled_back():
    layers = {name: nn.Linear(2, 2) for name in "abc"}
    before = {name: layer.weight.detach().clone() for name, layer in layers.items()}
    broken = torch.zeros(2, 2, dtype=torch.int64)  # a parameter cannot take another kind of number
    places = {name: ParameterPlace(layer, "weight") for name, layer in layers.items()}
    exchange = WeightExchange(places, {"a": torch.ones(2, 2), "b": torch.ones(2, 2), "c": broken})
    with pytest.raises((RuntimeError, TypeError)):
        exchange.enable()
    assert all(torch.equal(layers[name].weight, before[name]) for name in "abc")


def test_an_exchange_notices_that_the_weights_are_others_now():
    pipeline = tiny_pipeline()
    item = injection(OFFSETS[0])
    exchange = merge_offsets(pipeline.unet, item.weights, 1.0)
    assert exchange.is_current()
    weight = pipeline.unet.down_blocks[0].attentions[0].transformer_blocks[0].attn1.to_q.weight
    weight.data += 1e-3  # as fusing a LoRA does
    assert not exchange.is_current()


def test_quantised_and_offloaded_weights_are_refused_by_name():
    quantised = tiny_pipeline().unet
    quantised.conv_in.weight = nn.Parameter(torch.zeros(16, 4, 3, 3, dtype=torch.int8), requires_grad=False)
    with pytest.raises(ModelError, match="quantised"):
        base_parameters(quantised)
    with pytest.raises(HostError, match="offloaded"):
        base_parameters(tiny_pipeline().unet.to("meta"))


def test_a_method_of_another_family_is_refused():
    host = DiffusersHost(shared_pipeline(), [Family.SD15])
    with pytest.raises(ModelError, match="needs an SDXL model"):
        host.inject(injection(OFFSETS[0]))


class TestOtherChanges:
    """What else may sit in a pipeline stays there and keeps working."""

    @pytest.mark.parametrize("method", [OFFSETS[3], SHARING[2]], ids=["offsets", "sharing"])
    def test_a_lora_stays_in_place_and_counts(self, method):
        peft = pytest.importorskip("peft")
        pipeline = tiny_pipeline()
        item = injection(method)
        with inject(pipeline, item):
            alone = run(pipeline)
        torch.manual_seed(5)
        # Not on conv_in where conditions widen it: a LoRA there knows four channels only.
        targets = ["to_q", "to_v", "to_out.0"] + ([] if method in OFFSETS else ["conv_in"])
        pipeline.unet.add_adapter(peft.LoraConfig(r=2, init_lora_weights=False, target_modules=targets))
        before, plain = snapshot(pipeline), run(pipeline)
        with inject(pipeline, item):
            both = run(pipeline)
        assert relative_error(both, alone) > 1e-3
        assert relative_error(both, plain) > 1e-3
        assert changed(pipeline, before) == []
        assert torch.equal(run(pipeline), plain)
        pipeline.unet.disable_adapters()
        with inject(pipeline, item):
            assert relative_error(run(pipeline), alone) <= 1e-5

    def test_the_image_prompt_of_an_ip_adapter_is_added_to_the_shared_attention(self):
        torch.manual_seed(1)
        attention = Attention(16, 12, heads=2, dim_head=8)
        adapter = IPAdapterAttnProcessor2_0(hidden_size=16, cross_attention_dim=12, num_tokens=(4,), scale=0.6)
        hidden, text, image = torch.randn(2, 9, 16), torch.randn(2, 5, 12), torch.randn(2, 1, 4, 12)
        prompted = adapter(attention, hidden, (text, [image]))
        plain = AttnProcessor2_0()(attention, hidden, text)
        unit = SharingUnit(16, 12, frames=2, rank=2, signal_channels=None)
        for parameter in unit.parameters():
            nn.init.normal_(parameter, std=0.2)
        shared = SharedAttention(unit, SharingRun(), adapter)
        result = shared(attention, hidden, (text, [image]))
        without = shared(attention, hidden, text)
        assert torch.allclose(result - without, prompted - plain, atol=1e-5)
        silent = SharedAttention(unit, SharingRun(weight=0.0), adapter)(attention, hidden, (text, [image]))
        assert torch.allclose(silent, prompted, atol=1e-5)

    def test_processors_of_an_ip_adapter_come_back(self):
        pipeline = tiny_pipeline()
        layer = pipeline.unet.down_blocks[0].attentions[0].transformer_blocks[0].attn2
        adapter = IPAdapterAttnProcessor2_0(hidden_size=16, cross_attention_dim=32)
        layer.set_processor(adapter)
        keys = set(pipeline.unet.state_dict())
        with inject(pipeline, injection(SHARING[0])):
            run(pipeline)
            assert layer.processor is not adapter
        assert layer.processor is adapter
        assert set(pipeline.unet.state_dict()) == keys

    def test_a_processor_that_is_not_known_is_refused(self):
        class Guidance:
            def __call__(self, *_):
                raise AssertionError

        pipeline = tiny_pipeline()
        layer = pipeline.unet.down_blocks[0].attentions[0].transformer_blocks[0].attn1
        layer.set_processor(Guidance())
        with pytest.raises(HostError, match="Guidance"):
            inject(pipeline, injection(SHARING[0]))
        assert isinstance(layer.processor, Guidance)


GOLDEN = [(1, False), (2, False), (3, False), (2, True)]


@pytest.mark.parametrize("cross", [True, False])
@pytest.mark.parametrize(("frames", "control"), GOLDEN)
def test_a_layer_of_diffusers_equals_the_reference(frames, control, cross):
    from lib_layerdiffusion.networks.attention_sharing import ConditionEncoder

    case = f"f{frames}_{'control' if control else 'plain'}_{'cross' if cross else 'self'}"
    salt = f"public/attn/{case}"
    attention = Attention(320, 768 if cross else None, heads=8, dim_head=40)
    attention.load_state_dict(filled(attention, f"{salt}/base"))
    unit = SharingUnit(320, 768 if cross else None, frames=frames, rank=256, signal_channels=256 if control else None)
    weights = filled(unit, f"{salt}/unit")
    unit.load_state_dict({key: value * 0.5 if "_lora" in key else value for key, value in weights.items()})
    signals = {}
    if control:
        encoder = ConditionEncoder()
        encoder.load_state_dict(filled(encoder, "public/attn/condenc"))
        pixels = torch.from_numpy(rgba("public/attn/control", 64, 64)[..., :3] / 255 * 2 - 1).float()
        signals = encoder(pixels.permute(2, 0, 1)[None])
    context = tensor(f"{salt}/context", (2 * frames, 77, 768)) if cross else None
    if context is not None:
        for frame in {0, 1, 2}.intersection(range(frames)) - {1}:
            context[frames + frame] = tensor(f"{salt}/overwrite{frame}", (1, 77, 768))[0]
    attention.processor = SharedAttention(unit, SharingRun(signals=signals), attention.processor)
    result = attention(tensor(f"{salt}/hidden", (2 * frames, 64, 320)), encoder_hidden_states=context)
    assert relative_error(result, expected(f"attention_sharing/{case}")) <= 1e-4
