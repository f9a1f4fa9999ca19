"""Before-images out of memory, data files and temporary files: always the rows, and no more is kept than there is."""

import gc
import random
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from storage.delta.row_images import RowImages
from storage.delta.table_files import TableFiles
from storage.errors import UnreadableTableError
from tests.keyed_table import KeyedTable, Row
from tests.readers import CHANGES, DataFusion, comparable
from tests.written_tables import store_at

SCHEMA = pl.Schema({"id": pl.Int64(), "text": pl.String(), "tags": pl.List(pl.String())})
FILES, ROWS = 8, 300
BUDGETS = pytest.mark.parametrize("files_in_memory", [0, 1, 3, FILES])


def rows_of(number: int) -> pl.DataFrame:
    rows = [
        (each, f"file {number} row {each} 🙂" if each % 3 else None, [str(each)] * (each % 4)) for each in range(ROWS)
    ]
    return pl.DataFrame(rows, SCHEMA, orient="row")


class Images:
    """Data files of known rows, and their images within a budget of so many files."""

    def __init__(self, directory: Path, files_in_memory: int) -> None:
        files = TableFiles(store_at(str(directory / "table")), str(directory / "table"))
        self.rows = [rows_of(number) for number in range(FILES)]
        self.files = [files.write(rows)[0] for rows in self.rows]
        size = rows_of(0).estimated_size()
        self.images = RowImages(files, SCHEMA, int(size * (files_in_memory + 0.5)))
        self.directory = directory

    def check(self, number: int, rows: list[int]) -> None:
        assert_frame_equal(self.images.rows([self.files[number]])[np.array(rows, np.int64)], self.rows[number][rows])

    def path(self, number: int) -> Path:
        return self.directory / "table" / self.files[number].path

    def drop_all(self) -> None:
        for file in self.files:
            self.images.drop(file.path)


@pytest.fixture
def spills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give the directory that temporary files go to, in which none has a name, and none is open in the end."""
    directory = tmp_path / "spills"
    directory.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    yield directory
    assert [*directory.iterdir()] == []
    gc.collect()
    assert open_files(directory) == 0


def open_files(directory: Path) -> int:
    """Return how many files in a directory, nameless ones, this process has open or mapped."""
    links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return len({str(link.readlink()) for link in links if str(link.readlink()).startswith(f"{directory}/")})


@BUDGETS
def test_images_are_the_rows_whatever_had_to_go(tmp_path: Path, spills: Path, files_in_memory: int) -> None:
    images, chance = Images(tmp_path, files_in_memory), random.Random(3)
    for number in range(0, FILES, 2):
        images.images.keep(images.files[number].path, images.rows[number])
    for _ in range(200):
        images.check(chance.randrange(FILES), sorted(chance.sample(range(ROWS), chance.randrange(1, 40))))
    assert len(images.images._frames) <= max(1, files_in_memory)
    assert (open_files(spills) > 0) == (files_in_memory < FILES)
    images.drop_all()
    assert (images.images._bytes, len(images.images._frames), len(images.images._mapped)) == (0, 0, 0)


def test_a_file_is_decoded_once(tmp_path: Path, spills: Path) -> None:
    """It is written down when it has to go; then its data file may even be gone."""
    images = Images(tmp_path, 1)
    for number in (0, 1, 2):
        images.check(number, [0, 7, ROWS - 1])
    assert open_files(spills) == 2
    for number in (0, 1, 2):
        images.path(number).unlink()
    for number in (3, 0, 2, 1, 0, 3, 4, 0):
        images.check(number, [*range(ROWS)])
    images.path(5).unlink()
    with pytest.raises(UnreadableTableError, match="cannot be read"):
        images.check(5, [1])
    images.drop_all()


def test_what_was_never_asked_for_is_not_written_down(tmp_path: Path, spills: Path) -> None:
    images = Images(tmp_path, 2)
    for number in range(FILES):
        images.images.keep(images.files[number].path, images.rows[number])
    assert open_files(spills) == 0
    for number in (FILES - 1, FILES - 2):  # used last, so still there
        images.path(number).unlink()
        images.check(number, [5, 6])
    images.check(0, [5])
    images.check(1, [5])
    assert open_files(spills) == 2
    images.drop_all()


def test_a_full_disk_for_temporary_files_costs_time_and_nothing_else(
    tmp_path: Path, spills: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    images = Images(tmp_path, 1)
    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    for number in (0, 1, 0, 1):
        images.check(number, [0, 7, ROWS - 1])
    assert f"{spills}: a data file is decoded whenever" in caplog.text
    assert "No space left on device" in caplog.text
    images.drop_all()


def test_merges_have_their_before_images_however_little_is_kept(tmp_path: Path, spills: Path) -> None:
    uri, chance = str(tmp_path / "table"), random.Random(5)
    owner = KeyedTable(uri, SCHEMA, ["id"], vectors=True)
    model: dict[int, Row] = {}
    owner.locator._images = RowImages(owner.table.files, SCHEMA, 1)
    told: list[Row] = []
    spilled = 0
    for step in range(40):
        upserts = {key: (key, f"step {step}", [str(step)]) for key in chance.sample(range(400), 40)}
        done = owner.merge(upserts.values(), [], {"desk/0": step})
        version = done.version
        for key, row in upserts.items():
            if key in model:
                told += [(*model[key], "update_preimage", version), (*row, "update_postimage", version)]
            else:
                told.append((*row, "insert", version))
        model |= upserts
        if step % 10 == 9:
            owner.maintain(timedelta(hours=1))
        spilled = max(spilled, open_files(spills))
        assert open_files(spills) <= len(owner.table.data_files)
    schema = pl.Schema({**SCHEMA, **dict(zip(CHANGES, (pl.String(), pl.Int64()), strict=True))})
    expected = comparable(pl.DataFrame(told, schema, orient="row"))
    assert_frame_equal(DataFusion().changes(uri, 1, owner.table.version), expected)
    assert spilled > 0
    owner.merge([], [(key,) for key in model], {})
    assert open_files(spills) == len(owner.locator._images._mapped) == 0, "files that are gone release theirs"
