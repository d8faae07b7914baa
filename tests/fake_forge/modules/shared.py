from types import SimpleNamespace

cmd_opts = SimpleNamespace(layerdiffusion_models_dir=None)
opts = SimpleNamespace(
    samples_format="png",
    stealth_pnginfo_option="Alpha",
    overlay_inpaint=True,
    use_old_scheduling=False,
    img2img_background_color="#ffffff",
    enable_pnginfo=True,
    save_dir=None,
    jpeg_quality=80,
    webp_lossless=False,
    fake_grid_mode="RGBA",
)
state = SimpleNamespace(interrupted=False, textinfo=None, sampling_step=0)
sd_model = None
loras = {}
