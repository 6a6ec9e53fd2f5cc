"""A `Denoiser` at rest: what was chosen, what it learnt, the file that it is kept in."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import asdict, replace
from os import PathLike
from pathlib import Path
from typing import Any, Literal, Self, cast

from numpy.typing import ArrayLike

from ._aligned_stack import placed_stack
from ._colour_basis import ColourBasis, measure_bases
from ._colour_stack import ColourStack
from ._denoiser_choices import check_choices
from ._even_stack import EvenStack, even_stack
from ._fit_parts import Average
from ._gathered_stack import gathered_stack
from ._lighting import FlickerChoice
from ._preparing import Preparing, as_stack
from ._refinement import DENSE_METHODS
from ._saved_model import SavedModel
from ._spaced_stack import Spacing, spaced_stack
from ._start import FirstModel, channels_of, first_model
from ._streaming import exceeds, memory_budget
from .correlation import CorrelationChoice, NoiseCorrelation
from .devices import resolve_device
from .flow import FlowMethod, RouteChoice
from .flow.pwcnet import PWCNet
from .network import STBN, STBNConfig
from .precision import Precision, choose_precision
from .preparation import KnownNoise, NoiseChoice, PreparedStack
from .presets import PRESETS, PresetName, choose_preset
from .prior import Units
from .result import describe_stack, versions
from .stack import IntensityScaling, Stack
from .training import TrainingStep

__all__ = ["DenoiserState"]


class DenoiserState:
    """What a denoiser is made of; `napari_stbn.Denoiser` says what the arguments mean.

    Attributes
    ----------
    model : STBN or None
        None until something was fitted or loaded.
    channel_noise : dict of int to noise model or None
    channel_scaling : dict of int to IntensityScaling
    channel_correlation : dict of int to NoiseCorrelation or None
        Of each channel that was measured.
    history : list of TrainingStep
        Of the last fit.
    colours : tuple of ColourBasis
        Of each channel, where colour samples are denoised as components: channels are these then.
    spacing : Spacing or None
        How frames were made to follow each other; None until it was measured.
    """

    def __init__(
        self,
        preset: PresetName | Literal["auto"] = "auto",
        *,
        device: str = "auto",
        seed: int = 0,
        noise: NoiseChoice = "estimate",
        flow: FlowMethod = "dis",
        channels: Literal["auto", "separate", "joint"] = "auto",
        network: STBNConfig | None = None,
        precision: Precision | Literal["auto"] = "auto",
        start: str | PathLike[str] = "pretrained",
        correlation: CorrelationChoice = "auto",
        flicker: FlickerChoice = "auto",
        memory_limit: float | None = None,
        turns: int | None = None,
    ) -> None:
        check_choices(
            preset=preset,
            noise=noise,
            flow=flow,
            channels=channels,
            precision=precision,
            correlation=correlation,
            flicker=flicker,
            memory_limit=memory_limit,
            turns=turns,
        )
        self.device = resolve_device(device)
        self.preset: PresetName = choose_preset(self.device) if preset == "auto" else preset
        self.seed, self.noise, self.flow, self.channels = int(seed), noise, flow, channels
        self.precision, self.start, self.memory_limit = precision, start, memory_limit
        self.correlation, self.flicker, self.turns = correlation, flicker, turns
        self._network = network
        self.model: STBN | None = None
        self.channel_noise: dict[int, KnownNoise] = {}
        self.channel_scaling: dict[int, IntensityScaling] = {}
        self.channel_correlation: dict[int, NoiseCorrelation | None] = {}
        self.history: list[TrainingStep] = []
        self._prepared: PreparedStack | None = None
        self._fitted_in: Precision | None = None
        self._average: Average | None = None
        self._checks = 0
        self._started_from = ""
        self._refines = False
        self._refine = "never"  # what became of `TrainingConfig.refine`
        self._sampled: int | None = None  # what became of `TrainingConfig.sampled_pixels`
        self._flow_rounds = 0
        self._turns = 1  # what became of `turns`
        self._student: PWCNet | None = None
        self._routes: dict[str, RouteChoice] = {}  # of the movies that it met
        # What predicts the frames that motion is found between: a fit's start, as it was. A fitted
        # model has learnt some of its movie's noise by heart, and the flow between its frames
        # follows that noise.
        self._flow_model: STBN | None = None
        self._flow_is_outdated = False
        self.colours: tuple[ColourBasis, ...] = ()
        self.spacing: Spacing | None = None
        self._colour_stack: ColourStack | None = None  # the last one that was asked for
        self._even: tuple[Stack, Stack] | None = None  # the last one, and in even light
        self._tracks: tuple[Stack, Stack] | None = None  # the last one, and with frames apart

    @property
    def has_uncertainty(self) -> bool:
        """Whether results come with an uncertainty: a noise model is used, or was by the fit."""
        if self.model is not None:
            return self.model.config.covariance
        return self.noise is not None

    def streams(self, data: Stack | ArrayLike, *, axes: str | None = None) -> bool:
        """Whether a run on this stack would take more than the memory limit.

        Then the fit looks at parts of it, and its result is best written by `denoise_to`.
        """
        return exceeds(as_stack(data, axes), memory_budget(self.memory_limit))

    def release(self) -> None:
        """Free the movie that is kept ready for another call; the fitted model stays."""
        self._prepared = self._colour_stack = self._even = self._tracks = None

    def units(self, channel: int = 0) -> Units:
        """Conversion between a channel's intensities and network units.

        Raises
        ------
        RuntimeError
            If that channel was never measured: nothing was fitted or loaded.
        """
        if channel not in self.channel_scaling:
            raise RuntimeError(
                f"channel {channel} was not measured yet: call fit() or load() first"
            )
        return Units(self.channel_noise[channel], self.channel_scaling[channel])

    def save(self, path: str | PathLike[str], *, overwrite: bool = False) -> Path:
        """Write the fitted model to a file: weights, noise, choices; nothing that executes.

        Parameters
        ----------
        path : path
            By custom ``*.stbn``.
        overwrite : bool, default False
            Replace an existing file.

        Returns
        -------
        Path

        Raises
        ------
        RuntimeError
            If nothing was fitted yet.
        FileExistsError
            If the file exists and `overwrite` is False.
        """
        if self.model is None:
            raise RuntimeError("there is no model to save: call fit() first")
        saved = SavedModel(
            model=self.model,
            preset=self.preset,
            flow=self.flow,
            refined_flow=self._refines,
            flow_rounds=self._flow_rounds,
            student=self._student,
            turns=self._turns,
            flicker=self.flicker,
            noise_choice=self.noise,
            correlation_choice=self.correlation,
            channels=self.channels,
            spacing=self.spacing or Spacing(),
            routes=self._routes,
            seed=self.seed,
            steps=len(self.history),
            noise=self.channel_noise,
            scaling=self.channel_scaling,
            precision=self.precision,
            correlation=self.channel_correlation,
            flow_model=self._flow_model if self._refines else None,
            colours=self.colours,
        )
        return saved.write(Path(path), overwrite=overwrite)

    @classmethod
    def load(cls, path: str | PathLike[str], *, device: str = "auto") -> Self:
        """Read a model that `save` wrote; no code in the file is executed.

        Parameters
        ----------
        path : path
        device : str, default "auto"
            Where to run it.

        Returns
        -------
        Denoiser
            Ready for `denoise`.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If it is not a model of ours, damaged, or from a newer version.
        """
        resolve_device(device)  # a wrong name is not the file's fault
        saved = SavedModel.read(Path(path))
        try:
            denoiser = cls(
                cast("PresetName", saved.preset),
                device=device,
                seed=saved.seed,
                flow=cast("FlowMethod", saved.flow),
                network=saved.model.config,
                precision=cast("Precision", saved.precision),
                flicker=cast("FlickerChoice", saved.flicker),
                noise=saved.noise_choice,
                correlation=cast("CorrelationChoice", saved.correlation_choice),
                channels=cast('Literal["auto", "separate", "joint"]', saved.channels),
            )
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{Path(path).name} is damaged or was changed by hand: {error}"
            ) from error
        denoiser.model = saved.model.place(denoiser.device).eval()
        denoiser.channel_noise, denoiser.channel_scaling = saved.noise, saved.scaling
        denoiser.channel_correlation = saved.correlation
        denoiser._refines = saved.refined_flow
        denoiser._flow_rounds = saved.flow_rounds if denoiser._refines else 0
        denoiser._student = saved.student
        denoiser._turns, denoiser._routes = saved.turns, saved.routes
        denoiser._flow_model, denoiser.colours = saved.flow_model, saved.colours
        denoiser.spacing = saved.spacing
        return denoiser

    def _joint(self, stack: Stack) -> bool:
        """Whether a fit to the stack denoises its channels together."""
        if self.channels != "auto":
            return self.channels == "joint" and stack.n_channels > 1
        # As the paper does, and as a model was fitted that a fit goes on from.
        return stack.size("S") > 1 and (self.preset == "paper" or channels_of(self.start) > 1)

    def _measured_colours(
        self, stack: Stack, *, joint: bool
    ) -> Generator[float, None, tuple[ColourBasis, ...]]:
        """Bases of the colours of a stack that a fit takes apart into components, else nothing."""
        if self.channels != "auto" or stack.size("S") < 2 or joint:
            return ()
        stack.check()
        return (yield from measure_bases(stack, self.noise))

    def _apart(
        self, stack: Stack, known: Spacing | None, *, joint: bool
    ) -> Generator[float, None, Stack]:
        """The stack without its padding, lines in their places, frames that follow each other.

        Yields the part that is done.
        """
        if self._tracks is None or self._tracks[0] is not stack:
            stack.check()
            seen = yield from placed_stack(stack, lines=self.correlation != "off")
            if not joint and not self.streams(stack):  # of a large one not every frame is looked at
                seen = yield from gathered_stack(seen)
            if self.correlation != "off":
                seen = yield from spaced_stack(seen, known)
            self._tracks = stack, seen
        return self._tracks[1]

    def _evened(self, stack: Stack) -> Generator[float, None, Stack]:
        """The stack in even light, where its light flickers; yields the part that is done."""
        if self.flicker == "off":
            return stack
        if self._even is None or self._even[0] is not stack:
            stack.check()
            self._even = stack, (yield from even_stack(stack))
        return self._even[1]

    def _seen(self, stack: Stack, colours: tuple[ColourBasis, ...] | None = None) -> Stack:
        """A stack in even light, with colours as components where the model takes these."""
        colours = self.colours if colours is None else colours
        if not colours:
            return stack
        last = self._colour_stack
        if last is None or last.source is not stack or last.bases != colours:
            last = self._colour_stack = ColourStack(stack, colours)
        return last

    def _layer_precision(self, config: STBNConfig) -> Precision:
        """Precision of the network's inner layers."""
        if self.precision != "auto":
            return self.precision
        return choose_precision(config, self.device)

    def _first_model(self, channels: int) -> FirstModel:
        """The network that a fit begins with."""
        config = self._network or PRESETS[self.preset].network
        config = replace(config, channels=channels, covariance=self.noise is not None)
        return first_model(self.start, config, self.seed)

    def _fitted(self, stack: Stack) -> STBN:
        """The model, if it can denoise this stack."""
        if self.model is None:
            raise RuntimeError("there is no model yet: call fit() or load() first")
        if self.colours and "S" not in stack.axes:
            raise ValueError(
                f"the model denoises {len(self.colours[0].rows)} colour samples, "
                f"this stack has no axis S: its axes are {stack.axes}"
            )
        channels = self.model.config.channels
        if channels > 1 and stack.n_channels != channels:
            raise ValueError(
                f"the model denoises {channels} channels together, "
                f"this stack has {stack.n_channels}"
            )
        return self.model

    def _preparing(self) -> Preparing:
        """How a stack is made ready, and what is known of its channels."""
        noise = self.noise
        if noise is not None and any(law is not None for b in self.colours for law in b.laws):
            noise = "gaussian"  # was made even
        return Preparing(
            noise=noise,
            correlation=self.correlation,
            flow="none" if self._refines or self._student is not None else self.flow,
            known_noise=self.channel_noise,
            known_scaling=self.channel_scaling,
            known_correlation=self.channel_correlation,
        )

    def _remember(self, prepared: PreparedStack) -> None:
        """Keep what a fit has measured of the channels."""
        self.channel_noise, self.channel_scaling = prepared.noise, prepared.scaling
        self.channel_correlation = prepared.correlation

    def _report(self, prepared: PreparedStack, seconds: float) -> dict[str, Any]:
        """What was done, in plain values."""
        last = self.history[-1] if self.history else None
        return {
            **versions(),
            **describe_stack(prepared),
            "device": str(self.device),
            "preset": self.preset,
            "network": None if self.model is None else asdict(self.model.config),
            "seed": self.seed,
            "flicker": self._flicker(),
            "frame_step": self.spacing.step if self.spacing else 1,
            "frame_carry": dict(self.spacing.carry) if self.spacing else {},
            "grid_step": list(self.spacing.grid) if self.spacing else [1, 1],
            "flow": self.flow,
            "refined_flow": self._refines and self.flow in DENSE_METHODS,
            "refine": self._refine,
            "sampled_pixels": self._sampled,
            "flow_rounds": self._flow_rounds,
            "turns": self.turns or self._turns,
            "flow_student": self._student is not None,
            "steps": last.step if last else 0,
            "precision": self._fitted_in,
            "skipped_steps": last.skipped if last else 0,
            "fit_seconds": round(last.elapsed, 2) if last else 0.0,
            "start": self._started_from,
            "start_held_out_loss": last.start_held_out if last else None,
            "checks": self._checks,
            "pace": [list(knot) for knot in last.pace] if last else [],
            "denoise_seconds": round(seconds, 2),
            "held_out_loss": [s.held_out for s in self.history if s.held_out is not None],
        }

    def _flicker(self) -> float:
        """Standard deviation of the light of the last stack, where it was made even, else 0."""
        even = None if self._even is None else self._even[1]
        if not isinstance(even, EvenStack):
            return 0.0
        return round(max(light.strength for light in even.lighting.values()), 4)
