"""Everything that touches Stable Diffusion WebUI Forge.

`run` follows one call of the host's `process_images` through its hooks; `unet` patches the UNet; `init_images` hides
alpha in the latents of image-to-image; `models` keeps networks; `saving` sees to alpha on disk; `control` stops a run.
"""
