"""What an edge does, in numbers for Prometheus: one registry a node, and none beside it."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from baton.edge_server.engine.job import Drawn, HandedOff, Outcome
from baton.edge_server.engine.observer import Observer
from baton.edge_server.requests.lifecycle import State

_CALLS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_WAITS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_ROWS = (1, 2, 4, 6, 8, 12, 16, 24, 32, 64, 128, 256, 512)
_BYTES = tuple(float(1 << bits) for bits in range(10, 26))
_PLANS = {True: "planned", False: "greedy"}
_REFUSED = "refused"


class Metrics(Observer):
    """Counts and times what it hears of. Labels are of few values, known beforehand.

    members: that the edge serves.
    """

    def __init__(self, members: Iterable[str]) -> None:
        self.registry = CollectorRegistry()
        self._name_requests()
        self._name_rounds(members)
        self._name_knobs()

    def _name_requests(self) -> None:
        of = self.registry
        self._running = Gauge("baton_requests_running", "Requests that have a place.", registry=of)
        self._waiting = Gauge(
            "baton_requests_waiting", "Requests that wait for a place.", registry=of
        )
        self._waited = Histogram(
            "baton_queue_wait_seconds",
            "From a request's arrival until it has a place.",
            buckets=_WAITS,
            registry=of,
        )
        self._seconds = Histogram(
            "baton_request_seconds",
            "From a request's arrival to its end, by its end.",
            ["outcome"],
            buckets=_WAITS,
            registry=of,
        )
        self._ended = Counter(
            "baton_requests",
            "Requests by their end; refused: not let in.",
            ["outcome"],
            registry=of,
        )
        self._handoffs = Histogram(
            "baton_handoff_bytes",
            "Size of a latent that was handed off.",
            buckets=_BYTES,
            registry=of,
        )
        ends = [state.word for state in State if state.ended]
        for end in ends:
            self._seconds.labels(end)
        for end in (*ends, _REFUSED):
            self._ended.labels(end)

    def _name_rounds(self, members: Iterable[str]) -> None:
        of = self.registry
        self._steps = Histogram(
            "baton_denoise_step_seconds",
            "One call that denoises, by member.",
            ["member"],
            buckets=_CALLS,
            registry=of,
        )
        self._rows = Histogram(
            "baton_batch_rows", "Rows of a call that denoises.", buckets=_ROWS, registry=of
        )
        self._skipped = Counter(
            "baton_skipped_branches",
            "Rows that were left out by leaving guidance out.",
            registry=of,
        )
        self._decodes = Histogram(
            "baton_vae_decode_seconds",
            "Decoding of a picture, all its chunks.",
            buckets=_CALLS,
            registry=of,
        )
        self._rounds = Counter(
            "baton_rounds", "Rounds whose numbers were a plan's, or greedy.", ["plan"], registry=of
        )
        for member in members:
            self._steps.labels(member)
        for plan in _PLANS.values():
            self._rounds.labels(plan)

    def _name_knobs(self) -> None:
        of = self.registry
        self._skip_after = Gauge(
            "baton_skip_after_share",
            "Share of the steps from which guidance may be left out; 1: nowhere.",
            registry=of,
        )
        self._chunks = Gauge(
            "baton_decode_chunks",
            "How many times finer than at rest decodings are cut.",
            registry=of,
        )
        self._delta = Gauge(
            "baton_throughput_delta",
            "By what share a plan may exceed the shortest one's time.",
            registry=of,
        )
        self.knobs(1.0, 1, 0.0)

    def arrived(self) -> None:
        self._waiting.inc()

    def refused(self) -> None:
        self._ended.labels(_REFUSED).inc()

    def started(self, waited: float) -> None:
        self._waiting.dec()
        self._running.inc()
        self._waited.observe(waited)

    def ended(self, how: str, ran: bool, seconds: float, outcome: Outcome) -> None:
        (self._running if ran else self._waiting).dec()
        self._ended.labels(how).inc()
        self._seconds.labels(how).observe(seconds)
        if isinstance(outcome, HandedOff):
            self._handoffs.observe(len(outcome.envelope))
        elif isinstance(outcome, Drawn):
            self._decodes.observe(outcome.times.decode)

    def denoised(self, member: str, rows: int, skipped: int, seconds: float) -> None:
        self._steps.labels(member).observe(seconds)
        self._rows.observe(rows)
        self._skipped.inc(skipped)

    def round(self, planned: bool) -> None:
        self._rounds.labels(_PLANS[planned]).inc()

    def knobs(self, skip_after: float, chunks: int, delta: float) -> None:
        self._skip_after.set(skip_after)
        self._chunks.set(chunks)
        self._delta.set(delta)
