"""Runs and their pictures as the answers have them."""

from __future__ import annotations

import io
import zipfile
from dataclasses import asdict

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from lib_layerdiffusion.engine.results import LayerPicture
from lib_layerdiffusion.images.files import INFOTEXT_KEY
from lib_layerdiffusion.images.layerfile import writable_endings
from lib_layerdiffusion.methods import Layer
from lib_layerdiffusion.server.faults import MissingError
from lib_layerdiffusion.server.jobs import Board, Job, State
from lib_layerdiffusion.server.routes import PREFIX

_PARTS = {"preview": "previews", "origin": "origins", "rgb": "colours", "mask": "masks"}


def job_view(job: Job, board: Board, unknown: tuple[str, ...] = ()) -> dict[str, object]:
    """A run as JSON. unknown: words of its prompts that the model does not know."""
    result, asked = job.result, job.asked
    limit = board.limits.kept_seconds
    pictures = [_picture_view(job, index) for index in range(len(result.images))] if result else []
    return {
        "id": job.id,
        "kind": "generate" if asked.kind == "generate" else "chain",
        "client": asked.client or None,
        "state": job.state.value,
        "position": board.position(job),
        "created": job.created,
        "started": job.started,
        "ended": job.ended,
        "expires": None if job.ended is None else job.ended + limit,
        "progress": _progress(job),
        "request": dict(asked.request),
        "method": asked.method.label,
        "seed": str(asked.seed),
        "error": job.error,
        "field": job.fault,
        "notes": list(result.notes) if result else [],
        "unknown_words": list(unknown),
        "seconds": {stage: round(seconds, 3) for stage, seconds in result.timings.items()} if result else {},
        "infotext": result.images[0].infotext if result else "",
        "pictures": pictures,
        "zip": f"{PREFIX}/jobs/{job.id}/files.zip" if result else None,
    }


def _progress(job: Job) -> dict[str, object]:
    standing = asdict(job.standing)
    if job.state is State.QUEUED:
        standing |= {"stage": "waiting", "fraction": 0.0}
    elif job.state.is_final:
        standing |= {"stage": "finishing", "seconds_left": 0.0}
        if job.state is State.DONE:
            standing |= {"done": standing["total"], "fraction": 1.0}
    return standing


def _picture_view(job: Job, index: int) -> dict[str, object]:
    image = job.picture(index)
    made = job.asked.method
    given = {"extract_foreground": Layer.BACKGROUND, "extract_background": Layer.FOREGROUND}.get(job.asked.kind)
    base = f"{PREFIX}/pictures/{job.id}-{index}"
    layers = [
        {
            "layer": str(layer),
            "alpha": picture.mode == "RGBA",
            "given": layer is given,
            "width": picture.width,
            "height": picture.height,
            "name": f"{job.id}-{index}-{layer}",
            "url": f"{base}-{layer}",
            "preview": f"{base}-{layer}-preview" if layer in image.previews else None,
            "origin": f"{base}-{layer}-origin" if layer in image.origins else None,
            "rgb": f"{base}-{layer}-rgb" if layer in image.colours else None,
            "mask": f"{base}-{layer}-mask" if layer in image.masks else None,
        }
        for layer, picture in _ordered(image)
    ]
    files = {ending.removeprefix("."): f"{PREFIX}/jobs/{job.id}/{index}{ending}" for ending in writable_endings()}
    told = {"index": index, "seed": str(image.seed), "infotext": image.infotext, "notes": list(image.notes)}
    return {**told, "method": made.label, "layers": layers, "files": files}


def _ordered(image: LayerPicture) -> list[tuple[Layer, Image.Image]]:
    """Layers as people look at them: what was asked for first, the foreground before what lies behind."""
    return [(layer, image.layers[layer]) for layer in Layer if layer in image.layers]


def layer_image(job: Job, index: int, what: str) -> Image.Image:
    """A picture by its name's last part: "foreground", "foreground-preview", "foreground-mask".

    Raises:
        MissingError: the run has none of that name.
    """
    name, _, part = what.partition("-")
    image = job.picture(index)
    found = getattr(image, _PARTS[part]) if part in _PARTS else image.layers
    if name not in list(Layer) or Layer(name) not in found:
        raise MissingError(f'This picture has no "{what[:40]}".')
    return found[Layer(name)]


def png_of(image: Image.Image, infotext: str = "") -> bytes:
    """A PNG with an infotext where there is one."""
    information = PngInfo()
    if infotext:
        information.add_text(INFOTEXT_KEY, infotext)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", pnginfo=information, compress_level=4)
    return buffer.getvalue()


def stem_of(job: Job, index: int) -> str:
    """File name without its ending of a picture."""
    return f"{job.asked.method.name}-{job.picture(index).seed}"


def zip_of(job: Job) -> bytes:
    """All layers of all pictures as PNG with their infotext."""
    if job.result is None:
        raise MissingError("This run has no pictures: it is not done.")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:  # PNGs are packed already
        for index, image in enumerate(job.result.images):
            for layer, picture in _ordered(image):
                name = f"{stem_of(job, index)}-{layer}.png" if len(image.layers) > 1 else f"{stem_of(job, index)}.png"
                archive.writestr(name, png_of(picture, image.infotext))
    return buffer.getvalue()


def layer_file_of(job: Job, index: int, ending: str) -> bytes:
    """The layers of one picture as an .ora or .psd file.

    Raises:
        LayerDiffusionError: the run has none, or this machine cannot write such files.
    """
    job.picture(index)
    if job.result is None:
        raise MissingError("This run has no pictures: it is not done.")
    return job.result.layer_file(ending, index)
