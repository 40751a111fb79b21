"""A system in a process of its own, and the wire to it."""

from __future__ import annotations

import contextlib
import multiprocessing
import queue
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, Future
from multiprocessing.connection import Connection
from typing import Any, Protocol

import psutil

from tests.bench.serving.systems import Answer, Spec, System
from tests.bench.serving.trace import Request

_START_SECONDS = 120.0

Maker = Callable[[Spec], System]


def _diffusers(spec: Spec) -> System:
    from tests.bench.serving.pipelines import Collecting, Pipeline

    return Collecting(Pipeline(_family(spec), spec.member), **{"most": 1} | spec.options)


def _dynamic(spec: Spec) -> System:
    from tests.bench.serving.pipelines import Collecting, Pipeline

    return Collecting(Pipeline(_family(spec), spec.member), **{"window": 0.5} | spec.options)


def _direct(spec: Spec) -> System:
    from tests.bench.serving.direct import Direct

    return Direct(_family(spec), spec.member, **spec.options)


def _baton(spec: Spec) -> System:
    from tests.bench.serving.edge import Baton

    return Baton(_family(spec), spec.member, **spec.options)


def _batcher(spec: Spec) -> System:
    from tests.bench.serving.batcher import Batcher

    return Batcher(spec.family, spec.member, **spec.options)


def _served(spec: Spec) -> System:
    from tests.bench.serving.rpc import Served

    return Served(spec.family, spec.member, **spec.options)


MAKERS: Mapping[str, Maker] = {
    "diffusers": _diffusers,
    "dynamic": _dynamic,
    "batcher": _batcher,
    "direct": _direct,
    "baton": _baton,
    "served": _served,
}


def _family(spec: Spec) -> Any:
    from baton.common.families.loaded import load_family

    members = {spec.member, *spec.options.get("members", ())}
    return load_family(spec.family, sorted(members))


def serve(pipe: Connection, spec: Spec) -> None:
    """The process's own: answers what comes through the pipe until ``None`` does."""
    from baton.common.quiet import quiet_libraries
    from tests.bench.timing import one_thread

    quiet_libraries()
    one_thread()
    out: queue.SimpleQueue[Any] = queue.SimpleQueue()
    sender = threading.Thread(target=_send, args=(pipe, out), daemon=True)
    sender.start()
    system = MAKERS[spec.kind](spec)
    out.put(("ready", None))
    while (message := _heard(pipe)) is not None:
        if isinstance(message, Request):
            _submit(system, message, out)
        else:
            out.put((message, getattr(system, message)()))
    system.close()
    out.put(None)
    sender.join()


def _heard(pipe: Connection) -> Any:
    """None at the end, also where whoever asked is gone."""
    try:
        return pipe.recv()
    except EOFError:
        return None


def _submit(system: System, request: Request, out: queue.SimpleQueue[Any]) -> None:
    def done(future: Future[Answer]) -> None:
        try:
            answer: Answer | str = future.result()
        except CancelledError:
            answer = "cancelled"
        except Exception as error:
            answer = f"{type(error).__name__}: {error}"
        out.put((request.index, answer))

    system.submit(request).add_done_callback(done)


def _send(pipe: Connection, out: queue.SimpleQueue[Any]) -> None:
    """On a thread of its own, so that no model thread packs pictures."""
    with contextlib.suppress(BrokenPipeError):
        while (message := out.get()) is not None:
            pipe.send(message)


#: An index and what became of it, an answer or words; or what was asked and what was told.
Message = tuple[int | str, Any]


class Running(Protocol):
    """A system that a load can be sent to."""

    spec: Spec

    def send(self, request: Request) -> None: ...

    def post(self, what: str) -> None:
        """Ask for a method of the system, and let its answer come with the others."""
        ...

    def hear(self, seconds: float) -> Message | None:
        """The next message; None if none comes in time."""
        ...

    def ask(self, what: str) -> Any:
        """A method of the system by name; other messages that come meanwhile are kept."""
        ...

    def cpu_seconds(self) -> float: ...

    def rest(self) -> None: ...

    def wake(self) -> None: ...


class Remote:
    """A running system in a process of its own. ``with`` it: it ends with the block."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, spec))
        self._process.start()
        theirs.close()
        self._held: list[Message] = []
        if not self._pipe.poll(_START_SECONDS) or self._pipe.recv() != ("ready", None):
            raise RuntimeError(f"{spec.name} does not start")

    def __enter__(self) -> Remote:
        return self

    def __exit__(self, *error: object) -> None:
        self.wake()
        if self._process.is_alive():
            self._pipe.send(None)
            self._process.join(_START_SECONDS)
        self._process.terminate()  # a third party's may hang
        self._pipe.close()

    def send(self, request: Request) -> None:
        self._pipe.send(request)

    def post(self, what: str) -> None:
        self._pipe.send(what)

    def hear(self, seconds: float) -> Message | None:
        """Raises EOFError if the process is gone."""
        if self._held:
            return self._held.pop(0)
        if not self._pipe.poll(max(seconds, 0.0)):
            return None
        message: Message = self._pipe.recv()
        return message

    def ask(self, what: str) -> Any:
        self.post(what)
        while True:
            message: Message = self._pipe.recv()
            if message[0] == what:
                return message[1]
            self._held.append(message)

    def cpu_seconds(self) -> float:
        """Of all its processes, by now."""
        return sum(_cpu(process) for process in self._all())

    def rest(self) -> None:
        """Hold all its processes; to be called when nothing is under way."""
        for process in self._all():
            process.suspend()

    def wake(self) -> None:
        for process in self._all():
            process.resume()

    def _all(self) -> list[psutil.Process]:
        try:
            root = psutil.Process(self._process.pid)
            return [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []


class Local:
    """The same in this process, for systems that share one family: models that fit but once."""

    def __init__(self, spec: Spec, system: System) -> None:
        self.spec, self._system = spec, system
        self._out: queue.SimpleQueue[Message] = queue.SimpleQueue()

    def __enter__(self) -> Local:
        return self

    def __exit__(self, *error: object) -> None:
        self._system.close()

    def send(self, request: Request) -> None:
        _submit(self._system, request, self._out)

    def post(self, what: str) -> None:
        self._out.put((what, self.ask(what)))

    def hear(self, seconds: float) -> Message | None:
        with contextlib.suppress(queue.Empty):
            return self._out.get(timeout=max(seconds, 0.0))
        return None

    def ask(self, what: str) -> Any:
        return getattr(self._system, what)()

    def cpu_seconds(self) -> float:
        return _cpu(psutil.Process())

    def rest(self) -> None:
        """Its threads wait by themselves."""

    def wake(self) -> None:
        """They never slept."""


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system
