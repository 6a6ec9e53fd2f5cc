"""Parts of a fit: how far it is, the average of its weights, and its state in a file."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ._appearing import check_folder
from ._model_file import ModelFile, read_model_file, write_model_file
from .network import STBN
from .precision import Precision

__all__ = ["Adam", "Average", "BegunFit", "FitFile", "Knot", "Schedule", "begun_fit"]

_logger = logging.getLogger(__name__)
Knot = tuple[int, float, float]  # step, part of the fit done there, part done by each step after it

_ADAM = ("step", "exp_avg", "exp_avg_sq")  # what the optimiser keeps of each parameter
_COUNTERS: tuple[tuple[str, type | tuple[type, ...], float, float], ...] = (
    ("step", int, 0, 2**53),
    ("skipped", int, 0, 2**53),
    ("since_best", int, 0, 2**53),
    ("elapsed", (int, float), 0.0, 1e12),
    ("best", (int, float), -1e30, 1e30),
    ("next", (int, float), 0.0, 2.0),
    ("decay_from", (int, float), 0.0, 1.0),
)
_WARM_UP = 30  # steps in which the learning rate rises
_LAST_RATE = 0.02  # of the learning rate, at the end
_BESIDE = "beside."  # before the names of what is not the fit's own
_SAVE_EVERY = 20.0  # seconds of work between two states in the file
_PREDICTIONS = 24  # of the steps that a time budget holds


class Limits(Protocol):
    """What the schedule needs of a training configuration."""

    @property
    def max_steps(self) -> int: ...
    @property
    def time_budget(self) -> float | None: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def decay_from(self) -> float: ...
    @property
    def pace(self) -> tuple[Knot, ...] | None: ...


def _plain(method: Any) -> Any:
    """A method of torch's optimisers without the wrapper that imports `torch.compile`'s parts."""
    return getattr(method, "__wrapped__", method)


class Adam(torch.optim.Adam):
    """torch's Adam, which begins at once: what `torch.compile` needs takes seconds to import."""

    add_param_group = _plain(torch.optim.Optimizer.add_param_group)
    zero_grad = _plain(torch.optim.Optimizer.zero_grad)
    step = torch.no_grad()(_plain(torch.optim.Adam.step))


class Average:
    """Average of the weights over about the last `window` part of the steps, whenever it ends."""

    def __init__(self, model: STBN, window: float) -> None:
        self.parameters: list[Tensor] = list(model.parameters())
        self.values = [p.detach().clone() for p in self.parameters]
        self._power = 1 / max(window, 1e-6)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take the weights after step number `step` (from 1) in."""
        torch._foreach_lerp_(
            self.values, self.parameters, min(1.0, (self._power + 1) / (self._power + step))
        )

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the model's weights and the average."""
        for value, parameter in zip(self.values, self.parameters, strict=True):
            kept = parameter.detach().clone()
            parameter.copy_(value)
            value.copy_(kept)


class Schedule:
    """How far the fit is, and the learning rate there.

    Everything that changes the weights depends on the number of steps alone, also under a time
    budget: there the steps that the rest of the budget will hold are predicted again and again, and
    between two predictions (knots) each step counts the same. With the knots a fit can be repeated.
    """

    def __init__(self, config: Limits) -> None:
        self.config = config
        self.end: float | None = None  # set when the fit winds down early
        self.decay_from = config.decay_from
        self.knots: list[Knot] = list(config.pace or [(0, 0.0, 1 / config.max_steps)])
        self._last = (0, 0.0)  # step and elapsed seconds at the last knot

    def fraction(self, step: int) -> float:
        """Part of the fit that is done."""
        if step >= self.config.max_steps:
            return 1.0
        done = self._done(step)
        return min(1.0, done if self.end is None else done / self.end)

    def _done(self, step: int) -> float:
        """Part of the full fit, whether it winds down early or not."""
        at, done, each = self._knot(step)
        return done + (step - at) * each

    def _knot(self, step: int) -> Knot:
        """The last prediction before a step; the first one is made at step 0."""
        return next(knot for knot in reversed(self.knots) if knot[0] <= step)

    def planned(self, step: int) -> float:
        """Steps that the whole fit will take, as predicted at this one.

        By the knots alone: a fit that was stopped is repeated with fewer steps and the same knots.
        """
        at, done, each = self._knot(step)
        return at + (1 - done) / max(each, 1e-12)

    def follow(self, step: int, elapsed: float) -> None:
        """Under a time budget: predict anew how many steps its rest will hold."""
        budget = self.config.time_budget
        steps, seconds = step - self._last[0], elapsed - self._last[1]
        if budget is None or self.config.pace is not None or seconds < budget / _PREDICTIONS:
            return
        done = min(1.0, max(self._done(step), elapsed / budget))
        left = steps / seconds * (budget - elapsed)
        left = max(1.0, min(left, self.config.max_steps - step))
        self.knots.append((step, done, (1 - done) / left))
        self._last = (step, elapsed)

    def resume(self, step: int, elapsed: float) -> None:
        """Measure the speed from here on."""
        self._last = (step, elapsed)

    def skip(self, seconds: float) -> None:
        """Leave seconds of other work out of the speed of the steps."""
        self._last = (self._last[0], self._last[1] + seconds)

    def wind_down(self, fraction: float) -> None:
        """End the fit after a short decay of the learning rate, unless it already decays."""
        if self.end is None and fraction < self.decay_from + 0.2:
            self.end = min(1.0, 1.4 * fraction)
            self.decay_from = fraction / self.end

    def learning_rate(self, step: int, fraction: float) -> float:
        """Rise, plateau, cosine."""
        rate = self.config.learning_rate * min(1.0, (step + 1) / _WARM_UP)
        return rate * (_LAST_RATE + (1 - _LAST_RATE) * self.decay(fraction))

    def decay(self, fraction: float) -> float:
        """1 on the plateau, then a cosine to 0."""
        late = max(0.0, (fraction - self.decay_from) / max(1 - self.decay_from, 1e-6))
        return 0.5 * (1 + math.cos(math.pi * min(late, 1.0)))


class FitFile:
    """The state of a fit in a file, from which it goes on after a crash.

    Parameters
    ----------
    path : Path or None
        None keeps no file.
    identity : dict
        Plain values that say which fit it is: network, schedule, movies. Only that one goes on.
    """

    def __init__(self, path: Path | None, identity: dict[str, Any]) -> None:
        self.path, self.identity = path, identity
        self._saved_at = 0.0

    def due(self, elapsed: float) -> bool:
        """Whether the state should be written after so many seconds of work."""
        return self.path is not None and elapsed - self._saved_at >= _SAVE_EVERY

    def save(
        self,
        counters: dict[str, Any],
        average: Average,
        optimizer: torch.optim.Optimizer,
        generator: torch.Generator,
        beside: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Write everything that the next step depends on, whole or not at all.

        `beside` is what else belongs to the fit; `begun_fit` gives it back.
        """
        if self.path is None:
            return
        tensors = {f"weight.{i}": p for i, p in enumerate(average.parameters)}
        tensors |= {f"average.{i}": value for i, value in enumerate(average.values)}
        for i, parameter in enumerate(average.parameters):
            tensors |= {f"adam.{i}.{k}": v for k, v in optimizer.state[parameter].items()}
        tensors["generator"] = generator.get_state()
        tensors |= {f"{_BESIDE}{name}": value for name, value in (beside or {}).items()}
        plain = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
        header = {"fit": self.identity, "counters": counters}
        try:
            write_model_file(self.path, ModelFile(header, plain), overwrite=True)
        except OSError as error:  # a full drive must not end the fit that it would have saved
            _logger.warning("the state of the fit was not saved in %s: %s", self.path, error)
        self._saved_at = float(counters["elapsed"])

    def restore(
        self,
        average: Average,
        optimizer: torch.optim.Optimizer,
        generator: torch.Generator,
    ) -> dict[str, Any] | None:
        """Put a saved state back; its counters, or None where there is no file.

        Raises
        ------
        ValueError
            If the file is damaged or belongs to another fit.
        """
        if self.path is None or not self.path.exists():
            return None
        try:
            file = read_model_file(self.path)
        except FileNotFoundError:  # another run was done with it meanwhile
            return None
        if file.header.get("fit") != self.identity:
            raise ValueError(
                f"{self.path.name} is the state of another fit (other movie, network or settings, "
                "or one that goes on now); choose another name, or delete it to start anew"
            )
        try:
            counters: dict[str, Any] = file.header["counters"]
            _check_counters(counters)
            _copy(average.parameters, file, "weight")
            _copy(average.values, file, "average")
            for i, parameter in enumerate(average.parameters):
                state: dict[str, Tensor] = {}
                for name in _ADAM:
                    value = file.weights[f"adam.{i}.{name}"]
                    empty = torch.zeros_like(parameter) if value.ndim else torch.zeros(())
                    state[name] = empty.detach().copy_(value)
                optimizer.state[parameter] = state
            generator.set_state(file.weights["generator"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            said = " ".join(str(error).split())[:300]
            raise ValueError(
                f"{self.path.name} is damaged or was changed by hand ({said}); delete it to start "
                "anew"
            ) from error
        self._saved_at = float(counters["elapsed"])
        return counters

    def remove(self) -> None:
        """Delete the file of a fit that is done."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


@dataclass(frozen=True)
class BegunFit:
    """What an unfinished fit decided by the clock, for who goes on with it.

    Attributes
    ----------
    refines
        Motion is estimated on a first prediction.
    checks
        Evaluations of the held-out blocks.
    precision
        Of the inner layers.
    beside : mapping of str to Tensor
        What was kept beside the fit itself.
    """

    refines: bool
    checks: int
    precision: Precision
    beside: Mapping[str, Tensor]


def begun_fit(path: str | PathLike[str] | None) -> BegunFit | None:
    """What the file of a fit says about it; None where there is none yet.

    Raises
    ------
    FileNotFoundError, PermissionError
        If its folder does not exist, or nothing can be written to it.
    ValueError
        If it is damaged, or not the state of a fit.
    """
    if path is None:
        return None
    path = Path(path)
    check_folder(path.parent)
    if not path.exists():
        return None
    try:
        file = read_model_file(path)
    except FileNotFoundError:  # another run was done with it meanwhile
        return None
    header = file.header
    try:
        fit = header["fit"]
        training = fit["training"]
        return BegunFit(
            training["refine"] in ("always", "reestimate", "distill"),
            training["checks"],
            fit["precision"],
            {
                name.removeprefix(_BESIDE): value
                for name, value in file.weights.items()
                if name.startswith(_BESIDE)
            },
        )
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{path.name} holds no state of a fit; choose another name, or delete it"
        ) from error


def _check_counters(counters: Any) -> None:
    """Raise ValueError where the counters of a file are not those of a fit: it might never end."""

    def number(value: Any, kind: type | tuple[type, ...], least: float, most: float) -> bool:
        good = isinstance(value, kind) and not isinstance(value, bool)
        return good and math.isfinite(value) and least <= value <= most

    for name, kind, least, most in _COUNTERS:
        if not number(counters[name], kind, least, most):
            raise ValueError(f"{name} is {str(counters[name])[:40]}")
    if counters["end"] is not None and not number(counters["end"], (int, float), 1e-9, 1.0):
        raise ValueError(f"end is {str(counters['end'])[:40]}")
    for step, done, each in counters["knots"]:
        if not (
            number(step, int, 0, 2**53)
            and number(done, (int, float), 0.0, 1.0)
            and number(each, (int, float), 0.0, 1.0)
        ):
            raise ValueError("a knot of its pace is none")


@torch.no_grad()
def _copy(targets: Iterable[Tensor], file: ModelFile, kind: str) -> None:
    """Fill tensors from a file, keeping their memory order and device."""
    for i, target in enumerate(targets):
        target.copy_(file.weights[f"{kind}.{i}"])
