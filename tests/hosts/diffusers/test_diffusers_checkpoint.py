"""Single-file checkpoints: read without a network, refused by name where they cannot be used."""

from __future__ import annotations

import gzip
import json
import re

import pytest

pytest.importorskip("diffusers")

import torch
from safetensors.torch import save_file

from lib_layerdiffusion.errors import ModelError
from lib_layerdiffusion.hosts.diffusers import ldm_checkpoint, tokenizer
from lib_layerdiffusion.hosts.diffusers.checkpoint import load_pipeline, load_single_file
from lib_layerdiffusion.hosts.diffusers.layouts import LAYOUTS, Layout
from lib_layerdiffusion.hosts.diffusers.prompts import encode_prompts
from lib_layerdiffusion.hosts.diffusers.tiny import UNET, UNET_XL, VAE, text_config, tiny_pipeline
from lib_layerdiffusion.methods import Family
from lib_layerdiffusion.places import clip_merges
from lib_layerdiffusion.unet.ldm_keys import diffusers_to_ldm

RESNET = {"conv_shortcut": "nin_shortcut"}


def ldm_vae(state, levels=4):
    """A VAE's weights under the names of single-file checkpoints, by rules of their own."""
    renamed = {}
    for key, value in state.items():
        name = key.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
        name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
        name = name.replace("mid_block.attentions.0.group_norm", "mid.attn_1.norm")
        name = name.replace("mid_block.attentions.0.to_out.0", "mid.attn_1.proj_out")
        name = re.sub(r"mid_block\.attentions\.0\.to_([qkv])", r"mid.attn_1.\1", name)
        name = re.sub(r"down_blocks\.(\d+)\.resnets", r"down.\1.block", name)
        name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", name)
        name = re.sub(r"up_blocks\.(\d+)\.resnets", lambda m: f"up.{levels - 1 - int(m[1])}.block", name)
        name = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{levels - 1 - int(m[1])}.upsample", name)
        is_projection = "mid.attn_1." in name and name.endswith("weight") and "norm" not in name
        renamed[f"first_stage_model.{name}"] = value[..., None, None] if is_projection else value
    return renamed


def hugging_face_text(state):
    """Text weights with the prefix that checkpoints have, whatever this version of transformers calls them."""
    return {
        key if key.startswith(("text_model", "text_projection")) else f"text_model.{key}": v for key, v in state.items()
    }


def open_clip(state):
    """A text encoder's weights under OpenCLIP's names."""
    source, renamed = hugging_face_text(state), {}
    layers = {int(m[1]) for key in source if (m := re.search(r"layers\.(\d+)\.", key))}
    for layer in layers:
        root, target = f"text_model.encoder.layers.{layer}.", f"transformer.resblocks.{layer}."
        for kind in ("weight", "bias"):
            parts = [source.pop(f"{root}self_attn.{name}_proj.{kind}") for name in "qkv"]
            renamed[f"{target}attn.in_proj_{kind}"] = torch.cat(parts)
            for theirs, ours in {"self_attn.out_proj": "attn.out_proj", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
                                 "layer_norm1": "ln_1", "layer_norm2": "ln_2"}.items():  # fmt: skip
                renamed[f"{target}{ours}.{kind}"] = source.pop(f"{root}{theirs}.{kind}")
    renamed["token_embedding.weight"] = source.pop("text_model.embeddings.token_embedding.weight")
    renamed["positional_embedding"] = source.pop("text_model.embeddings.position_embedding.weight")
    renamed["text_projection"] = source.pop("text_projection.weight").t()
    for kind in ("weight", "bias"):
        renamed[f"ln_final.{kind}"] = source.pop(f"text_model.final_layer_norm.{kind}")
    assert not [key for key in source if not key.endswith("position_ids")]
    return renamed | {"logit_scale": torch.ones(())}


def single_file(pipeline, *, xl):
    """The whole pipeline as the tensors of a single-file checkpoint."""
    names = diffusers_to_ldm(pipeline.unet.config)
    tensors = {f"model.diffusion_model.{names[key]}": value for key, value in pipeline.unet.state_dict().items()}
    tensors |= ldm_vae(pipeline.vae.state_dict())
    prefix = "conditioner.embedders.0.transformer." if xl else "cond_stage_model.transformer."
    tensors |= {prefix + key: value for key, value in hugging_face_text(pipeline.text_encoder.state_dict()).items()}
    if xl:
        second = open_clip(pipeline.text_encoder_2.state_dict())
        tensors |= {f"conditioner.embedders.1.model.{key}": value for key, value in second.items()}
    tensors["model_ema.decay"] = torch.ones(1)
    return {key: value.contiguous().clone() for key, value in tensors.items()}


@pytest.fixture(scope="module", params=[False, True], ids=["SD1.5", "SDXL"])
def saved(request, tmp_path_factory):
    """A pipeline, its single file, its layout, and a folder with its tokenizer."""
    folder, xl = tmp_path_factory.mktemp("checkpoint"), request.param
    pipeline = tiny_pipeline(xl=xl, seed=4)
    save_file(single_file(pipeline, xl=xl), folder / "tiny.safetensors")
    pipeline.tokenizer.save_pretrained(folder)
    if not (folder / "vocab.json").is_file():  # newer releases keep everything in one file
        content = json.loads((folder / "tokenizer.json").read_text())["model"]
        (folder / "vocab.json").write_text(json.dumps(content["vocab"]))
        (folder / "merges.txt").write_text("#version: 0.2\n")
    text = text_config(pipeline.tokenizer)
    family = Family.SDXL if xl else Family.SD15
    count = 2 if xl else 1
    layout = Layout(family, UNET_XL if xl else UNET, VAE, (text,) * count, ("<|endoftext|>",) * count)
    return pipeline, folder, layout


@torch.no_grad()
def test_a_single_file_gives_the_pipeline_that_it_was_made_of(saved):
    original, folder, layout = saved
    loaded = load_single_file(folder / "tiny.safetensors", layout=layout, tokenizer=folder)
    assert type(loaded) is type(original)
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
        if getattr(original, part, None) is None:
            continue
        ours, theirs = getattr(loaded, part).state_dict(), getattr(original, part).state_dict()
        assert ours.keys() == theirs.keys()
        assert [key for key in theirs if not torch.equal(ours[key], theirs[key])] == []
        assert not any(
            tensor.is_meta for tensor in [*getattr(loaded, part).buffers(), *getattr(loaded, part).parameters()]
        )
    for one, other in zip(
        encode_prompts(loaded, ["an apple", ""]), encode_prompts(original, ["an apple", ""]), strict=True
    ):
        assert torch.equal(one.context, other.context)
        assert (one.pooled is None and other.pooled is None) or torch.equal(one.pooled, other.pooled)


def test_a_missing_weight_is_named(saved, tmp_path):
    original, folder, layout = saved
    tensors = single_file(original, xl=layout.family is Family.SDXL)
    del tensors["first_stage_model.decoder.mid.attn_1.q.weight"]
    save_file(tensors, tmp_path / "cut.safetensors")
    with pytest.raises(ModelError, match=r"lacks 1 of .*decoder\.mid_block\.attentions\.0\.to_q\.weight"):
        load_single_file(tmp_path / "cut.safetensors", layout=layout, tokenizer=folder)


def test_a_truncated_file_is_refused(saved, tmp_path):
    _, folder, _ = saved
    content = (folder / "tiny.safetensors").read_bytes()
    (tmp_path / "short.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError, match="damaged"):
        load_pipeline(tmp_path / "short.safetensors")


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("old.ckpt", b"\x80\x02", "not a .safetensors file"),
        ("text.safetensors", b"hello", "damaged or no safetensors"),
        ("empty.safetensors", b"", "damaged or no safetensors"),
    ],
)
def test_what_is_no_checkpoint_is_refused(tmp_path, name, content, match):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=match):
        load_pipeline(tmp_path / name)


def test_a_place_without_a_model_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"no model_index\.json"):
        load_pipeline(tmp_path)
    with pytest.raises(ModelError, match="There is no checkpoint"):
        load_pipeline(tmp_path / "nothing.safetensors")


@pytest.fixture
def offline(monkeypatch):
    """The hub's client without network; its sessions, made here and now, know nothing else and must not outlive it."""
    from huggingface_hub import utils

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    yield
    # Renamed in huggingface_hub 1.0.
    forget = getattr(utils, "reset_sessions", None) or utils.close_session
    forget()


@pytest.mark.usefixtures("offline")
def test_a_hub_that_cannot_be_reached_is_one_sentence():
    with pytest.raises(ModelError, match=r'^"nobody/nothing" cannot be loaded: check its name and the connection'):
        load_pipeline("nobody/nothing")


FIRST = "model.diffusion_model.input_blocks.0.0.weight"
CROSS = "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"


@pytest.mark.parametrize(
    ("shapes", "match"),
    [
        ({FIRST: (320, 4, 3, 3), CROSS: (640, 1024)}, "Stable Diffusion 2"),
        ({FIRST: (384, 4, 3, 3), CROSS: (768, 1280)}, "SDXL refiner"),
        ({FIRST: (320, 9, 3, 3), CROSS: (640, 768)}, "inpainting"),
        ({"model.diffusion_model.double_blocks.0.img_attn.qkv.weight": (9, 9)}, "Flux"),
        ({"model.diffusion_model.joint_blocks.0.x": (9,)}, "Stable Diffusion 3"),
        ({"lora_unet_down_blocks.lora_up.weight": (9, 9)}, "a LoRA"),
        ({"hookers.layers.0.to_q_lora.0.up.weight": (9, 9)}, "a layer file"),
        ({"x": (1,)}, "no Stable Diffusion checkpoint"),
    ],
)
def test_other_models_are_refused_by_name(shapes, match):
    with pytest.raises(ModelError, match=match):
        ldm_checkpoint.family_of(shapes)


def test_the_family_is_read_from_shapes():
    assert ldm_checkpoint.family_of({FIRST: (320, 4, 3, 3), CROSS: (640, 768)}) is Family.SD15
    assert ldm_checkpoint.family_of({FIRST: (320, 4, 3, 3), CROSS: (640, 2048)}) is Family.SDXL


@pytest.mark.parametrize(("family", "parameters"), [(Family.SD15, 859_520_964), (Family.SDXL, 2_567_463_684)])
def test_built_in_configurations_are_those_of_the_real_models(family, parameters):
    from diffusers import AutoencoderKL, UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(LAYOUTS[family].unet)
        vae = AutoencoderKL.from_config(LAYOUTS[family].vae)
    assert sum(parameter.numel() for parameter in unet.parameters()) == parameters
    assert sum(parameter.numel() for parameter in vae.parameters()) == 83_653_863
    assert set(diffusers_to_ldm(unet.config)) == set(unet.state_dict())


@pytest.mark.parametrize(("index", "parameters"), [(0, 123_060_480), (1, 694_659_840)])
def test_built_in_text_encoders_are_those_of_the_real_models(index, parameters):
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    with torch.device("meta"):
        kind = (CLIPTextModel, CLIPTextModelWithProjection)[index]
        model = kind(CLIPTextConfig(**LAYOUTS[Family.SDXL].text[index]))
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_the_vocabulary_is_made_from_clips_merge_list(tmp_path):
    letters = tokenizer.byte_characters()
    merges = dict.fromkeys(
        ["a p", "p l", "ap pl", "appl e</w>", *(f"{one} {two}" for one in letters for two in letters)]
    )
    (tmp_path / "merges.gz").write_bytes(gzip.compress("\n".join(["#version", *merges]).encode()))
    tokenizer.write_clip_vocabulary(tmp_path / "merges.gz", tmp_path)
    made = tokenizer.clip_tokenizer("!", tmp_path)
    assert len(made) == 49408
    assert made("apple").input_ids == [49406, 512 + 3, 49407]
    assert (made.pad_token_id, made.bos_token_id, made.eos_token_id) == (0, 49406, 49407)


def test_the_real_vocabulary_where_it_is_installed():
    if clip_merges() is None:
        pytest.skip("no package with CLIP's vocabulary is installed")
    made = tokenizer.clip_tokenizer("<|endoftext|>")
    assert made("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]


def test_a_missing_vocabulary_is_said(monkeypatch):
    monkeypatch.setattr("lib_layerdiffusion.places._CLIP_PACKAGES", ())
    with pytest.raises(ModelError, match="pip install openai-clip"):
        tokenizer.clip_tokenizer("!")
