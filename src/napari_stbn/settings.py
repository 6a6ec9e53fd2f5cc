"""What a person chooses for a run, in one place for widget, scripted call and command line."""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, fields, replace
from os import PathLike
from pathlib import Path
from typing import Annotated, Any, Literal

from ._lighting import FlickerChoice
from .correlation import CorrelationChoice
from .denoiser import Denoiser
from .flow import FlowMethod
from .noise import GaussianNoise, MeasuredNoise, PoissonGaussianNoise, noise_from_dict
from .precision import Precision
from .preparation import KnownNoise, NoiseChoice
from .presets import PRESETS, PresetName
from .result import Progress
from .stack import Stack
from .training import TrainingConfig

__all__ = ["RunSettings", "read_report"]

_LARGEST = 2**63  # seeds are 64-bit numbers


@dataclass(frozen=True)
class RunSettings:
    """Settings of a run. One field, one row in the widget, one option of the command line.

    Attributes
    ----------
    preset, device, noise, correlation, flicker, flow, channels, start, seed
        As in `napari_stbn.Denoiser`.
    precision, memory_limit, turns
        As in `napari_stbn.Denoiser`.
    time_budget
        Seconds for noise, flow and fit together; the preset's when neither this nor `max_steps` is
        given.
    max_steps
        Steps of the fit at most.
    training
        Fields of `TrainingConfig` that differ from the preset's.

    Raises
    ------
    ValueError
        If `training` names a field that does not exist, or `seed` is out of range.

    Examples
    --------
    >>> settings = RunSettings(preset="preview", max_steps=20, training={"batch": 1})
    >>> settings.training_config().batch
    1
    """

    preset: Annotated[
        Literal["auto", "preview", "balanced", "best", "paper"],
        {"label": "Preset", "tooltip": "size of the network and length of the fit"},
    ] = "auto"
    time_budget: Annotated[
        float | None, {"label": "Time budget [s]", "min": 1, "tooltip": "seconds of fit at most"}
    ] = None
    max_steps: Annotated[
        int | None, {"label": "Steps", "min": 1, "tooltip": "steps of the fit at most"}
    ] = None
    device: Annotated[str, {"label": "Device", "tooltip": "auto, cpu, cuda, cuda:N or mps"}] = (
        "auto"
    )
    noise: Annotated[
        NoiseChoice,
        {
            "label": "Noise",
            "tooltip": "estimate, gaussian, none, GAIN,OFFSET,READ_NOISE (counts per "
            "photoelectron, counts, photoelectrons), or SIGMA (counts)",
        },
    ] = "estimate"
    correlation: Annotated[
        CorrelationChoice,
        {
            "label": "Shared noise",
            "tooltip": "auto: where neighbouring pixels share noise, make it independent for the "
            "fit, where frames do, keep them apart, and put lines that a scanner has shifted into "
            "their places; off: fit to the frames as they are",
        },
    ] = "auto"
    flicker: Annotated[
        FlickerChoice,
        {
            "label": "Flicker",
            "tooltip": "auto: where the light of whole frames flickers, fit to frames in even "
            "light; off: fit to the frames as they are",
        },
    ] = "auto"
    flow: Annotated[FlowMethod, {"label": "Motion", "tooltip": "how motion is estimated"}] = "dis"
    start: Annotated[
        str,
        {"label": "Start from", "tooltip": "fresh (random weights), pretrained, or a saved model"},
    ] = "pretrained"
    channels: Annotated[
        Literal["auto", "separate", "joint"],
        {
            "label": "Fit channels",
            "tooltip": "auto: one by one, colours as brightness and differences; separate: colours "
            "one by one too; joint: all together, from random weights",
        },
    ] = "auto"
    seed: Annotated[
        int, {"label": "Seed", "min": 0, "tooltip": "repeats a CPU run of given steps exactly"}
    ] = 0
    precision: Annotated[
        Precision | Literal["auto"],
        {"label": "Precision", "tooltip": "of the inner layers while fitting"},
    ] = "auto"
    memory_limit: Annotated[
        float | None,
        {
            "label": "Memory limit [GB]",
            "min": 0.001,
            "tooltip": "a larger run goes piece by piece; six tenths of what is free when left out",
        },
    ] = None
    turns: Annotated[
        int | None,
        {
            "label": "Turns",
            "min": 1,
            "max": 4,
            "tooltip": "quarter turns that a result is averaged over; four for a small movie, else "
            "one, when left out",
        },
    ] = None
    training: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 <= self.seed < _LARGEST:
            raise ValueError(f"seed must be 0 or more and below 2^63, got {self.seed}")
        unknown = set(self.training) - {row.name for row in fields(TrainingConfig)}
        if unknown:
            raise ValueError(
                f"training has no {', '.join(sorted(unknown))}; choose from "
                f"{', '.join(row.name for row in fields(TrainingConfig))}"
            )

    def denoiser(self) -> Denoiser:
        """A denoiser with these settings; errors are those of `Denoiser`."""
        return Denoiser(
            self.preset,
            device=self.device,
            seed=self.seed,
            noise=self.noise,
            correlation=self.correlation,
            flicker=self.flicker,
            flow=self.flow,
            channels=self.channels,
            precision=self.precision,
            start=self.start,
            memory_limit=self.memory_limit,
            turns=self.turns,
        )

    def training_config(self, preset: PresetName | None = None) -> TrainingConfig:
        """The fit: the preset's, changed by `training`, `time_budget` and `max_steps`.

        Parameters
        ----------
        preset : str, optional
            What "auto" stands for; "balanced" when None.
        """
        chosen = preset or ("balanced" if self.preset == "auto" else self.preset)
        config = replace(PRESETS[chosen].training, **{"pace": None, **self.training})
        return replace(config, time_budget=None) if config.pace is not None else config

    def fit_steps(
        self,
        denoiser: Denoiser,
        stack: Stack,
        *,
        checkpoint: str | PathLike[str] | None = None,
    ) -> Generator[Progress, None, None]:
        """`Denoiser.fit_steps` of a denoiser made by `denoiser`, with these settings."""
        paced = self.training.get("pace") is not None
        return denoiser.fit_steps(
            stack,
            time_budget=None if paced else self.time_budget,
            max_steps=self.max_steps,
            training=self.training_config(denoiser.preset),
            checkpoint=checkpoint,
        )

    def repeating(self, report: Mapping[str, Any]) -> RunSettings:
        """The same settings, but a fit that goes exactly as the one that a report tells of.

        Parameters
        ----------
        report : mapping
            `DenoiseResult.report`, or what was read from its file.

        Raises
        ------
        ValueError
            If the report does not tell of a fit.
        """
        try:
            pace, steps = report["pace"], int(report["steps"])
            repeat = {
                "pace": pace,
                "checks": int(report["checks"]),
                "refine": report.get("refine") or _refine_of(report),
                "sampled_pixels": report.get("sampled_pixels"),
                "time_budget": None,
            }
            training = {**self.training, **repeat}
            turns = self.turns or int(report.get("turns", 1))
            repeated = replace(
                self, training=training, max_steps=steps, time_budget=None, turns=turns
            )
            repeated.training_config()
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(
                "this report tells of no fit that could be repeated: it needs steps and pace"
            ) from error
        return repeated

    def to_json(self) -> str:
        """These settings as a line of JSON."""
        values = {row.name: getattr(self, row.name) for row in fields(self)}
        noise: NoiseChoice = self.noise
        if noise is not None and not isinstance(noise, str):
            values["noise"] = noise.to_dict()
        return json.dumps({**values, "training": dict(self.training)})

    @classmethod
    def from_json(cls, text: str) -> RunSettings:
        """Settings from a line of JSON; what this version does not know is left out.

        Raises
        ------
        ValueError
            If it is not JSON of settings.
        """
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"settings must be a JSON object: {error}") from error
        if not isinstance(values, dict):
            raise ValueError(f"settings must be a JSON object, got {text[:100]!r}")
        known = {row.name for row in fields(cls)}
        values = {name: value for name, value in values.items() if name in known}
        if isinstance(values.get("noise"), dict):
            try:
                noise: KnownNoise = noise_from_dict(values["noise"])
            except (KeyError, TypeError, OverflowError) as error:
                raise ValueError(f"this is no noise model: {values['noise']!r}") from error
            values["noise"] = noise
        for name, value in values.items():
            _check_kind(name, value, getattr(cls(), name))
        return cls(**values)


def _refine_of(report: Mapping[str, Any]) -> str:
    """How motion was refined, by a report from before it said so itself."""
    return "always" if report.get("refined_flow") else "never"


def _check_kind(name: str, value: Any, default: Any) -> None:
    """Raise where a value from a file is not of the kind of its field."""
    kinds: tuple[type, ...] = (type(default),)
    if name == "noise":
        kinds = (str, PoissonGaussianNoise, GaussianNoise, MeasuredNoise, type(None))
    elif name == "training":
        kinds = (Mapping,)
    elif default is None:
        kinds = (int, float, type(None))
    wrong = not isinstance(value, kinds) or isinstance(value, bool)
    if wrong or (isinstance(value, (int, float)) and not 0 <= value < _LARGEST):
        raise ValueError(
            f"{name} cannot be {str(value)[:100]!r}; choose another value or leave it out"
        )


def read_report(path: Path) -> dict[str, Any]:
    """Read a report that was written as JSON.

    Raises
    ------
    ValueError
        If it is not one.
    """
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (
        ValueError,
        RecursionError,
    ) as error:  # JSONDecodeError and UnicodeDecodeError are kinds of it
        raise ValueError(f"{path.name} is not a report in JSON: {error}") from error
    if not isinstance(report, dict):
        raise ValueError(f"{path.name} is not a report: expected a JSON object")
    return report
