"""Who hears what an edge does, for its metrics."""

from __future__ import annotations

from baton.edge_server.engine.job import Outcome


class Observer:
    """Hears what an edge does; this one minds nothing of it.

    It is told on the model thread (`denoised`, `round`, `knobs`) and, of requests, on the event
    loop, and holds neither up. Times in seconds.
    """

    def arrived(self) -> None:
        """A request stands in line."""

    def refused(self) -> None:
        """A request was not let in."""

    def started(self, waited: float) -> None:
        """A request has a place."""

    def ended(self, how: str, ran: bool, seconds: float, outcome: Outcome) -> None:
        """A request is no more. how: its end, in a word; ran: whether it had a place."""

    def denoised(self, member: str, rows: int, skipped: int, seconds: float) -> None:
        """One call of a member. skipped: rows that it left out by leaving guidance out."""

    def round(self, planned: bool) -> None:
        """A round whose numbers were a plan's, or greedy for want of one."""

    def knobs(self, skip_after: float, chunks: int, delta: float) -> None:
        """The controller has set them anew.

        skip_after: share of the steps from which guidance may be left out; chunks: how many
        times finer than at rest decodings are cut; delta: by what share a plan may exceed the
        shortest one's time.
        """
