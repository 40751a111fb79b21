"""A relay is admitted by the latent space: fine changes of a family do not refuse it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from baton.common.errors import Incompatible
from baton.common.families.loaded import LoadedFamily, load_family
from tests.support.engines import Counter
from tests.support.families import copy_family
from tests.support.latent_spaces import (
    another_decoder,
    another_spacing,
    another_vae,
    stored_in_fp16,
)
from tests.support.nodes import coordinator, device, edge, one_line, until
from tests.support.tasks import PROMPTS

RELAY = {"arm": "relay:large>small@0.5", "steps": 4, "fallback": False}


@pytest.fixture
def changed(family_folder: Path, tmp_path: Path, request: pytest.FixtureRequest) -> LoadedFamily:
    folder = copy_family(family_folder, tmp_path / "family", digests=False)
    change: Callable[[Path], None] = request.param
    change(folder)
    return load_family(str(folder))


@pytest.mark.parametrize("changed", [stored_in_fp16, another_decoder], indirect=True)
async def test_a_relay_with_fine_changes_draws_what_the_same_family_does(
    family: LoadedFamily, family_folder: Path, changed: LoadedFamily
) -> None:
    """The edge's members are the same, and the device decodes: bit for bit."""
    assert changed.fingerprint != family.fingerprint
    with device(family_folder) as client:
        async with edge(family) as same:
            expected = await client.generate(PROMPTS[0], edge=same.address, **RELAY)
        async with edge(changed) as other:
            found = await client.generate(PROMPTS[0], edge=other.address, **RELAY)
    assert found.steps_at("edge") == 2
    assert found.notes == ()
    np.testing.assert_array_equal(found.picture, expected.picture)


@pytest.mark.parametrize("changed", [another_spacing], indirect=True)
async def test_an_edge_with_another_spacing_is_not_refused(
    family_folder: Path, changed: LoadedFamily
) -> None:
    async with edge(changed) as other:
        with device(family_folder, edges=other.address) as client:
            result = await client.generate(PROMPTS[0], arm="edge:large", steps=4, fallback=False)
    assert result.steps_at("edge") == 4


@pytest.mark.parametrize("changed", [another_vae], indirect=True)
async def test_an_edge_with_another_autoencoder_is_refused_with_both_names(
    family: LoadedFamily, family_folder: Path, changed: LoadedFamily
) -> None:
    counter = Counter()
    async with edge(changed, counter) as other:
        with (
            device(family_folder, edges=other.address) as client,
            pytest.raises(Incompatible) as caught,
        ):
            await client.generate(PROMPTS[0], **RELAY)
    for space in (family.spec.latent_space, changed.spec.latent_space):
        assert space.id in one_line(caught.value)
    assert counter.calls == 0


@pytest.mark.parametrize(
    ("changed", "fits"), [(stored_in_fp16, True), (another_vae, False)], indirect=["changed"]
)
async def test_a_coordinator_relays_by_the_latent_space(
    family_folder: Path, changed: LoadedFamily, fits: bool
) -> None:
    async with coordinator() as brain, edge(changed, coordinator=brain.address):
        await until(brain.fleet.nodes)
        with device(family_folder, coordinator=brain.address) as client:
            if fits:
                result = await client.generate(PROMPTS[0], **RELAY)
                assert result.steps_at("edge") == 2
            else:
                with pytest.raises(Incompatible, match="another latent space"):
                    await client.generate(PROMPTS[0], **RELAY)
