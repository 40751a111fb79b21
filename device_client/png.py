"""PNG files that say how they were made."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from common.errors import InvalidRequest
from common.plan import ExecutedStep, Task

PLAN_CHUNK = "baton"
_CHUNK_VERSION = 1
_SAMPLER_NAMES = {"ddim": "DDIM", "euler": "Euler", "dpmpp_2m": "DPM++ 2M"}


@dataclass(frozen=True)
class Provenance:
    """What a picture's chunks hold."""

    task: Task
    executed: tuple[ExecutedStep, ...]
    fingerprint: str
    codec: str

    def parameters(self) -> str:
        """The line that other tools read (A1111 style)."""
        task, plan = self.task, self.task.plan
        members = ">".join(dict.fromkeys(step.member for step in self.executed))
        settings = {
            "Steps": plan.steps,
            "Sampler": _SAMPLER_NAMES[plan.sampler],
            "CFG scale": f"{plan.guidance_scale:g}",
            "Seed": task.seed,
            "Size": f"{task.size}x{task.size}",
            "Model": f"{plan.family}/{members}",
        }
        lines = [task.prompt]
        if task.negative:
            lines.append(f"Negative prompt: {task.negative}")
        lines.append(", ".join(f"{key}: {value}" for key, value in settings.items()))
        return "\n".join(lines)

    def chunk(self) -> str:
        """The executed plan as JSON."""
        task, plan = self.task, self.task.plan
        return json.dumps(
            {
                "version": _CHUNK_VERSION,
                "family": plan.family,
                "fingerprint": self.fingerprint,
                "prompt": task.prompt,
                "negative_prompt": task.negative,
                "seed": task.seed,
                "size": task.size,
                "sampler": plan.sampler,
                "steps": plan.steps,
                "guidance_scale": plan.guidance_scale,
                "codec": self.codec,
                "executed": [asdict(step) for step in self.executed],
            }
        )


def save_png(image: Image.Image, path: Path, provenance: Provenance | None) -> Path:
    """Write a picture. Raises InvalidRequest, naming the file and the cause."""
    info = PngInfo()
    if provenance is not None:
        info.add_itxt("parameters", provenance.parameters())
        info.add_itxt(PLAN_CHUNK, provenance.chunk())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, format="PNG", pnginfo=info)
    except OSError as error:
        raise InvalidRequest(f"cannot write {path}: {error.strerror or error}") from error
    return path
