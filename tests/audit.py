"""Looks for published advisories about the pinned packages: `python -m tests.audit CONSTRAINTS... [--tool pip-audit]`.

Exit code 1 where there is one that `advisories.toml` does not accept. Where no advisory service answers, nothing has
been looked at; that is said and is no failure, since it says nothing about the packages.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ACCEPTED = Path(__file__).parent / "advisories.toml"
SERVICES = ("pypi", "osv")
SECONDS = 120


@dataclass(frozen=True)
class Finding:
    """An advisory about a package of a version. why: it is accepted for this reason, "" where it is not."""

    package: str
    version: str
    advisory: str
    why: str

    def __str__(self) -> str:
        return f"{self.package} {self.version}: {self.advisory}: {self.why or 'NOT ACCEPTED'}"


def accepted(path: Path = ACCEPTED) -> dict[tuple[str, str], str]:
    """(package, version) -> why its advisories are accepted."""
    rows = tomllib.loads(path.read_text(encoding="utf-8"))["accepted"]
    return {(row["package"], version): " ".join(row["why"].split()) for row in rows for version in row["versions"]}


def findings(report: dict[str, Any], reasons: dict[tuple[str, str], str]) -> list[Finding]:
    """What pip-audit's JSON says."""
    return [
        Finding(row["name"], row["version"], _name(one), reasons.get((row["name"].lower(), row["version"]), ""))
        for row in report["dependencies"]
        for one in row.get("vulns", ())
    ]


def _name(advisory: dict[str, Any]) -> str:
    """The CVE's number, which people know, where there is one."""
    return next((alias for alias in advisory.get("aliases", ()) if alias.startswith("CVE-")), advisory["id"])


def unseen(report: dict[str, Any]) -> list[str]:
    """Packages that the service does not know."""
    return [row["name"] for row in report["dependencies"] if "skip_reason" in row]


def pins(path: Path) -> list[str]:
    """The lines of a constraints file that are pins."""
    lines = (line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line]


def audited(tool: str, constraints: Path) -> dict[str, Any] | None:
    """pip-audit's report from the first service that knows any of the packages, None where none does."""
    with tempfile.TemporaryDirectory(prefix="layerdiffusion-audit-") as folder:
        wanted = Path(folder) / "pins.txt"
        wanted.write_text("\n".join(pins(constraints)))
        for service in SERVICES:
            report = _asked([tool, "-s", service, "-r", str(wanted), "--no-deps", "--disable-pip", "-f", "json"])
            if report is not None and len(unseen(report)) < len(report["dependencies"]):
                return report
    return None


def _asked(command: list[str]) -> dict[str, Any] | None:
    """Raises RuntimeError where the tool says anything but that it cannot reach its service."""
    try:
        done = subprocess.run(
            [*command, "--progress-spinner", "off"], capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return None
    try:
        return json.loads(done.stdout)
    except ValueError:
        words = done.stderr.lower()
        if any(sign in words for sign in ("connection", "connect to", "timed out", "timeout", "resolve", "proxy")):
            return None
        raise RuntimeError(f"pip-audit failed: {done.stderr[-2000:]}") from None


def told(
    constraints: Path, report: dict[str, Any] | None, reasons: dict[tuple[str, str], str]
) -> tuple[list[str], int]:
    """Lines to print about a file, and how many advisories in it are not accepted."""
    if report is None:
        return [f"{constraints.name}: no advisory service answers here, so nothing was looked up"], 0
    found = findings(report, reasons)
    new = [one for one in found if not one.why]
    lines = [
        f"{constraints.name}: {len(report['dependencies'])} pins, {len(found)} advisories, {len(new)} not accepted"
    ]
    lines += [f"  {one}" for one in found]
    if unseen(report):
        lines.append(f"  not known there: {', '.join(unseen(report))}")
    return lines, len(new)


def main(argv: Iterable[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.audit", description=__doc__)
    parser.add_argument("constraints", type=Path, nargs="+")
    parser.add_argument("--tool", default="pip-audit")
    arguments = parser.parse_args(argv)
    reasons, bad = accepted(), 0
    for path in arguments.constraints:
        lines, new = told(path, audited(arguments.tool, path), reasons)
        print("\n".join(lines))
        bad += new
    return min(bad, 1)


if __name__ == "__main__":
    sys.exit(main())
