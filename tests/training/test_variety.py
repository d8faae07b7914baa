"""Many pictures of a subject: what is asked for is what is shown, and nothing leaves the frame."""

import numpy as np
import pytest
import torch

from lib_layerdiffusion.errors import InputError
from lib_layerdiffusion.training.data import IconSet
from lib_layerdiffusion.training.matter import MATTER, MATTER_NAMES
from lib_layerdiffusion.training.pools import draw, hair_pool, scene_pool, soft_pool
from lib_layerdiffusion.training.text import vocabulary
from lib_layerdiffusion.training.variety import (
    HUES,
    depictions,
    moved,
    own_hue,
    recoloured,
    without_colour,
)
from lib_layerdiffusion.transparency import VIEWS, turned

SIZE = 64


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def disc(colour, size=SIZE):
    line = torch.linspace(-1, 1, size)
    alpha = ((0.7 - torch.hypot(line[:, None], line[None])) * size / 2).clamp(0, 1)
    return torch.cat([torch.tensor(colour)[:, None, None].expand(3, size, size), alpha[None]])


RED, GREY = (0.9, 0.1, 0.15), (0.5, 0.5, 0.5)


def icons(*rows):
    """Icons of (name, style, colour)."""
    rgba = torch.stack([(disc(colour) * 255).round().byte() for _, _, colour in rows]).permute(0, 2, 3, 1).numpy()
    return IconSet(np.ascontiguousarray(rgba), tuple(row[0] for row in rows), tuple(row[1] for row in rows))


def test_a_hue_is_found_and_turned_while_alpha_and_light_stay():
    red = disc(RED)
    assert abs((own_hue(red) + 180) % 360 - 180) <= 10
    assert own_hue(disc(GREY)) is None
    two = red.clone()
    two[:3, :, : SIZE // 2] = torch.tensor((0.1, 0.2, 0.9))[:, None, None]
    assert own_hue(two) is None
    blue = recoloured(red, own_hue(red), HUES["blue"])
    inside = blue[:3, SIZE // 2, SIZE // 2]
    assert inside[2] > inside[0] + 0.4
    assert torch.equal(blue[3], red[3])
    assert blue[:3].amax(0).allclose(red[:3].amax(0), atol=1e-3)


def test_only_what_has_the_hue_is_recoloured():
    picture = disc(RED)
    picture[:3, :8] = torch.tensor((0.1, 0.8, 0.2))[:, None, None]
    blue = recoloured(picture, 355, HUES["blue"])
    assert torch.allclose(blue[:3, :8], picture[:3, :8], atol=1e-3)


def test_moved_pictures_keep_their_colour_and_stay_inside():
    for seed in range(12):
        made = moved(disc(RED), generator(seed))
        alpha = made[3]
        assert torch.cat([alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1]]).max() == 0
        assert 0.3 < alpha.sum() / disc(RED)[3].sum() < 1.1
        assert torch.allclose(made[:3], disc(RED)[:3], atol=1e-5)
    assert not torch.equal(moved(disc(RED), generator(1)), moved(disc(RED), generator(2)))


def test_words_say_what_a_picture_shows():
    data = icons(("red-apple", "3d", RED), ("red-apple", "flat", RED), ("stone", "3d", GREY), ("stone", "flat", GREY))
    made = depictions(data, ("red-apple", "stone"), each=40)
    assert len(made) == 40 * (2 + len(MATTER))
    apples, stones = made.words[:40], made.words[40:80]
    assert apples[0] == "red apple"
    assert torch.equal(made.rgba[0], (disc(RED) * 255).round().byte())
    assert "blue apple" in apples
    assert not any("red" in words and words not in ("red apple", "flat red apple") for words in apples)
    assert set(stones) == {"stone", "flat stone"}
    for rgba, words in zip(made.rgba[:40].float() / 255, apples, strict=True):
        colour = next(word for word in words.split() if word in HUES)
        assert abs((own_hue(rgba) - HUES[colour] + 180) % 360 - 180) < 25, words
    again = depictions(data, ("red-apple", "stone"), each=40)
    assert torch.equal(again.rgba, made.rgba)
    assert again.words == made.words


def test_a_subject_without_a_picture_is_refused():
    with pytest.raises(InputError, match="no picture of owl"):
        depictions(icons(("fox", "3d", RED)), ("owl",), each=2)


def test_colour_words_go_from_the_front_only():
    assert without_colour("red apple") == "apple"
    assert without_colour("orange") == "orange"
    assert without_colour("four leaf clover") == "four leaf clover"


@pytest.mark.parametrize("kind", MATTER, ids=lambda kind: kind.__name__)
def test_matter_is_translucent_named_and_clear_of_the_frame(kind):
    source, texts, pictures = generator(3), set(), []
    for _ in range(8):
        rgba, words = kind(source, 96)
        texts.add(words)
        pictures.append(rgba)
        alpha = rgba[3]
        assert torch.cat([alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1]]).max() < 0.02
        assert ((alpha > 0.05) & (alpha < 0.95)).float().sum() > 0.25 * (alpha > 0.05).float().sum()
        assert (alpha > 0.1).float().mean() > 0.01
        assert rgba.min() >= -1e-3
        assert rgba.max() <= 1 + 1e-3
    assert not torch.equal(pictures[0], pictures[1])
    slug = MATTER_NAMES[MATTER.index(kind)]
    assert all(text.endswith(slug.replace("-", " ")) for text in texts)


def test_a_vocabulary_has_each_word_that_pictures_are_asked_for_by():
    known = {word for slug in vocabulary(("fox",)) for word in slug.replace("-", " ").split()}
    source = generator()
    asked = {word for kind in MATTER for _ in range(30) for word in kind(source, 64)[1].split()}
    assert asked | set(HUES) | {"flat", "fox"} <= known


def test_a_pool_gives_its_pictures_in_all_views():
    pool = torch.randint(256, (1, 4, 8, 8), generator=generator(), dtype=torch.uint8)
    drawn = draw(pool, 200, generator(1))
    views = [turned(pool, view)[0].float() / 255 for view in VIEWS]
    seen = {next(i for i, view in enumerate(views) if torch.equal(picture, view)) for picture in drawn}
    assert seen == set(range(8))
    assert soft_pool(64, 20).shape == (20, 4, 64, 64)
    assert scene_pool(64, 3).shape == (3, 3, 64, 64)
    locks = hair_pool(64, 3)
    assert locks.shape == (3, 4, 64, 64)
    assert not torch.equal(locks[0], locks[1])
