"""Pixel size and frame interval in the metadata of TIFF files."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final
from xml.etree import ElementTree as ET

import numpy as np

from napari_stbn._units import Scale, micrometres, seconds

if TYPE_CHECKING:
    from collections.abc import Mapping

    import tifffile

    from napari_stbn.stack import Stack

_CENTIMETRE: Final = 3  # value of the TIFF tag ResolutionUnit
_LARGEST_PIXEL: Final = 1000.0  # µm; a plain TIFF that claims more holds a printer's default
_OME_UNITS: Final = ("pixel", "reference frame")
_PRINTED: Final = (
    "inch",
    "inches",
    "in",
    '"',
)  # of paper: what ImageJ makes of a printer's default


def imagej_metadata(stack: Stack) -> dict[str, Any]:
    """Entries of an ImageJ description that hold the scale of a stack."""
    entries: dict[str, Any] = {}
    if stack.pixel_size:
        entries["unit"] = "micron" if stack.unit == "µm" else stack.unit
    if "Z" in stack.pixel_size:
        entries["spacing"] = stack.pixel_size["Z"]
    if stack.frame_interval:
        entries["finterval"] = stack.frame_interval
        entries["tunit"] = "s"
    return entries


def imagej_resolution(stack: Stack) -> tuple[float, float] | None:
    """Pixels per unit along X and Y for the resolution tags."""
    if not {"X", "Y"} <= set(stack.pixel_size):
        return None
    return 1 / stack.pixel_size["X"], 1 / stack.pixel_size["Y"]


def ome_metadata(stack: Stack) -> dict[str, Any]:
    """Attributes of an OME ``Pixels`` element that hold the scale and the name of a stack."""
    entries: dict[str, Any] = {"Name": stack.name} if stack.name else {}
    unit = stack.unit if stack.unit in ("µm", *_OME_UNITS) else "reference frame"
    for axis, size in stack.pixel_size.items():
        entries[f"PhysicalSize{axis}"] = size
        entries[f"PhysicalSize{axis}Unit"] = unit
    if stack.frame_interval:
        entries["TimeIncrement"] = stack.frame_interval
        entries["TimeIncrementUnit"] = "s"
    return entries


def scale_of(
    tif: tifffile.TiffFile, series: tifffile.TiffPageSeries, number: int
) -> tuple[Scale, str]:
    """Physical scale of one image of an open TIFF file, from OME, ImageJ or plain tags.

    With a sentence where the description cannot be read; the pixels can without it.
    """
    if tif.is_ome and tif.ome_metadata:
        try:
            return _from_ome(tif.ome_metadata, number), ""
        except (ET.ParseError, ValueError):
            return Scale(), "The OME-XML of the file is damaged; its scale is unknown."
    page = series.keyframe.aspage()
    if tif.is_imagej and tif.imagej_metadata is not None:
        return _from_imagej(tif.imagej_metadata, _per_unit(page)), ""
    per_unit = _per_unit(page)
    if page.tags.valueof("ResolutionUnit") == _CENTIMETRE and per_unit:
        sizes = {axis: 1e4 / count for axis, count in per_unit.items()}
        if max(sizes.values()) < _LARGEST_PIXEL:
            return Scale(sizes), ""
    return Scale(), ""


def _per_unit(page: tifffile.TiffPage) -> dict[str, float]:
    """Pixels per unit along Y and X by the resolution tags, where they are positive."""
    found = {}
    for axis in "YX":
        value = page.tags.valueof(f"{axis}Resolution")
        if isinstance(value, tuple) and len(value) == 2 and value[0] > 0 and value[1] > 0:
            found[axis] = value[0] / value[1]
    return found


def _from_imagej(metadata: Mapping[str, Any], per_unit: Mapping[str, float]) -> Scale:
    """Scale that ImageJ keeps in its description and in the resolution tags."""
    interval = _positive(metadata.get("finterval"))
    if interval is None and (rate := _positive(metadata.get("fps"))):
        interval = 1 / rate
    elif interval is not None:
        interval = _in_seconds(interval, metadata.get("tunit"))
    unit = _unescaped(metadata.get("unit", ""))
    if not unit or unit.lower().startswith("pixel") or unit.lower() in _PRINTED:
        return Scale(frame_interval=interval)
    sizes = {axis: 1 / count for axis, count in per_unit.items()}
    for axis in "ZYX":  # ImageJ names another unit for an axis only where it differs
        own = micrometres(_unescaped(metadata.get(f"{axis.lower()}unit", unit)))
        common = micrometres(unit)
        if axis == "Z" and (spacing := _positive(metadata.get("spacing"))):
            sizes["Z"] = spacing
        if axis in sizes and own and common:
            sizes[axis] *= own / common
    return Scale(sizes, unit, interval)


def _from_ome(xml: str, number: int) -> Scale:
    """Scale of image `number` of an OME-XML description."""
    # expat refuses entities that expand without bound, the one danger of OME-XML read here
    root = ET.fromstring(xml)  # noqa: S314
    images = [e for e in root if _tag(e) == "Image"]
    if not images:
        return Scale()
    image = images[min(number, len(images) - 1)]
    pixels = next((element for element in image if _tag(element) == "Pixels"), None)
    if pixels is None:
        return Scale()
    sizes, unit = {}, "µm"
    for axis in "ZYX":
        size = _positive(pixels.get(f"PhysicalSize{axis}"))
        if size is None:
            continue
        own = pixels.get(f"PhysicalSize{axis}Unit", "µm")
        factor = micrometres(own)
        unit = "µm" if factor else own
        sizes[axis] = size * (factor or 1.0)
    interval = _positive(pixels.get("TimeIncrement"))
    if interval is not None:
        interval = _in_seconds(interval, pixels.get("TimeIncrementUnit"))
    return Scale(sizes, unit, interval or _interval_of_planes(pixels))


def _interval_of_planes(pixels: ET.Element) -> float | None:
    """Median step between the times of the frames of the first channel and plane [s]."""
    times = {}
    for plane in pixels:
        if _tag(plane) == "Plane" and plane.get("TheC") == "0" and plane.get("TheZ") == "0":
            moment = plane.get("DeltaT")
            if moment is not None:
                factor = seconds(plane.get("DeltaTUnit", "s")) or np.nan
                times[int(plane.get("TheT", "0"))] = float(moment) * factor
    steps = np.diff([times[t] for t in sorted(times)])
    median = float(np.median(steps)) if len(steps) else 0.0
    return median if median > 0 else None


def _in_seconds(interval: float, unit: object) -> float | None:
    """An interval in seconds, which it is in where no unit is named; None in an unknown unit."""
    factor = seconds(str(unit)) if unit else 1.0
    return None if factor is None else interval * factor


def _unescaped(unit: object) -> str:
    r"""Undo how ImageJ writes a letter in Java's way, such as ``\u00B5``."""
    return re.sub(r"\\u([0-9A-Fa-f]{4})", lambda found: chr(int(found[1], 16)), str(unit))


def _tag(element: ET.Element) -> str:
    """Name of an element without its namespace, which differs from year to year."""
    return element.tag.rsplit("}", 1)[-1]


def _positive(value: Any) -> float | None:
    """Return the value as a positive finite number, or None."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if 0 < number < np.inf else None
