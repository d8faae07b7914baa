from modules import shared


def add_stealth_pnginfo(params):
    """Hides the infotext in the lowest bits; "Alpha" makes the picture opaque to that end, in place."""
    mode = shared.opts.stealth_pnginfo_option
    if mode == "None" or not params.filename.endswith(".png"):
        return
    if mode == "Alpha":
        params.image.putalpha(255)
        params.image.putpixel((0, 0), (*params.image.getpixel((0, 0))[:3], 254))
    else:
        red, green, blue = params.image.getpixel((0, 0))
        params.image.putpixel((0, 0), (red & ~1, green, blue))
