"""Edges that answer nonsense: never a wrong picture, never an error of another kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from baton.common.build import NodeBuild, this_build
from baton.common.errors import BatonError
from baton.common.families.loaded import LoadedFamily
from baton.v1 import edge_pb2, plan_pb2
from tests.support.families import SIZE
from tests.support.lying import (
    CUT,
    PROMPT,
    STEPS,
    Liar,
    Scripted,
    accepted,
    built,
    checkpoint,
    handoff,
    image,
    progress,
    stretch,
    with_nan,
)
from tests.support.nodes import closed_port, device, drawn_here
from tests.support.servers import serving
from tests.support.tasks import plan, task

Script = Callable[[Liar, edge_pb2.DenoiseRequest], list[edge_pb2.DenoiseEvent]]

LIES: dict[str, Script] = {
    "nothing at all": lambda liar, ask: [],
    "no result": lambda liar, ask: [accepted(), progress(1)],
    "an empty event": lambda liar, ask: [accepted(), edge_pb2.DenoiseEvent()],
    "another protocol": lambda liar, ask: [
        accepted(protocol_version=99),
        handoff(liar.envelope(ask)),
    ],
    "step 0 done": lambda liar, ask: [accepted(), progress(0)],
    "more steps than there are": lambda liar, ask: [accepted(), progress(STEPS + 1)],
    "an altered latent": lambda liar, ask: [accepted(), handoff(liar.envelope(ask)[:-1] + b"\xff")],
    "half a latent": lambda liar, ask: [accepted(), handoff(liar.envelope(ask)[:99])],
    "no latent": lambda liar, ask: [accepted(), handoff(b"")],
    "NaN": lambda liar, ask: [accepted(), handoff(with_nan(liar.envelope(ask)))],
    "another request's latent": lambda liar, ask: [
        accepted(),
        handoff(liar.envelope(ask, request_id="x")),
    ],
    "another latent space": lambda liar, ask: [
        accepted(),
        handoff(liar.envelope(ask, fingerprint="x")),
    ],
    "another sampler's latent": lambda liar, ask: [
        accepted(),
        handoff(liar.envelope(ask, replace(liar.state(), sampler="euler"))),
    ],
    "another number of steps": lambda liar, ask: [
        accepted(),
        handoff(liar.envelope(ask, replace(liar.state(), steps=STEPS + 1))),
    ],
    "a latent of another size": lambda liar, ask: [
        accepted(),
        handoff(liar.envelope(ask, replace(liar.state(), x=np.zeros((4, 8, 8), np.float32)))),
    ],
    "a latent handed over too early": lambda liar, ask: [
        accepted(),
        handoff(liar.envelope(ask, liar.state(1)), [stretch(stop=1)]),
    ],
    "a latent handed over too late": lambda liar, ask: [
        accepted(),
        handoff(liar.envelope(ask, liar.state(3)), [stretch(stop=3)]),
    ],
    "steps that it did not run": lambda liar, ask: [
        accepted(),
        handoff(liar.envelope(ask), [stretch(5, 9)]),
    ],
    "no steps": lambda liar, ask: [accepted(), handoff(liar.envelope(ask), [stretch(1, 1)])],
    "too many steps": lambda liar, ask: [
        accepted(),
        handoff(liar.envelope(ask), [stretch(0, 10**9)]),
    ],
    "steps nowhere": lambda liar, ask: [
        accepted(),
        handoff(liar.envelope(ask), [stretch(location=0)]),
    ],
    "a picture cut short": lambda liar, ask: [accepted(), image(size=10)],
    "an empty picture": lambda liar, ask: [accepted(), image(0, 0)],
    "a picture of another size": lambda liar, ask: [accepted(), image(2 * SIZE, SIZE)],
    "a latent of nobody": lambda liar, ask: [handoff(liar.envelope(ask))],
    "steps of another edge": lambda liar, ask: [
        accepted(),
        handoff(liar.envelope(ask), [stretch(node_id="other")]),
    ],
    "steps of the device": lambda liar, ask: [
        accepted(),
        handoff(liar.envelope(ask), [stretch(location=plan_pb2.LOCATION_DEVICE)]),
    ],
    "steps of a member that was not asked for": lambda liar, ask: [
        accepted(members={"large": "a" * 32, "small": "a" * 32}),
        handoff(liar.envelope(ask), [stretch(member="small")]),
    ],
    "steps of no known branches": lambda liar, ask: [
        accepted(),
        handoff(liar.envelope(ask), [stretch(branches=9)]),
    ],
    "blocks of more branches than there are": lambda liar, ask: [
        accepted(),
        handoff(liar.envelope(ask), [stretch(blocks=[b"\x01"] * 3)]),
    ],
    "blocks of a branch that did not run": lambda liar, ask: [
        accepted(),
        handoff(
            liar.envelope(ask),
            [stretch(branches=plan_pb2.BRANCHES_POSITIVE, blocks=[b"\x01", b"\x03"])],
        ),
    ],
    "steps that do not say on what they ran": lambda liar, ask: [
        accepted(),
        handoff(liar.envelope(ask), [stretch(runtime=None)]),
    ],
    "a time that is no number": lambda liar, ask: [
        accepted(),
        handoff(liar.envelope(ask), times=edge_pb2.EdgeTimes(model_seconds=float("nan"))),
    ],
    "a time before it began": lambda liar, ask: [
        accepted(),
        handoff(liar.envelope(ask), times=edge_pb2.EdgeTimes(queued_seconds=-1.0)),
    ],
    "a kernel whose name prints badly": lambda liar, ask: [
        accepted(),
        handoff(
            liar.envelope(ask),
            [stretch(runtime=plan_pb2.Runtime(device="cpu", dtype="float32", attention="a\n"))],
        ),
    ],
}

#: What an edge says of itself before it hands over a good latent.
NAMES: dict[str, edge_pb2.DenoiseEvent] = {
    "no name": accepted(node_id=""),
    "a name that prints badly": accepted(node_id="liar\x1b[2J"),
    "a long name": accepted(node_id="x" * 257),
    "the device's name": accepted(node_id="device"),
    "no build": accepted(build=None),
    "a build without a version": built(torch=""),
    "a build that prints badly": built(processor="a\nb"),
    "a long build": built(baton="x" * 257),
    "no members": accepted(members={}),
    "another member": accepted(members={"small": "a" * 32}),
    "a member that prints badly": accepted(members={"large": "a" * 32, "\n": "a" * 32}),
    "a member with a long name": accepted(members={"large": "a" * 32, "x" * 257: "a" * 32}),
    "no fingerprint": accepted(members={"large": ""}),
    "a fingerprint that is none": accepted(members={"large": "a" * 31 + "/"}),
    "a long fingerprint": accepted(members={"large": "a" * 33}),
    "many members": accepted(members=dict.fromkeys(["large", *map(str, range(16))], "a" * 32)),
}


@pytest.mark.parametrize("lie", LIES)
async def test_whatever_an_edge_claims_the_picture_is_right(
    lie: str, family: LoadedFamily, family_folder: Path
) -> None:
    assert await _why_it_was_not_believed(LIES[lie], family, family_folder)


@pytest.mark.parametrize("name", NAMES)
async def test_an_edge_that_does_not_say_what_it_draws_with_is_not_believed(
    name: str, family: LoadedFamily, family_folder: Path
) -> None:
    event = NAMES[name]
    own = [stretch(node_id=event.accepted.node_id)]
    reason = await _why_it_was_not_believed(
        lambda liar, ask: [event, handoff(liar.envelope(ask), own)], family, family_folder
    )
    assert "answered nonsense: " in reason


async def _why_it_was_not_believed(script: Script, family: LoadedFamily, folder: Path) -> str:
    """The picture must be the one that the device draws alone."""
    liar = Liar(family)
    async with serving(Scripted(lambda request: script(liar, request))) as address:
        with device(folder, edges=address) as client:
            options = {"steps": STEPS, "fallback": True}
            result = await client.generate(PROMPT, arm="edge/large@0.5>device/small", **options)
    alone = task(plan("device/small", STEPS), PROMPT)
    np.testing.assert_array_equal(result.picture, drawn_here(family, alone))
    assert [step.location for step in result.executed] == ["device"] * STEPS
    assert result.provenance.nodes.keys() == {"device"}
    lost, _, reason = result.notes[0].partition(" at step 0: ")
    assert lost == f"edge {address} lost"
    return reason


@pytest.mark.parametrize("lie", [lie for lie in LIES if lie != "another protocol"])
async def test_whatever_an_edge_claims_a_device_without_a_member_gets_a_baton_error(
    lie: str, family: LoadedFamily, family_folder: Path
) -> None:
    liar, script = Liar(family), LIES[lie]
    async with serving(Scripted(lambda request: script(liar, request))) as address:
        with (
            device(family_folder, members="", edges=address) as client,
            pytest.raises(BatonError),
        ):
            await client.generate(PROMPT, arm="edge/large", steps=STEPS)


async def test_the_truth_is_believed(family: LoadedFamily, family_folder: Path) -> None:
    liar = Liar(family)
    truth = Scripted(lambda request: [accepted(), progress(1), handoff(liar.envelope(request))])
    async with serving(truth) as address:
        with device(family_folder, edges=f"{address},{closed_port()}") as client:
            result = await client.generate(PROMPT, arm="edge/large@0.5>device/small", steps=STEPS)
    split = task(plan("edge/large@0.5>device/small", STEPS), PROMPT)
    np.testing.assert_array_equal(result.picture, drawn_here(family, split))
    assert [step.node_id for step in result.executed] == ["liar"] * CUT + ["device"] * CUT
    assert result.provenance.nodes == {
        "liar": NodeBuild(this_build(), {"large": "a" * 32}),
        "device": NodeBuild(this_build(), {"small": family.member_fingerprints["small"]}),
    }
    assert result.notes == ()


@pytest.mark.parametrize(
    ("event", "alike"),
    [
        (accepted(), True),
        (accepted(members={"large": "a" * 32, "small": "b" * 32}), True),
        (accepted(members={"large": "b" * 32}), False),
        (built(torch="1.0"), False),
    ],
)
async def test_a_name_stands_for_one_build_and_its_weights(
    event: edge_pb2.DenoiseEvent, alike: bool, family: LoadedFamily, family_folder: Path
) -> None:
    """An edge that came back as another, or two of one name: a record could not hold both."""
    liar = Liar(family)

    def script(request: edge_pb2.DenoiseRequest) -> list[edge_pb2.DenoiseEvent]:
        if request.resume:
            return [event, handoff(liar.envelope(request), [stretch(1, CUT)])]
        kept = liar.envelope(request, liar.state(1))
        return [accepted(), checkpoint(kept, [stretch(stop=1)])]

    async with serving(Scripted(script)) as one, serving(Scripted(script)) as two:
        with device(family_folder, edges=f"{one},{two}") as client:
            result = await client.generate(PROMPT, arm="edge/large@0.5>device/small", steps=STEPS)
    assert result.steps_at("edge") == (CUT if alike else 1)
    told = result.provenance.nodes["liar"].members
    assert told == (dict(event.accepted.members) if alike else {"large": "a" * 32})
    assert alike != ("other weights or another build" in "; ".join(result.notes))
