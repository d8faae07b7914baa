"""Whatever is sent is answered: the right thing, or one sentence beside the field."""

from __future__ import annotations

import io
import json
import threading
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as trials
from hypothesis import strategies as st
from PIL import Image

from lib_layerdiffusion.images.compose import place
from lib_layerdiffusion.images.reading import encode_picture, read_picture
from lib_layerdiffusion.server.bodies import read_latent
from lib_layerdiffusion.server.form import GENERATE
from lib_layerdiffusion.server.limits import Limits
from lib_layerdiffusion.server.model import ModelFacts
from lib_layerdiffusion.server.routes import PREFIX, Routes
from lib_layerdiffusion.settings.fields import FIELDS
from lib_layerdiffusion.weights import WeightStore
from tests.tiny_family import new_card, picture, write_layers

TO_BLEND = "(SDXL) From Foreground to Blending"


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


class TestWhatThereIs:
    def test_the_model_tells_what_a_form_needs(self, client, engine):
        model = client.get("model")
        assert (model["name"], model["families"], model["size"]) == ("tiny", ["SDXL", "SD1.5"], 64)
        assert (model["defaults"]["steps"], model["defaults"]["guidance"]) == (3, 3.0)
        assert "DPM++ 2M" in model["samplers"]
        assert all(side % 8 == 0 and side >= 64 for size in model["sizes"] for side in (size["width"], size["height"]))
        assert model["languages"] == ["ja_JP", "zh_CN"]
        assert set(model["defaults"]) == set(GENERATE)

    def test_its_defaults_are_what_a_bare_request_does(self, client, engine):
        defaults = {key: value for key, value in client.get("model")["defaults"].items() if value is not None}
        one, two = client.run(seed=4), client.run(**{**defaults, "seed": 4, "prompt": "an apple"})
        assert one["infotext"] == two["infotext"]

    def test_the_schema_of_a_request_is_its_table(self, client):
        schema = client.get("request-schema")
        assert list(schema["properties"]) == list(GENERATE)
        assert (
            schema["properties"]["steps"] | {"title": "Steps", "minimum": 1, "maximum": 1000}
            == (schema["properties"]["steps"])
        )
        assert {row.name for row in FIELDS} - {"enabled"} < set(schema["properties"])

    def test_cards_one_for_each_thing_that_can_be_done(self, client):
        rows = client.get("methods")["methods"]
        cards = [row for row in rows if row["preferred"]]
        assert sorted(row["title"] for row in cards) == sorted({row["title"] for row in rows})
        assert {row["label"]: row["own_prompts"] for row in cards}[
            "(SD1.5) Generate Everything Together (need batch size 3)"
        ] == ["foreground", "background", "blended"]
        assert client.get("methods")["loaded_family"] == "SDXL"

    def test_sd15_alone_puts_its_own_methods_on_the_cards(self, facts):
        from dataclasses import replace

        from lib_layerdiffusion.methods import METHODS, Family

        own = replace(facts, families=(Family.SD15,), methods=METHODS.of_family(Family.SD15))
        told = [(row.label, own.about_method(row)) for row in METHODS.values()]
        assert {label[:7] for label, about in told if about["usable"]} == {"(SD1.5)"}
        assert len([label for label, about in told if about["preferred"]]) == 4

    def test_translations(self, client):
        assert client.get("translations/ja_JP")["Method"] != "Method"
        assert "ja_JP, zh_CN" in client.get("translations/en_US", status=404)["detail"]
        client.get("translations/..%2f..%2fpyproject", status=404)

    def test_a_model_that_knows_its_subjects_says_which_words_it_does_not(self, client, facts):
        from dataclasses import replace

        small = replace(facts, subjects=("red apple",), words=frozenset({"red", "apple", "sunset"}))
        assert small.unknown_words("A blue Apple, sunset") == ("blue",)
        assert small.examples({"red-apple": "/thumbnails/red-apple.webp"})[0] == {
            "name": "Red apple",
            "prompt": "red apple",
            "negative_prompt": "",
            "method": small.default_method.label,
            "prompts": {},
            "thumbnail": "/thumbnails/red-apple.webp",
        }
        assert client.post("words", {"prompt": "anything"}) == {"unknown": []}

    def test_a_model_of_one_size_offers_that_and_refuses_others(self, facts):
        from dataclasses import replace

        small = replace(facts, sizes=((128, 128),))
        told = small.to_mapping({})
        assert (told["fixed_size"], [size["width"] for size in told["sizes"]]) == (True, [128])
        assert "128x128" in told["size_note"]

    def test_openapi_lists_every_route(self, client):
        paths = client.get("openapi.json")["paths"]
        assert {path.removeprefix(f"{PREFIX}/") for path in paths} >= {"generate", "chain", "jobs/{name}/events"}
        body = paths[f"{PREFIX}/generate"]["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert list(body["properties"]) == list(GENERATE)

    def test_a_server_without_a_page_says_where_things_are(self, client):
        assert "openapi.json" in client.get("/", status=404)["detail"]
        client.get("/docs", status=404)


class TestPictures:
    def test_a_picture_that_is_sent_in_is_described_and_given_back(self, client):
        own = picture(30, 50)
        told = client.post("pictures", content=png(own))
        assert (told["width"], told["height"], told["alpha"], told["request"]) == (50, 30, True, None)
        assert np.array_equal(np.asarray(client.picture(told["url"])), np.asarray(own))

    def test_what_is_no_picture_is_refused_at_once(self, client):
        for content in (b"", b"GIF89a", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"http://127.0.0.1/secret.png", b"/etc/passwd"):
            assert len(client.post("pictures", content=content, status=422)["detail"]) > 20

    def test_a_result_brings_its_settings_back(self, client):
        wanted = {"seed": "9007199254740993", "steps": 2, "sampler": "Euler a", "weight": 0.5, "decode_passes": 2}
        job = client.run(**wanted, width=72, height=64, negative_prompt="blurry,\nbad")
        content = client.get(job["pictures"][0]["layers"][0]["url"]).content
        told = client.post("pictures", content=content)
        assert told["ignored"] == []
        assert told["request"] | wanted == told["request"]
        assert (told["request"]["width"], told["request"]["negative_prompt"]) == (72, "blurry,\nbad")
        again = client.run(**told["request"])
        assert again["infotext"] == job["infotext"]

    def test_the_models_own_sampler_comes_back_as_such(self, client):
        job = client.run(seed=1)
        told = client.post("pictures", content=client.get(job["pictures"][0]["layers"][0]["url"]).content)
        assert told["request"]["sampler"] == ""

    def test_a_picture_of_another_program_gives_what_can_be_used(self, client):
        from PIL.PngImagePlugin import PngInfo

        information = PngInfo()
        text = "a cat\nNegative prompt: dog\nSteps: 20, Sampler: Restart, CFG scale: 7, Seed: 5, Size: 512x640"
        information.add_text("parameters", text)
        buffer = io.BytesIO()
        picture(8, 8).save(buffer, "PNG", pnginfo=information)
        told = client.post("pictures", content=buffer.getvalue())
        plain = {"prompt": "a cat", "negative_prompt": "dog", "steps": 20, "guidance": 7.0, "seed": "5"}
        assert told["request"] == {**plain, "width": 512, "height": 640}
        assert "Restart" in told["ignored"][0]

    def test_trim_and_its_margin(self, client):
        values = np.zeros((20, 30, 4), np.uint8)
        values[5:9, 10:16] = 200
        body = {"picture": encode_picture(values), "margin": 2}
        told = client.post("trim", body)
        assert (told["left"], told["top"], told["width"], told["height"]) == (8, 3, 10, 8)
        assert np.array_equal(read_picture(told["picture"], "x"), values[3:11, 8:18])
        clear = encode_picture(np.zeros((4, 4, 4), np.uint8))
        assert "nothing to trim" in client.post("trim", {"picture": clear}, status=422)["detail"]
        name = client.post("pictures", content=png(Image.fromarray(values)))["name"]
        assert client.picture(f"{PREFIX}/pictures/{name}?trim=1").size == (6, 4)

    def test_composing_by_name_and_as_a_picture(self, client):
        over, under = picture(20, 20, 1), picture(40, 40, 2)
        names = [client.post("pictures", content=png(image))["name"] for image in (over, under)]
        body = {"foreground": names[0], "background": names[1], "left": 3, "top": -4, "scale": 1.5}
        answer = client.post("compose", body, headers={"Accept": "image/png"})
        expected = place(np.asarray(over), np.asarray(under), left=3, top=-4, scale=1.5)
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(answer.content))), expected)

    def test_encode_and_decode_are_the_engines(self, client, engine):
        own = picture(64, 64, 6)
        told = client.post("encode", {"picture": encode_picture(np.asarray(own))})
        latent = read_latent(told["latent"])
        assert np.allclose(latent, engine.encode(own), atol=1e-5)
        decoded = client.post("decode", {"latent": told["latent"], "decode_passes": 1})
        assert np.array_equal(read_picture(decoded["picture"], "x"), np.asarray(engine.decode(latent, passes=1)))
        narrow = encode_picture(np.zeros((12, 12, 4), np.uint8))
        assert "multiples of 8" in client.post("encode", {"picture": narrow}, status=422)["detail"]

    def test_uploads_go_when_there_are_too_many(self, held):
        client, _ = held(Limits(upload_bytes=10_000))
        first, *_, last = [client.post("pictures", content=png(picture(40, 40, n))) for n in range(4)]
        client.get(first["url"], status=404)
        assert client.picture(last["url"]).size == (40, 40)
        body = {"prompt": "x", "method": TO_BLEND, "foreground": first["name"]}
        refused = client.post("generate", body, status=422)
        assert "not on the server any more" in refused["detail"]
        assert refused["field"] == "foreground"


@pytest.mark.parametrize(
    ("changes", "field", "expected"),
    [
        ({"prompt": None}, "prompt", "needs a prompt"),
        ({"prompt": 5}, "prompt", "must be text"),
        ({"stepz": 5}, "stepz", 'did you mean "steps"'),
        ({"steps": 2.5}, "steps", "Steps must be a whole number"),
        ({"steps": True}, "steps", "Steps must be"),
        ({"steps": 0}, "steps", "from 1 to 1000"),
        ({"batch": 1.7}, "batch", "Pictures must be"),
        ({"batch": 17}, "batch", "from 1 to 16"),
        ({"seed": 1.5}, "seed", "Seed must be"),
        ({"seed": 2**63}, "seed", "Seed must be"),
        ({"seed": 9007199254740993.0 * 1024**2}, "seed", "Seed must be"),
        ({"guidance": "NaN"}, "guidance", "CFG scale must be"),
        ({"width": 65, "height": 64}, None, "multiple of 8"),
        ({"width": 64}, "width", "go together"),
        ({"width": 8192, "height": 8192}, None, "too large"),
        ({"method": "transparant"}, "method", "no method"),
        ({"sampler": "Euler z"}, "sampler", "no sampler"),
        ({"weight": 3}, "weight", "Weight must be"),
        ({"foreground": "/etc/passwd"}, "foreground", "not base64"),
        ({"foreground": "http://127.0.0.1/x.png"}, "foreground", "not base64"),
        ({"foreground": "upload-" + "0" * 32}, "foreground", "send it again"),
        ({"foreground": "0" * 32 + "-0-foreground"}, "foreground", "no such run"),
        ({"method": TO_BLEND}, None, "foreground picture"),
        ({"mask": [[255, 255], [255, 255]]}, None, "init picture"),
        ({"client": "a b"}, "client", "client must be"),
        ({"attended": "perhaps"}, "attended", "true or false"),
    ],
)
def test_a_mistake_is_a_sentence_beside_its_field_before_anything_waits(client, changes, field, expected):
    waiting = client.service.board.counts()
    answer = client.post("generate", {"prompt": "x", **changes}, status=422)
    assert expected in answer["detail"]
    assert answer.get("field") == field
    assert "\n" not in answer["detail"]
    assert client.service.board.counts() == waiting


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"prompt": "x"}, "begins with a foreground or a background"),
        ({"prompt": "x", "foreground": [[0, 0], [0, 0]], "background": [[0, 0], [0, 0]]}, "send one of them"),
        ({"prompt": "x", "scene": 5, "foreground": [[0, 0], [0, 0]]}, "Scene must be text"),
        ({"prompt": "x", "method": "transparent"}, "no field"),
        ({}, "needs a prompt"),
    ],
)
def test_mistakes_in_a_chain(client, body, expected):
    assert expected in client.post("chain", body, status=422)["detail"]


@pytest.mark.parametrize(
    "content", [b"", b"x", b"[1]", b'"text"', b"[" * 100_000, b'{"prompt": ' * 50_000, b"\xff\xfe"]
)
def test_what_is_no_json_object(client, content):
    answer = client.post("generate", content=content, headers={"Content-Type": "application/json"}, status=422)
    assert answer["detail"] == "The request must be a JSON object."


def test_half_a_character_does_not_break_the_answer(client):
    answer = client.http.post(
        f"{PREFIX}/generate",
        content=b'{"prompt": "\\ud800", "\\ud800": 1}',
        headers={"Content-Type": "application/json"},
    )
    assert answer.status_code == 422
    job = client.http.post(
        f"{PREFIX}/generate", content=b'{"prompt": "\\ud800 apple"}', headers={"Content-Type": "application/json"}
    )
    assert job.status_code in {202, 422}


TEXT = st.text(max_size=20) | st.sampled_from(["", "NaN", "1e999", "\ud800", "../..", "upload-x", "data:,", "null"])
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
NAMES = sorted({*GENERATE, "scene", "picture", "latent", "left", "layers", "format", "client", "margin", "other"})
POSTS = ["generate", "chain", "words", "compose", "trim", "layers", "encode", "decode", "stop"]


@trials(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=400)
@given(st.sampled_from(POSTS), st.dictionaries(st.sampled_from(NAMES), VALUE, max_size=5))
def test_whatever_is_sent_is_answered(held_once, path, body):
    try:
        content = json.dumps(body).encode()
    except (ValueError, UnicodeEncodeError):
        return
    headers = {"Content-Type": "application/json"}
    answer = held_once.http.post(f"{PREFIX}/{path}", content=content, headers=headers)
    assert answer.status_code in {200, 202, 404, 422, 429}, answer.text
    if answer.status_code >= 400:
        detail = answer.json()["detail"]
        assert detail
        assert "\n" not in detail


@trials(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(
    st.sampled_from(
        ["jobs/{}", "jobs/{}/events", "jobs/{}/files.zip", "jobs/{}/0.ora", "pictures/{}", "jobs?client={}"]
    ),
    st.text(st.characters(codec="ascii", exclude_characters="\\?#%/ \x00"), min_size=1, max_size=40),
)
def test_whatever_is_asked_for_is_answered(held_once, path, name):
    from urllib.parse import quote

    answer = held_once.http.get(f"{PREFIX}/{path.format(quote(name, safe=''))}")
    assert answer.status_code in {200, 404, 405, 422}, answer.text


@pytest.fixture
def held_once(held, request):
    client, (worker,) = held(Limits(queue=4))
    worker.go(100_000)
    return client


def test_fifty_users_at_once_all_get_their_pictures(held):
    client, workers = held(Limits(queue=60), workers=2)
    for worker in workers:
        worker.go(1000)
    answered: dict[int, str] = {}

    def use(number: int) -> None:
        body = {"prompt": f"apple {number}", "client": f"user-{number}", "attended": True}
        job = client.post("generate", body, status=202)
        done = client.get(f"jobs/{job['id']}?wait=60")
        (own,) = client.get(f"jobs?client=user-{number}")["jobs"]
        assert own["request"]["prompt"] == f"apple {number}"
        assert client.picture(done["pictures"][0]["layers"][0]["url"]).mode == "RGBA"
        answered[number] = done["state"]

    began = time.monotonic()
    users = [threading.Thread(target=use, args=(number,)) for number in range(50)]
    for user in users:
        user.start()
    for user in users:
        user.join(timeout=90)
    assert answered == dict.fromkeys(range(50), "done")
    assert time.monotonic() - began < 90


def test_the_facts_of_a_model_are_all_told(engine):
    facts = ModelFacts.of(engine)
    assert facts.source == new_card().source


def test_nobody_is_told_where_a_damaged_file_lies(tmp_path, facts):
    store = WeightStore([write_layers(tmp_path / "private place")])
    for path in (tmp_path / "private place").iterdir():
        path.write_bytes(path.read_bytes()[:100])

    class Host:
        files = staticmethod(lambda: {status.file.name: status for status in store.status()})
        loaded_family = staticmethod(lambda: None)

    told = Routes(Host()).methods()["methods"]
    assert any(file["problem"] for method in told for file in method["files"])
    assert "private" not in json.dumps(told)
    assert str(tmp_path) not in json.dumps(told)
