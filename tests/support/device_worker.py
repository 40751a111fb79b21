"""A device as a process of its own, so that it can be slow by itself.

    python -m tests.support.device_worker '{"coordinator": "HOST:PORT", "members": "small"}'

It reads a line of JSON for each picture, the fields of `GenerationRequest`, and answers with one of
what it took. ``{"spin": SECONDS}`` computes for so much processor time instead. With ``"picture":
true`` the picture comes along, its bytes in hexadecimal.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # who only asks a device needs no models
    from baton.device_client import Client

ROOT = Path(__file__).parents[2]


class Device:
    """Such a process, as its parent sees it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, **fields: Any) -> dict[str, Any]:
        """Its answer to a request. Raises RuntimeError with what went wrong there."""
        assert self._process.stdin is not None
        print(json.dumps(fields), file=self._process.stdin, flush=True)
        return self.hear()

    def hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": "the device is gone"}
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer


@contextlib.contextmanager
def device(**settings: Any) -> Iterator[Device]:
    """A device with these settings, its models loaded."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.device_worker", json.dumps(settings)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        made = Device(process)
        made.hear()
        yield made
    finally:
        process.kill()
        process.communicate()


def _spin(seconds: float) -> dict[str, Any]:
    begun = time.process_time()
    while time.process_time() - begun < seconds:
        pass
    return {"spun": seconds}


def _draw(client: Client, fields: dict[str, Any]) -> dict[str, Any]:
    with_picture = fields.pop("picture", False)
    result = client.generate(**fields)
    told = {
        "arm": result.arm,
        "steps": result.task.plan.steps,
        "edge_steps": result.steps_at("edge"),
        "notes": result.notes,
        "seconds": asdict(result.seconds),
        "traffic": asdict(result.traffic),
    }
    return told | ({"picture": result.picture.tobytes().hex()} if with_picture else {})


def main() -> None:
    from baton.common.errors import BatonError
    from baton.common.quiet import quiet_libraries
    from baton.device_client import Client

    quiet_libraries()
    with Client(state_folder=None, **json.loads(sys.argv[1])) as client:
        print(json.dumps({"ready": True}), flush=True)
        for line in sys.stdin:
            fields = json.loads(line)
            try:
                told = _spin(fields["spin"]) if "spin" in fields else _draw(client, fields)
            except BatonError as error:
                told = {"error": f"{type(error).__name__}: {error}"}
            print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
