import sys
from pathlib import Path
from types import SimpleNamespace

from PIL import Image, PngImagePlugin

from modules import shared

USER_COMMENT = 0x9286


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


def image_grid(imgs, batch_size=1, rows=None):
    rows = rows or batch_size
    columns = -(-len(imgs) // rows)
    width, height = (max(image.size[axis] for image in imgs) for axis in (0, 1))
    grid = Image.new(shared.opts.fake_grid_mode, (columns * width, rows * height))
    for number, image in enumerate(imgs):
        grid.paste(image, (number % columns * width, number // columns * height))
    return grid


def draw_grid_annotations(im, width, height, hor_texts, ver_texts, margin=0):
    result = Image.new("RGB", (im.width, im.height + 20), "white")
    result.paste(im.crop((0, 0, im.width, im.height)), (0, 20))
    return result


def read_info_from_image(image):
    items = dict(image.info)
    text = items.pop("parameters", None)
    if text is None and "exif" in items:
        text = image.getexif().get(USER_COMMENT)
    return text, items


def save_image_with_geninfo(
    image, geninfo, filename, extension=None, existing_pnginfo=None, pnginfo_section_name="parameters"
):
    kind = Image.registered_extensions()[extension]
    if extension == ".png":
        chunks = PngImagePlugin.PngInfo()
        for key, value in {**(existing_pnginfo or {}), pnginfo_section_name: geninfo}.items():
            chunks.add_text(key, str(value))
        image.save(filename, format=kind, pnginfo=chunks)
        return
    exif = Image.Exif()
    exif[USER_COMMENT] = geninfo
    if extension in (".jpg", ".webp"):
        image = image.convert("RGB")
    image.save(filename, format=kind, quality=shared.opts.jpeg_quality, exif=exif)


def save_image(image, path, basename, seed=None, prompt=None, extension="png", info=None, **given):
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{len(list(folder.iterdir())):05}-{seed}.{extension}"
    params = SimpleNamespace(image=image, filename=str(target), pnginfo={"parameters": info})
    stealth = sys.modules.get("modules.stealth_infotext")  # not every host has it
    if stealth is not None and extension == "png":
        stealth.add_stealth_pnginfo(params)
    image = params.image
    unfinished = folder.parent / "unfinished.tmp"
    section = given.get("pnginfo_section_name", "parameters")
    more = {"existing_pnginfo": given.get("existing_info"), "pnginfo_section_name": section}
    save_image_with_geninfo(image, info, unfinished, f".{extension}", **more)
    unfinished.replace(target)
    image.already_saved_as = str(target)
    shared.state.last_saved = str(target)
    return str(target), None
