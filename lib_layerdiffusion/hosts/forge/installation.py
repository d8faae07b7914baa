"""A host's installation, read from its files without starting it."""

from __future__ import annotations

import ast
import json
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from lib_layerdiffusion.errors import HostError
from lib_layerdiffusion.hosts.forge import needs
from lib_layerdiffusion.hosts.forge.folders import layer_folders

_STARTERS = ("webui-user.sh", "webui-user.bat", "webui-user.ps1")
_ARGUMENTS = re.compile(r"^\s*(?:export\s+|set\s+|\$env:)?[\"']?COMMANDLINE_ARGS\s*=\s*(.*?)\s*$", re.IGNORECASE)
_PATH_FLAGS = ("models_dir", "model_ref", "data_dir", "forge_ref_a1111_home", "forge_ref_comfy_home")
_OWN_FLAGS = ("forge_ref_comfy_yaml", "layerdiffusion_models_dir")
_VERSION = re.compile(r"^(version|release)\s*=\s*[\"'](.+?)[\"']", re.MULTILINE)
ADAPTERS = "adapter objects"


@dataclass(frozen=True)
class Installation:
    """One folder with a WebUI in it.

    Raises:
        HostError: when made, if it is no WebUI's folder.
    """

    root: Path

    def __post_init__(self) -> None:
        if not (self.root / "modules").is_dir() or not (self.root / "launch.py").is_file():
            raise HostError(f"{self.root} is no WebUI: name the folder that has launch.py and modules in it.")

    @cached_property
    def packages(self) -> tuple[str, ...]:
        """Top-level packages of backends that it has."""
        return tuple(name for name in needs.BACKENDS if (self.root / name).is_dir())

    @cached_property
    def name(self) -> str:
        """Which of the hosts it is, by what is there."""
        adapters = self._has("modules_forge.packages.comfy.weight_adapter:WeightAdapterBase")
        if "backend" in self.packages:
            named = not adapters and self._has("backend.patcher.base:ModelPatcher.set_model_vae_regulation")
            return "Forge" if named else "Forge Neo"
        if "ldm_patched" in self.packages:
            return "reForge" if self._has("ldm_patched.modules.weight_adapter:WeightAdapterBase") else "Forge classic"
        return "another WebUI (A1111, SD.Next)"

    @property
    def release(self) -> str:
        """What it calls itself, "" where it does not say."""
        try:
            found = dict(_VERSION.findall(_text(self.root / "modules_forge" / "forge_version.py")))
        except OSError:
            return ""
        return " ".join(found.values())

    @property
    def capabilities(self) -> Mapping[str, str]:
        """What differs between hosts -> how it is here."""
        if not self.packages:
            return {}
        has = self._has
        ways = {True: ADAPTERS, False: "tuples"}
        adapters = "modules_forge.packages.comfy.weight_adapter", "ldm_patched.modules.weight_adapter"
        return {
            "backend": self.packages[0],
            "weight offsets": ways[any(has(f"{module}:WeightAdapterBase") for module in adapters)],
            "picture boxes": "canvas" if has("modules_forge.forge_canvas.canvas:ForgeCanvas") else "gradio's",
            "img2img hook": _said(has("modules.scripts:ScriptRunner.before_process_init_images")),
            "stealth infotext": _said(has("modules.stealth_infotext:add_stealth_pnginfo")),
        }

    @property
    def problem(self) -> str:
        """Why nothing can work here, "" where it can."""
        return needs.unusable(self.lacking, self.packages)

    @property
    def lost(self) -> Mapping[str, list[str]]:
        """Features that are off -> what is missing for them."""
        found = {feature.what: self.lacking(feature.names) for feature in needs.FEATURES}
        return {what: names for what, names in found.items() if names}

    @cached_property
    def flags(self) -> Mapping[str, str]:
        """Its flags that name folders, as far as its starter says them."""
        return _path_flags(self._arguments())

    @property
    def extensions(self) -> list[Path]:
        """Extensions that bring a library of our name; there may be one."""
        places = [self.root / "extensions", self._data / "extensions"]
        found = {path.resolve(): path for place in places if place.is_dir() for path in sorted(place.iterdir())}
        return [path for path in found.values() if (path / "lib_layerdiffusion").is_dir()]

    @property
    def folders(self) -> list[Path]:
        """Where it looks for layer files."""
        models = self.flags.get("models_dir") or self.flags.get("model_ref")
        chosen = self.flags.get("layerdiffusion_models_dir") or self._option("layerdiffusion_models_dir")
        return layer_folders(Path(models) if models else self._data / "models", self.flags, chosen)

    @property
    def _data(self) -> Path:
        return self.root / self.flags.get("data_dir", "")

    def lacking(self, names: Iterable[str]) -> list[str]:
        """Those of the names, module:attribute, that its files do not define."""
        return [name for name in names if not self._has(name)]

    def _has(self, name: str) -> bool:
        module, _, path = name.partition(":")
        stem = self.root.joinpath(*module.split("."))
        source = next((file for file in (stem.with_suffix(".py"), stem / "__init__.py") if file.is_file()), None)
        return source is not None and _defines(ast.parse(_text(source)).body, path.split("."))

    def _arguments(self) -> str:
        for name in _STARTERS:
            try:
                lines = _text(self.root / name).splitlines()
            except OSError:
                continue
            for line in lines:
                found = _ARGUMENTS.match(line)
                if found is not None and found[1].strip("\"'"):
                    return found[1]
        return ""

    def _option(self, name: str) -> str | None:
        try:
            values = json.loads(_text(self._data / "config.json"))
        except (OSError, ValueError):
            return None
        value = values.get(name) if isinstance(values, dict) else None
        return value if isinstance(value, str) and value.strip() else None


def _said(there: bool) -> str:  # noqa: FBT001
    return "yes" if there else "no"


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8-sig", errors="replace")


def _path_flags(arguments: str) -> dict[str, str]:
    """Flags with a folder, by the name that the host gives them; quotes may stand around all or around a folder."""
    text = arguments.strip()
    if text[:1] in {'"', "'"} and text[-1:] == text[:1] and text.count(text[0]) == 2:
        text = text[1:-1]
    try:
        words = [word.strip("\"'") for word in shlex.split(text.replace('\\"', '"'), posix=False)]
    except ValueError:
        words = text.split()
    found: dict[str, str] = {}
    for index, word in enumerate(words):
        flag, equals, value = word.partition("=")
        name = flag.lstrip("-").replace("-", "_")
        if flag.startswith("--") and name in (*_PATH_FLAGS, *_OWN_FLAGS):
            found[name] = value.strip("\"'") if equals else next(iter(words[index + 1 : index + 2]), "")
    return found


def _defines(body: Iterable[ast.stmt], path: list[str]) -> bool:
    """Whether statements, those under conditions included, give a dotted name; what is inherited counts as given."""
    for node in body:
        inner = [block for name in ("body", "orelse", "finalbody") for block in getattr(node, name, [])]
        inner += [line for handler in getattr(node, "handlers", []) for line in handler.body]
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            if node.name == path[0]:
                return len(path) == 1 or (isinstance(node, ast.ClassDef) and _in_class(node, path[1:]))
        elif _gives(node, path[0]) or _defines(inner, path):
            return True
    return False


def _in_class(node: ast.ClassDef, path: list[str]) -> bool:
    return bool(node.bases) or _defines(node.body, path)


def _gives(node: ast.stmt, name: str) -> bool:
    if isinstance(node, ast.Import | ast.ImportFrom):
        return any(name == (alias.asname or alias.name).split(".")[0] or alias.name == "*" for alias in node.names)
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    named = [part for target in targets if target is not None for part in ast.walk(target)]
    return any(isinstance(part, ast.Name) and part.id == name for part in named)
