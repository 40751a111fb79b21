"""The edge under load on a GPU, in eight minutes, with weights of Stable Diffusion 1.5's shapes.

    python -m tests.gpu.serve [--toy] [--minutes 8] [--out build/gpu]

No weights are needed: what a step costs hangs on their shapes. All systems run here, one after the
other, over one loaded family in half precision. Parts, each written to ``gpu-serve.json`` as soon
as it is known, within a minute of the last one:

1. *contention*: calls of the UNet alone, beside whole decodes on a second thread and stream (direct
   concurrency), and beside decodes in chunks, one to a call;
2. *profile*: as ``baton-edge profile`` measures it, quick;
3. *closed* loops of diffusers serial, dynamic batching, direct concurrency and the engine;
4. *open* loops of the same at rates of direct concurrency's pace, and a burst.

``--toy``: a tiny family on the CPU, to try the script.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import torch
import typer

from baton.common.diffusion.blocks import ModelInputs
from baton.common.diffusion.conditioning import stacked
from baton.common.families.loaded import LoadedFamily, load_family
from baton.common.families.registry import find_prompts
from baton.common.limits import BOTH
from baton.common.quiet import quiet_libraries
from baton.common.size import Size
from baton.edge_server.profiling import Effort, conditions_of, measured
from tests.bench import report
from tests.bench.serving.alone import references
from tests.bench.serving.closed import loop_of
from tests.bench.serving.direct import Direct
from tests.bench.serving.driver import closed_loop, open_loop
from tests.bench.serving.edge import Baton
from tests.bench.serving.metrics import Alone, Judge, row_of
from tests.bench.serving.pipelines import Collecting, Pipeline
from tests.bench.serving.process import Local
from tests.bench.serving.systems import Spec, System
from tests.bench.serving.trace import WARPS, Mix, Trace, make_trace
from tests.gpu.family import on_gpu, write_sd15
from tests.support.families import write_family

_MEMBER = "large"
_DECODE_CHUNKS = 8
_BATCHES = (2, 4, 8)


@dataclass(frozen=True)
class Setting:
    """seconds: of a loop, and of a point; loads: name, share of direct's pace, warp."""

    sides: tuple[tuple[int, float], ...]
    seconds: float
    loads: tuple[tuple[str, float, str], ...] = (
        ("0.9", 0.9, "steady"),
        ("1.1", 1.1, "steady"),
        ("burst", 0.7, "burst"),
    )


GPU = Setting(((512, 0.75), (768, 0.25)), 12.0)
TOY = Setting(((16, 0.75), (32, 0.25)), 1.0)


class Check:
    """Parts that were measured, written after each; none begins when the time is over."""

    def __init__(self, family: LoadedFamily, setting: Setting, folder: Path, until: float) -> None:
        self.family, self.setting, self.folder, self.until = family, setting, folder, until
        self.rows: list[dict[str, Any]] = []
        self.ratios: dict[str, Any] = {}
        prompts = find_prompts("scenes")
        assert prompts is not None
        self._prompts = prompts
        self.alone: Alone = {}

    def trace(self, count: int = 400) -> Trace:
        mix = Mix(self.setting.sides)
        texts = self._prompts(32, count, 1)
        return make_trace(lambda size, count, seed: texts, count, 1, mix)

    def tell(self, row: Mapping[str, Any]) -> None:
        self.rows.append(dict(row))
        print({key: _short(value) for key, value in row.items()}, flush=True)
        report.write("gpu-serve", self.rows, self.ratios, {}, self.folder)

    @property
    def over(self) -> bool:
        return time.monotonic() > self.until

    def contention(self) -> None:
        for batch in _BATCHES:
            if not self.over:
                self.tell(contention(self.family, batch, self.setting))

    def profile(self) -> None:
        effort = replace(Effort.quick(16, 8 << 30), seconds=self.setting.seconds)
        conditions = conditions_of(self.family, torch.get_num_threads())
        targets = [(_MEMBER, Size.of(self.setting.sides[0][0]))]
        found = measured(self.family, conditions, effort, targets)
        self.tell({"part": "profile", **found.model_dump(mode="json")})

    def systems(self) -> dict[str, Callable[[], System]]:
        family = self.family
        return {
            "diffusers": lambda: Collecting(Pipeline(family, _MEMBER), most=1),
            "dynamic": lambda: Collecting(Pipeline(family, _MEMBER), window=0.5),
            "direct": lambda: Direct(family, _MEMBER),
            "baton": lambda: Baton(family, _MEMBER),
        }

    def time_alone(self) -> None:
        shapes = {request.shape: request for request in self.trace().requests}
        references(self.family, _MEMBER, list(shapes.values())[:1])
        _, seconds = references(self.family, _MEMBER, list(shapes.values()))
        self.alone = dict(zip(shapes, seconds, strict=True))
        for (steps, side), took in self.alone.items():
            self.tell({"part": "alone", "steps": steps, "side": side, "seconds": took})

    def closed(self) -> dict[str, float]:
        paces: dict[str, float] = {}
        for name, make in self.systems().items():
            if self.over:
                break
            with Local(Spec(name, name, _MEMBER), make()) as system:
                closed_loop(system, self.trace().requests, 4, self.setting.seconds / 4)
                requests = self.trace().requests
                loop = loop_of(closed_loop(system, requests, 32, self.setting.seconds))
            paces[name] = loop.pace
            self.tell({"part": "closed", "name": name, **vars(loop)})
        if "direct" in paces and "baton" in paces:
            self.ratios["throughput_vs_direct"] = paces["baton"] / paces["direct"]
        return paces

    def open(self, paces: Mapping[str, float]) -> None:
        for load, share, warp in self.setting.loads:
            rate = share * paces["direct"]
            count = int(2 * rate * self.setting.seconds) + 50
            arrivals = self.trace(count).at(rate, self.setting.seconds, WARPS[warp])
            for name, make in self.systems().items():
                if self.over or not arrivals:
                    return
                with Local(Spec(name, name, _MEMBER), make()) as system:
                    found = open_loop(system, arrivals, self.setting.seconds, 3.0)
                row = row_of([Judge(None, 0, {}).slice(found)], self.alone)
                self.tell({"part": "open", "load": load, "name": name, **row})


def contention(family: LoadedFamily, batch: int, setting: Setting) -> dict[str, Any]:
    """Seconds of a call of the UNet by what runs beside it."""
    size, seconds = Size.of(setting.sides[0][0]), setting.seconds / 4
    call, pieces = unet_call(family, batch, size), decode_pieces(family, size)
    alone = _pace(call, seconds)
    with _beside(lambda: decode_whole(family, size)) as decodes:
        whole = _pace(call, seconds)
    return {
        "part": "contention",
        "batch": batch,
        "unet_s": alone,
        "beside_whole_decodes_s": whole,
        "decodes_meanwhile": decodes[0],
        "with_a_chunk_after_it_s": _pace(lambda: (next(pieces), call()), seconds),
        "lost_share": 1 - alone / whole,
    }


def unet_call(family: LoadedFamily, batch: int, size: Size) -> Callable[[], object]:
    """A call of so many guided requests, waited for."""
    text = family.encode_text("a red cat", member=_MEMBER)
    device = family.models.device
    sample = torch.randn((2 * batch, *family.latent_shape(size)), device=device)
    rows = stacked([text.row(branch) for branch in BOTH] * batch)
    inputs = ModelInputs(sample, torch.linspace(900.0, 1.0, 2 * batch, device=device), rows)
    denoiser = family.denoiser(_MEMBER)

    @torch.inference_mode()
    def call() -> None:
        denoiser(inputs)
        _wait(device)

    return call


@torch.inference_mode()
def decode_whole(family: LoadedFamily, size: Size) -> None:
    family.decode(torch.zeros(family.latent_shape(size), device=family.models.device))


def decode_pieces(family: LoadedFamily, size: Size) -> Iterator[None]:
    """Runs decodes for ever, a chunk at a time; chunks are of about as many pieces each."""
    pieces = list(family.models.decoder())
    ends = [len(pieces) * (chunk + 1) // _DECODE_CHUNKS for chunk in range(_DECODE_CHUNKS)]
    while True:
        x = torch.zeros(family.latent_shape(size), device=family.models.device)
        begin = 0
        for end in ends:
            with torch.inference_mode():
                for piece in pieces[begin:end]:
                    x = piece(x)
            begin = end
            yield


def _pace(call: Callable[[], object], seconds: float) -> float:
    """Mean seconds of a call."""
    call()
    took, begun = list[float](), time.perf_counter()
    while not took or time.perf_counter() - begun < seconds:
        before = time.perf_counter()
        call()
        took.append(time.perf_counter() - before)
    return fmean(took)


@contextmanager
def _beside(work: Callable[[], None]) -> Iterator[list[int]]:
    """The work over and over, on a thread and a stream of its own; how often so far."""
    stopping, done = threading.Event(), [0]

    def run() -> None:
        stream = torch.cuda.Stream() if torch.cuda.is_available() else None
        with torch.cuda.stream(stream) if stream else nullcontext():
            while not stopping.is_set():
                work()
                done[0] += 1

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield done
    finally:
        stopping.set()
        thread.join()


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()


def _short(value: Any) -> Any:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text[:60]


def main(
    toy: Annotated[bool, typer.Option(help="A tiny family on the CPU.")] = False,
    minutes: Annotated[float, typer.Option(help="After which no part begins.")] = 7.0,
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("build/gpu"),
) -> None:
    quiet_libraries()
    until = time.monotonic() + 60 * minutes
    if toy:
        torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        write = write_family if toy else write_sd15
        family = load_family(str(write(Path(place) / "family")), [_MEMBER])
        check = Check(family if toy else on_gpu(family), TOY if toy else GPU, out, until)
        check.tell({"part": "loaded", "device": str(check.family.models.device)})
        check.contention()
        check.profile()
        check.time_alone()
        paces = check.closed()
        if "direct" in paces:
            check.open(paces)


if __name__ == "__main__":
    typer.run(main)
