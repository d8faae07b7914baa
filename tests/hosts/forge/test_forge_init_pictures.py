"""Image-to-image and inpainting of pictures with alpha."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

TRANSPARENT = "(SD1.5) Only Generate Transparent Image (Attention Injection)"


def square(side, box):
    mask = Image.new("L", (side, side), 0)
    ImageDraw.Draw(mask).rectangle(box, fill=255)
    return mask


def test_every_init_picture_is_used(forge, ask, rgba):
    """Fault 9."""
    arguments, side = ask(TRANSPARENT, preview=False), forge.side
    first, second = rgba(side, 1), rgba(side, 8)
    both = forge.run(arguments, img2img=True, init_images=[first, second], batch_size=2, denoising_strength=0.5)
    same = forge.run(arguments, img2img=True, init_images=[first, first], batch_size=2, denoising_strength=0.5)
    assert np.array_equal(both.array(0), same.array(0))
    assert not np.array_equal(both.array(1), same.array(1))


def test_every_init_picture_brings_its_own_alpha(fake, ask):
    """Fault 9: the pictures differ in nothing that the VAE sees but in their alpha."""
    arguments, size = ask(TRANSPARENT, preview=False), (fake.side, fake.side)
    black = Image.new("RGBA", size, (127, 127, 127, 255))
    clear = Image.new("RGBA", size, (127, 127, 127, 0))
    both = fake.run(arguments, img2img=True, init_images=[black, clear], batch_size=2, denoising_strength=0.5)
    same = fake.run(arguments, img2img=True, init_images=[black, black], batch_size=2, denoising_strength=0.5)
    assert not np.array_equal(both.array(1), same.array(1))


def test_a_picture_without_alpha_is_an_opaque_one(forge, ask, rgb):
    """Fault 10: the offset was skipped for RGB init pictures."""
    arguments, picture = ask(TRANSPARENT), rgb(forge.side)
    plain = forge.run(arguments, img2img=True, init_images=[picture], denoising_strength=0.5)
    opaque = forge.run(arguments, img2img=True, init_images=[picture.convert("RGBA")], denoising_strength=0.5)
    assert plain.same_as(opaque)


def test_alpha_goes_into_the_latent(forge, ask, rgba):
    arguments, picture = ask(TRANSPARENT), rgba(forge.side)
    solid = picture.copy()
    solid.putalpha(255)
    soft = forge.run(arguments, img2img=True, init_images=[picture], denoising_strength=0.5)
    opaque = forge.run(arguments, img2img=True, init_images=[solid], denoising_strength=0.5)
    assert not soft.same_as(opaque)


def test_only_masked_keeps_everything_else(forge, ask, rgba):
    """Fault 17: a cropped latent was paired with full-size pixels."""
    side = 2 * forge.side
    picture, mask = rgba(side), square(side, (side // 4, side // 4, side // 2, side // 2))
    body = {"init_images": [picture], "mask": mask, "inpaint_full_res": True, "denoising_strength": 0.75}
    result = forge.run(ask(TRANSPARENT), img2img=True, **body)
    assert result.error is None
    assert result.images[0].size == picture.size
    assert result.images[0].mode == "RGBA"
    outside = np.asarray(mask) == 0
    assert np.array_equal(result.array()[outside], np.asarray(picture)[outside])
    assert not np.array_equal(result.array(), np.asarray(picture))


def test_whole_picture_inpainting_keeps_alpha_outside_the_mask(forge, ask, rgba):
    side = forge.side
    picture, mask = rgba(side), square(side, (8, 8, side // 2, side // 2))
    body = {"init_images": [picture], "mask": mask, "inpaint_full_res": False, "denoising_strength": 0.75}
    result = forge.run(ask(TRANSPARENT), img2img=True, **body)
    assert result.error is None
    # The host blurs the edge of a mask that covers the whole picture; further out nothing may change.
    far = np.ones((side, side), bool)
    far[: side // 2 + 8, : side // 2 + 8] = False
    assert np.array_equal(result.array()[far], np.asarray(picture)[far])


def test_sizes_that_the_host_resizes(forge, ask, rgba):
    for mode in (0, 1, 2):
        result = forge.run(
            ask(TRANSPARENT), img2img=True, init_images=[rgba(100)], resize_mode=mode, denoising_strength=0.5
        )
        assert result.error is None
        assert result.images[0].size == (forge.side, forge.side)


def test_frames_share_one_init_picture(forge, ask, rgba):
    method = "(SD1.5) Generate Everything Together (need batch size 3)"
    result = forge.run(ask(method), img2img=True, init_images=[rgba(forge.side)], batch_size=3, denoising_strength=0.5)
    assert [image.mode for image in result.images] == ["RGBA", "RGB", "RGB", "RGB"]
