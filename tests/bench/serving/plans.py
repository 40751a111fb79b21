"""A request of the trace as the product's own task."""

from __future__ import annotations

from baton.common.arm import Arm
from baton.common.expansion import Terms, expand
from baton.common.families.spec import FamilySpec
from baton.common.guidance import parse_budget
from baton.common.limits import Accel
from baton.common.plan import Guidance
from baton.common.request import Task
from baton.common.size import Size
from tests.bench.serving.trace import Request


def task_of(
    spec: FamilySpec,
    member: str,
    request: Request,
    accel: Accel = "none",
    relay: str = "",
    budget: str = "",
) -> Task:
    """A whole picture on the edge; relay: an arm instead, such as ``edge/large@0.4>device/small``.

    With the family's own scale of guidance and DDIM, as its diffusers pipeline. budget: of guidance
    that may be left out, as a caller says it; empty: the family's own.
    """
    own = parse_budget(spec.guidance_budget)
    terms = Terms(
        spec.name,
        "ddim",
        request.steps,
        Guidance(spec.default_guidance),
        accel,
        own_guidance=spec.own_guidance,
        budget=parse_budget(budget, own) if budget else own,
    )
    plan = expand(Arm.parse(relay or f"edge/{member}"), terms)
    return Task(request.prompt, "", plan, request.seed, Size.of(request.side))
