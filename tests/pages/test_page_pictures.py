"""The page of `layerdiffusion ui`: from a prompt to pictures, and what can be done with them."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lib_layerdiffusion.images.layerfile import read_ora
from lib_layerdiffusion.methods import METHODS
from tests.pages.page_server import advanced, card, generate, give, jobs, opened, saved, shown, until

LARGE_SEED = "9007199254740995"  # 2^53 + 3: no number of JavaScript's


def test_prompt_in_rgba_file_out(browser, address, engine, tmp_path: Path):
    with opened(browser, address) as page:
        page.fill("#prompt", "an apple")
        page.fill("#seed", LARGE_SEED)
        page.press("#prompt", "Control+Enter")
        shown(page)
        assert f"Seed {LARGE_SEED}" in page.inner_text(".caption")
        path = saved(page, page.locator(".actions a", has_text="PNG").click, tmp_path)
        page.click(".infotext summary")
        infotext = page.inner_text(".infotext pre")
    image = Image.open(path)
    expected = engine.generate("an apple", seed=int(LARGE_SEED))
    assert (image.format, image.mode) == ("PNG", "RGBA")
    assert np.array_equal(np.asarray(image), np.asarray(expected.images[0].rgba))
    assert image.info["parameters"] == expected.images[0].infotext
    assert infotext.split() == expected.images[0].infotext.split()


def test_what_needs_a_picture_comes_with_the_picture(browser, address):
    with opened(browser, address) as page:
        assert page.locator(".welcome h2").is_visible()
        assert page.locator(".sample img").count() == 3  # on three grounds
        assert page.locator(".actions, .caption, .swatches, .run-tile").count() == 0
        generate(page)
        assert page.locator(".welcome").count() == 0
        assert page.locator(".large .swatches").is_visible()
        titles = page.locator(".action-title").all_inner_texts()
        assert titles == ["Download", "Picture", "Next step", "Settings"]


def test_cards_say_what_one_gets_and_the_list_has_the_labels(browser, address):
    with opened(browser, address) as page:
        assert page.locator(".card-title").all_inner_texts() == [
            "A transparent picture",
            "Put something on my background",
            "Put my cut-out into a scene",
            "All layers at once",
            "Take it off again",
            "Show what is behind it",
        ]
        assert page.locator(".card svg").count() == 6
        assert "batch size" not in page.text_content("body")
        advanced(page)
        options = page.locator("#method option").all_inner_texts()
        assert [option in label for option, label in zip(options, METHODS, strict=True)] == [True] * len(METHODS)
        page.select_option("#method", "(SDXL) From Background and Blending to Foreground")
        assert page.locator(".card:has(:checked)").inner_text() == "Take it off again"
        assert page.locator(".slot b").all_inner_texts()[:2] == ["Background picture", "Blended picture"]


def test_pictures_that_a_method_needs_are_asked_for_under_the_prompt(browser, address):
    with opened(browser, address) as page:
        assert page.locator(".ask .slot").count() == 0
        card(page, "Put something on my background")
        slot, prompt, run = (page.locator(name).bounding_box() for name in (".ask .slot", "#prompt", "#generate"))
        assert prompt["y"] < slot["y"] < run["y"]
        page.click("#generate")
        assert page.inner_text(".notice.error") == "A picture is missing: put one into “Background picture”."
        assert jobs(page) == []


def test_five_pictures_stand_in_columns_each_with_its_own_seed(browser, address):
    with opened(browser, address, width=1400) as page:
        page.fill("#seed", "40")
        page.fill("#batch", "6")
        generate(page)
        tops = [round(tile.bounding_box()["y"]) for tile in page.locator(".tile").all()]
        assert tops.count(tops[0]) in {3, 4}
        assert page.locator(".tile-seed").all_inner_texts() == [f"Seed {seed}" for seed in range(40, 46)]
        page.locator(".tile").nth(4).click()
        assert "Seed 44" in page.inner_text(".caption")
        page.locator("button", has_text="Reuse seed").click()
        assert page.input_value("#seed") == "44"
        page.locator(".tile").nth(2).dblclick()
        assert page.inner_text(".pager span") == "3 / 6"
        page.click("[data-key=right]")
        assert "Seed 43" in page.inner_text(".caption")
        page.click("[data-key=grid]")
        assert page.locator(".tile[aria-pressed=true]").inner_text() == "Seed 43"


def test_layers_are_seen_and_the_layered_file_is_that_of_the_chosen_picture(browser, address, tmp_path: Path):
    with opened(browser, address) as page:
        card(page, "All layers at once")
        page.fill("#seed", "7")
        page.fill("#batch", "2")
        generate(page)
        assert page.locator(".layer-tab").all_inner_texts() == ["Foreground", "Background", "Blended"]
        page.locator(".tile").nth(1).click()
        page.locator(".layer-tab", has_text="Background").click()
        found = jobs(page)[0]["pictures"][1]
        ora = saved(page, page.locator(".actions a", has_text=".ora").click, tmp_path)
        png = saved(page, page.locator(".actions a", has_text="PNG").click, tmp_path)
        everything = saved(page, page.locator(".actions a", has_text="zip").click, tmp_path)
    layers = {layer.name: layer.picture for layer in read_ora(ora).layers}
    assert np.array_equal(layers["background"][..., :3], np.asarray(Image.open(png).convert("RGB")))
    assert png.name.endswith("background.png")
    assert found["seed"] in ora.name
    with zipfile.ZipFile(everything) as archive:
        names = archive.namelist()
        assert len([name for name in names if name.endswith(".png")]) == 6
        assert Image.open(io.BytesIO(archive.read(names[0]))).info["parameters"]


def test_the_ground_is_where_the_picture_is_and_changes_at_the_corner(browser, address, tmp_path: Path):
    Image.new("RGB", (40, 30), "teal").save(tmp_path / "wall.png")
    with opened(browser, address) as page:
        generate(page)
        ground, image = page.locator(".large .ground"), page.locator(".large img")
        boxes = [{name: round(value) for name, value in part.bounding_box().items()} for part in (ground, image)]
        assert boxes[0] == boxes[1]

        def style(name: str) -> str:
            return ground.evaluate(f"(element) => getComputedStyle(element).{name}")

        assert "conic" in style("backgroundImage")
        for name, colour in (("White", "rgb(255, 255, 255)"), ("Black", "rgb(0, 0, 0)")):
            page.locator(f".swatch[aria-label={name}]").click()
            assert (style("backgroundColor"), style("backgroundImage")) == (colour, "none")
        page.locator(".swatch input[type=color]").fill("#336699")
        assert style("backgroundColor") == "rgb(51, 102, 153)"
        page.locator(".swatches input[type=file]").set_input_files(str(tmp_path / "wall.png"))
        assert "blob:" in style("backgroundImage")


def test_trim_cuts_to_the_content(browser, address, tmp_path: Path):
    with opened(browser, address) as page:
        generate(page)
        whole = saved(page, page.locator(".actions a", has_text="PNG").click, tmp_path)
        page.locator("button", has_text="Trim to content").click()
        page.wait_for_selector("button[aria-pressed=true]:has-text('Trim')")
        shown(page)
        cut = saved(page, page.locator(".actions a", has_text="PNG").click, tmp_path / "cut")
    image = Image.open(whole)
    assert Image.open(cut).size == image.crop(image.getchannel("A").getbbox()).size


def test_history_and_settings_again(browser, address):
    with opened(browser, address) as page:
        page.fill("#prompt", "first")
        page.fill("#seed", "5")
        advanced(page)
        page.fill("#steps", "3")
        generate(page)
        page.fill("#prompt", "second")
        page.fill("#steps", "2")
        generate(page)
        assert page.locator(".run-choice").count() == 2
        page.locator(".run-choice").nth(1).click()
        assert page.inner_text(".caption b") == "first"
        page.locator("button", has_text="Use these settings again").click()
        assert (page.input_value("#prompt"), page.input_value("#steps"), page.input_value("#seed")) == (
            "first",
            "3",
            "",
        )
        page.locator("button", has_text="Reuse seed").click()
        assert page.input_value("#seed") == "5"
        page.hover(".run-tile >> nth=1")
        page.locator(".run-tile .remove").nth(1).click()
        until(page, "document.querySelectorAll('.run-choice').length === 1")
        assert [job["request"]["prompt"] for job in jobs(page)] == ["second"]


def drop(page, path: Path, where: str = "body") -> None:
    content = list(path.read_bytes())
    page.evaluate(
        """([where, name, content]) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(content)], name, { type: "image/png" }));
            const event = new DragEvent("drop", { bubbles: true, cancelable: true, dataTransfer: transfer });
            document.querySelector(where).dispatchEvent(event);
        }""",
        [where, path.name, content],
    )


def test_a_dropped_png_brings_its_settings_back(browser, address, engine, tmp_path: Path):
    made = engine.generate("a glass cup", negative_prompt="blur", seed=int(LARGE_SEED), steps=4, edge_cleanup=0.5)
    path = made.images[0].save(tmp_path, "cup")["foreground"]
    with opened(browser, address) as page:
        drop(page, path)
        page.wait_for_selector(".notice.note")
        assert "restored" in page.inner_text(".notice")
        found = {name: page.input_value(f"#{name}") for name in ("prompt", "negative_prompt", "seed", "steps")}
        assert found == {"prompt": "a glass cup", "negative_prompt": "blur", "seed": LARGE_SEED, "steps": "4"}
        assert page.input_value("#edge_cleanup") == "0.5"
        generate(page)
        again = saved(page, page.locator(".actions a", has_text="PNG").click, tmp_path / "again")
    assert np.array_equal(np.asarray(Image.open(again)), np.asarray(made.images[0].rgba))


def test_a_dropped_photo_is_what_to_work_on(browser, address, tmp_path: Path):
    Image.new("RGB", (80, 60), "olive").save(tmp_path / "photo.png")
    with opened(browser, address) as page:
        drop(page, tmp_path / "photo.png")
        page.wait_for_selector(".slot-picture[alt='Background picture']")
        assert page.locator(".card:has(:checked)").inner_text() == "Put something on my background"
        page.keyboard.type("a cat")  # the prompt has the focus
        assert page.input_value("#prompt") == "a cat"
        generate(page)
        assert jobs(page)[0]["request"]["background"].startswith("upload-")


def test_a_picture_is_pasted_into_its_slot(browser, address, tmp_path: Path):
    Image.new("RGB", (90, 70), "olive").save(tmp_path / "photo.png")
    content = list((tmp_path / "photo.png").read_bytes())
    with opened(browser, address) as page:
        card(page, "Put something on my background")
        page.evaluate(
            """(content) => {
                const transfer = new DataTransfer();
                transfer.items.add(new File([new Uint8Array(content)], "photo.png", { type: "image/png" }));
                const event = new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true, cancelable: true });
                document.querySelector(".slot").dispatchEvent(event);
            }""",
            content,
        )
        page.wait_for_selector(".slot img")
        assert "90 \u00d7 70" in page.inner_text(".slot")


def test_a_result_is_picked_for_a_slot(browser, address):
    with opened(browser, address) as page:
        card(page, "Put my cut-out into a scene")
        assert page.locator(".ask .slot button", has_text="Results").count() == 0  # there are none yet
        card(page, "A transparent picture")
        page.fill("#batch", "2")
        generate(page)
        card(page, "Put my cut-out into a scene")
        page.locator(".ask .slot button", has_text="Results").click()
        assert page.locator(".ask .pick").count() == 2
        page.locator(".ask .pick").nth(1).click()
        page.wait_for_selector(".slot img")
        name = jobs(page)[0]["pictures"][1]["layers"][0]["name"]
        page.fill("#batch", "1")
        generate(page)
        assert jobs(page)[0]["request"]["foreground"] == name


def test_the_picture_is_copied_with_its_alpha(browser, address, tmp_path: Path):
    with opened(browser, address, permissions=["clipboard-read", "clipboard-write"]) as page:
        generate(page)
        page.locator("button", has_text="Copy picture").click()
        page.wait_for_selector(".notice:has-text('copied')")
        content = page.evaluate(
            """async () => {
                const [item] = await navigator.clipboard.read();
                return [...new Uint8Array(await (await item.getType("image/png")).arrayBuffer())];
            }"""
        )
        path = saved(page, page.locator(".actions a", has_text="PNG").click, tmp_path)
    copied, own = (np.asarray(Image.open(where)).astype(int) for where in (io.BytesIO(bytes(content)), path))
    assert np.array_equal(copied[..., 3], own[..., 3])
    seen = own[..., 3:] / 255
    assert np.abs((copied[..., :3] - own[..., :3]) * seen).max() <= 1  # the clipboard may premultiply


@pytest.mark.parametrize(("given", "other"), [("background", "foreground"), ("foreground", "background")])
def test_a_chain_takes_two_prompts_and_gives_three_layers(browser, address, tmp_path: Path, given, other):
    Image.new("RGBA", (64, 64), (200, 60, 20, 200)).save(tmp_path / "given.png")
    with opened(browser, address) as page:
        card(page, "Put something on my background" if given == "background" else "Put my cut-out into a scene")
        assert not page.locator("#scene").is_visible()
        page.check("#chained")
        page.fill("#prompt", "an old man")
        page.fill("#scene", "on a bench")
        give(page, given, tmp_path / "given.png")
        page.wait_for_selector(".slot img")
        generate(page)
        job = jobs(page)[0]
        names = page.locator(".layer-tab").all_inner_texts()
    assert (job["kind"], job["request"]["prompt"], job["request"]["scene"]) == ("chain", "an old man", "on a bench")
    assert sorted(names) == sorted(["Blended", f"{given.capitalize()} (given)", other.capitalize()])


def test_use_as_goes_on_and_says_what_the_prompt_is_for(browser, address):
    with opened(browser, address) as page:
        page.fill("#prompt", "a dog")
        generate(page)
        page.locator("button", has_text="Use as foreground").click()
        assert page.locator(".card:has(:checked)").inner_text() == "Put my cut-out into a scene"
        assert "should now describe the scene" in page.inner_text(".notice.note")
        assert page.locator(".slot img").is_visible()
        name = jobs(page)[0]["pictures"][0]["layers"][0]["name"]
        page.keyboard.type("a dog in a room")
        generate(page)
        assert jobs(page)[0]["request"]["foreground"] == name
        assert jobs(page)[0]["request"]["prompt"] == "a dog in a room"


def test_shapes_that_the_model_can_do_are_offered_and_others_are_warned_of(browser, address):
    with opened(browser, address) as page:
        shapes = page.locator(".aspect")
        assert shapes.count() >= 5
        shapes.nth(3).click()
        width, height = (int(page.input_value(f"#{side}")) for side in ("width", "height"))
        assert shapes.nth(3).get_attribute("title") == f"{width} \u00d7 {height}"
        assert width != height
        assert page.locator("#size-note").is_hidden()
        generate(page)
        assert f"{width} \u00d7 {height}" in page.inner_text(".caption")
        page.fill("#width", "512")
        page.fill("#height", "512")
        assert "Much larger than this model was made for" in page.inner_text("#size-note")
