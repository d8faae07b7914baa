"""What becomes of pip-audit's answers: an advisory that nobody has accepted fails, a service that is away does not."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests import audit

ROOT = Path(__file__).parent
FILES = [ROOT / "constraints-forge.txt", ROOT / "constraints-neo.txt"]


def row(name, version, *advisories):
    vulns = [{"id": one, "aliases": ["GHSA-x", f"CVE-{one}"], "fix_versions": []} for one in advisories]
    return {"name": name, "version": version, "vulns": vulns}


@pytest.fixture
def tool(tmp_path):
    """A pip-audit that says what it is told to."""

    def make(stdout="", stderr=""):
        path = tmp_path / "pip-audit"
        path.write_text(f"#!{sys.executable}\nimport sys\nsys.stdout.write({stdout!r})\nsys.stderr.write({stderr!r})\n")
        path.chmod(0o755)
        return str(path)

    return make


def answer(*rows):
    return json.dumps({"dependencies": list(rows), "fixes": []})


def run(tool, capsys):
    code = audit.main([str(FILES[0]), "--tool", tool])
    return code, capsys.readouterr().out


def test_a_new_advisory_fails(tool, capsys):
    code, out = run(tool(answer(row("opencv-python", "4.11.0.86", "1"), row("numpy", "1.26.2"))), capsys)
    assert code == 1
    assert "opencv-python 4.11.0.86: CVE-1: NOT ACCEPTED" in out


def test_one_of_a_hosts_pin_is_told_with_the_reason(tool, capsys):
    code, out = run(tool(answer(row("gradio", "4.40.0", "1", "2"))), capsys)
    assert code == 0
    assert "CVE-2: Forge and Forge Neo pin it" in out


def test_a_pin_that_moved_is_looked_at_anew(tool, capsys):
    assert run(tool(answer(row("gradio", "4.41.0", "1"))), capsys)[0] == 1


def test_a_service_that_is_away_is_said(tool, capsys):
    unknown = {"name": "numpy", "skip_reason": "Dependency not found"}
    for given in ({"stderr": "ConnectionError: no"}, {"stdout": answer(unknown)}):
        code, out = run(tool(**given), capsys)
        assert (code, "nothing was looked up" in out) == (0, True)


def test_a_tool_that_fails_for_another_reason_fails(tool):
    with pytest.raises(RuntimeError, match="bad requirement"):
        audit.main([str(FILES[0]), "--tool", tool(stderr="bad requirement")])


def test_what_is_accepted_is_pinned_by_a_host():
    pinned = {tuple(line.lower().split("==")) for path in FILES for line in audit.pins(path)}
    assert set(audit.accepted()) <= pinned
    assert all(why for why in audit.accepted().values())
