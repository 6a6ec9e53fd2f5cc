"""OME-XML: scale, channel names and files of the images that it describes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from xml.etree import ElementTree as ET

import numpy as np

from napari_stbn._described import Description, interval_in_seconds
from napari_stbn._units import micrometres, seconds

if TYPE_CHECKING:
    from pathlib import Path

    from napari_stbn.stack import Stack

__all__ = [
    "describe_ome",
    "named_files",
    "ome_damage",
    "ome_metadata",
    "positive",
]

_OME_UNITS: Final = ("pixel", "reference frame")


def ome_damage(text: str) -> str:
    """Why the OME-XML in a file cannot be understood; empty where it can, or there is none."""
    if "<OME" not in text[:2000]:
        return ""
    try:
        _root(text)
    except ET.ParseError as error:
        return str(error)
    return ""


def describe_ome(xml: str, number: int, count: int, folder: Path) -> Description:
    """What is said of image `number` of the `count` whose pixels were found.

    An image none of whose files lies in the folder has no pixels and no number.
    """
    images = [
        i for e in _root(xml) if _tag(e) == "Image" and (i := _child(e, "Pixels")) is not None
    ]
    if len(images) != count:
        images = [pixels for pixels in images if _is_there(pixels, folder)]
    if len(images) != count:  # whose scale is whose cannot be told
        return Description()
    pixels = images[number]
    sizes, unit = {}, "µm"
    for axis in "ZYX":
        size = positive(pixels.get(f"PhysicalSize{axis}"))
        if size is None:
            continue
        own = pixels.get(f"PhysicalSize{axis}Unit", "µm")
        factor = micrometres(own)
        unit = "µm" if factor else own
        sizes[axis] = size * (factor or 1.0)
    increment = positive(pixels.get("TimeIncrement"))
    interval, note = interval_in_seconds(increment, pixels.get("TimeIncrementUnit", "s"))
    channels = [element.get("Name") or "" for element in pixels if _tag(element) == "Channel"]
    return Description(sizes, unit, interval or _interval_of_planes(pixels), channels, note)


def named_files(xml: str) -> list[str]:
    """Names of the files that the images are said to lie in, each once; none without OME-XML."""
    elements = _root(xml).iter() if xml else ()
    return list(dict.fromkeys(name for element in elements if (name := _file_name(element))))


def ome_metadata(stack: Stack) -> dict[str, Any]:
    """Attributes of an OME ``Pixels`` element that hold scale, name and channels of a stack."""
    entries: dict[str, Any] = {"Name": stack.name} if stack.name else {}
    unit = stack.unit if stack.unit in ("µm", *_OME_UNITS) else "reference frame"
    for axis, size in stack.pixel_size.items():
        entries[f"PhysicalSize{axis}"] = size
        entries[f"PhysicalSize{axis}Unit"] = unit
    if stack.frame_interval:
        entries["TimeIncrement"] = stack.frame_interval
        entries["TimeIncrementUnit"] = "s"
    if stack.channel_names:
        entries["Channel"] = {"Name": list(stack.channel_names)}
    return entries


def positive(value: Any) -> float | None:
    """Return the value as a positive finite number, or None."""
    number = _number(value)
    return number if number is not None and number > 0 else None


def _number(value: Any) -> float | None:
    """Return the value as a finite number, or None."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if np.isfinite(number) else None


def _root(xml: str) -> ET.Element:
    """The outermost element."""
    # expat refuses entities that expand without bound, the one danger of OME-XML read here
    return ET.fromstring(xml)  # noqa: S314


def _pixels(element: ET.Element) -> ET.Element | None:
    """The pixels of an image; None where it is none."""
    return _child(element, "Pixels") if _tag(element) == "Image" else None


def _child(element: ET.Element, tag: str) -> ET.Element | None:
    """First element of this kind directly within another."""
    return next((child for child in element if _tag(child) == tag), None)


def _is_there(pixels: ET.Element, folder: Path) -> bool:
    """Whether any pixels of an image lie in the file itself or in another of the folder."""
    for data in pixels:
        if _tag(data) == "TiffData":
            uuid = _child(data, "UUID")
            if uuid is None or not (name := _file_name(uuid)) or (folder / name).is_file():
                return True
    return False


def _file_name(element: ET.Element) -> str | None:
    """The file that an element names."""
    return element.get("FileName") if _tag(element) == "UUID" else None


def _interval_of_planes(pixels: ET.Element) -> float | None:
    """Median step between the times of the frames of the first channel and plane [s]."""
    times = {}
    for plane in pixels:
        if _tag(plane) == "Plane" and plane.get("TheC") == "0" and plane.get("TheZ") == "0":
            moment, factor = _number(plane.get("DeltaT")), seconds(plane.get("DeltaTUnit", "s"))
            place = _number(plane.get("TheT", "0"))
            if moment is not None and factor is not None and place is not None:
                times[place] = moment * factor
    steps = np.diff([times[t] for t in sorted(times)])
    median = float(np.median(steps)) if len(steps) else 0.0
    return median if median > 0 else None


def _tag(element: ET.Element) -> str:
    """Name of an element without its namespace, which differs from year to year."""
    return element.tag.rsplit("}", 1)[-1]
