"""`python -m local.audit`: whether a pinned package is known to have a hole.

Asks an index of advisories, https://osv.dev, in one request that names packages and versions. Where
it cannot be reached, this is told and all is well. Exit code 1: there is one. AUDIT_URL names
another index with the same API.
"""

import json
import os
import re
import sys
import threading
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from local.processes import say
from local.settings import ROOT

URL = "https://api.osv.dev/v1/querybatch"
ANSWER_S = 5.0
"""So long an answer is waited for in all: names that cannot be resolved take their time."""
REQUIREMENTS = ("requirements.txt", "requirements-dev.txt", "bench/requirements.txt")
LOCK = "package-lock.json"

_PINNED = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;\\]+)", re.MULTILINE)


class Package(NamedTuple):
    """A package of an ecosystem, PyPI or npm, in one version."""

    ecosystem: str
    name: str
    version: str


def main(env: Mapping[str, str], root: Path = ROOT) -> int:
    url = env.get("AUDIT_URL") or URL
    packages = sorted(set(pinned(root)))
    advisories = asked(url, packages)
    if advisories is None:
        say(f"audit: skipped, {url} cannot be reached")
        return 0
    found = {package: ids for package, ids in zip(packages, advisories, strict=True) if ids}
    for package, ids in found.items():
        say(f"audit: {package.name} {package.version} ({package.ecosystem}): {', '.join(ids)}")
    say(f"audit: {len(found)} of {len(packages)} packages have a known hole")
    return 1 if found else 0


def pinned(root: Path) -> Iterator[Package]:
    """All packages that this project installs."""
    for name in REQUIREMENTS:
        for package, version in _PINNED.findall((root / name).read_text(encoding="utf-8")):
            yield Package("PyPI", package, version)
    lock = json.loads((root / LOCK).read_text(encoding="utf-8"))
    for path, entry in lock["packages"].items():
        if path:
            yield Package("npm", path.rpartition("node_modules/")[2], entry["version"])


def asked(url: str, packages: Sequence[Package]) -> Sequence[Sequence[str]] | None:
    """The ids of the advisories of each package; None if there is no answer that can be used."""
    answers: list[Sequence[Sequence[str]]] = []

    def ask() -> None:
        try:
            answers.append(_results(_fetched(url, packages), len(packages)))
        except (OSError, ValueError, KeyError, TypeError):
            return

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(ANSWER_S)
    return answers[0] if answers else None


def _fetched(url: str, packages: Sequence[Package]) -> Any:
    queries = [
        {"package": {"ecosystem": one.ecosystem, "name": one.name}, "version": one.version}
        for one in packages
    ]
    request = urllib.request.Request(
        url, json.dumps({"queries": queries}).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=ANSWER_S) as answer:
        return json.load(answer)


def _results(answer: Any, count: int) -> Sequence[Sequence[str]]:
    """Raises ValueError, KeyError or TypeError for what is no answer to so many queries."""
    results = [[one["id"] for one in result.get("vulns", [])] for result in answer["results"]]
    if len(results) != count:
        raise ValueError(f"{len(results)} results for {count} queries")
    return results


if __name__ == "__main__":
    sys.exit(main(os.environ))
