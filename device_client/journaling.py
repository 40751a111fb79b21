"""Journal entries of requests, also of those that failed or were withdrawn."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import groupby

from baton.common.errors import BatonError
from baton.common.plan import OpenPlan
from baton.common.record import ExecutedStep
from baton.common.request import GenerationRequest, Task
from baton.common.size import Size
from baton.device_client.journal import Entry, Journal, Settled, Stretch
from baton.device_client.result import Result, Seconds
from baton.device_client.session import PictureSession
from baton.device_client.static_decision import is_static


async def run_and_tell(session: PictureSession, journal: Journal) -> Result:
    """Run the session and write down how it went. Raises what the session raises."""
    created = time.time()
    try:
        result = await session.run()
    except (Exception, asyncio.CancelledError) as error:
        await journal.write(_unfinished(session, created, error))
        raise
    await journal.write(_finished(session, created, result))
    return result


def _finished(session: PictureSession, created: float, result: Result) -> Entry:
    quality = result.quality
    return replace(
        _so_far(session, created),
        ending="picture",
        executed=_stretches(result.executed, session.task),
        seconds=result.seconds,
        quality=None if quality is None else quality.graded,
        verified=None if quality is None else quality.strict,
    )


def _unfinished(session: PictureSession, created: float, error: BaseException) -> Entry:
    entry = replace(_so_far(session, created), seconds=Seconds(session.spent))
    if isinstance(error, asyncio.CancelledError):
        return replace(entry, ending="cancelled")
    status = error.status if isinstance(error, BatonError) else BatonError.status
    message = session.order.request.hide(str(error))  # a caller may name an arm as the prompt
    return replace(entry, error=status, message=message)


def _so_far(session: PictureSession, created: float) -> Entry:
    request, task, so_far = session.order.request, session.task, session.so_far
    notes = [*so_far.notes, *session.order.unheard(quote=False)]
    return Entry(
        request_id=session.order.request_id,
        created_unix=created,
        ending="failed",
        family=session.order.device.spec.name,
        preference=request.preference,
        seed=request.seed,
        sampler=">".join(task.plan.samplers) if task else request.sampler or "",
        steps=task.plan.steps if task else request.steps,
        guidance=task.plan.segments[0].guidance.scale if task else request.guidance,
        guidance_budget=str(task.plan.budget or "") if task else "",
        size=_size(task, request),
        decision=_settled(session),
        planned=_planned(task.plan) if task else (),
        attempts=tuple(so_far.attempts),
        executed=_stretches(so_far.executed, task),
        traffic=so_far.traffic,
        notes=tuple(notes),
    )


def _size(task: Task | None, request: GenerationRequest) -> str | None:
    size = task.size if task else request.size
    return None if size is None else str(Size.of(size))


def _settled(session: PictureSession) -> Settled | None:
    decision = session.decision
    if decision is None:
        return None
    static = is_static(decision.decision_id)
    coordinator = "" if static else session.order.device.settings.coordinator
    return Settled(
        decision.decision_id, str(decision.arm), decision.reason, decision.edges, coordinator
    )


def _planned(plan: OpenPlan) -> tuple[Stretch, ...]:
    return tuple(Stretch(s.start, s.stop, s.member, s.location) for s in plan.segments)


def _stretches(steps: Iterable[ExecutedStep], task: Task | None) -> tuple[Stretch, ...]:
    """Neighbouring steps that ran on one member of one node are one stretch."""
    groups = groupby(steps, lambda step: (step.member, step.location, step.node_id))
    made = []
    for (member, location, node_id), group in groups:
        ran = list(group)
        start, stop, calls = ran[0].step, ran[-1].step + 1, len(ran) - sum(s.ahead for s in ran)
        lean = 0 if task is None else _lean(ran, task.plan)
        made.append(Stretch(start, stop, member, location, node_id, _share(ran), calls, lean))
    return tuple(made)


def _lean(steps: Sequence[ExecutedStep], plan: OpenPlan) -> int:
    return sum(step.branches != "both" and plan.guided_at(step.step) for step in steps)


def _share(steps: Sequence[ExecutedStep]) -> float:
    """Of the blocks of the fullest step: whoever takes over runs its first one in full."""
    counts = [step.blocks.bit_count() for step in steps if step.blocks is not None]
    if not counts or not max(counts):
        return 1.0
    return (sum(counts) / max(counts) + len(steps) - len(counts)) / len(steps)
