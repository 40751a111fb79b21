"""Makes a true description of a scene false in one place."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np

from baton.common.families.scenes.grammar import MAX_COUNT, RELATIONS, ObjectSpec, SceneSpec
from baton.common.families.scenes.icons import ICONS
from baton.common.families.scenes.worlds import World


def made_false(spec: SceneSpec, world: World, rng: np.random.Generator) -> tuple[str, SceneSpec]:
    """One attribute that the description names gets another value; which one, and the result."""
    changes: list[tuple[str, Callable[[], SceneSpec]]] = []
    for i, obj in enumerate(spec.objects):
        changes += [(f"icon {i}", lambda i=i: _other_icon(spec, i, rng))]
        if _room(spec) or obj.count > 1:
            changes += [(f"count {i}", lambda i=i: _other_count(spec, i, rng))]
        words = {"color": world.colors, "size": world.sizes, "surface": world.surfaces}
        for field, names in words.items():
            if getattr(obj, field):
                changes += [
                    (
                        f"{field} {i}",
                        lambda i=i, field=field, names=names: _other(spec, i, field, names, rng),
                    )
                ]
    if spec.relation:
        changes += [("relation", lambda: _replaced(spec, "relation", RELATIONS, rng))]
    if spec.background:
        changes += [("background", lambda: _replaced(spec, "background", world.backgrounds, rng))]
    what, change = changes[rng.integers(len(changes))]
    return what, change()


def _room(spec: SceneSpec) -> int:
    return MAX_COUNT - sum(obj.count for obj in spec.objects)


def _other_icon(spec: SceneSpec, i: int, rng: np.random.Generator) -> SceneSpec:
    taken = [obj.icon for obj in spec.objects]
    return _with(spec, i, replace(spec.objects[i], icon=_pick(rng, ICONS, *taken)))


def _other_count(spec: SceneSpec, i: int, rng: np.random.Generator) -> SceneSpec:
    count = spec.objects[i].count
    most = count + _room(spec)
    others = [other for other in range(1, most + 1) if other != count]
    return _with(spec, i, replace(spec.objects[i], count=int(rng.choice(others))))


def _other(
    spec: SceneSpec, i: int, field: str, names: Iterable[str], rng: np.random.Generator
) -> SceneSpec:
    obj = spec.objects[i]
    return _with(spec, i, replace(obj, **{field: _pick(rng, names, getattr(obj, field))}))


def _replaced(
    spec: SceneSpec, field: str, names: Iterable[str], rng: np.random.Generator
) -> SceneSpec:
    return replace(spec, **{field: _pick(rng, names, getattr(spec, field))})


def _with(spec: SceneSpec, i: int, obj: ObjectSpec) -> SceneSpec:
    objects = list(spec.objects)
    objects[i] = obj
    return replace(spec, objects=tuple(objects))


def _pick(rng: np.random.Generator, names: Iterable[str], *without: str | None) -> str:
    rest = [name for name in names if name not in without]
    return rest[rng.integers(len(rest))]
