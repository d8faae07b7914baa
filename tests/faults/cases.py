"""The faults; a docstring is "fault: how it is caused". lost: what is gone. wrong: what is silently something else."""

from __future__ import annotations

import contextlib
import io
import json
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save

from lib_layerdiffusion.engine.request import VALUES, parse_size, read_value
from lib_layerdiffusion.errors import LayerDiffusionError
from lib_layerdiffusion.images.layerfile import read_ora
from lib_layerdiffusion.images.reading import read_picture
from lib_layerdiffusion.settings.infotext import from_infotext, parse_parameters
from lib_layerdiffusion.weights import Catalogue, fetch, read_weights
from tests.faults.found import ROOT, Found, killed, resident, slope
from tests.faults.places import several_at_once, unwritable_places
from tests.faults.training import killed_training
from tests.faults.users import many_users
from tests.tiny_family import ALL_METHODS, changed, new_engine, picture, snapshot, write_layers
from tests.weights.hub import serve


def _damaged(content: bytes, dice: random.Random) -> bytes:
    broken = bytearray(content)
    for _ in range(dice.randint(1, 6)):
        broken[dice.randrange(len(broken))] = dice.randrange(256)
    return bytes(broken[: dice.randint(1, len(broken))] if dice.random() < 0.3 else broken)


def damaged_pictures(_folder: Path, scale: float) -> Found:
    """Damaged pictures: bytes changed at random and files cut, in six formats."""
    found, dice = Found(), random.Random(0)
    image = picture(24, 31, 1)
    files = []
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"):
        buffer = io.BytesIO()
        (image if kind in {"PNG", "WEBP", "TIFF"} else image.convert("RGB")).save(buffer, kind)
        files.append(buffer.getvalue())
    for _ in range(int(12_000 * scale)):
        made = found.expect(read_picture, _damaged(dice.choice(files), dice), "init")
        found.wrong += made is not None and (made.dtype != np.uint8 or made.shape[2:] != (4,))
    return found


def damaged_weights(folder: Path, scale: float) -> Found:
    """Damaged weight files: bytes of the header changed at random and files cut."""
    found, dice = Found(), random.Random(1)
    whole = save({"a": torch.ones(7), "b.c": torch.ones(3, 4, dtype=torch.float16)})
    for _ in range(int(4_000 * scale)):
        content = _damaged(whole[:160], dice) + whole[160:] if dice.random() < 0.7 else _damaged(whole, dice)
        (folder / "x.safetensors").write_bytes(content)
        found.expect(read_weights, folder / "x.safetensors")
    return found


def broken_numbers(folder: Path, scale: float) -> Found:
    """NaN, infinity or 1e30 in weights: one value of a tensor, at any place, in four number types."""
    del scale
    found = Found()
    for value in (float("nan"), float("inf"), -float("inf"), 1e30):
        for kind in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
            for place in (0, 50, 99):
                weights = torch.ones(100, dtype=kind)
                weights[place] = value
                (folder / "x.safetensors").write_bytes(save({"w": weights}))
                found.wrong += found.expect(read_weights, folder / "x.safetensors") is not None
    return found


def wrong_values(_folder: Path, scale: float) -> Found:
    """Values of a wrong type or range: for every plain argument of a request, and for sizes."""
    found, dice = Found(), random.Random(2)
    some: list[Any] = [None, True, 1.5, float("nan"), float("inf"), "x", "\ud800", "9" * 5000]
    some += [[], {}, b"", 2j, object(), -1, 2**80]
    some += [np.int8(3), np.float32(2.5), np.array([1, 2]), np.array(5), "64x64", 10**6000, "1e400", "\x00"]
    for _ in range(int(20_000 * scale)):
        name, value = dice.choice([*VALUES, "size"]), dice.choice(some)
        found.expect(parse_size, value) if name == "size" else found.expect(read_value, name, value)
    return found


def any_infotext(_folder: Path, scale: float) -> Found:
    """Infotext that people have cut and edited: random characters, keys and values."""
    found, dice = Found(), random.Random(3)
    parts = ["LayerDiffusion", "LayerDiffusion method: ", "Steps: 20", ", ", '"', ":", "\n", "layerdiffusion_weight: "]
    parts += ["\ud800"]
    parts += ["(SDXL) From Foreground to Blending", "1e999", "True", "{", "\\", "\0", "LayerDiffusion stop at: ", "nan"]
    for _ in range(int(10_000 * scale)):
        text = "".join(dice.choice(parts) for _ in range(dice.randint(0, 12)))
        found.expect(lambda given: from_infotext(parse_parameters(given)), text)
    return found


def hub_answers(folder: Path, scale: float) -> Found:
    """A hub that is not right: 4xx, 5xx, cut, long, short, gzip, circles, other content, no ranges, wrong partials."""
    del scale
    found, file = Found(), Catalogue.load()["layer_xl_transparent_attn"]
    content = save({"w": torch.randn(20_000)})
    other = save({"w": torch.zeros(20_000)})
    faults: list[dict[str, Any]] = [{"status": status} for status in (400, 401, 403, 404, 408, 429, 500, 502, 503, 504)]
    faults += [{"statuses": [status]} for status in (404, 429, 500, 503)] + [{"circle": True}, {"gzips": True}]
    faults += [
        {"sent": other},
        {"sent": content + b"x"},
        {"sent": content[:-5]},
        {"sent": b""},
        {"names_content": False},
    ]
    faults += [
        {"breaks": [cut] * 9, "knows_ranges": ranges} for cut in (0, 1, 30_000, 79_000) for ranges in (True, False)
    ]
    for number, fault in enumerate(faults):
        for left in (b"", content[:1000], other[:1000], content * 2):
            place = folder / f"{number}-{len(left)}-{left[:300] == content[:300]}"
            place.mkdir()
            if left:
                (place / f".{file.name}.part").write_bytes(left)
            with serve({file.file_name: content}) as hub:
                for name, value in fault.items():
                    setattr(hub, name, value)
                found.expect(fetch, file, place, endpoint=hub.endpoint)
                for path in place.iterdir():
                    found.wrong += path.suffix == ".safetensors" and path.read_bytes() != content
                    found.lost += path.suffix == ".part" and path.stat().st_size > max(len(content), len(left))
                for name in fault:
                    setattr(hub, name, vars(type(hub)({}))[name])
                found.lost += fetch(file, place, endpoint=hub.endpoint).read_bytes() != content
    return found


def killed_downloads(folder: Path, scale: float) -> Found:
    """kill -9 of a download: at a random moment; the next one goes on."""
    found, dice, file = Found(), random.Random(4), Catalogue.load()["layer_xl_transparent_attn"]
    content = save({"w": torch.randn(50_000)})
    script = (
        "import sys; from pathlib import Path; from lib_layerdiffusion.weights import Catalogue, fetch\n"
        "file = Catalogue.load()['layer_xl_transparent_attn']; print(flush=True)\n"
        "fetch(file, Path(sys.argv[1]), endpoint='{}')"
    )
    for number in range(max(2, int(20 * scale))):
        found.tried += 1
        with serve({file.file_name: content}) as hub:
            hub.pause = 0.02
            place = folder / str(number)
            killed(script.format(hub.endpoint), place, dice.random())
            hub.pause = 0.0
            found.wrong += any(path.read_bytes() != content for path in place.glob("*.safetensors"))
            found.lost += fetch(file, place, endpoint=hub.endpoint).read_bytes() != content
    return found


def killed_layer_files(folder: Path, scale: float) -> Found:
    """kill -9 while a layered file is written over: at a random moment; the file is the old or the new one."""
    found, dice = Found(), random.Random(5)
    script = (
        "import sys; from pathlib import Path; import numpy as np\n"
        "from lib_layerdiffusion.images.layerfile import Layer, save_layers\n"
        "layers = [Layer('a', np.full((300, 300, 4), 7, np.uint8))]; path = Path(sys.argv[1]) / 'a.ora'\n"
        "save_layers(path, layers); print(flush=True)\n"
        "while True: save_layers(path, layers)"
    )
    for _ in range(max(2, int(20 * scale))):
        found.tried += 1
        killed(script, folder, dice.random() / 2)
        try:
            found.wrong += read_ora(folder / "a.ora").layers[0].picture.shape != (300, 300, 4)
        except LayerDiffusionError:
            found.lost += 1
    return found


def killed_batches(folder: Path, scale: float) -> Found:
    """kill -9 of a batch job: at a random moment, run again until it is done; at most one picture is made anew."""
    found, dice = Found(), random.Random(6)
    (folder / "lines.jsonl").write_text("\n".join(json.dumps({"prompt": f"p{i}"}) for i in range(200)))
    script = (
        "import sys, time; from pathlib import Path\n"
        "from tests.engine.test_batch import FakeEngine; from lib_layerdiffusion.engine import processes\n"
        "from lib_layerdiffusion.engine.batch import BatchJob, run_batch\n"
        "place = Path(sys.argv[1]); job = BatchJob(place / 'lines.jsonl', place / 'out', FakeEngine)\n"
        "print(flush=True); run_batch(job, processes.way_of(job), quiet=True)"
    )
    for _ in range(max(2, int(12 * scale))):
        found.tried += 1
        before = {path.name: path.stat().st_mtime_ns for path in (folder / "out").glob("*.png")}
        killed(script, folder, dice.random() / 4)
        kept = {path.name: path.stat().st_mtime_ns for path in (folder / "out").glob("*.png")}
        found.lost += len(before.keys() - kept.keys())
        found.wrong += max(0, sum(kept[name] != at for name, at in before.items() if name in kept) - 1)
    subprocess.run([sys.executable, "-c", script, str(folder)], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    found.lost += 200 - len(list((folder / "out").glob("*.png")))
    for path in (folder / "out").glob("*.png"):
        with Image.open(path) as image:
            image.load()
    return found


def many_generations(folder: Path, scale: float) -> Found:
    """Generations with errors and interruptions: all methods; the plain picture and the weights stay bit-identical."""
    found, dice = Found(), random.Random(7)
    engine = new_engine(write_layers(folder))
    fg, bg, blend = picture(64, 64, 1), picture(64, 64, 2), picture(64, 64, 3)
    plain = {"steps": 1, "size": 64, "decode_passes": 1, "seed": 1}
    first = np.asarray(engine.generate("a", **plain).images[0].rgba).tobytes()
    before, memory = snapshot(engine.host.pipeline), []

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    for number in range(max(20, int(300 * scale))):
        values: dict[str, Any] = {**plain, "method": ALL_METHODS[number % len(ALL_METHODS)], "seed": number}
        values |= {"foreground": fg, "background": bg, "blended": blend, "steps": 2}
        wrong = dice.choice([{}, {}, {"progress": interrupt}, {"steps": 0}, {"weight": 9}, {"foreground": b"x"}])
        found.tried += 1
        with contextlib.suppress(KeyboardInterrupt, LayerDiffusionError):
            engine.generate("a", **{**values, **wrong})
        if number % 20 == 19:
            found.wrong += np.asarray(engine.generate("a", **plain).images[0].rgba).tobytes() != first
            memory.append(resident())
    found.wrong += len(changed(engine.host.pipeline, before))
    found.notes.append(
        f"Memory over the later two thirds of {found.tried} generations: {slope(memory) / 20 * 1024:.1f} KiB each."
    )
    return found


ANYTHING = [
    "images/test_any_picture.py",
    "images/test_picture_reading.py",
    "images/test_layerfile.py",
    "weights/test_any_header.py",
    "weights/test_reading.py",
    "settings/test_parsing.py",
    "settings/test_infotext.py",
    "engine/test_batch_faults.py",
    "engine/test_engine_faults.py",
    "server/test_any_request.py",
    "server/test_requests.py",
]


def any_input(_folder: Path, scale: float) -> Found:
    """Anything at all: hypothesis over settings, infotext, JSONL, pictures, headers of files and requests, bodies."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        *(f"tests/{name}" for name in ANYTHING),
        "-k",
        "any_ or whatever or edited",
    ]
    command += ["--hypothesis-show-statistics", "-p", "no:cacheprovider", "--tb=line"]
    command += ["--hypothesis-profile=thorough"] if scale >= 1 else []
    made = subprocess.run(command, cwd=ROOT, check=False, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    counts = [map(int, pair) for pair in re.findall(r"(\d+) passing, (\d+) failing", made.stdout)]
    tried, failed = map(sum, zip(*counts, strict=True))
    return Found(tried, 0, failed + (made.returncode != 0), [made.stdout[-800:]] if made.returncode else [])


def many_runs_in_forge(_folder: Path, scale: float) -> Found:
    """Runs in Forge's hooks, on a fake host: all methods, LoRAs, hires, img2img, errors and interruptions between."""
    command = [sys.executable, "-m", "tests.hosts.forge.endurance", str(max(20, int(300 * scale)))]
    made = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    outcome = json.loads(made.stdout.splitlines()[-1])
    notes = [f"Memory over the later two thirds of {outcome['tried']} runs in Forge: {outcome['slope']:.1f} KiB each."]
    return Found(outcome["tried"], 0, len(outcome["wrong"]), [*outcome["wrong"], *notes])


CASES: tuple[Callable[[Path, float], Found], ...] = (
    damaged_pictures,
    damaged_weights,
    broken_numbers,
    wrong_values,
    any_infotext,
    any_input,
    hub_answers,
    killed_downloads,
    killed_layer_files,
    killed_batches,
    killed_training,
    unwritable_places,
    several_at_once,
    many_generations,
    many_runs_in_forge,
    many_users,
)
