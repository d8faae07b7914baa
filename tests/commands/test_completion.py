"""Completion in the shells themselves: keys are typed into a terminal, and what the shell writes is read."""

from __future__ import annotations

import os
import select
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("argcomplete")

from lib_layerdiffusion.cli import main
from lib_layerdiffusion.methods import METHODS

pty = pytest.importorskip("pty", reason="a terminal is needed, which only Unix lends")

ROOT = Path(__file__).parents[2]
SHELLS = {"bash": ["bash", "--norc", "-i"], "zsh": ["zsh", "-f", "-i"]}
LONGEST = 60.0


@pytest.fixture
def environment(tmp_path):
    """With the command on the PATH."""
    command = tmp_path / "layerdiffusion"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m lib_layerdiffusion "$@"\n')
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    places = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": places, "PYTHONPATH": str(ROOT), "ZDOTDIR": str(tmp_path), "HOME": str(tmp_path)}


class Terminal:
    """A shell in a terminal of its own."""

    def __init__(self, words, environment):
        self.seen = ""
        self.child, self.file = pty.fork()
        if self.child == 0:
            os.execvpe(words[0], words, environment)

    def type(self, keys, wanted):
        """Type, and wait until the shell has written something."""
        self.seen = ""
        os.write(self.file, keys.encode())
        end = time.monotonic() + LONGEST
        while wanted not in self.seen:
            assert time.monotonic() < end, self.seen
            if select.select([self.file], [], [], 0.2)[0]:
                self.seen += os.read(self.file, 65536).decode(errors="replace")

    def end(self):
        """Close the terminal, which ends the shell."""
        os.kill(self.child, signal.SIGKILL)
        os.close(self.file)
        os.waitpid(self.child, 0)


@pytest.mark.parametrize(
    ("keys", "wanted"),
    [
        ("comp\t\t", "completion"),
        ("weights fe\t", "fetch"),
        ("generate --guid\t", "--guidance"),
        ("generate --method bg-b\t\t", "bg-blend-to-fg"),
    ],
)
@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_completes_commands_options_and_values(shell, keys, wanted, environment):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    terminal = Terminal(SHELLS[shell], environment)
    terminal.type(f'eval "$(layerdiffusion completion {shell})"; echo rea""dy\n', "ready")
    terminal.type(f"layerdiffusion {keys}", wanted)
    assert "command not found" not in terminal.seen
    terminal.end()


def test_fish_completes_commands_options_and_values(environment):
    if shutil.which("fish") is None:
        pytest.skip("fish is not installed")

    def completed(line):
        script = f"layerdiffusion completion fish | source; complete -C '{line}'"
        answer = subprocess.run(
            ["fish", "--no-config", "-c", script], env=environment, capture_output=True, text=True, check=True
        )
        return [row.partition("\t")[0] for row in answer.stdout.splitlines()]

    assert set(completed("layerdiffusion comp")) == {"completion", "compose"}
    assert completed("layerdiffusion weights fe") == ["fetch"]
    assert completed("layerdiffusion generate --guid") == ["--guidance"]
    assert set(completed("layerdiffusion generate --method ")) == {row.name for row in METHODS.values()}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_is_given_its_own_words(shell, capsys):
    assert main(["completion", shell]) == 0
    out = capsys.readouterr().out
    assert ("compinit" in out, "layerdiffusion" in out) == (shell == "zsh", True)
