"""What a scheduler configuration says is honoured as diffusers does, or refused by its name."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from baton.common.diffusion.scheduler_config import check_scheduler, own_sampler
from baton.common.diffusion.schedules import make_schedule
from baton.common.errors import Incompatible
from baton.common.families.loaded import LoadedFamily
from baton.common.limits import SAMPLERS, SamplerName
from tests.support.reference import SCHEDULERS
from tests.support.schedulers import SD15, SD15_LIKE, stepped_by_diffusers, stepped_by_us

REFUSED: list[tuple[str, Any]] = [
    ("_class_name", "FlowMatchEulerDiscreteScheduler"),
    ("_class_name", "EDMEulerScheduler"),
    ("_class_name", "LCMScheduler"),
    ("_class_name", "MyScheduler"),
    ("_class_name", None),
    ("_class_name", 3),
    ("prediction_type", "flow_prediction"),
    ("prediction_type", "velocity"),
    ("prediction_type", None),
    ("prediction_type", ["epsilon"]),
    ("predict_epsilon", False),
    ("thresholding", True),
    ("clip_sample", "yes"),
    ("clip_sample_range", 0.0),
    ("clip_sample_range", float("nan")),
    ("use_flow_sigmas", True),
    ("use_dynamic_shifting", True),
    ("shift_terminal", 0.1),
    ("shift", 3.0),
    ("timestep_scaling", 10.0),
    ("solver_order", 1),
    ("solver_order", 3),
    ("solver_type", "heun"),
    ("algorithm_type", "sde-dpmsolver++"),
    ("algorithm_type", "dpmsolver"),
    ("variance_type", "learned_range"),
    ("beta_schedule", "sigmoid"),
    ("beta_schedule", "laplace"),
    ("beta_start", 0.0),
    ("beta_end", 1.5),
    ("beta_end", "0.012"),
    ("trained_betas", [0.1] * 10),
    ("trained_betas", [0.1] * 999 + [2.0]),
    ("trained_betas", "betas.npy"),
    ("num_train_timesteps", 0),
    ("num_train_timesteps", 10**9),
    ("num_train_timesteps", "1000"),
    ("num_train_timesteps", True),
    ("timestep_spacing", "quadratic"),
    ("timestep_spacing", None),
    ("timestep_type", "continuous"),
    ("interpolation_type", "cubic"),
    ("final_sigmas_type", "sigma_max"),
    ("steps_offset", -1),
    ("steps_offset", 1.5),
    ("sigma_min", -1.0),
    ("lambda_min_clipped", "low"),
    ("some_option_of_tomorrow", True),
]


@pytest.mark.parametrize(("name", "value"), REFUSED)
def test_what_no_sampler_honours_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(Incompatible) as caught:
        check_scheduler(SD15 | {name: value})
    told = str(caught.value)
    assert ("class_name" if name == "_class_name" else name) in told
    assert "\n" not in told
    assert len(told) < 600


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_no_schedule_is_made_of_a_refused_configuration(sampler: SamplerName) -> None:
    with pytest.raises(Incompatible, match="thresholding"):
        make_schedule(sampler, 10, SD15 | {"thresholding": True})


def test_several_spacings_of_sigmas_exclude_one_another() -> None:
    both = {"use_karras_sigmas": True, "use_exponential_sigmas": True}
    with pytest.raises(Incompatible, match="use_karras_sigmas and use_exponential_sigmas"):
        check_scheduler(SD15 | both)


@pytest.mark.parametrize("config", SD15_LIKE.values(), ids=SD15_LIKE)
def test_usual_configurations_are_understood(config: dict[str, Any]) -> None:
    check_scheduler(config)


@pytest.mark.parametrize("scheduler", [*SCHEDULERS.values()])
def test_what_diffusers_itself_writes_is_understood(scheduler: Any) -> None:
    for prediction in ("epsilon", "v_prediction", "sample"):
        made = scheduler(prediction_type=prediction)
        check_scheduler(json.loads(made.to_json_string()))


def test_a_later_option_that_is_off_and_notes_of_the_library_are_ignored() -> None:
    check_scheduler(SD15 | {"some_option_of_tomorrow": False, "_name_or_path": "x"})


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(
    "options",
    [
        {"clip_sample": True},
        {"clip_sample": True, "clip_sample_range": 0.4},
        {"clip_sample": True, "prediction_type": "v_prediction"},
        {"lower_order_final": False, "final_sigmas_type": "sigma_min"},
        {"euler_at_final": True, "final_sigmas_type": "sigma_min"},
        {"solver_type": "bh2", "predict_x0": True, "disable_corrector": [0]},
        {"set_alpha_to_one": True},
        {"trained_betas": [0.001 + 0.00001 * i for i in range(1000)]},
        {"beta_schedule": "squaredcos_cap_v2"},
        {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02},
    ],
    ids=str,
)
@pytest.mark.parametrize("steps", [5, 20])
def test_what_is_honoured_is_honoured_as_diffusers_does(
    sampler: SamplerName, options: dict[str, Any], steps: int
) -> None:
    config = SD15 | options
    reference = stepped_by_diffusers(sampler, steps, config)
    scale = max(1.0, reference.abs().max().item())
    found = stepped_by_us(sampler, steps, config)
    torch.testing.assert_close(found, reference, rtol=0, atol=2e-6 * scale)


def test_ddim_clips_where_the_configuration_does_not_say(family: LoadedFamily) -> None:
    config = {name: value for name, value in SD15.items() if name != "clip_sample"}
    config |= {"_class_name": "DDIMScheduler"}
    clipped = stepped_by_us("ddim", 20, config)
    torch.testing.assert_close(clipped, stepped_by_diffusers("ddim", 20, config))
    assert not torch.allclose(clipped, stepped_by_us("ddim", 20, SD15))
    assert make_schedule("ddim", 20, family.spec.scheduler_config).clip is None


@pytest.mark.parametrize("name", ["DPMSolverMultistepScheduler", "PNDMScheduler"])
def test_a_family_whose_own_scheduler_never_clips_is_not_clipped(name: str) -> None:
    """PixArt's configuration says nothing of it, and diffusers' DDIM would by itself."""
    silent = {key: value for key, value in SD15.items() if key != "clip_sample"}
    config = silent | {"_class_name": name}
    assert make_schedule("ddim", 20, config).clip is None
    assert make_schedule("ddim", 20, config | {"clip_sample": True}).clip == 1.0


def test_a_configuration_that_names_no_class_is_refused() -> None:
    nameless = {key: value for key, value in SD15.items() if key != "_class_name"}
    with pytest.raises(Incompatible, match="_class_name is missing"):
        check_scheduler(nameless)


@pytest.mark.parametrize(
    ("name", "sampler"),
    [
        ("DDIMScheduler", "ddim"),
        ("EulerDiscreteScheduler", "euler"),
        ("DPMSolverMultistepScheduler", "dpmpp_2m"),
        ("PNDMScheduler", None),
        ("UniPCMultistepScheduler", None),
        ("LMSDiscreteScheduler", None),
    ],
)
def test_a_family_has_the_sampler_of_its_scheduler(name: str, sampler: str | None) -> None:
    assert own_sampler(check_scheduler(SD15 | {"_class_name": name})) == sampler


def test_noise_without_signal_cannot_be_read_from_a_prediction_of_noise() -> None:
    config = SD15 | {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    with pytest.raises(Incompatible, match=r"rescale_betas_zero_snr.*epsilon"):
        make_schedule("ddim", 20, config)
    assert make_schedule("ddim", 20, config | {"prediction_type": "v_prediction"}).steps == 20
    assert make_schedule("euler", 20, config).steps == 20


def test_a_solver_that_cannot_be_configured_so_is_refused() -> None:
    config = SD15 | {"_class_name": "DEISMultistepScheduler", "algorithm_type": "deis"}
    assert make_schedule("euler", 10, config).steps == 10
    with pytest.raises(Incompatible, match=r"dpmpp_2m.*deis"):
        make_schedule("dpmpp_2m", 10, config)
