"""The command line: files that it writes, what it prints, and its exit codes."""

from __future__ import annotations

import io
import json
import shlex
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("diffusers")

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from lib_layerdiffusion import LayerDiffusion
from lib_layerdiffusion.cli import build_parser, joined, main
from lib_layerdiffusion.commands.common import free_stem, naming_in, stage_bars
from lib_layerdiffusion.commands.generate import EMPTY_PROMPT
from lib_layerdiffusion.commands.weights import chosen_files
from lib_layerdiffusion.errors import SettingsError
from lib_layerdiffusion.images.arithmetic import composite, pad_rgb, to_uint8
from lib_layerdiffusion.images.compose import place
from lib_layerdiffusion.images.layerfile import read_ora
from lib_layerdiffusion.methods import Family
from tests.tiny_family import new_engine, picture, write_layers
from tests.weights.hub import serve

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    return new_engine(write_layers(tmp_path_factory.mktemp("layers")))


@pytest.fixture
def run(engine, monkeypatch, capsys, tmp_path):
    """Runs the command in an empty folder with a tiny engine; gives exit code, standard output and error."""
    monkeypatch.setattr(LayerDiffusion, "from_checkpoint", lambda *_, **__: engine)
    monkeypatch.chdir(tmp_path)

    def call(*words):
        code = main([str(word) for word in words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def saved(name, height=64, width=64, seed=0):
    picture(height, width, seed).save(name)
    return name


def test_generate_writes_an_rgba_png_with_infotext(run):
    code, out, _ = run("generate", "an apple", "--seed", 3, "-o", "apple.png")
    assert (code, "apple.png" in out, "a test" in out) == (0, True, True)
    with Image.open("apple.png") as image:
        assert image.mode == "RGBA"
        assert "Seed: 3" in image.info["parameters"]


def test_nothing_is_overwritten_unless_it_is_named(run):
    for _ in range(3):
        assert run("generate", "an apple!", "--seed", 3, "-o", "out")[0] == 0
    assert {path.name for path in Path("out").iterdir()} == {"an-apple-3.png", "an-apple-3_2.png", "an-apple-3_3.png"}


def test_json_is_one_object_and_nothing_else(run):
    code, out, _ = run("generate", "an apple", "--method", "everything", "--batch", 2, "--seed", 3, "--json")
    answer = json.loads(out)
    assert code == 0
    assert [item["seed"] for item in answer["pictures"]] == [3, 6]
    files = [path for item in answer["pictures"] for path in item["files"].values()]
    assert len(set(files)) == 6
    assert all(Path(path).is_file() for path in files)


def test_chain_gives_all_three_layers(run):
    code, out, _ = run("chain", "a cat", "--background", saved("bg.png"), "--seed", 1, "--json", "-o", "out")
    assert code == 0
    assert set(json.loads(out)["pictures"][0]["files"]) == {"foreground", "background", "blended"}


def test_encode_and_decode(run):
    assert run("encode", saved("in.png", 72, 64))[0] == 0
    assert load_file("in.safetensors")["latent"].shape == (1, 4, 9, 8)
    assert run("decode", "in.safetensors", "-o", "out.png", "--passes", 1)[0] == 0
    with Image.open("out.png") as image:
        assert (image.mode, image.size) == ("RGBA", (64, 72))


def test_pad(run):
    assert run("pad", saved("in.png"), "-o", "out.png")[0] == 0
    with Image.open("out.png") as image:
        assert (np.asarray(image) == to_uint8(pad_rgb(np.asarray(picture(64, 64))))).all()


def test_compose_puts_later_layers_on_top(run):
    assert run("compose", saved("a.png", seed=1), saved("b.png", seed=2), "-o", "out.png")[0] == 0
    with Image.open("out.png") as image:
        wanted = composite(np.asarray(picture(64, 64, 2)), np.asarray(picture(64, 64, 1)))
        assert np.abs(np.asarray(image).astype(int) - wanted).max() <= 1


def test_compose_keeps_the_layers_where_the_ending_says_so(run):
    saved("a.png", seed=1)
    saved("b.png", 20, 30, seed=2)
    assert run("compose", "a.png", "b.png", "--offset", "7,-3", "--scale", 2, "-o", "out.ora")[0] == 0
    stack = read_ora(Path("out.ora"))
    assert (stack.height, stack.width) == (64, 64)
    assert [(layer.name, layer.left, layer.top) for layer in stack.layers] == [("a", 0, 0), ("b", 7, -3)]
    assert [layer.picture.shape[:2] for layer in stack.layers] == [(64, 64), (40, 60)]


@pytest.mark.parametrize(("words", "kinds"), [(("ora",), {"ora"}), (("ora", "psd"), {"ora", "psd"})])
def test_generate_writes_all_layers_as_one_file_where_asked(run, words, kinds):
    pytest.importorskip("psd_tools")
    code, out, _ = run("generate", "an apple", "--method", "everything", "--seed", 3, "--json", "--layers", *words)
    (item,) = json.loads(out)["pictures"]
    assert (code, set(item["layer_files"])) == (0, kinds)
    assert all(Path(path).is_file() for path in item["layer_files"].values())
    stack = read_ora(Path(item["layer_files"]["ora"]))
    assert [(layer.name, layer.visible) for layer in stack.layers] == [
        ("background", True),
        ("blended", False),
        ("foreground", True),
    ]
    for layer in stack.layers:
        written = np.asarray(Image.open(item["files"][layer.name]).convert("RGBA"))
        assert np.array_equal(layer.picture, written)


def test_a_missing_psd_writer_is_said_before_anything_is_made(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "psd_tools", None)
    code, _, err = run("generate", "an apple", "--layers", "psd", "-o", "out")
    assert (code, "pip install psd-tools" in err, Path("out").exists()) == (1, True, False)


def test_compose_moves_the_upper_layers(run):
    saved("a.png", seed=1)
    Image.new("RGBA", (8, 8), (255, 0, 0, 255)).save("dot.png")
    assert run("compose", "a.png", "dot.png", "--offset", "10,-4", "-o", "out.png")[0] == 0
    with Image.open("out.png") as image:
        changed = (np.asarray(image) != np.asarray(picture(64, 64, 1))).any(-1)
    assert set(map(tuple, np.argwhere(changed))) <= {(y, x) for y in range(4) for x in range(10, 18)}


USAGE = [
    ["generate"],
    ["paint", "x"],
    ["generate", "x", "--steps", "many"],
    ["generate", "x", "--method", "glass"],
    ["generate", "x", "--size", "0x0"],
    ["generate", "x", "--size", "99999x64"],
    ["generate", "x", "--size", "100x64"],
    ["chain", "x", "--background", "text.png", "--size", "wide"],
    ["generate", "x", "--sampler", "Quick"],
    ["generate", "x", "--layer-prompt", "sky=blue"],
    ["generate", "x", "-o", "picture.jpg"],
    ["chain", "x"],
    ["compose", "a.png", "-o", "out.jpg"],
    ["compose", "a.png", "b.png", "-o", "out.ora", "--linear"],
    ["generate", "x", "--layers", "tiff"],
    ["weights", "fetch", "nothing-of-the-kind"],
    ["batch", "lines.jsonl"],
    ["batch", "lines.jsonl", "-o", "out", "--workers", "0"],
    ["decode", "x.safetensors", "--passes", "3"],
    ["compose", "a.png", "b.png", "-o", "out.png", "--scale", "nan"],
    ["serve", "--port", "65536"],
    ["serve", "--workers", "1.5"],
    ["evaluate", "--seeds", "0"],
    ["train", "vae", "--data", "d", "--runs", "r", "--steps", "0"],
    ["train", "vae", "--data", "d", "--runs", "r", "--minutes", "nan"],
    ["train", "layer", "--data", "d", "--runs", "r", "--steps", "1", "--method", "bg2ble", "--each", "x"],
]
FAILURES = [
    ["generate", "x", "--method", "fg-to-blend"],
    ["generate", "x", "--method", "fg-to-blend", "--foreground", "nowhere.png"],
    ["generate", "x", "--method", "fg-to-blend", "--foreground", "text.png"],
    ["generate", "x", "--method", "transparent", "--init", "text.png"],
    ["chain", "x", "--background", "text.png"],
    ["generate", "x", "-o", "text.png/out"],
    ["generate", "x", "-o", "text.png/out/a.png"],
    ["encode", "nowhere.png"],
    ["decode", "nowhere.safetensors"],
    ["decode", "text.png"],
    ["pad", "text.png", "-o", "out.png"],
    ["batch", "nowhere.jsonl", "-o", "out"],
    ["train", "all", "--data", "nowhere", "--runs", "runs", "--to", "family", "--minutes", "1"],
]


@pytest.mark.parametrize(
    ("words", "wanted"),
    [*((words, 2) for words in USAGE), *((words, 1) for words in FAILURES)],
    ids=lambda v: str(v)[:60],
)
def test_mistakes_are_one_sentence_and_leave_nothing_behind(run, words, wanted):
    Path("text.png").write_text("no picture")
    code, out, err = run(*words)
    assert (code, out) == (wanted, "")
    assert "Traceback" not in err
    assert err.count("\n") == 1
    assert err.startswith(("layerdiffusion: ", f"layerdiffusion {words[0]}: "))
    left = {str(path) for path in Path().rglob("*") if path.is_file()}
    assert left == {"text.png"}


EARLY = [["--method", "glass"], ["--size", "0x0"], ["-o", "picture.jpg"], ["-o", "text.png/out"]]


@pytest.mark.parametrize("words", EARLY, ids=lambda words: words[1])
def test_what_is_wrong_without_a_model_is_said_before_one_is_loaded(run, monkeypatch, words):
    monkeypatch.setattr(LayerDiffusion, "from_checkpoint", lambda *_, **__: pytest.fail("a model was loaded"))
    Path("text.png").write_text("no picture")
    code, _, err = run("generate", "x", *words)
    assert code in (1, 2)
    assert err.startswith("layerdiffusion: ")


class TestBadModels:
    """Mistakes about the model, from the command line to the disk."""

    @pytest.fixture
    def call(self, monkeypatch, capsys, tmp_path):
        monkeypatch.chdir(tmp_path)

        def call(*words):
            before = {path for path in Path().rglob("*") if path.is_file()}
            code = main([str(word) for word in words])
            captured = capsys.readouterr()
            assert {path for path in Path().rglob("*") if path.is_file()} == before
            assert (captured.out, "Traceback" in captured.err) == ("", False)
            (line,) = captured.err.splitlines()
            return code, line

        return call

    @pytest.mark.parametrize(
        ("name", "content"),
        [("x.safetensors", b"hello"), ("x.safetensors", b""), ("x.ckpt", b"\x80\x02")],
        ids=["text", "empty", "pickle"],
    )
    def test_a_checkpoint_that_is_none(self, call, name, content):
        Path(name).write_bytes(content)
        code, line = call("generate", "x", "--checkpoint", name)
        assert (code, name in line) == (1, True)

    def test_a_checkpoint_of_something_else(self, call):
        save_file({"lora_unet_a.lora_up.weight": torch.zeros(2, 2)}, "lora.safetensors")
        assert call("generate", "x", "--checkpoint", "lora.safetensors") == (
            1,
            "layerdiffusion: This file is a LoRA: choose a Stable Diffusion 1.5 or XL checkpoint.",
        )

    def test_a_truncated_checkpoint(self, call):
        save_file({"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(320, 4, 3, 3)}, "cut.safetensors")
        Path("cut.safetensors").write_bytes(Path("cut.safetensors").read_bytes()[:-100])
        code, line = call("generate", "x", "--checkpoint", "cut.safetensors")
        assert (code, "damaged" in line) == (1, True)

    def test_a_checkpoint_that_is_nowhere(self, call):
        code, line = call("generate", "x", "--checkpoint", "nowhere.safetensors")
        assert (code, "There is no checkpoint" in line) == (1, True)

    @pytest.mark.parametrize(
        ("words", "wanted"),
        [(("--dtype", "int3"), 2), (("--device", "toaster"), 2), (("--offload", "all"), 2),
         (("--offload", "model", "--device", "cpu"), 1)],
    )  # fmt: skip
    def test_a_place_that_is_none(self, call, words, wanted):
        assert call("generate", "x", *words)[0] == wanted

    def test_a_family_that_the_method_is_not_made_for(self, call, monkeypatch, tmp_path_factory):
        layers = write_layers(tmp_path_factory.mktemp("layers"))
        engine = new_engine(layers, (Family.SD15,))
        monkeypatch.setattr(LayerDiffusion, "from_checkpoint", lambda *_, **__: engine)
        code, line = call("generate", "x", "--method", "(SDXL) Only Generate Transparent Image (Conv Injection)")
        assert (code, "needs an SDXL model" in line) == (1, True)

    def test_a_truncated_layer_file(self, call, monkeypatch, tmp_path_factory):
        layers = write_layers(tmp_path_factory.mktemp("layers"))
        path = layers / "layer_xl_transparent_attn.safetensors"
        path.write_bytes(path.read_bytes()[:-9])
        engine = new_engine(layers)
        monkeypatch.setattr(LayerDiffusion, "from_checkpoint", lambda *_, **__: engine)
        code, line = call("generate", "x")
        assert (code, "damaged" in line, path.name in line) == (1, True, True)

    def test_a_weights_folder_without_room(self, call, monkeypatch, tmp_path_factory):
        content = b"x" * 5000
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=0, used=0, free=1000))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path_factory.mktemp("cache")))
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.setenv(name, "127.0.0.1")
        target = tmp_path_factory.mktemp("weights")
        with serve({"layer_xl_fg2ble.safetensors": content}) as hub:
            monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
            code, line = call("weights", "fetch", "layer_xl_fg2ble", "--weights", target)
        assert (code, "the disk has 0 MiB left" in line) == (1, True)
        assert [path for path in target.rglob("*") if path.is_file()] == []


def test_debug_shows_where_in_either_place(run):
    for words in (["--debug", "pad", "x.png", "-o", "y.png"], ["pad", "x.png", "-o", "y.png", "--debug"]):
        code, _, err = run(*words)
        assert (code, "Traceback" in err) == (1, True)


def test_faults_of_our_own_are_a_sentence_too(run, monkeypatch):
    monkeypatch.setattr("lib_layerdiffusion.images.arithmetic.pad_rgb", lambda *_: 1 / 0)
    saved("in.png")
    code, _, err = run("pad", "in.png", "-o", "out.png")
    assert (code, "Traceback" in err, "ZeroDivisionError" in err) == (1, False, True)


def test_weights_lists_and_verifies_what_is_there(run, tmp_path):
    write_layers(tmp_path / "w")
    content = (tmp_path / "w" / "layer_xl_fg2ble.safetensors").read_bytes()
    (tmp_path / "w" / "layer_xl_fg2ble.safetensors").write_bytes(content[:-100])
    code, out, _ = run("weights", "list", "--weights", tmp_path / "w", "--json")
    states = {item["name"]: item["installed"] for item in json.loads(out)["files"]}
    assert code == 0
    assert len(states) == 14
    assert [name for name, here in states.items() if not here] == ["layer_xl_fg2ble"]
    code, out, _ = run("weights", "verify", "--weights", tmp_path / "w", "--json")
    assert (code, json.loads(out)["bad"]) == (1, 1)


def test_files_are_chosen_by_file_method_or_family():
    assert chosen_files(["layer_xl_fg2ble.safetensors"]) == ["layer_xl_fg2ble"]
    assert set(chosen_files(["everything"])) == {
        "layer_sd15_joint", "layer_sd15_vae_transparent_decoder", "layer_sd15_vae_transparent_encoder",
    }  # fmt: skip
    assert len(chosen_files(["all"])) == 14
    assert len(chosen_files(["sdxl", "SDXL"])) == 8
    with pytest.raises(SettingsError):
        chosen_files(["SD3"])


def test_doctor_says_what_is_missing(run, tmp_path):
    code, out, _ = run("doctor", "--weights", tmp_path / "none", "--json")
    answer = json.loads(out)
    assert code == 0
    assert answer["packages"]["torch"]
    assert "cpu" in answer["devices"]
    assert not any(answer["weights"].values())


def test_demo_lists_the_subjects_of_the_bundled_family(run, monkeypatch, tmp_path):
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "subjects.txt").write_text("red apple\nwine glass\n\n")
    monkeypatch.setattr("lib_layerdiffusion.places.bundled_family", lambda: tmp_path / "demo")
    assert run("demo", "--list")[:2] == (0, "red apple\nwine glass\n")
    assert json.loads(run("demo", "--list", "--json")[1])["subjects"] == ["red apple", "wine glass"]
    assert 'generate "red apple"' in run("demo")[1]


def test_demo_without_a_bundled_family_is_a_sentence(run, monkeypatch):
    monkeypatch.setattr("lib_layerdiffusion.places.bundled_family", lambda: None)
    code, out, err = run("demo", "--list")
    assert (code, out, err.count("\n"), "No family comes with" in err) == (1, "", 1, True)


def test_a_missing_package_is_named_with_what_installs_it(run, monkeypatch):
    def missing(*_):
        raise ModuleNotFoundError("No module named 'cv2'", name="cv2")

    monkeypatch.setattr("lib_layerdiffusion.images.files.load_picture", missing)
    code, _, err = run("pad", "a.png", "-o", "b.png")
    assert (code, "pip install opencv-python" in err) == (1, True)


def test_the_command_starts_without_torch():
    script = (
        "import sys; from lib_layerdiffusion.cli import build_parser; build_parser(); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_python_m_gives_the_exit_code():
    done = subprocess.run(
        [sys.executable, "-m", "lib_layerdiffusion", "compose"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2


def test_a_prompt_needs_no_quotes_and_the_seed_is_printed(run):
    code, out, _ = run("generate", "red", "apple", "--seed", 7)
    assert (code, "Seed: 7" in out) == (0, True)
    with Image.open("red-apple-7.png") as image:
        assert image.info["parameters"].startswith("red apple\n")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--method", "bg-to-blend"], 'The method "bg-to-blend" needs the background: give --background FILE.'),
        (["--method", "bg-blend-to-fg", "--background", "b.png"], "the blended: give --blended FILE."),
        (["--passes", "3"], "--passes must be one of 8, 4, 2, 1, not 3."),
        (["--weight", "5"], "--weight must be a number from 0 to 2"),
        (["--stop-at", "nan"], "--stop-at must be a number from 0 to 1"),
        (["--steps", "0"], "--steps must be a whole number from 1 to 1000, not 0."),
        (["--steps", "2.5"], "--steps must be a whole number"),
        (["--batch", "0"], "--batch must be a whole number from 1 to 256"),
        (["--guidance", "1e9"], "--guidance must be a number from 0 to 100"),
        (["--strength", "-1"], "--strength must be a number from 0 to 1"),
        (["--seed", "x"], "--seed must be a whole number from 0 to 9223372036854775807, not 'x'."),
        (["--size", "wide"], 'The size "wide" is unclear: write width x height, such as 1024x768.'),
        (["--init", "nowhere.png"], "nowhere.png"),
        (["--method", "fg-to-bg", "--foreground", "nowhere.png"], "nowhere.png"),
        (["--method", "foo"], "use one of: transparent, fg-to-bg, bg-to-fg, everything"),
    ],
)
def test_messages_speak_the_commands_words_before_a_model_is_loaded(run, monkeypatch, words, sentence):
    monkeypatch.setattr(LayerDiffusion, "from_checkpoint", lambda *_, **__: pytest.fail("a model was loaded"))
    code, _, error = run("generate", "apple", *words)
    assert code != 0
    assert sentence in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("offset", [["--offset", "-3,2"], ["--offset=-3,2"]])
def test_an_offset_may_be_negative(run, offset):
    below, above = saved("below.png"), saved("above.png", seed=2)
    assert run("compose", below, above, "-o", "out.png", *offset)[0] == 0
    expected = place(np.asarray(Image.open(above)), np.asarray(Image.open(below)), left=-3, top=2)
    assert np.array_equal(np.asarray(Image.open("out.png")), expected)


def every_parser(parser, name=""):
    """All parsers with what is typed for each: the command, its commands and their actions."""
    yield name, parser
    for action in parser._actions:
        for word, own in action.choices.items() if isinstance(action.choices, dict) else ():
            yield from every_parser(own, f"{name} {word}".strip())


def test_every_command_shows_examples_that_it_takes():
    parser = build_parser()
    seen = []
    for name, own in every_parser(parser):
        examples = own.format_help().partition("examples:\n")[2].splitlines()
        assert examples, name
        for example in examples:
            program, *words = shlex.split(example, comments=True)
            assert (program, " ".join(words).startswith(name)) == ("layerdiffusion", True), example
            if "--help" not in words:
                assert callable(build_parser().parse_args(joined(words)).run), example
        seen.append(name)
    assert {"", "generate", "serve", "ui", "weights fetch", "train layer"} <= set(seen)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["generate", "a", "-o", ""], "argument -o/--output: it is empty"),
        (["generate", "a", "--checkpoint", " "], "argument --checkpoint: it is empty"),
        (["compose", "", "-o", "a.png"], "argument LAYER: it is empty"),
        (["weights", "fetch"], "the following arguments are required: NAME"),
        (["nonsense"], "invalid choice: 'nonsense'"),
    ],
)
def test_what_cannot_be_read_is_one_line(run, words, said):
    code, out, err = run(*words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err
    assert '--help" shows how' in err


def test_an_empty_prompt_is_said_and_drawn(run):
    code, _, err = run("generate", "", "-o", "any.png")
    assert (code, err.splitlines()[0]) == (0, EMPTY_PROMPT)
    assert Path("any.png").is_file()
    assert EMPTY_PROMPT not in run("generate", "an apple")[2]


def test_the_version_is_the_packages(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("layerdiffusion ")


def test_methods_lists_all_ten_with_what_they_need(run):
    _, out, _ = run("methods")
    assert len(out.splitlines()) == 10
    _, out, _ = run("methods", "--json")
    rows = {(row["name"], row["family"]): row for row in json.loads(out)["methods"]}
    assert rows["bg-blend-to-fg", "SDXL"]["needs"] == ["background", "blended"]
    assert rows["everything", "SD1.5"]["gives"] == ["foreground", "background", "blended"]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_one_bar_at_a_time_and_each_is_closed_when_its_stage_is(monkeypatch):
    import tqdm

    events = []

    class Bar:
        def __init__(self, desc, **_):
            self.n, self.desc = 0, desc
            events.append(f"open {desc}")

        def update(self, steps):
            self.n += steps

        def close(self):
            events.append(f"close {self.desc} at {self.n}")

    monkeypatch.setattr(tqdm, "tqdm", Bar)
    monkeypatch.setattr(sys, "stderr", Terminal())
    with stage_bars(quiet=False) as progress:
        for stage, done in (("sample", 1), ("sample", 2), ("decode", 1), ("sample", 1), ("sample", 2)):
            progress(stage, done, 2)
    assert events == [
        *("open sample", "close sample at 2", "open decode", "close decode at 1", "open sample", "close sample at 2"),
    ]


def test_without_a_terminal_there_are_no_bars(monkeypatch, capsys):
    with stage_bars(quiet=False) as progress:
        progress("sample", 1, 2)
    assert capsys.readouterr().err == ""


class TestNothingIsWrittenOver:
    def test_by_encode_and_decode_without_a_name(self, run):
        picture = Path(saved("apple.png")).read_bytes()
        Path("apple.safetensors").write_bytes(b"a checkpoint")
        for name in ("apple_2.safetensors", "apple_3.safetensors"):
            code, out, _ = run("encode", "apple.png")
            assert (code, name in out) == (0, True)
        assert Path("apple.safetensors").read_bytes() == b"a checkpoint"
        Path("apple_2.png").write_bytes(b"a picture")
        assert run("decode", "apple_2.safetensors", "--passes", 1)[0] == 0
        assert Path("apple.png").read_bytes() == picture
        assert Path("apple_2.png").read_bytes() == b"a picture"
        assert Path("apple_2_2.png").is_file()

    def test_by_layers_beside_the_file_that_was_named(self, run):
        Path("a.png").write_bytes(b"mine")
        Path("b-blended.png").write_bytes(b"mine")
        Path("c.ora").write_bytes(b"mine")
        for name, more in (("b.png", ("--method", "everything")), ("c.png", ("--layers", "ora"))):
            assert run("generate", "an apple", "-o", name, *more)[0] == 0
        assert Path("b-blended.png").read_bytes() == Path("c.ora").read_bytes() == b"mine"
        assert Path("b_2-blended.png").is_file()
        assert Path("c_2.ora").is_file()
        assert run("generate", "an apple", "-o", "a.png")[0] == 0
        assert Path("a.png").read_bytes() != b"mine"

    def test_and_nobody_is_told_to_delete_a_picture_of_his_own(self, run):
        code, _, err = run("decode", saved("model.png"))
        assert code == 1
        assert "is a picture" in err
        assert "delete" not in err


def test_evaluate_measures_a_family_with_its_own_defaults(run, tmp_path):
    (tmp_path / "family").mkdir()
    (tmp_path / "family" / "subjects.txt").write_text("red apple\n")
    code, out, error = run("evaluate", "--family", "family", "--only", "text", "--seeds", "2", "--json")
    assert code == 0, error
    figures = json.loads(out)
    assert 0 <= figures["clean border, share"] <= 1
    assert figures["distance between seeds of a subject"] > 0
    code, out, error = run("evaluate", "--family", "family", "--only", "layers")
    assert (code, out) == (2, "")
    assert "--data" in error


def test_a_name_is_not_chosen_while_another_command_writes(run):
    """Both would take the same one, and one picture would be lost."""
    waits, chosen = threading.Event(), []

    def second():
        waits.set()
        with naming_in(Path()):
            chosen.append(free_stem(Path(), "apple"))

    thread = threading.Thread(target=second)
    with naming_in(Path()):
        stem = free_stem(Path(), "apple")
        thread.start()
        waits.wait()
        time.sleep(0.2)
        saved(f"{stem}.png")
    thread.join()
    assert (stem, chosen) == ("apple", ["apple_2"])


def test_the_page_is_opened_in_the_browser_where_asked(run, monkeypatch):
    from lib_layerdiffusion.server import serving

    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    monkeypatch.setattr(serving, "serve", lambda service, doors, port, announce: announce("http://127.0.0.1:1"))
    assert run("ui", "--port", 0, "--open") == (
        0,
        "LayerDiffusion's page is at http://127.0.0.1:1 (Ctrl+C ends it)\n",
        "",
    )
    assert opened == ["http://127.0.0.1:1"]
    assert run("ui", "--port", 0)[0] == 0
    assert len(opened) == 1


@pytest.mark.parametrize("command", ["ui", "serve"])
def test_a_server_without_its_extra_says_what_to_install(run, monkeypatch, command):
    for name in [name for name in sys.modules if name.startswith("lib_layerdiffusion.server")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    code, out, err = run(command, "--port", 0)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert 'install it with "pip install fastapi uvicorn"' in err
