"""What a family's scheduler configuration may say: what Baton's samplers honour, and nothing else.

An option that would change what is drawn, and that no sampler of Baton follows, is refused by its
name; those of solvers that Baton does not have (``skip_prk_steps`` and the like) change nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from baton.common.errors import Incompatible
from baton.common.limits import SamplerName

Prediction = Literal["epsilon", "v_prediction", "sample"]

_Beta = Annotated[float, Field(gt=0, lt=1)]
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Off = Literal[False] | None
_MAX_TRAIN_STEPS = 100_000


class _Options(BaseModel):
    """Defaults are immaterial: diffusers' own hold where a configuration says nothing."""

    model_config = ConfigDict(extra="allow", strict=True)

    #: Those whose noise schedules diffusers moves from one to the other (`from_config`).
    class_name: Literal[
        "DDIMScheduler",
        "DDPMScheduler",
        "DEISMultistepScheduler",
        "DPMSolverMultistepScheduler",
        "DPMSolverSDEScheduler",
        "DPMSolverSinglestepScheduler",
        "EulerAncestralDiscreteScheduler",
        "EulerDiscreteScheduler",
        "HeunDiscreteScheduler",
        "KDPM2AncestralDiscreteScheduler",
        "KDPM2DiscreteScheduler",
        "LMSDiscreteScheduler",
        "PNDMScheduler",
        "UniPCMultistepScheduler",
    ] = Field(alias="_class_name")

    num_train_timesteps: int = Field(default=1000, ge=1, le=_MAX_TRAIN_STEPS)
    beta_start: _Beta = 0.0001
    beta_end: _Beta = 0.02
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear"
    trained_betas: list[_Beta] | None = None
    rescale_betas_zero_snr: bool = False
    prediction_type: Prediction = "epsilon"
    predict_epsilon: Literal[True] = True

    timestep_spacing: Literal["leading", "trailing", "linspace"] = "leading"
    timestep_type: Literal["discrete"] = "discrete"
    steps_offset: int = Field(default=0, ge=0)
    set_alpha_to_one: bool = True
    final_sigmas_type: Literal["zero", "sigma_min"] = "zero"
    interpolation_type: Literal["linear", "log_linear"] = "linear"
    use_karras_sigmas: bool | None = False
    use_exponential_sigmas: bool | None = False
    use_beta_sigmas: bool | None = False
    use_lu_lambdas: bool | None = False
    use_flow_sigmas: _Off = False
    use_dynamic_shifting: _Off = False
    shift_terminal: None = None
    sigma_min: _Positive | None = None
    sigma_max: _Positive | None = None
    lambda_min_clipped: float = float("-inf")

    clip_sample: bool | None = True
    clip_sample_range: _Positive = 1.0
    thresholding: _Off = False
    variance_type: (
        Literal["fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log"] | None
    ) = None
    solver_order: Literal[2] = 2
    #: DPM-Solver++ reads the names of other solvers as its own usual ones.
    algorithm_type: Literal["dpmsolver++", "deis"] = "dpmsolver++"
    solver_type: Literal["midpoint", "logrho", "bh1", "bh2"] = "midpoint"
    lower_order_final: bool | None = True
    euler_at_final: bool | None = False

    # of no concern to any of Baton's samplers, or only to what is refused above
    dynamic_thresholding_ratio: Any = None
    sample_max_value: Any = None
    flow_shift: Any = None
    time_shift_type: Any = None
    skip_prk_steps: Any = None
    predict_x0: Any = None
    disable_corrector: Any = None
    solver_p: Any = None
    noise_sampler_seed: Any = None

    @model_validator(mode="after")
    def _sigmas_of_one_kind(self) -> _Options:
        kinds = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
        chosen = [kind for kind in kinds if getattr(self, kind)]
        if len(chosen) > 1:
            raise ValueError(f"{' and '.join(chosen)} exclude one another")
        if self.use_beta_sigmas and find_spec("scipy") is None:
            raise ValueError("use_beta_sigmas needs scipy; `pip install scipy`")
        if self.trained_betas is not None and len(self.trained_betas) != self.num_train_timesteps:
            raise ValueError(
                f"trained_betas are {len(self.trained_betas)}, not num_train_timesteps,"
                f" {self.num_train_timesteps}"
            )
        return self

    @model_validator(mode="after")
    def _nothing_unknown(self) -> _Options:
        """An option of a later diffusers that is off may be there."""
        for name, value in (self.model_extra or {}).items():
            if value and not name.startswith("_"):
                raise ValueError(f"option {name} is unknown")
        return self


#: The samplers of Baton that are a scheduler of diffusers.
_OWN: Mapping[str, SamplerName] = {
    "DDIMScheduler": "ddim",
    "DPMSolverMultistepScheduler": "dpmpp_2m",
    "EulerDiscreteScheduler": "euler",
}
#: Schedulers that clip a predicted x0 if their configuration does not say.
_CLIPPING = {"DDIMScheduler", "DDPMScheduler"}


def check_scheduler(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration, with ``clip_sample`` as its own class has it where it does not say.

    A sampler of another class would take its own default. Raises Incompatible, naming the option,
    if Baton would draw something else than the configuration says.
    """
    try:
        options = _Options.model_validate(dict(config))
    except ValidationError as error:
        raise Incompatible(f"scheduler configuration: {_told(error)}") from error
    return {"clip_sample": options.class_name in _CLIPPING, **config}


def own_sampler(config: Mapping[str, Any]) -> SamplerName | None:
    """The sampler that the family comes with, if it is one of Baton's."""
    return _OWN.get(config["_class_name"])


def _told(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    if not first["loc"]:
        return first["msg"].removeprefix("Value error, ")
    if first["type"] == "missing":
        return f"{first['loc'][0]} is missing"
    return f"{first['loc'][0]} {ascii(first['input'])[:60]} is not supported: {first['msg']}"
