"""Stack: an array with named axes, seen as one (T, Y, X) movie per channel and plane."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_stbn._arrays import ArrayLike, as_array
from napari_stbn._axes import AXES, check_axes, check_names, guess_axes
from napari_stbn._defects import (
    MIN_SIDE,
    MovieDefects,
    check_dtype,
    check_frame_size,
    inspect_movie,
    one_frame,
    validate_movie,
)
from napari_stbn._intensity import IntensityScaling, cast_like
from napari_stbn._units import SPACE, PixelSize, sizes_in_micrometres

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "AXES",
    "MIN_SIDE",
    "ArrayLike",
    "IntensityScaling",
    "MovieDefects",
    "Stack",
    "cast_like",
    "guess_axes",
    "inspect_movie",
    "validate_movie",
]


@dataclass(frozen=True, eq=False, init=False, repr=False)
class Stack:
    """An array with named axes and its physical scale.

    Parameters
    ----------
    array : array-like of shape `axes`
        numpy, memmap, dask or zarr array, of any byte order and strides; kept as it is, never
        written to, and read only where a movie is asked for. Masked pixels of a numpy array count
        as not recorded: they become NaN, in a copy.
    axes : str, optional
        One letter per dimension out of T, C, Z, Y, X and S (colour samples), in any order, with Y
        and X; guessed where left out.
    pixel_size : float, sequence or mapping, optional [`unit`]
        One number for Y and X, ``(y, x)``, ``(z, y, x)``, or a mapping: ``{"Y": 0.1, "X": 0.1}``.
    frame_interval : float, optional [s]
        Time from frame to frame.
    unit : str
        Unit of `pixel_size`; lengths are converted to µm, any other unit is kept.
    name : str
        What a person calls it; used in messages and as the name of layers and images.
    channel_names : sequence of str
        One for each position along C, where they are known.
    hint : str, optional
        The file's own letters for the guess where `axes` is left out, see `guess_axes`.

    Attributes
    ----------
    pixel_size : Mapping of str to float [`unit`]
        Size of a pixel along Z, Y and X; only the axes whose size is known.
    guess : str
        What was guessed about the axes, and what else the file left open (`napari_stbn.read`);
        empty where nothing was.

    Raises
    ------
    ValueError
        `axes` do not fit the array, numpy cannot read it, a scale is not positive, or there are
        more or fewer names than channels.

    Examples
    --------
    >>> import numpy as np
    >>> stack = Stack(np.zeros((2, 5, 16, 16), np.uint16), axes="CTYX", pixel_size=0.1)
    >>> stack.indices()
    [(0, 0), (1, 0)]
    >>> stack.movie(channel=1).shape
    (5, 16, 16)
    """

    array: ArrayLike
    axes: str
    pixel_size: Mapping[str, float]
    frame_interval: float | None
    unit: str
    name: str
    channel_names: tuple[str, ...]
    guess: str

    def __init__(
        self,
        array: ArrayLike | Sequence[Any],
        axes: str | None = None,
        *,
        pixel_size: PixelSize | None = None,
        frame_interval: float | None = None,
        unit: str = "µm",
        name: str = "",
        channel_names: Sequence[str] = (),
        hint: str | None = None,
    ) -> None:
        array = as_array(array)
        shape, guess = tuple(array.shape), ""
        if axes is None:
            axes, guess = guess_axes(shape, array.dtype, hint)
        axes = check_axes(axes, shape)
        sizes, unit = sizes_in_micrometres(pixel_size, unit)
        if frame_interval is not None and not 0 < frame_interval < np.inf:
            raise ValueError(f"frame_interval must be a positive time in s, got {frame_interval}.")
        values = {
            "array": array,
            "axes": axes,
            "pixel_size": {a: sizes[a] for a in SPACE if a in sizes and a in axes},
            "frame_interval": None if frame_interval is None else float(frame_interval),
            "unit": unit,
            "name": name,
            "channel_names": check_names(channel_names, axes, shape),
            "guess": guess,
        }
        for field, value in values.items():
            object.__setattr__(self, field, value)

    def __repr__(self) -> str:
        """Name, axes, shape, type and scale in one line."""
        sizes = " x ".join(f"{size:g}" for size in self.pixel_size.values())
        scale = f", {''.join(self.pixel_size)} {sizes} {self.unit}" if sizes else ""
        pace = f", {self.frame_interval:g} s per frame" if self.frame_interval else ""
        name = f"{self.name!r} " if self.name else ""
        return f"<Stack {name}{self.axes} {self.shape} {self.dtype}{scale}{pace}>"

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis, in the order of `axes`."""
        return tuple(int(length) for length in self.array.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values in native byte order."""
        native: np.dtype[Any] = np.dtype(self.array.dtype).newbyteorder("=")
        return native

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.axes)

    @property
    def nbytes(self) -> int:
        """Memory that the whole array takes [bytes], whether it is loaded or not."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def size(self, axis: str) -> int:
        """Length of the axis of this letter; 1 where the stack has none."""
        return self.shape[self.axes.index(axis)] if axis in self.axes else 1

    @property
    def n_frames(self) -> int:
        """Frames in time; 1 without a T axis."""
        return self.size("T")

    @property
    def n_channels(self) -> int:
        """Channels; the colour samples of an RGB stack are channels."""
        return self.size("C") * self.size("S")

    @property
    def n_planes(self) -> int:
        """Planes along Z; 1 without a Z axis."""
        return self.size("Z")

    @property
    def frame_shape(self) -> tuple[int, int]:
        """Height and width of a frame (Y, X) [px]."""
        return self.size("Y"), self.size("X")

    @property
    def title(self) -> str:
        """How a sentence about this stack begins: its name in quotes, or ``This layer``."""
        return f'"{self.name}"' if self.name else "This layer"

    def channel_name(self, channel: int) -> str:
        """What to call a channel in a sentence."""
        return f"channel {channel}"

    def leader(self, channel: int) -> int:
        """The channel whose motion this one shares: itself."""
        return channel

    def witness(self, channel: int) -> int | None:  # noqa: ARG002 - of other stacks it matters
        """Another channel, where noise of this one that pixels share is to be seen too."""
        return None

    @property
    def recorded(self) -> Stack:
        """The user's stack, behind whatever a denoiser sees it as: itself."""
        return self

    def remarks(self) -> list[str]:
        """Sentences for the user about how the stack is seen; none about it as it is."""
        return []

    def noise_gain(self, channel: int) -> float:  # noqa: ARG002 - of views it matters
        """Variance of the noise here over that of a pixel as recorded."""
        return 1.0

    def defects_for_user(
        self, index: tuple[int, int], defects: MovieDefects
    ) -> tuple[tuple[int, int], MovieDefects]:
        """Channel, plane and frames of defects as a person counts them: as they are."""
        return index, defects

    def indices(self) -> list[tuple[int, int]]:
        """All movies of the stack as (channel, plane), channels first."""
        return [(c, z) for c in range(self.n_channels) for z in range(self.n_planes)]

    def check(self) -> None:
        """Raise the one sentence that says why no movie of this stack can be denoised.

        Looks at type and shape only and reads no pixel; `validate_movie` looks at the pixels.

        Raises
        ------
        ValueError
            Neither integers nor floating numbers, empty, fewer than 2 frames, or frames smaller
            than 8 x 8.
        """
        check_dtype(self.dtype, self.title)
        if 0 in self.shape:
            raise ValueError(
                f"{self.title} is empty, its shape is {self.shape}; was it cropped to nothing or "
                "only partly saved?"
            )
        if self.n_frames < 2:
            raise ValueError(one_frame(self.title, self.n_frames))
        check_frame_size(self.frame_shape, self.title)

    def movie(
        self,
        channel: int = 0,
        plane: int = 0,
        *,
        frames: slice | None = None,
        rows: slice | None = None,
        columns: slice | None = None,
    ) -> npt.NDArray[Any]:
        """Read one movie.

        Parameters
        ----------
        channel, plane : int
            Which one, from 0; see `indices`.
        frames, rows, columns : slice, optional
            Read only these.

        Returns
        -------
        ndarray, shape (T, Y, X) [counts]
            A new contiguous array in native byte order: changing it never changes the stack.

        Raises
        ------
        IndexError
            There is no such channel or plane.
        ValueError
            The stack has fewer than 2 frames.
        """
        if self.n_frames < 2:
            raise ValueError(one_frame(self.title, self.n_frames))
        index = self.index(channel, plane, T=frames, Y=rows, X=columns)
        return np.array(self.read(index, "TYX"), dtype=self.dtype, order="C", copy=True)

    def read(self, index: tuple[int | slice, ...], axes: str) -> npt.NDArray[Any]:
        """Read a part of the array.

        Parameters
        ----------
        index : tuple of int and slice
            As `index` gives it.
        axes : str
            Letters of the axes that `index` keeps, in the order that is wanted.

        Returns
        -------
        ndarray, shape `axes` [counts]
            It may share memory with the stack.
        """
        return self.picked(self.array, index, axes)

    def picked(
        self, array: ArrayLike, index: tuple[int | slice, ...], axes: str
    ) -> npt.NDArray[Any]:
        """What `read` reads, of another array with the axes of this stack."""
        selected = np.asarray(array[index])
        kept = [a for a, i in zip(self.axes, index, strict=True) if isinstance(i, slice)]
        return selected.transpose([kept.index(a) for a in axes])

    def assemble(
        self,
        movies: Mapping[tuple[int, int], npt.NDArray[Any]],
        dtype: npt.DTypeLike | None = None,
    ) -> npt.NDArray[Any]:
        """Put movies together to an array of this stack's shape and axes order.

        Parameters
        ----------
        movies : mapping of (channel, plane) to ndarray, shape (T, Y, X)
            All movies of `indices`, neither fewer nor more.
        dtype : dtype-like, optional
            Type of the result, rounded and clipped for integers (`cast_like`); the common type of
            the movies where left out.

        Returns
        -------
        ndarray
            New array of this stack's shape, in native byte order.

        Raises
        ------
        ValueError
            A movie is missing, too many, or of another shape.
        """
        expected, got = set(self.indices()), set(movies)
        if expected != got:
            raise ValueError(
                f"movies must hold the {len(expected)} (channel, plane) pairs of the stack; "
                f"missing {sorted(expected - got)}, unknown {sorted(got - expected)}."
            )
        target = np.dtype(np.result_type(*movies.values()) if dtype is None else dtype)
        result = np.empty(self.shape, target.newbyteorder("="))
        frame_axes = [a for a in self.axes if a in "TYX"]
        shape = (self.n_frames, *self.frame_shape)
        for (channel, plane), movie in movies.items():
            if movie.shape != shape:
                raise ValueError(
                    f"the movie of channel {channel}, plane {plane} must have shape {shape}, "
                    f"got {movie.shape}."
                )
            if "T" not in frame_axes:
                movie = movie[0]
            letters = "TYX"[-movie.ndim :]
            ordered = movie.transpose([letters.index(a) for a in frame_axes])
            same = dtype is None or movie.dtype == result.dtype
            index = self.index(channel, plane)
            result[index] = ordered if same else cast_like(ordered, result.dtype)
        return result

    def like(self, array: ArrayLike, *, name: str | None = None) -> Stack:
        """Another array with the axes, scale and names of this stack.

        Parameters
        ----------
        array : array-like
            As many dimensions as this stack.
        name : str, optional
            Another name.

        Raises
        ------
        ValueError
            The number of dimensions differs.
        """
        channels = array.shape[self.axes.index("C")] if "C" in self.axes else 1
        names = self.channel_names if channels == len(self.channel_names) else ()
        return Stack(
            array,
            self.axes,
            pixel_size=self.pixel_size,
            frame_interval=self.frame_interval,
            unit=self.unit,
            name=self.name if name is None else name,
            channel_names=names,
        )

    def index(self, channel: int, plane: int, **parts: slice | None) -> tuple[int | slice, ...]:
        """Index of one movie in `array`, with a number for each of C, Z and S.

        Parameters
        ----------
        channel, plane : int
        **parts : slice, optional
            Of T, Y and X; all where left out.

        Raises
        ------
        IndexError
            There is no such channel or plane.
        """
        for word, got, count in (
            ("channel", channel, self.n_channels),
            ("plane", plane, self.n_planes),
        ):
            if not 0 <= got < count:
                raise IndexError(f"{word} must be from 0 to {count - 1}, got {got}.")
        colour, sample = divmod(channel, self.size("S"))
        where: dict[str, int | slice | None] = {"C": colour, "S": sample, "Z": plane, **parts}
        return tuple(
            slice(None) if (part := where.get(axis)) is None else part for axis in self.axes
        )
