"""A device in a process of its own that says, while it draws, how it goes.

As a script it reads requests from stdin and answers on stdout, a line of JSON each; a request is
``[PROMPT, {OPTION: VALUE}]``, with the fields of `GenerationRequest`. `Device` is the other side.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from typing import Any

from baton.common.config import load_settings
from baton.device_client.events import Decided, Event, Finished, Stepped
from baton.device_client.sdk import Client
from baton.device_client.settings import DeviceSettings


class Device:
    """Asks and listens; ``process`` runs this script, stdin and stdout being pipes."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._stdin, self._stdout = process.stdin, process.stdout

    def hear(self) -> dict[str, Any]:
        """The next thing that it says, starting with ``{"ready": true}``."""
        return dict(json.loads(self._stdout.readline()))

    def ask(self, prompt: str, **options: object) -> None:
        self._stdin.write(json.dumps([prompt, options]) + "\n")
        self._stdin.flush()

    def result(self) -> dict[str, Any]:
        while "picture" not in (told := self.hear()):
            pass
        return told

    def draw(self, prompt: str, **options: object) -> dict[str, Any]:
        self.ask(prompt, **options)
        return self.result()


def main() -> None:
    with Client(load_settings(DeviceSettings, "device", {})[0]) as client:
        _say({"ready": True})
        for line in sys.stdin:
            prompt, options = json.loads(line)
            client.generate(prompt, _tell, **options)


def _tell(event: Event) -> None:
    if isinstance(event, Decided):
        _say({"edges": [edge.node_id for edge in event.decision.edges]})
    elif isinstance(event, Stepped):
        _say({"step": event.step})
    elif isinstance(event, Finished):
        result = event.result
        nodes = Counter(step.node_id for step in result.executed)
        _say({"nodes": nodes, "notes": result.notes, "picture": result.picture.tolist()})


def _say(told: dict[str, Any]) -> None:
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
