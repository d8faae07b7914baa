import sys
from pathlib import Path
from types import SimpleNamespace

from PIL import Image, PngImagePlugin

from modules import shared


def flatten(image, colour):
    if image.mode == "RGBA":
        ground = Image.new("RGBA", image.size, colour)
        ground.alpha_composite(image)
        image = ground
    return image.convert("RGB")


def resize_image(mode, image, width, height, upscaler_name=None, force_RGBA=False):  # noqa: N803
    """0: stretch, 1: cover and crop, 2: fit and leave the rest black."""
    image = image.convert("RGBA" if force_RGBA else "RGB")
    if mode == 0:
        return image.resize((width, height))
    choose = max if mode == 1 else min
    scale = choose(width / image.width, height / image.height)
    scaled = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    result = Image.new(image.mode, (width, height))
    result.paste(scaled, ((width - scaled.width) // 2, (height - scaled.height) // 2))
    return result


def save_image(image, path, basename, seed=None, prompt=None, extension="png", info=None, p=None, **_):
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{len(list(folder.iterdir())):05}-{seed}.{extension}"
    params = SimpleNamespace(image=image, filename=str(target), pnginfo={"parameters": info})
    stealth = sys.modules.get("modules.stealth_infotext")  # not every host has it
    if stealth is not None:
        stealth.add_stealth_pnginfo(params)
    image = params.image
    if extension == "png":
        chunks = PngImagePlugin.PngInfo()
        chunks.add_text("parameters", str(info))
        image.save(target, pnginfo=chunks)
    else:
        image.convert("RGB").save(target)
    image.already_saved_as = str(target)
    shared.state.last_saved = str(target)
    return str(target), None
