"""What of a host LayerDiffusion touches, and what is off where something of it is missing.

It imports no host, so that an installation can be read without starting it; `lacking` looks at a running one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec

from lib_layerdiffusion.errors import HostError

NAME = "LayerDiffusion"
ESSENTIAL = (
    "modules.scripts:Script",
    "modules.scripts:AlwaysVisible",
    "modules.scripts:ScriptRunner.process_before_every_sampling",
    "modules.scripts:ScriptRunner.post_sample",
    "modules.scripts:ScriptRunner.postprocess_batch",
    "modules.scripts:ScriptRunner.postprocess_image_after_composite",
    "modules.script_callbacks:add_callback",
    "modules.script_callbacks:callback_map",
    "modules.ui_components:InputAccordion",
    "modules.processing:Processed.js",
    "modules.paths:models_path",
    "modules.shared:opts",
    "modules.shared:state",
    "modules.shared:cmd_opts",
)
"""Without these nothing works, whatever the backend. Each is module:attribute, which may be dotted."""
BACKENDS = {
    "backend": (
        "backend.memory_management:load_models_gpu",
        "backend.memory_management:current_loaded_models",
        "backend.memory_management:get_torch_device",
        "backend.memory_management:unet_offload_device",
        "backend.memory_management:get_free_memory",
        "backend.memory_management:should_use_fp16",
        "backend.patcher.base:ModelPatcher.add_object_patch",
        "backend.patcher.base:ModelPatcher.add_patches",
        "backend.patcher.unet:UnetPatcher.add_conditioning_modifier",
        "backend.patcher.unet:UnetPatcher.add_extra_model_patcher_during_sampling",
        "backend.attention:attention_function",
        "backend.sampling.condition:Condition",
        "backend.sampling.condition:compile_weighted_conditions",
    ),
    "ldm_patched": (
        "ldm_patched.modules.model_management:load_models_gpu",
        "ldm_patched.modules.model_management:current_loaded_models",
        "ldm_patched.modules.model_management:get_torch_device",
        "ldm_patched.modules.model_management:unet_offload_device",
        "ldm_patched.modules.model_management:get_free_memory",
        "ldm_patched.modules.model_management:should_use_fp16",
        "ldm_patched.modules.model_patcher:ModelPatcher.add_object_patch",
        "ldm_patched.modules.model_patcher:ModelPatcher.add_patches",
        "modules_forge.unet_patcher:UnetPatcher.add_conditioning_modifier",
        "modules_forge.unet_patcher:UnetPatcher.add_extra_model_patcher_during_sampling",
        "ldm_patched.ldm.modules.attention:optimized_attention",
        "ldm_patched.modules.conds:CONDRegular",
        "modules_forge.forge_sampler:cond_from_a1111_to_patched_ldm_weighted",
    ),
}
"""A host has one of these packages; what of it is needed."""

MODULES = ("modules.extra_networks", "modules.images", "modules.prompt_parser", "modules.sd_samplers")
"""What the first run imports whole: that it is there is looked at when the host starts."""


@dataclass(frozen=True)
class Feature:
    """Something that can be off while everything else works. what: as it stands in a sentence."""

    what: str
    names: tuple[str, ...]


INIT_PICTURES = Feature("img2img with alpha", ("modules.images:resize_image",))
OTHER_FORMATS = Feature(
    "alpha in other formats than PNG", ("modules.images:save_image", "modules.images:save_image_with_geninfo")
)
LAYER_PROMPTS = Feature(
    "prompts of single layers",
    (
        "modules.prompt_parser:get_multicond_learned_conditioning",
        "modules.prompt_parser:reconstruct_multicond_batch",
        "modules.prompt_parser:SdConditioning",
        "modules.extra_networks:parse_prompt",
        "modules.sd_samplers:find_sampler_config",
    ),
)
SETTINGS_PAGE = Feature(
    "the section of the settings page", ("modules.options:OptionInfo", "modules.options:options_section")
)
CHECKPOINTS = Feature("following the menu of checkpoints", ("modules.sd_models:get_closet_checkpoint_match",))
ROUTES = Feature("the routes beside the host's API", ("modules.call_queue:queue_lock",))
FEATURES = (INIT_PICTURES, OTHER_FORMATS, LAYER_PROMPTS, SETTINGS_PAGE, CHECKPOINTS, ROUTES)

Lacks = Callable[[Iterable[str]], list[str]]
"""Gives those of the names that a host has not."""


def lacking(names: Iterable[str]) -> list[str]:
    """Those of the names that the running host has not."""
    return [name for name in names if not _is_there(name)]


def _is_there(name: str) -> bool:
    module, _, path = name.partition(":")
    try:
        found = import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError):
        return False
    return True


def unusable(lacks: Lacks = lacking, packages: Iterable[str] | None = None) -> str:
    """One sentence that says why nothing can work here, "" where it can. packages: top-level ones of the host."""
    found = [name for name in BACKENDS if (find_spec(name) is not None if packages is None else name in packages)]
    if not found:
        return f"{NAME} is off: it needs Forge, Forge Neo, reForge or Forge classic, and this host is none of them."
    lost = lacks((*ESSENTIAL, *BACKENDS[found[0]]))
    return f"{NAME} is off: this host has no {_listed(lost)}; update the host or the extension." if lost else ""


@cache
def lost() -> dict[Feature, str]:
    """What is off in the running host, each with what is missing for it."""
    found = {feature: lacking(feature.names) for feature in FEATURES}
    return {feature: _listed(names) for feature, names in found.items() if names}


def line() -> str:
    """One sentence about everything that is off, "" where nothing is."""
    if not lost():
        return ""
    parts = "; ".join(f"{feature.what} (no {names})" for feature, names in lost().items())
    return f"This host lacks something, so these are off: {parts}. Everything else works."


def require(feature: Feature) -> None:
    """Make sure that a feature is there before it is used.

    Raises:
        HostError: it is off in this host.
    """
    if feature in lost():
        raise HostError(f"This host has no {lost()[feature]}, so {feature.what} cannot work here: update the host.")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(name.replace(":", ".") for name in names)
