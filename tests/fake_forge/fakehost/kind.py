"""Which of the hosts this process plays; `kin/*/kin.py` sets it before anything is loaded."""

import sys

name = patcher = unet_patcher = add_lora = None
draws = True
"""Whether the VAE draws its latent; it takes the mean otherwise."""
weak = False
"""Whether the list of loaded models holds patchers weakly."""


def play(host, own_patcher, **more):
    """Play a host whose patchers are of `own_patcher`'s kind."""
    from fakehost.patching import ForUnet

    own_unet = type("UnetPatcher", (ForUnet, own_patcher), {})
    globals().update(name=host, patcher=own_patcher, unet_patcher=own_unet, **more)


def of_backend():
    """Where `backend.*` keeps scales."""
    from fakehost import model

    model.Autoencoder.process_in, model.Autoencoder.process_out = (
        model.Autoencoder.scale_in,
        model.Autoencoder.scale_out,
    )
    model.KModel.predictor = property(lambda own: own.schedule)


def of_ldm_patched():
    """Where `ldm_patched.*` keeps scales, and what its models do not say."""
    from fakehost import model

    factor = model.Autoencoder.factor
    model.KModel.process_latent_in = lambda _, latent: latent * factor
    model.KModel.process_latent_out = lambda _, latent: latent / factor
    model.KModel.model_sampling = property(lambda own: own.schedule)
    model.KModel.manual_cast_dtype = None
    model.KModel.get_dtype = lambda own: own.storage_dtype
    del model.KModel.computation_dtype


def without_hook(hook):
    """A host that never calls scripts back under this name."""
    from modules import scripts

    delattr(scripts.ScriptRunner, hook)
    call = scripts.ScriptRunner.call
    scripts.ScriptRunner.call = lambda own, name, *rest, **more: (
        None if name == hook else call(own, name, *rest, **more)
    )


def without_module(module):
    """A host without this module."""
    __import__(module)
    parent, _, last = module.rpartition(".")
    sys.modules[module] = None
    vars(sys.modules[parent]).pop(last, None)


def without_options(old_signature):
    """Prompts without the guidance that Flux keeps with them."""
    from modules import processing, prompt_parser

    prompt_parser.SdConditioning.__init__ = old_signature
    for name in ("distilled_cfg_scale", "hr_distilled_cfg"):
        delattr(processing.StableDiffusionProcessing, name)
