"""Folders and archives of files become examples, or a clear refusal."""

import io
import pathlib
import shutil
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from compress.data import DataError, image_folder, rows, text_windows


def write_images(folder: pathlib.Path, size: tuple[int, int] = (4, 6)) -> np.ndarray:
    """Three images of each of two classes; all that is in them."""
    pixels = np.random.default_rng(0).integers(0, 256, (6, *size, 3)).astype(np.uint8)
    for index, image in enumerate(pixels):
        place = folder / "train" / ("cat" if index < 3 else "dog")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{index}.png")
    return pixels


def packed(folder: pathlib.Path, kind: str) -> pathlib.Path:
    if kind == "folder":
        return folder
    return pathlib.Path(shutil.make_archive(str(folder), kind, folder))


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_images_of_a_folder_or_archive_are_examples(
    kind: str, tmp_path: pathlib.Path
) -> None:
    pixels = write_images(tmp_path / "images")
    source = image_folder(packed(tmp_path / "images", kind))
    batch = rows(source, np.arange(len(source)))
    np.testing.assert_array_equal(batch["x"], pixels)
    np.testing.assert_array_equal(batch["y"], [0, 0, 0, 1, 1, 1])
    assert batch["y"].dtype == np.int32


def test_images_are_resized_and_classes_numbered_as_asked(
    tmp_path: pathlib.Path,
) -> None:
    write_images(tmp_path)
    source = image_folder(tmp_path, size=(2, 3), classes=["dog", "cat"])
    assert source[0]["x"].shape == (2, 3, 3)
    assert [int(source[i]["y"]) for i in (0, 5)] == [1, 0]
    assert source.fingerprint != image_folder(tmp_path, size=(3, 3)).fingerprint


def test_a_file_replaced_by_another_of_its_size_makes_other_data(
    tmp_path: pathlib.Path,
) -> None:
    write_images(tmp_path)
    file = tmp_path / "train/cat/1.png"
    before, size = image_folder(tmp_path).fingerprint, file.stat().st_size
    assert image_folder(tmp_path).fingerprint == before
    file.write_bytes(other_image(size))
    assert file.stat().st_size == size
    assert image_folder(tmp_path).fingerprint != before


def other_image(size: int) -> bytes:
    """A black image in as many bytes: what follows an image's end is not read."""
    black = io.BytesIO()
    Image.new("RGB", (6, 4)).save(black, "png")
    return black.getvalue().ljust(size, b"\0")


def test_broken_files_are_counted_and_named_or_skipped(tmp_path: pathlib.Path) -> None:
    write_images(tmp_path)
    whole = (tmp_path / "train/cat/1.png").read_bytes()
    (tmp_path / "train/cat/1.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "train/dog/4.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"2 of 6 files cannot be read:\n  train/cat/1"):
        image_folder(tmp_path)
    source = image_folder(tmp_path, unreadable="skip")
    assert len(source) == 4
    assert [line.split(":")[0] for line in source.skipped] == [
        "train/cat/1.png",
        "train/dog/4.png",
    ]
    with pytest.raises(DataError, match="must be 'refuse' or 'skip'"):
        image_folder(tmp_path, unreadable="ignore")


def break_members(path: pathlib.Path) -> None:
    """A zip of six: another checksum, another header, a method nobody knows."""
    with zipfile.ZipFile(path) as archive:
        files = [entry for entry in archive.infolist() if not entry.is_dir()]
    entries = sorted(files, key=lambda entry: entry.filename)
    data = bytearray(path.read_bytes())
    names = [entry.header_offset + 30 + len(entry.filename) for entry in entries]
    data[names[0] : names[0] + 8] = b"\xff" * 8  # zlib.error
    data[entries[1].header_offset] = 0  # BadZipFile
    central = data.rfind(entries[2].filename.encode()) - 46
    data[central + 10] = 99  # NotImplementedError
    path.write_bytes(data)


def test_broken_members_of_an_archive_are_named_or_left_out(
    tmp_path: pathlib.Path,
) -> None:
    write_images(tmp_path / "images")
    path = packed(tmp_path / "images", "zip")
    break_members(path)
    with pytest.raises(DataError, match=r"3 of 6 files cannot be read:\n  train/cat/0"):
        image_folder(path)
    source = image_folder(path, unreadable="skip", classes=["cat", "dog"])
    assert len(source) == 3
    names = [line.split(":")[0] for line in source.skipped]
    assert names == [f"train/cat/{index}.png" for index in (0, 1, 2)]
    # And where its files are listed.
    data = bytearray(path.read_bytes())
    data[data.find(b"PK\x01\x02")] = 0
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"its list of files is damaged.*Pack it again"):
        image_folder(path)


def test_what_is_no_data_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(DataError, match="no such folder or archive. Check the path"):
        image_folder(tmp_path / "missing")
    with pytest.raises(DataError, match=r"holds no file ending in \.png"):
        image_folder(tmp_path)
    text = tmp_path / "notes.txt"
    text.write_text("no archive")
    with pytest.raises(DataError, match="neither a folder, a zip nor an uncompressed"):
        image_folder(text)
    write_images(tmp_path / "images")
    with pytest.raises(DataError, match=r"files lie in \['dog'\], which is not among"):
        image_folder(tmp_path / "images", classes=["cat"])
    Image.new("RGB", (9, 9)).save(tmp_path / "images/train/dog/9.png")
    with pytest.raises(DataError, match=r"9\.png is \(9, 9, 3\).*Give size="):
        image_folder(tmp_path / "images")
    for name in ("xz", "gz"):
        with tarfile.open(tmp_path / f"a.tar.{name}", f"w:{name}") as archive:
            archive.add(tmp_path / "images", "images")
        with pytest.raises(DataError, match="Unpack it, or pack it"):
            image_folder(tmp_path / f"a.tar.{name}")


def test_images_without_a_folder_of_their_class_are_refused(
    tmp_path: pathlib.Path,
) -> None:
    data = io.BytesIO()
    Image.new("RGB", (2, 2)).save(data, "png")
    with zipfile.ZipFile(tmp_path / "flat.zip", "w") as archive:
        archive.writestr("a.png", data.getvalue())
    with pytest.raises(DataError, match="Put each into a folder named like its class"):
        image_folder(tmp_path / "flat.zip")


def test_windows_of_text_predict_the_next_byte(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(bytes(range(20)))
    source = text_windows(path, length=6)
    assert len(source) == 3  # a fourth would lack its last next byte
    batch = rows(source, [0, 2])
    np.testing.assert_array_equal(batch["x"], [range(6), range(12, 18)])
    np.testing.assert_array_equal(batch["y"], batch["x"] + 1)
    assert len(text_windows(path, length=6, stride=1)) == 14
    with pytest.raises(DataError, match="has 20 bytes.*take 21.*a smaller length"):
        text_windows(path, length=20)
    with pytest.raises(DataError, match="no such file"):
        text_windows(tmp_path / "missing", length=6)
    path.write_bytes(b"")
    with pytest.raises(DataError, match="has 0 bytes"):
        text_windows(path, length=6)
