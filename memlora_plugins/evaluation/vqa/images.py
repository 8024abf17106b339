"""The images of a folder: which files are images, which of them are the same, and how one is sent to a model."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import struct
import warnings
import zlib
from collections import defaultdict
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict

from ...errors import DatasetError, MissingDependencyError
from ...types import ImagePart

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
"""What is read, by content; the end of a file's name only tells a broken image from a file that is none."""
MAX_SIDE = 1536
"""Longest side, in pixels, that an image is sent with."""
_SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".webp", ".gif"))
_AS_IT_IS = ("PNG", "JPEG", "WEBP")
_MOST_BYTES = 4 * 2**20  # of a file that is sent as it is: the rest of a larger one is not what a model sees
_ORIENTATION = 0x0112
_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, KeyError, struct.error, zlib.error)
"""What Pillow's decoders raise over broken files."""

Reason = Literal["broken", "too large", "same as another", "in several splits", "outside of the splits"]


class Picture(BaseModel):
    """An image: its path below the folder, with `/`, the hash of its file, and the split it belongs to."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    sha256: str
    split: str | None = None


class Skipped(BaseModel):
    """A file that was left out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    reason: Reason
    detail: str = ""


class Images(BaseModel):
    """The images of `folder` by path, and the files that look like images and were left out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: Path
    pictures: tuple[Picture, ...]
    skipped: tuple[Skipped, ...] = ()


def check_packages() -> None:
    """Say at the start that a package is missing.

    Raises:
        MissingDependencyError: naming the extra.
    """
    missing = [name for name, module in (("pillow", "PIL"), ("matplotlib", "matplotlib")) if find_spec(module) is None]
    if missing:
        raise MissingDependencyError(
            f"Questions about images need {', '.join(missing)}. Install with: pip install 'memlora-plugins[eval]'"
        )


def find_images(folder: Path, *, split_by_folder: bool = False) -> Images:
    """The images in `folder` and below it, hidden files and folders aside; links to folders are not followed.

    Files of equal bytes are one image: the first path counts. With `split_by_folder`, the folders directly in `folder`
    are splits (`train`, `validation`, `test`, or any names), and an image that is in several is in none (Section C.1).

    Raises:
        DatasetError: `folder` is no folder, cannot be read, or holds no image that can be used.
        MissingDependencyError: Pillow is not installed.
    """
    check_packages()
    if not folder.is_dir():
        raise DatasetError(f"{folder} is no folder. Pass the folder that holds the images.")
    readable: defaultdict[str, list[Picture]] = defaultdict(list)
    skipped: list[Skipped] = []
    for path in sorted(_files(folder)):
        found = _look(folder, path, split_by_folder)
        if isinstance(found, Skipped):
            skipped.append(found)
        elif found is not None:
            readable[found.sha256].append(found)
    pictures = []
    for same in readable.values():
        if len({picture.split for picture in same}) > 1:
            skipped += (Skipped(path=picture.path, reason="in several splits") for picture in same)
            continue
        pictures.append(same[0])
        skipped += (Skipped(path=other.path, reason="same as another", detail=same[0].path) for other in same[1:])
    if not pictures:
        first = f" The first of {len(skipped)} left out: {skipped[0].path}, {skipped[0].reason}." if skipped else ""
        raise DatasetError(f"{folder} holds no image that can be used ({', '.join(FORMATS)}).{first}")
    return Images(
        folder=folder,
        pictures=tuple(sorted(pictures, key=lambda picture: picture.path)),
        skipped=tuple(sorted(skipped, key=lambda one: one.path)),
    )


def part(file: Path, *, sha256: str | None = None, max_side: int = MAX_SIDE) -> ImagePart:
    """The image as a data URL: the file as it is where that is an upright PNG, JPEG or WebP of one frame, no side
    longer than `max_side` pixels and no larger than 4 MiB; else its first frame, upright, on white, reduced to
    `max_side`, as JPEG (of JPEG and WebP) or PNG (of PNG and GIF).

    Raises:
        DatasetError: the file cannot be read as an image, or is not the one with that hash.
    """
    from PIL import Image

    try:
        content = file.read_bytes()
        if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
            raise DatasetError(f"{file} is not the image that the question was made for (another sha256).")
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            kind = str(image.format)
            if not (_as_it_is(image, kind, max_side) and len(content) <= _MOST_BYTES):
                content, kind = _prepared(image, kind, max_side)
    except DatasetError:
        raise
    except (*_UNREADABLE, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DatasetError(f"{file} cannot be read as an image: {error}. Restore it, or leave it out.") from error
    return ImagePart(f"data:image/{kind.lower()};base64,{base64.b64encode(content).decode()}")


def _files(folder: Path) -> Iterator[str]:
    """The files below `folder`, as paths in it.

    Raises:
        DatasetError: a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise DatasetError(f"{error.filename} cannot be read: {error}") from error

    for inside, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if not name.startswith("."):
                yield (Path(inside) / name).relative_to(folder).as_posix()


def _look(folder: Path, path: str, split_by_folder: bool) -> Picture | Skipped | None:
    """The image at `path`, why there is none, or None for a file that does not even look like one."""
    from PIL import Image, UnidentifiedImageError

    file = folder / path
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # judged right below
            with Image.open(file, formats=FORMATS) as image:
                size = image.width * image.height
                if Image.MAX_IMAGE_PIXELS and size > Image.MAX_IMAGE_PIXELS:
                    return Skipped(path=path, reason="too large", detail=f"{size} pixels")
                image.load()
        content = hashlib.sha256(file.read_bytes()).hexdigest()
    except Image.DecompressionBombError as error:
        return Skipped(path=path, reason="too large", detail=str(error))
    except UnidentifiedImageError:
        if file.suffix.lower() not in _SUFFIXES:
            return None
        return Skipped(path=path, reason="broken", detail="not an image")
    except _UNREADABLE as error:
        return Skipped(path=path, reason="broken", detail=f"{type(error).__name__}: {error}".replace(str(file), path))
    split, inside, _ = path.partition("/")
    if split_by_folder and not inside:
        return Skipped(path=path, reason="outside of the splits")
    return Picture(path=path, sha256=content, split=split if split_by_folder else None)


def _as_it_is(image: Image, kind: str, max_side: int) -> bool:
    return (
        kind in _AS_IT_IS
        and max(image.size) <= max_side
        and getattr(image, "n_frames", 1) == 1
        and image.getexif().get(_ORIENTATION, 1) == 1
    )


def _prepared(image: Image, kind: str, max_side: int) -> tuple[bytes, str]:
    """The first frame, upright, without transparency, small enough; and the format that it is in."""
    from PIL import Image as images
    from PIL import ImageOps

    frame = ImageOps.exif_transpose(image).convert("RGBA")
    frame.thumbnail((max_side, max_side), images.Resampling.LANCZOS)
    flat = images.new("RGB", frame.size, "white")
    flat.paste(frame, mask=frame.getchannel("A"))
    lossy = kind in ("JPEG", "WEBP")
    held = io.BytesIO()
    flat.save(held, "JPEG" if lossy else "PNG", **({"quality": 95} if lossy else {}))
    return held.getvalue(), "JPEG" if lossy else "PNG"
