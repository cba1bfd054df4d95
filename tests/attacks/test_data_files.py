"""Data sets whose files lead elsewhere, or whose images aren't images."""

from __future__ import annotations

import io
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest
from gymnasium import spaces
from minari.serialization import serialize_space
from PIL import Image

from rmt_rl.cli import main
from rmt_rl.data.received import decoded, only_formats
from rmt_rl.data.store import EpisodeStore
from rmt_rl.errors import UsageError
from tests.attacks.scene import Scene

SHAPE = (32, 40, 3)
SECRET = np.arange(10.0).reshape(10, 1)
EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 40 32
(%pipe%touch ran) (w) file closefile
showpage
%%EOF
"""


def file_of(scene: Scene) -> Path:
    """Return the HDF5 file of the data set of T-Maze."""
    return scene.here / "data" / scene.dataset("tmaze") / "data" / "main_data.hdf5"


@pytest.fixture
def secret(scene: Scene, tmp_path: Path) -> Path:
    """Return an HDF5 file that lies outside of the folder of data sets."""
    path = tmp_path / "secret.hdf5"
    with h5py.File(path, "w") as file:
        group = file.create_group("episode_0")
        group["actions"] = SECRET
        file["observations"] = SECRET
    return path


def linked_episode(file: h5py.File, secret: Path) -> None:
    del file["episode_0"]
    file["episode_0"] = h5py.ExternalLink(str(secret), "/episode_0")


def linked_later_episode(file: h5py.File, secret: Path) -> None:
    del file["episode_7"]
    file["episode_7"] = h5py.ExternalLink("/dev/stdin", "/")


def soft_episode(file: h5py.File, secret: Path) -> None:
    del file["episode_1"]
    file["episode_1"] = h5py.SoftLink("/episode_1")


def linked_column(file: h5py.File, secret: Path) -> None:
    del file["episode_0/observations"]
    file["episode_0/observations"] = h5py.ExternalLink(str(secret), "/observations")


def linked_part(file: h5py.File, secret: Path) -> None:
    del file["episode_0/actions"]
    file.create_group("episode_0/actions")["x"] = h5py.ExternalLink(str(secret), "/observations")


def soft_column(file: h5py.File, secret: Path) -> None:
    del file["episode_0/rewards"]
    file["episode_0/rewards"] = h5py.SoftLink("/episode_1/rewards")


def outside_bytes(file: h5py.File, secret: Path) -> None:
    shape = file["episode_0/observations"].shape
    del file["episode_0/observations"]
    size = int(np.prod(shape)) * 4
    place = [(str(secret), 0, size)]
    file["episode_0"].create_dataset("observations", shape, np.float32, external=place)


def virtual(file: h5py.File, secret: Path) -> None:
    rewards = file["episode_0/rewards"]
    layout = h5py.VirtualLayout(rewards.shape, rewards.dtype)
    source = h5py.VirtualSource(str(secret), "observations", SECRET.shape)
    layout[:1] = source[:1, 0]
    del file["episode_0/rewards"]
    file["episode_0"].create_virtual_dataset("rewards", layout)


def foreign_filter(file: h5py.File, secret: Path) -> None:
    rewards = file["episode_0/rewards"][:]
    del file["episode_0/rewards"]
    facts = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    facts.set_chunk(rewards.shape)
    facts.set_filter(32015, h5py.h5z.FLAG_OPTIONAL)
    space = h5py.h5s.create_simple(rewards.shape)
    group = file["episode_0"].id
    array = h5py.h5d.create(group, b"rewards", h5py.h5t.py_create(rewards.dtype), space, facts)
    array.write(h5py.h5s.ALL, h5py.h5s.ALL, rewards)


ELSEWHERE = [
    linked_episode,
    linked_later_episode,
    soft_episode,
    linked_column,
    linked_part,
    soft_column,
    outside_bytes,
    virtual,
    foreign_filter,
]


@pytest.mark.parametrize("change", ELSEWHERE, ids=lambda change: change.__name__)
def test_an_hdf5_file_that_leads_elsewhere(
    scene: Scene, secret: Path, change: Callable[[h5py.File, Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    with h5py.File(file_of(scene), "a") as file:
        change(file, secret)
    with pytest.raises(UsageError, match=r"link to another place|from other files|HDF5 filters"):
        EpisodeStore(scene.dataset("tmaze")).episode(0)
    assert main(["train", "tmaze", "bc", "--dataset", scene.dataset("tmaze"), "--out", "again"]) == 2
    assert "minari delete" not in capsys.readouterr().err


def test_references_to_objects_are_no_numbers(scene: Scene) -> None:
    with h5py.File(file_of(scene), "a") as file:
        count = len(file["episode_0/rewards"])
        del file["episode_0/rewards"]
        references = file["episode_0"].create_dataset("rewards", (count,), h5py.ref_dtype)
        references[:] = [file.ref] * count
    with pytest.raises(UsageError):
        EpisodeStore(scene.dataset("tmaze"), strict=True)


def test_pickled_metadata(scene: Scene) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, ("touch ran",)

    metadata = file_of(scene).with_name("metadata.json")
    metadata.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(UsageError):
        EpisodeStore(scene.dataset("tmaze"))


@pytest.mark.parametrize("kind", ["__import__", "os.system", "Box.__class__", "payload:Space"])
def test_a_space_of_an_unknown_kind(scene: Scene, kind: str) -> None:
    space = json.dumps({"type": kind, "shape": [1], "dtype": "payload.Payload", "low": [0], "high": [1]})
    identity = scene.in_metadata("tmaze", observation_space=space)
    with pytest.raises(UsageError):
        EpisodeStore(identity)


@pytest.mark.parametrize("data_format", ["payload", "payload:Storage", "../hdf5", "arrow"])
def test_a_format_of_data_that_names_code(scene: Scene, data_format: str) -> None:
    identity = scene.in_metadata("tmaze", data_format=data_format)
    with pytest.raises(UsageError):
        EpisodeStore(identity)


IDS = ["../elsewhere/x-v0", "/etc/passwd", "a/../../b-v0", "..", "", "tmaze/../../elsewhere-v0", "a\x00b-v0", "~/x-v0"]


@pytest.mark.parametrize("identity", IDS)
def test_a_config_s_data_set_stays_in_the_folder_of_data_sets(
    scene: Scene, identity: str, capsys: pytest.CaptureFixture[str]
) -> None:
    scene.in_config("data", "dataset", value=[identity])
    for command in ("train --resume run", "train --config run --out again", "inspect run"):
        assert main(command.split()) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
    assert main(["evaluate", "run", "--episodes", "2"]) == 0, "which only looks for reference scores"


# Images


@pytest.fixture
def ghostscript(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a program that leaves a file `ran` in Ghostscript's place, which Pillow starts for EPS images."""
    folder = scene.here / "bin"
    folder.mkdir()
    program = folder / "gs"
    program.write_text("#!/bin/sh\ntouch ran\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)


def encoded(kind: str, shape: tuple[int, ...] = SHAPE, **options: Any) -> bytes:
    file = io.BytesIO()
    pixels = np.zeros(shape, np.uint8)
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def stored(content: bytes) -> npt.NDArray[np.uint8]:
    return np.frombuffer(content, np.uint8)


def animated() -> bytes:
    frames = [Image.new("RGB", (40, 32), (level, 0, 0)) for level in range(9)]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    return file.getvalue()


IMAGES = {
    "eps": EPS,
    "gif": animated(),
    "bmp": encoded("BMP"),
    "tiff": encoded("TIFF"),
    "ico": encoded("ICO"),
    "webp or ppm": encoded("PPM"),
    "larger png": encoded("PNG", (64, 40, 3)),
    "bomb": encoded("PNG", (9000, 9000)),
    "truncated png": encoded("PNG")[:60],
    "truncated jpeg": encoded("JPEG")[:200],
    "broken chunk": encoded("PNG").replace(b"IDAT", b"IDAX"),
    "empty": b"",
    "text": b"P3 40 32 255",
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg' width='40' height='32'/>",
}


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.usefixtures("ghostscript")
def test_an_image_of_a_data_set(scene: Scene, name: str) -> None:
    with pytest.raises(ValueError, match="can't be read as JPEG or PNG"):
        decoded([stored(IMAGES[name])], SHAPE)


@pytest.mark.usefixtures("ghostscript")
def test_minari_s_own_reader_opens_no_other_formats(scene: Scene) -> None:
    with only_formats(pixels=40 * 32):
        for name in ("eps", "gif", "bmp", "tiff"):
            with pytest.raises(OSError, match="cannot identify"):
                Image.open(io.BytesIO(IMAGES[name]))
        with pytest.raises(Image.DecompressionBombError):
            Image.open(io.BytesIO(IMAGES["bomb"]))
        assert Image.open(io.BytesIO(encoded("PNG"))).size == (40, 32)
    assert Image.open(io.BytesIO(IMAGES["bmp"])).format == "BMP"


@pytest.mark.usefixtures("ghostscript")
@pytest.mark.parametrize("name", ["eps", "larger png", "jpeg"])
def test_a_data_set_that_says_its_images_are_encoded(scene: Scene, name: str) -> None:
    space = serialize_space(spaces.Box(0, 255, SHAPE, np.uint8))
    identity = scene.in_metadata("tmaze", observation_space=space, jpeg_encoding=True)
    content = encoded("JPEG") if name == "jpeg" else IMAGES[name]
    with h5py.File(file_of(scene), "a") as file:
        count = len(file["episode_0/observations"])
        del file["episode_0/observations"]
        images = file["episode_0"].create_dataset("observations", (count,), h5py.vlen_dtype(np.uint8))
        for index in range(count):
            images[index] = stored(content)
    if name == "jpeg":
        pixels = np.asarray(EpisodeStore(identity).episode(0).observations)
        assert pixels.shape == (count, *SHAPE)
        return
    with pytest.raises(UsageError, match="can't be read as JPEG or PNG"):
        EpisodeStore(identity).episode(0)


def test_a_bomb_in_an_image_s_text(scene: Scene) -> None:
    from PIL.PngImagePlugin import PngInfo

    text = PngInfo()
    text.add_text("bomb", "x" * (1 << 25), zip=True)
    with pytest.raises(ValueError, match="can't be read as JPEG or PNG"):
        decoded([stored(encoded("PNG", pnginfo=text))], SHAPE)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_images_are_read(kind: str) -> None:
    assert decoded([stored(encoded(kind))] * 2, SHAPE).shape == (2, *SHAPE)
    assert decoded([stored(encoded(kind, SHAPE[:2]))], SHAPE[:2]).shape == (1, *SHAPE[:2])
