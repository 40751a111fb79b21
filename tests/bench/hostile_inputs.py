"""What it costs to refuse hostile input: ``bench/hostile_inputs.json``.

    python -m tests.bench.hostile_inputs

Each case is read in a process of its own, so that its peak memory is known to the kernel, which
also sees what the parsers written in C take.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from baton.common.families.loaded import load_family
from tests.bench.report import write
from tests.support.families import write_family
from tests.support.hostile import Read, cases, is_refused

_ROUNDS = 5


def main() -> None:
    """Measure and write."""
    with tempfile.TemporaryDirectory() as folder:
        family = load_family(str(write_family(Path(folder) / "family")))
    rows = [{"case": name, **_cost(read)} for name, read in cases(family).items()]
    worst = {
        "slowest_milliseconds": max(row["milliseconds"] for row in rows),
        "slowest_cpu_milliseconds": max(row["cpu_milliseconds"] for row in rows),
        "largest_mebibytes": max(row["mebibytes"] for row in rows),
        "load_average": os.getloadavg()[0],
    }
    print(write("hostile_inputs", [*rows, {"case": "worst of all", **worst}], {}, {}))


def _cost(read: Read) -> dict[str, Any]:
    here, there = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_measure, args=(read, there))
    process.start()
    there.close()
    cost: dict[str, Any] = here.recv()
    process.join()
    print(cost)
    return cost


def _measure(read: Read, answer: Connection) -> None:
    """Milliseconds of the best round, on the clock and of the processor; peak memory of the first.

    The best round is what it costs here; the others also tell what else the machine was doing.
    """
    before = _reset_peak()
    refused = is_refused(read)
    mebibytes = (_status("VmHWM") - before) / 1024
    rounds = [_time(read) for _ in range(_ROUNDS)]
    answer.send(
        {
            "refused": refused,
            "milliseconds": 1000 * min(clock for clock, _ in rounds),
            "cpu_milliseconds": 1000 * min(processor for _, processor in rounds),
            "mebibytes": mebibytes,
        }
    )


def _reset_peak() -> int:
    """Give back what is free, and count from here; KiB resident now."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(name: str) -> int:
    """KiB that the kernel counts for this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def _time(read: Read) -> tuple[float, float]:
    clock, processor = time.perf_counter(), time.process_time()
    is_refused(read)
    return time.perf_counter() - clock, time.process_time() - processor


if __name__ == "__main__":
    main()
