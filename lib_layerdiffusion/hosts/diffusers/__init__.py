"""The diffusers host: Stable Diffusion 1.5 and XL pipelines, on the command line, in Python and on the web page."""

from lib_layerdiffusion.hosts.diffusers.checkpoint import load_pipeline
from lib_layerdiffusion.hosts.diffusers.host import DiffusersHost
from lib_layerdiffusion.hosts.diffusers.samplers import SAMPLER_NAMES, make_scheduler
from lib_layerdiffusion.hosts.diffusers.unet import UNetHandle, inject_unet

__all__ = ["SAMPLER_NAMES", "DiffusersHost", "UNetHandle", "inject_unet", "load_pipeline", "make_scheduler"]
