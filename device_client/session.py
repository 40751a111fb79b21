"""One picture from request to result: decide, plan, edge's part, device's part, report.

Each of the five is an object in a file of its name.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from baton.common.decision import Decision
from baton.common.errors import BatonError, Cancelled, executing
from baton.common.request import GenerationRequest, Task
from baton.device_client.budget import Budget
from baton.device_client.decide import Decider
from baton.device_client.device_part import DevicePart
from baton.device_client.edge_part import EdgePart
from baton.device_client.events import Decided, Event
from baton.device_client.order import Device, Order
from baton.device_client.plan import Planner
from baton.device_client.report import Report
from baton.device_client.result import Result
from baton.device_client.so_far import SoFar


class PictureSession:
    """Draws one picture; ``emit`` hears every event on the event loop's thread.

    ``decision``, ``task`` and ``so_far`` tell how far it has come, also if no picture comes of it.
    """

    def __init__(
        self,
        device: Device,
        request: GenerationRequest,
        request_id: str,
        emit: Callable[[Event], None],
    ) -> None:
        self.order = Order(device, request, request_id, emit)
        self.so_far = SoFar()
        self.decision: Decision | None = None
        self.task: Task | None = None

    async def run(self) -> Result:
        """Raises BatonError if no way led to a picture.

        The coordinator hears of that too, and of a request that is withdrawn.
        """
        order = self.order
        order.timer.budget = Budget.of(order.request.timeout)
        with executing("deciding"):
            order.device.spec.latent_shape(order.size)  # nobody is asked about what cannot work
            decision = self.decision = await Decider(order, self.so_far).decide()
        report = Report(order, self.so_far, decision)
        try:
            with executing("drawing on this device"):
                result = await self._draw(decision, report)
                report.tell(result)
        except BatonError as error:
            # only the caller's own word withdraws a request, not that of an edge
            report.tell_failure("ABORTED" if isinstance(error, Cancelled) else error.status)
            raise
        except asyncio.CancelledError:
            report.tell_failure(Cancelled.status)
            raise
        return result

    @property
    def spent(self) -> float:
        """Seconds since it began, without those in which this device drew other pictures first."""
        return self.order.timer.budget.spent

    async def _draw(self, decision: Decision, report: Report) -> Result:
        """Every stretch of the plan in turn, where it says or where it can be run."""
        order, so_far = self.order, self.so_far
        planner = Planner(order, so_far)
        edges, here = EdgePart(order, so_far, planner), DevicePart(order, so_far, planner)
        task = self.task = planner.task(decision.arm)
        planned = task.plan
        order.emit(Decided(decision, planned))
        so_far.deciding_seconds = spent = self.spent
        while so_far.picture is None:
            before = spent
            if task.plan.segment_at(so_far.resume_step).location == "edge":
                task, spent = await edges.run(task, decision), self.spent
                so_far.edge_seconds += spent - before
            else:
                task, spent = await here.run(task), self.spent
                so_far.device_seconds += spent - before
        return report.result(so_far.picture, planned, task)
