"""Pixel size, frame interval and names in the metadata of TIFF files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from napari_stbn._described import Description, interval_in_seconds
from napari_stbn._ome_xml import describe_ome, positive
from napari_stbn._units import micrometres, spelled

if TYPE_CHECKING:
    from collections.abc import Mapping

    import tifffile

    from napari_stbn.stack import Stack

_CENTIMETRE: Final = 3  # value of the TIFF tag ResolutionUnit
_LARGEST_PIXEL: Final = 1000.0  # µm; a plain TIFF that claims more holds a printer's default


def imagej_metadata(stack: Stack) -> dict[str, Any]:
    """Entries of an ImageJ description that hold the scale and the channel names of a stack."""
    entries: dict[str, Any] = {}
    if imagej_resolution(stack) is not None:  # else a unit would make pixels of 1 x 1 of it
        entries["unit"] = "micron" if stack.unit == "µm" else stack.unit
        if "Z" in stack.pixel_size:
            entries["spacing"] = stack.pixel_size["Z"]
    if stack.frame_interval:
        entries["finterval"] = stack.frame_interval
        entries["tunit"] = "s"
    if stack.channel_names:  # ImageJ has a label for each plane, and channels go round first
        entries["Labels"] = [*stack.channel_names] * (stack.n_frames * stack.n_planes)
    return entries


def imagej_resolution(stack: Stack) -> tuple[float, float] | None:
    """Pixels per unit along X and Y for the resolution tags."""
    if not {"X", "Y"} <= set(stack.pixel_size):
        return None
    return 1 / stack.pixel_size["X"], 1 / stack.pixel_size["Y"]


def describe(tif: tifffile.TiffFile, series: tifffile.TiffPageSeries, number: int) -> Description:
    """What an open TIFF file says of one image, in OME-XML, ImageJ's words or plain tags."""
    if tif.is_ome and tif.ome_metadata:
        folder = Path(tif.filehandle.dirname)
        return describe_ome(tif.ome_metadata, number, len(tif.series), folder)
    page = series.keyframe.aspage()
    if tif.is_imagej and tif.imagej_metadata is not None:
        return _from_imagej(tif.imagej_metadata, _per_unit(page))
    per_unit = _per_unit(page)
    if page.tags.valueof("ResolutionUnit") == _CENTIMETRE and per_unit:
        sizes = {axis: 1e4 / count for axis, count in per_unit.items()}
        if max(sizes.values()) < _LARGEST_PIXEL:
            return Description(sizes)
    return Description()


def _per_unit(page: tifffile.TiffPage) -> dict[str, float]:
    """Pixels per unit along Y and X by the resolution tags, where they are positive."""
    found = {}
    for axis in "YX":
        value = page.tags.valueof(f"{axis}Resolution")
        if isinstance(value, tuple) and len(value) == 2 and value[0] > 0 and value[1] > 0:
            found[axis] = value[0] / value[1]
    return found


def _from_imagej(metadata: Mapping[str, Any], per_unit: Mapping[str, float]) -> Description:
    """Scale that ImageJ keeps in its description and in the resolution tags."""
    interval, note = interval_in_seconds(
        positive(metadata.get("finterval")), str(metadata.get("tunit", "s"))
    )
    if interval is None and (rate := positive(metadata.get("fps"))):
        interval = 1 / rate
    unit, channels = spelled(str(metadata.get("unit", ""))), _labels_of_channels(metadata)
    if not unit or unit.lower().startswith("pixel"):
        return Description(frame_interval=interval, channels=channels, note=note)
    sizes = {axis: 1 / count for axis, count in per_unit.items()}
    for axis in "ZYX":  # ImageJ names another unit for an axis only where it differs
        own = micrometres(str(metadata.get(f"{axis.lower()}unit", unit)))
        common = micrometres(unit)
        if axis == "Z" and (spacing := positive(metadata.get("spacing"))):
            sizes["Z"] = spacing
        if axis in sizes and own and common:
            sizes[axis] *= own / common
    return Description(sizes, unit, interval, channels, note)


def _labels_of_channels(metadata: Mapping[str, Any]) -> list[str]:
    """Names of the channels, where the planes of each have all the same label."""
    labels, count = metadata.get("Labels"), int(metadata.get("channels", 1))
    in_turn = str(metadata.get("order", "czt")).lower() in ("czt", "default")
    if not isinstance(labels, list) or not in_turn or not 0 < count < len(labels):
        return []
    each = [set(labels[channel::count]) for channel in range(count)]
    return [str(next(iter(same))) for same in each] if all(len(same) == 1 for same in each) else []
