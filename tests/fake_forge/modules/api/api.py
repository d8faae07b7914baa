"""How the API answers with pictures: in the format that is chosen for files."""

import base64
import io

from fastapi import HTTPException

from modules import shared


def encode_pil_to_base64(image):
    chosen = shared.opts.samples_format.lower()
    if chosen not in ("png", "jpg", "jpeg", "webp"):
        raise HTTPException(status_code=500, detail="Invalid image format")
    if chosen != "png" and image.mode in ("RGBA", "P"):
        image = image.convert("RGB")
    output = io.BytesIO()
    image.save(output, format={"png": "PNG", "webp": "WEBP"}.get(chosen, "JPEG"))
    return base64.b64encode(output.getvalue())
