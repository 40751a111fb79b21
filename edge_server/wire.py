"""Between the edge's messages and its domain, with every check that needs no model work."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace

from baton.common.arm import Arm
from baton.common.build import package_version, this_build
from baton.common.errors import Incompatible, InvalidRequest, PermissionDenied
from baton.common.expansion import Terms, expand
from baton.common.families.loaded import LoadedFamily
from baton.common.latents import Codec, decode_state, largest_envelope
from baton.common.limits import MAX_STEPS
from baton.common.plan import Guidance
from baton.common.request import Task
from baton.common.rpc import PROTOCOL_VERSION
from baton.common.rpc.auth import MAY_GO_FIRST
from baton.common.rpc.channel import CONTROL_BYTES
from baton.common.rpc.convert import executed_to_proto, plan_from_proto
from baton.common.rpc.latent_spaces import Latents, space_from_proto, space_to_proto
from baton.common.rpc.tokens import Role
from baton.edge_server.engine.job import (
    Checkpointed,
    Drained,
    Drawn,
    Event,
    HandedOff,
    Progressed,
    Queued,
    Times,
    Work,
)
from baton.edge_server.engine.latency import RemainingWork, rows_of
from baton.edge_server.engine.steering import Course
from baton.edge_server.requests.registry import Registry
from baton.edge_server.requests.turns import MAX_PRIORITY
from baton.edge_server.scheduling.profile import Profile
from baton.v1 import edge_pb2

_MAX_FINGERPRINT = 64
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


def work_from_proto(
    message: edge_pb2.DenoiseRequest, family: LoadedFamily, owner: str = ""
) -> Work:
    """Check a request of ``owner``, in this protocol, against the limits and the loaded family.

    Its plan comes out with what its ``accel`` means here. Raises InvalidRequest, UnknownName,
    CorruptEnvelope, Incompatible or WeightsError.
    """
    if not _REQUEST_ID.fullmatch(message.request_id):
        raise InvalidRequest("a request id is 1 to 128 letters, digits, '.', '_', ':' or '-'")
    fingerprint = _check_latents(message, family)
    if message.checkpoint_every > MAX_STEPS:
        raise InvalidRequest(f"checkpoint_every must be at most {MAX_STEPS}")
    _check_known(message)
    size = family.spec.check_size((message.width, message.height))
    resume = None
    if message.resume:
        envelope = decode_state(message.resume, fingerprint)
        if envelope.request_id != message.request_id:
            raise InvalidRequest("the latent to resume belongs to another request")
        if envelope.state.x.shape != family.latent_shape(size):
            raise InvalidRequest("the latent to resume has another size than the request")
        resume = envelope.state
    plan = plan_from_proto(message.plan)
    runs = family.accelerator.expand(plan)
    work = Work(
        request_id=message.request_id,
        task=Task(message.prompt, message.negative_prompt, plan, message.seed, size),
        plan=runs,
        codec=_codec(message.codec),
        checkpoint_every=message.checkpoint_every,
        resume=resume,
        owner=owner,
        fingerprint=fingerprint,
    )
    _check_edge_part(work, family)
    return replace(work, loads=family.loads(runs, size))


def priority_of(message: edge_pb2.DenoiseRequest, role: Role) -> int:
    """Raises InvalidRequest outside its bounds, PermissionDenied unless the role may go first."""
    priority = int(message.priority)
    if not 0 <= priority <= MAX_PRIORITY:
        raise InvalidRequest(f"a priority is 0 to {MAX_PRIORITY}, not {priority}")
    if priority and role not in MAY_GO_FIRST:
        raise PermissionDenied(
            f"the role {role} may not go before others; send priority 0, or use an operator's"
            " credentials",
            "wrong_role",
        )
    return priority


def _check_latents(message: edge_pb2.DenoiseRequest, family: LoadedFamily) -> str:
    """What envelopes of the request call the latent space. Raises Incompatible for another one."""
    if len(message.fingerprint) > _MAX_FINGERPRINT:
        raise InvalidRequest(f"a fingerprint has at most {_MAX_FINGERPRINT} characters")
    client = Latents(space_from_proto(message.latent_space), message.fingerprint)
    own = Latents(family.spec.latent_space, family.fingerprint)
    own.check(client, "the client's", "this edge's")
    return message.fingerprint or family.fingerprint


def largest_request(family: LoadedFamily) -> int:
    """Bytes of the largest request that can be served: one that resumes the largest picture."""
    shape = family.latent_shape(family.spec.sizes.maximum)
    return CONTROL_BYTES + largest_envelope(shape)


def _check_known(message: edge_pb2.DenoiseRequest) -> None:
    """Raises Incompatible for what would be drawn wrong if it were passed over."""
    unknown = {
        "a start picture": message.HasField("start"),
        "encoded prompts": bool(message.embeds),
        "adapters": bool(message.adapters),
    }
    for what in (name for name, asked in unknown.items() if asked):
        raise Incompatible(f"this edge does not take {what}")


def _codec(name: str) -> Codec:
    try:
        return Codec(name or Codec.FP16)
    except ValueError as error:
        known = ", ".join(Codec)
        raise InvalidRequest(f"unknown codec {name[:32]!r}; known: {known}") from error


def _check_edge_part(work: Work, family: LoadedFamily) -> None:
    plan = work.plan
    if plan.family != family.name:
        raise InvalidRequest(
            f"this edge serves family {family.name}, the plan is for {plan.family[:64]!r}"
        )
    if work.first_step >= plan.steps:
        raise InvalidRequest("nothing is left to denoise")
    if plan.segment_at(work.first_step).location != "edge":
        raise InvalidRequest(f"step {work.first_step} of the plan does not run on an edge")
    for member in _members(work):
        family.denoiser(member)
    family.check_levels(plan, work.task.size)


def _members(work: Work) -> list[str]:
    """Those of the edge's own stretch."""
    return [
        segment.member
        for segment in work.plan.segments
        if segment.location == "edge" and work.first_step < segment.stop <= work.stop
    ]


def event_to_proto(event: Event | Queued) -> edge_pb2.DenoiseEvent:
    """Raises TypeError for an error: those become statuses."""
    if isinstance(event, Progressed):
        progress = edge_pb2.Progress(step=event.step, steps=event.steps, rows=event.rows)
        return edge_pb2.DenoiseEvent(progress=progress)
    if isinstance(event, Queued):
        return edge_pb2.DenoiseEvent(queued=edge_pb2.Queued(position=event.position))
    if isinstance(event, Checkpointed):
        return edge_pb2.DenoiseEvent(checkpoint=_checkpoint(event))
    if isinstance(event, Drained):
        checkpoint = None if event.checkpoint is None else _checkpoint(event.checkpoint)
        drained = edge_pb2.Drained(checkpoint=checkpoint, times=_times(event.times))
        return edge_pb2.DenoiseEvent(drained=drained)
    if isinstance(event, HandedOff | Drawn):
        executed, times = executed_to_proto(event.executed), _times(event.times)
        if isinstance(event, HandedOff):
            handoff = edge_pb2.Handoff(envelope=event.envelope, executed=executed, times=times)
            return edge_pb2.DenoiseEvent(handoff=handoff)
        height, width = event.picture.shape[:2]
        image = edge_pb2.Image(
            rgb=event.picture.tobytes(), width=width, height=height, executed=executed, times=times
        )
        return edge_pb2.DenoiseEvent(image=image)
    raise TypeError(f"{type(event).__name__} is not an event of the stream")


def _checkpoint(event: Checkpointed) -> edge_pb2.Checkpoint:
    executed = executed_to_proto(event.executed)
    return edge_pb2.Checkpoint(envelope=event.envelope, executed=executed)


def accepted(
    work: Work, family: LoadedFamily, node_id: str, attached: bool
) -> edge_pb2.DenoiseEvent:
    return edge_pb2.DenoiseEvent(
        accepted=edge_pb2.Accepted(
            protocol_version=PROTOCOL_VERSION,
            node_id=node_id,
            fingerprint=family.fingerprint,
            first_step=work.first_step,
            attached=attached,
            build=edge_pb2.Build(**asdict(this_build())),
            members={member: family.member_fingerprints[member] for member in _members(work)},
            notes=family.accelerator.notes(work.task.plan, _members(work)),
            latent_space=space_to_proto(family.spec.latent_space),
        )
    )


def _times(times: Times) -> edge_pb2.EdgeTimes:
    return edge_pb2.EdgeTimes(
        queued_seconds=times.queued, model_seconds=times.model, decode_seconds=times.decode
    )


@dataclass(frozen=True)
class About:
    """What an edge tells of itself.

    course: of its engine; typical: what a request asks of it that leaves all open.
    """

    family: LoadedFamily
    node_id: str
    profile: Profile | None = None
    course: Callable[[], Course] = Course
    started: float = field(default_factory=time.monotonic)
    typical: RemainingWork = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "typical", _typical(self.family))


def _typical(family: LoadedFamily) -> RemainingWork:
    """Its largest loaded member, all steps, guided, at the default size."""
    spec, guidance = family.spec, Guidance(family.spec.default_guidance)
    terms = Terms(
        spec.name,
        spec.default_sampler,
        spec.default_steps,
        guidance,
        own_guidance=spec.own_guidance,
    )
    plan = expand(Arm.edge(family.members[0]), terms).closed()
    return RemainingWork.between(plan, (0, plan.steps), spec.default_size, rows_of(plan))[0]


def status(about: About, registry: Registry) -> edge_pb2.GetStatusResponse:
    """What an edge has not measured is left out."""
    family, profile = about.family, about.profile
    counts, occupancy, course = registry.counts, registry.occupancy(), about.course()
    return edge_pb2.GetStatusResponse(
        protocol_version=PROTOCOL_VERSION,
        node_id=about.node_id,
        version=package_version("baton-diffusion"),
        family=family.name,
        members=family.members,
        fingerprint=family.fingerprint,
        active=occupancy.active,
        queued=occupancy.queued,
        capacity=occupancy.capacity,
        draining=registry.draining,
        uptime_seconds=time.monotonic() - about.started,
        completed=counts.completed,
        failed=counts.failed + counts.expired + counts.displaced,
        cancelled=counts.cancelled + counts.abandoned,
        drained=counts.drained,
        latent_space=space_to_proto(family.spec.latent_space),
        expected_wait_seconds=registry.expected_wait(about.typical),
        free_places=registry.free_places,
        profile_age_seconds=None if profile is None else profile.age,
        profile_quick=None if profile is None else profile.quick,
        rounds_planned=course.planned,
        rounds_greedy=course.greedy,
        skipped_branches=course.skipped,
        skip_after=course.knobs.skip_after,
        decode_chunks=course.knobs.chunks,
        throughput_delta=course.knobs.delta,
    )


def cancelled(ended: bool) -> edge_pb2.CancelResponse:
    return edge_pb2.CancelResponse(cancelled=ended)
