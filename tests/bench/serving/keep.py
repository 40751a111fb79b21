"""Results that a broken run goes on from, under a key of the sources that decide them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from baton.common.files import saving
from tests.bench import report

CACHE = report.ROOT / "build" / "bench-cache"
_SOURCES = ("common", "edge_server", "tests/bench/serving")
_FILES = ("tests/bench/contention.py", "tests/bench/planner.py", "tests/bench/simulation.py")


class Kept:
    """folder: None keeps nothing."""

    def __init__(self, folder: Path | None = CACHE) -> None:
        self._folder = None if folder is None else folder / f"serve-{sources_digest()}"

    def __call__(self, key: object, make: Callable[[], Any]) -> Any:
        """What was made under the key before, or is now: plain values, as JSON holds them."""
        if self._folder is None:
            return make()
        path = self._folder / f"{_digest(repr(key).encode())}.json"
        if path.is_file():
            return json.loads(path.read_text())["made"]
        text = json.dumps({"key": repr(key), "made": make()})
        with saving(path) as file:
            file.write(text.encode())
        return json.loads(text)["made"]


def sources_digest(root: Path = report.ROOT) -> str:
    """Of the code that is measured, and that measures. What trains a family is neither."""
    found = (path for name in _SOURCES for path in (root / name).rglob("*.py"))
    paths = sorted(path for path in found if "training" not in path.relative_to(root).parts)
    paths += [root / name for name in _FILES]
    return _digest(*(path.read_bytes() for path in paths))


def _digest(*parts: bytes) -> str:
    made = hashlib.blake2b(digest_size=10)
    for part in parts:
        made.update(hashlib.blake2b(part).digest())
    return made.hexdigest()
