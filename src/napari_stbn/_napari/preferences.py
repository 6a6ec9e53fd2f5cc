"""Settings that outlast the session, on the plugin's page of napari's Preferences."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from napari_stbn.settings import RunSettings
from napari_stbn.training import TrainingConfig

from .rows import check_values

__all__ = ["Preferences", "load_preferences", "save_preferences"]

_PLUGIN, _PAGE = "napari-stbn", "denoising"
_ADVANCED = (
    *("max_steps", "correlation", "flicker", "channels", "seed", "precision"),
    *("memory_limit", "turns", "training"),
)


@dataclass(frozen=True)
class Preferences:
    """What the widget starts with. One field, one property in napari.yaml.

    Attributes
    ----------
    preset, device, flow
        As in `RunSettings`.
    time_budget
        Seconds; 0 takes the preset's.
    threads
        Of the computation on the CPU; 0 leaves one core to the screen.
    flow_density
        Distance between two flow arrows [px].
    preview, show_flow, show_residual
        What is shown during and after a run.
    advanced
        Everything else of the last run's settings, as JSON.
    """

    preset: str = "auto"
    time_budget: float = 0.0
    device: str = "auto"
    flow: str = "dis"
    threads: int = 0
    flow_density: int = 16
    preview: bool = True
    show_flow: bool = True
    show_residual: bool = False
    advanced: str = "{}"

    @classmethod
    def of(cls, settings: RunSettings, **shown: Any) -> Preferences:
        """Preferences that lead to these settings again.

        Noise and start belong to one movie and are left out.
        """
        rest = json.loads(settings.to_json())
        plain = RunSettings()
        advanced = {name: rest[name] for name in _ADVANCED if rest[name] != getattr(plain, name)}
        return cls(
            preset=settings.preset,
            time_budget=settings.time_budget or 0.0,
            device=settings.device,
            flow=settings.flow,
            advanced=json.dumps(advanced),
            **shown,
        )

    def settings(self) -> RunSettings:
        """Settings of a run; advanced ones that cannot be read are left out."""
        chosen = {
            "preset": self.preset,
            "time_budget": self.time_budget or None,
            "device": self.device,
            "flow": self.flow,
        }
        try:
            written = json.loads(self.advanced)
            kept = {name: written[name] for name in _ADVANCED if name in written}
            settings = RunSettings.from_json(json.dumps({**kept, **chosen}))
            check_values(RunSettings, kept)
            check_values(TrainingConfig, settings.training)
        except (ValueError, TypeError):
            return RunSettings.from_json(json.dumps(chosen))
        return settings


def load_preferences() -> Preferences:
    """Read what is kept; the defaults where napari does not know the plugin."""
    page = _page()
    if page is None:
        return Preferences()
    kept = {row.name: getattr(page, row.name) for row in fields(Preferences)}
    kept = {name: getattr(value, "value", value) for name, value in kept.items()}  # enums
    return replace(Preferences(), **kept)


def save_preferences(preferences: Preferences) -> None:
    """Keep for the next session."""
    page = _page()
    if page is None:
        return
    for name, value in asdict(preferences).items():
        setattr(page, name, value)


def _page() -> Any:
    """Our page of the settings, or None where napari does not know the plugin."""
    from napari.settings import get_plugin_settings

    try:
        return getattr(get_plugin_settings(_PLUGIN), _PAGE)
    except KeyError:  # run from a bare source tree
        return None
