"""A fitted model as it lies in a file: weights, and what is needed to use them again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from ._colour_basis import ColourBasis
from ._frame_spacing import LARGEST_STEP
from ._grid_step import LARGEST_GRID_STEP
from ._model_file import FORMAT_VERSION, ModelFile, read_model_file, write_model_file
from ._spaced_stack import Spacing
from .correlation import NoiseCorrelation, correlation_from_dict
from .flow import RouteChoice
from .flow.pwcnet import PWCNet, PWCNetConfig
from .network import STBN, STBNConfig
from .noise import noise_from_dict
from .preparation import KnownNoise, NoiseChoice
from .stack import IntensityScaling

__all__ = ["SavedModel"]

# Formats of files that versions before the newest one can read
_PLAIN, _WITH_STUDENT, _WITH_FLOW_MODEL = 2, 3, 4
_STUDENT, _FLOW_MODEL = "student.", "flow_model."  # before the names of their weights
_MOST_ROUNDS = 8


@dataclass(frozen=True)
class SavedModel:
    """A fitted network with the noise and scaling of the channels it was fitted to.

    Attributes
    ----------
    model : STBN
    preset, flow : str
        As in `napari_stbn.Denoiser`.
    seed, steps : int
        Of the fit.
    noise : dict of int to noise model or None
        Of each channel.
    scaling : dict of int to IntensityScaling
        Of each channel.
    precision : str
        As in `napari_stbn.Denoiser`; float32 in files that do not say.
    refined_flow : bool
        Whether it goes with flow between predicted frames instead of the noisy ones.
    correlation : dict of int to NoiseCorrelation or None
        Of each channel; channels of files that do not say have none.
    flow_rounds : int
        Times that the flow is estimated again on the prediction along the last one.
    student : PWCNet or None
        That makes the flow of noisy frames better.
    turns : int
        Quarter turns of the movie that a result is averaged over.
    flicker : str
        As of `napari_stbn.Denoiser`.
    noise_choice, correlation_choice, channels
        `noise`, `correlation` and `channels` of `napari_stbn.Denoiser`, for channels that the fit
        has not seen and for another fit.
    spacing : Spacing
        How frames were made to follow each other.
    routes : dict of str to RouteChoice
        Of movies that it met, by a digest of their pixels (`napari_stbn._flow_routes`).
    flow_model : STBN or None
        That predicts the frames which motion is found between; None for the model itself.
    colours : tuple of ColourBasis
        Of each channel, where noise and scaling are those of components of colour samples.
    """

    model: STBN
    preset: str
    flow: str
    seed: int
    steps: int
    noise: dict[int, KnownNoise]
    scaling: dict[int, IntensityScaling]
    precision: str = "float32"
    refined_flow: bool = False
    correlation: dict[int, NoiseCorrelation | None] = field(default_factory=dict)
    flow_rounds: int = 0
    student: PWCNet | None = None
    turns: int = 1
    flicker: str = "auto"
    noise_choice: NoiseChoice = "estimate"
    correlation_choice: str = "auto"
    channels: str = "auto"
    spacing: Spacing = field(default_factory=Spacing)
    routes: dict[str, RouteChoice] = field(default_factory=dict)
    flow_model: STBN | None = None
    colours: tuple[ColourBasis, ...] = ()

    def write(self, path: Path, *, overwrite: bool) -> Path:
        """Write to a file, whole or not at all; errors are those of `write_model_file`."""
        header: dict[str, Any] = {
            "format_version": self._format,
            "network": asdict(self.model.config),
            "preset": self.preset,
            "flow": self.flow,
            "refined_flow": self.refined_flow,
            "flow_rounds": self.flow_rounds,
            "student": None if self.student is None else asdict(self.student.config),
            "flow_model": _described(self.flow_model),
            "turns": self.turns,
            "flicker": self.flicker,
            "noise_choice": _noise_in_words(self.noise_choice),
            "correlation_choice": self.correlation_choice,
            "channels": self.channels,
            "spacing": asdict(self.spacing),
            "routes": {digest: choice.to_dict() for digest, choice in self.routes.items()},
            "colours": [basis.to_dict() for basis in self.colours],
            "seed": self.seed,
            "steps": self.steps,
            "precision": self.precision,
            "clip_frames": self.model.clip_frames,
            "noise": {c: None if n is None else n.to_dict() for c, n in self.noise.items()},
            "scaling": {c: asdict(s) for c, s in self.scaling.items()},
            "correlation": {
                c: None if n is None else n.to_dict() for c, n in self.correlation.items()
            },
        }
        state = dict(self.model.state_dict())
        if self.student is not None:
            state |= {f"{_STUDENT}{k}": v for k, v in self.student.state_dict().items()}
        if self.flow_model is not None:
            state |= {f"{_FLOW_MODEL}{k}": v for k, v in self.flow_model.state_dict().items()}
        weights = {name: value.detach().cpu().contiguous() for name, value in state.items()}
        return write_model_file(path, ModelFile(header, weights), overwrite=overwrite)

    @property
    def _format(self) -> int:
        """The oldest format that can hold it."""
        if self.colours:
            return FORMAT_VERSION
        if self.flow_model is not None:
            return _WITH_FLOW_MODEL
        return _PLAIN if self.student is None else _WITH_STUDENT

    @classmethod
    def read(cls, path: Path) -> SavedModel:
        """Read from a file.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If it is not a model of ours, damaged, or from a newer version.
        """
        file = read_model_file(path)
        header = file.header
        try:
            model = STBN(STBNConfig(**header["network"]))
            others = (_STUDENT, _FLOW_MODEL)
            own = {n: v for n, v in file.weights.items() if not n.startswith(others)}
            model.load_state_dict(own)
            student = _student(header.get("student"), file.weights)
            flow_model = _flow_model(header.get("flow_model"), file.weights)
            model.clip_frames = _clip_frames(header.get("clip_frames", 8))
            noise = {
                int(c): None if n is None else noise_from_dict(n)
                for c, n in header["noise"].items()
            }
            scaling = {
                int(c): IntensityScaling(**{name: float(value) for name, value in s.items()})
                for c, s in header["scaling"].items()
            }
            correlation = {
                int(c): None if n is None else correlation_from_dict(n)
                for c, n in header.get("correlation", {}).items()
            }
            if noise.keys() != scaling.keys():
                raise ValueError("noise and scaling are of different channels")
            return cls(
                model=model,
                preset=header["preset"],
                flow=header["flow"],
                seed=int(header["seed"]),
                steps=int(header["steps"]),
                noise=noise,
                scaling=scaling,
                precision=str(header.get("precision", "float32")),
                refined_flow=bool(header.get("refined_flow", False)),
                correlation=correlation,
                flow_rounds=_rounds(header.get("flow_rounds", 0)),
                student=student,
                turns=_turns(header.get("turns", 1)),
                flicker=header.get("flicker", "auto"),
                noise_choice=_noise_choice(header, model.config),
                correlation_choice=header.get("correlation_choice", "auto"),
                channels=header.get("channels", "auto"),
                spacing=_spacing(header.get("spacing")),
                routes={
                    str(digest): RouteChoice.from_dict(choice)
                    for digest, choice in header.get("routes", {}).items()
                },
                flow_model=flow_model,
                colours=tuple(map(ColourBasis.from_dict, header.get("colours", []))),
            )
        except (
            KeyError,
            TypeError,
            AttributeError,
            ArithmeticError,
            RuntimeError,
            ValueError,
        ) as error:
            said = " ".join(str(error).split())  # torch lists every weight on a line of its own
            if len(said) > 300:
                said = f"{said[:300]} …"
            raise ValueError(f"{path.name} is damaged or was changed by hand: {said}") from error


def _noise_in_words(choice: NoiseChoice) -> str | dict[str, Any] | None:
    """How noise is known, as plain values."""
    return choice if choice is None or isinstance(choice, str) else choice.to_dict()


def _noise_choice(header: Mapping[str, Any], network: STBNConfig) -> NoiseChoice:
    """How noise is known; in files before this entry the network alone says whether it is."""
    choice = header.get("noise_choice", "estimate" if network.covariance else None)
    if isinstance(choice, dict):
        return noise_from_dict(choice)
    if choice not in ("estimate", "gaussian", None):
        raise ValueError(f"noise_choice is unknown: {str(choice)[:40]}")
    return cast("NoiseChoice", choice)


def _student(config: Any, weights: Mapping[str, Tensor]) -> PWCNet | None:
    """The flow student of a file, if it has one."""
    if config is None:
        return None
    student = PWCNet(PWCNetConfig(**config))
    student.load_state_dict(_part(weights, _STUDENT))
    return student.eval()


def _described(model: STBN | None) -> dict[str, Any] | None:
    """What `_flow_model` needs beside the weights."""
    if model is None:
        return None
    return {"network": asdict(model.config), "clip_frames": model.clip_frames}


def _flow_model(described: Any, weights: Mapping[str, Tensor]) -> STBN | None:
    """The network of a file that motion is found with, if it is another one."""
    if described is None:
        return None
    model = STBN(STBNConfig(**described["network"]))
    model.load_state_dict(_part(weights, _FLOW_MODEL))
    model.clip_frames = _clip_frames(described["clip_frames"])
    return model.eval()


def _part(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Weights whose names begin so, without it."""
    return {n.removeprefix(prefix): v for n, v in weights.items() if n.startswith(prefix)}


def _rounds(value: Any) -> int:
    """Times that the flow is estimated again, as a file has them."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST_ROUNDS:
        return value
    raise ValueError(f"flow_rounds must be from 0 to {_MOST_ROUNDS}, got {str(value)[:40]}")


def _turns(value: Any) -> int:
    """Quarter turns of a movie, as a file has them; files before this entry have one."""
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 4:
        return value
    raise ValueError(f"turns must be from 1 to 4, got {str(value)[:40]}")


def _spacing(value: Any) -> Spacing:
    """How frames were made to follow each other; in files before this entry they did."""
    if value is None:
        return Spacing()
    step, carry = value["step"], {int(c): float(part) for c, part in value["carry"].items()}
    if not isinstance(step, int) or isinstance(step, bool) or not 1 <= step <= LARGEST_STEP:
        raise ValueError(f"step must be from 1 to {LARGEST_STEP}, got {str(step)[:40]}")
    if not all(0 <= part < 1 for part in carry.values()):
        raise ValueError(f"carry must be from 0 to 1, got {str(carry)[:40]}")
    grid = value.get("grid", (1, 1))  # not in files before this entry
    if not isinstance(grid, list | tuple) or [*map(type, grid)] != [int, int]:
        raise ValueError(f"grid must be two whole numbers, got {str(grid)[:40]}")
    if not all(1 <= pixels <= LARGEST_GRID_STEP for pixels in grid):
        raise ValueError(f"grid must be from 1 to {LARGEST_GRID_STEP}, got {str(grid)[:40]}")
    return Spacing(step, carry, (grid[0], grid[1]))


def _clip_frames(value: Any) -> int | None:
    """Frames of the clips of a fit, as a file has them; files before this entry are of 8."""
    if value is None or (isinstance(value, int) and 2 <= value <= 64):
        return value
    raise ValueError(f"clip_frames must be from 2 to 64, got {str(value)[:40]}")
