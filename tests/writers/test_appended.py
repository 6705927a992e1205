"""A file takes each record whole or not at all, and is on the disk when it says so."""

import os

import keras
import numpy as np
import pytest

import perigee as pg
from perigee import writers
from perigee.writers._appended import AppendedFile


class HalfFull:
    """A file that takes a part of a record and then no more; it cannot be cut for a while."""

    def __init__(self, file):
        self._file, self.is_full = file, True
        self.fileno, self.close = file.fileno, file.close

    def write(self, data):
        if not self.is_full:
            return self._file.write(data)
        if len(data) <= 3:
            raise OSError("full")
        return self._file.write(data[:-3])


@pytest.fixture
def file(tmp_path):
    file = AppendedFile(tmp_path / "log")
    file.open()
    file.write(b"first\n")
    yield file
    file.close()


def test_a_record_that_was_half_taken_is_taken_back_at_once(file):
    file._file = HalfFull(file._file)
    with pytest.raises(OSError, match="full"):
        file.write(b"second\n")
    assert file.path.read_bytes() == b"first\n"
    assert file.size_bytes == len(b"first\n")


def test_a_half_record_that_could_not_be_taken_back_is_before_the_next(file, monkeypatch):
    file._file = HalfFull(file._file)
    with monkeypatch.context() as broken:

        def stuck(descriptor, size):
            raise OSError("stuck")

        broken.setattr(os, "ftruncate", stuck)
        with pytest.raises(OSError, match="full"):
            file.write(b"second\n")
        file._file.is_full = False
        with pytest.raises(OSError, match="stuck"):
            file.write(b"third\n")
    assert file.path.read_bytes() == b"first\nseco"
    file.write(b"fourth\n")
    assert file.path.read_bytes() == b"first\nfourth\n"


def test_flushing_waits_for_the_content_each_time_and_for_the_name_once(file, monkeypatch):
    flushed, flush = [], os.fsync

    def noted(descriptor):
        is_directory = os.path.isdir(f"/proc/self/fd/{descriptor}")
        flushed.append("directory" if is_directory else "file")
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    file.flush()
    file.flush()
    assert flushed == ["file", "directory", "file"]


def test_what_lies_beyond_the_size_is_cut_off(file):
    file.write(b"second\n")
    file.open(len(b"first\n"))
    assert file.path.read_bytes() == b"first\n"
    assert file.size_bytes == len(b"first\n")


def test_a_record_before_the_start_is_a_mistake(tmp_path):
    with pytest.raises(ValueError, match="not open"):
        AppendedFile(tmp_path / "log").write(b"first\n")


@pytest.mark.parametrize(
    "made",
    [
        lambda path: writers.Csv(path / "log.csv"),
        lambda path: writers.JsonLines(path),
        lambda path: writers.TensorBoard(path),
        lambda path: writers.SampleFiles(path),
    ],
    ids=["Csv", "JsonLines", "TensorBoard", "SampleFiles"],
)
def test_a_writer_makes_the_directories_above_its_files(tmp_path, made):
    class Measuring(pg.Step):
        def train_step(self, batch):
            image = pg.sample(image=keras.ops.zeros((4, 4, 3)))
            return {"loss": keras.ops.mean(batch), "image": image}

    writer = made(tmp_path / "logs" / "fit")

    pg.fit(Measuring(), np.ones((4, 1), "float32"), callbacks=[writer], progress="off")

    assert any(path.is_file() for path in (tmp_path / "logs" / "fit").rglob("*"))
