"""Nothing stored is executed, followed or believed: it loads, or it is refused with a code."""

import io
import json
import os
import pickle
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perigee._errors import PerigeeError
from perigee.checkpoints import Checkpoints, _files, _plain, _tensors
from tests.checkpoints.saved import content

STATE, POSITION = "state.safetensors", "data/position.json"
MOST_BYTES = 4 * 2**20  # what refusing may take


class Checkpoint:
    """A checkpoint whose files are changed by someone who writes the checksums too."""

    def __init__(self, path: Path) -> None:
        self.checkpoints = Checkpoints(path)
        self.path = self.checkpoints.save(content(1))

    def said(self) -> dict:
        return json.loads((self.path / "manifest.json").read_bytes())

    def say(self, **changed) -> None:
        said = {**self.said(), **changed}
        del said["checksum"]
        self.seal(json.dumps(said))

    def seal(self, text: str) -> None:
        """Write a manifest, given without its checksum, with the right one."""
        digest = _files.checksum_of([text.encode()])
        (self.path / "manifest.json").write_text(f'{text[:-1]}, "checksum": "{digest}"}}')

    def put(self, name: str, data: bytes) -> None:
        """Write a file, with the right size and checksum in the manifest."""
        (self.path / name).write_bytes(data)
        files = self.said()["files"]
        files[name] = {"size_bytes": len(data), "checksum": _files.checksum_of([data])}
        self.say(files=files)

    def put_header(self, header: object, data: bytes = bytes(8), length: int | None = None) -> None:
        raw = header if isinstance(header, bytes) else json.dumps(header).encode()
        size = len(raw) if length is None else length
        self.put(STATE, (size % 2**64).to_bytes(8, "little") + raw + data)

    def replace(self, name: str) -> Path:
        """Take a file away; return where it was, for something else."""
        (self.path / name).unlink()
        return self.path / name


@pytest.fixture
def checkpoint(tmp_path):
    return Checkpoint(tmp_path / "checkpoints")


def entry(dtype="F32", shape=(2,), offsets=(0, 8), **more):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets), **more}


class Bomb:
    """Runs when it is unpickled."""

    def __reduce__(self):
        return (os._exit, (3,))


def zip_bomb():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("state", bytes(50 * 2**20))
    return file.getvalue()


def linked(c, name, target):
    c.replace(name).symlink_to(target)


def linked_directory(c):
    c.path.rename(c.path.with_name("elsewhere"))
    c.path.symlink_to("elsewhere")


def linked_data(c):
    (c.path / "data").rename(c.path / "elsewhere")
    (c.path / "data").symlink_to("elsewhere")


def with_files(c, **files):
    c.say(files={**c.said()["files"], **files})


def elsewhere(c, name):
    """Name a file that is there, with the right size and checksum, and is none of a checkpoint."""
    path = c.path / name
    path.write_bytes((c.path / STATE).read_bytes())
    with_files(c, **{str(name): c.said()["files"][STATE]})


def linked_to_its_equal(c, name):
    data = (c.path / name).read_bytes()
    (c.path / "equal").write_bytes(data)
    linked(c, name, "equal")


def sized(c, size):
    files = c.said()["files"]
    files[STATE]["size_bytes"] = size
    c.say(files=files)


def deep(opening, closing, levels=100_000):
    return opening * levels + "0" + closing * levels


HEADERS = {
    "no object": [],
    "a string": "x",
    "an array of no kind": {"x": 1},
    "no dtype": {"x": {"shape": [2], "data_offsets": [0, 8]}},
    "something more": {"x": entry(execute="os.system")},
    "an unknown dtype": {"x": entry("PICKLE")},
    "a dtype of objects": {"x": entry("|O")},
    "a dtype that is a list": {"x": entry(["F32"])},
    "a huge shape": {"x": entry(shape=[2**40, 2**20])},
    "a shape that overflows": {"x": entry(shape=[2**32, 2**32, 2])},
    "a shape that overflows to zero": {"x": entry(shape=[2**62, 4], offsets=[0, 0])},
    "a huge shape of nothing": {"x": entry("U8", [2**62, 2**62, 0], [0, 0]), "y": entry()},
    "a negative shape": {"x": entry(shape=[-2, -1])},
    "a shape of floats": {"x": entry(shape=[2.0])},
    "a shape of booleans": {"x": entry("F64", [True])},
    "a shape of strings": {"x": entry(shape=["2"])},
    "a shape that is infinite": {"x": entry(shape=[float("inf")])},
    "a shape that is no number": {"x": entry(shape=[float("nan")])},
    "a shape of too many axes": {"x": entry(shape=[1] * 63 + [2])},
    "offsets beyond the file": {"x": entry(shape=[2**20], offsets=[0, 2**22])},
    "offsets before the file": {"x": entry(offsets=[-8, 0])},
    "offsets turned round": {"x": entry(offsets=[8, 0])},
    "one offset": {"x": entry(offsets=[8])},
    "offsets of floats": {"x": entry(offsets=[0.0, 8.0])},
    "arrays that overlap": {"x": entry(), "y": entry()},
    "arrays with a gap": {"x": entry("F32", [1], [0, 4]), "y": entry("F16", [1], [6, 8])},
    "bytes that belong to nothing": {"x": entry("F32", [1], [0, 4])},
    "nothing, and bytes": {},
    "metadata that is a bomb": {"__metadata__": deep("[", "]", 50)},
}

RAW_HEADERS = {
    "a key twice": b'{"x": %(e)s, "x": %(e)s}' % {b"e": json.dumps(entry()).encode()},
    "a key twice inside": b'{"x": {"dtype": "F32", "dtype": "F32", "shape": [2], '
    b'"data_offsets": [0, 8]}}',
    "no JSON": b"import os",
    "no text": b"\xff\xfe\x00",
    "a number of many digits": b'{"x": ' + b"9" * 5000 + b"}",
    "deep lists": deep("[", "]").encode(),
    "deep objects": deep('{"x":', "}").encode(),
    "a pickle": pickle.dumps(Bomb()),
    "nothing": b"",
}

MANIFESTS = {
    "no object": "[]",
    "null": "null",
    "empty": "",
    "deep lists": deep("[", "]"),
    "deep objects": deep('{"x":', "}"),
    "a number of many digits": "9" * 5000,
    "a pickle": pickle.dumps(Bomb(), 0).decode("ascii"),
    "YAML": "!!python/object/apply:os._exit [3]",
    "not a number": '{"format_version": NaN}',
}

CASES = {
    "a pickle as state": lambda c: c.put(STATE, pickle.dumps(Bomb())),
    "a zip bomb as state": lambda c: c.put(STATE, zip_bomb()),
    "an object array as state": lambda c: c.put(STATE, npy_of_objects()),
    "an empty state": lambda c: c.put(STATE, b""),
    "a short state": lambda c: c.put(STATE, b"\x00" * 7),
    "a header beyond the file": lambda c: c.put_header({"x": entry()}, length=2**40),
    "a header of negative length": lambda c: c.put_header({"x": entry()}, length=-1),
    "booleans of other bytes": lambda c: c.put_header({"x": entry("BOOL", [8])}, b"\x02" * 8),
    "a pickle as position": lambda c: c.put(POSITION, pickle.dumps(Bomb())),
    "a list as position": lambda c: c.put(POSITION, b"[]"),
    "a position twice": lambda c: c.put(POSITION, b'{"a": 1, "a": 2}'),
    "a position of NaN": lambda c: c.put(POSITION, b'{"a": NaN}'),
    "a position of infinity": lambda c: c.put(POSITION, b'{"a": 1e999}'),
    "a deep position": lambda c: c.put(POSITION, deep("[", "]").encode()),
    "an array that is not there": lambda c: c.put(POSITION, b'{"a": {"$array": "7"}}'),
    "an array by a list": lambda c: c.put(POSITION, b'{"a": {"$array": ["0"]}}'),
    "an array and more": lambda c: c.put(POSITION, b'{"a": {"$array": "0", "b": 1}}'),
    "a float that is code": lambda c: c.put(POSITION, b'{"a": {"$float": "__import__"}}'),
    "a float that is finite": lambda c: c.put(POSITION, b'{"a": {"$float": "1e5"}}'),
    "an unknown mark": lambda c: c.put(POSITION, b'{"a": {"$object": "os.system"}}'),
    "facts with an unknown mark": lambda c: c.say(facts={"a": {"$class": "os"}}),
    "facts that are a list": lambda c: c.say(facts=[]),
    "a key twice": lambda c: c.seal('{"format_version": 1, "format_version": 1}'),
    "a manifest with blanks": lambda c: c.seal('{"format_version":   1}'),
    "version 0": lambda c: c.say(format_version=0),
    "version true": lambda c: c.say(format_version=True),
    "a version of text": lambda c: c.say(format_version="1"),
    "a later version": lambda c: c.say(format_version=10**30),
    "no clock": lambda c: c.say(clock=None),
    "a negative clock": lambda c: c.say(clock={"step": -1, "epoch": 0, "batch": 0}),
    "a clock of floats": lambda c: c.say(clock={"step": 1.0, "epoch": 0, "batch": 0}),
    "a clock beyond all": lambda c: c.say(clock={"step": 2**80, "epoch": 0, "batch": 0}),
    "a clock with more": lambda c: c.say(clock={"step": 1, "epoch": 0, "batch": 0, "x": 1}),
    "the clock of another step": lambda c: c.say(clock={"step": 2, "epoch": 0, "batch": 0}),
    "a monitored value of text": lambda c: c.say(monitored={"name": "loss", "value": "low"}),
    "a monitored value of code": lambda c: c.say(monitored={"name": [], "value": 1.0}),
    "no files": lambda c: c.say(files={}),
    "files that are a list": lambda c: c.say(files=[STATE]),
    "a path upward": lambda c: elsewhere(c, "../../other.safetensors"),
    "a path upward within": lambda c: elsewhere(c, "data/../other.safetensors"),
    "an absolute path": lambda c: elsewhere(c, c.path.parents[1] / "other.safetensors"),
    "another file": lambda c: elsewhere(c, "code.py"),
    "a device": lambda c: with_files(c, **{"/dev/zero": c.said()["files"][STATE]}),
    "a stamp that is none": lambda c: with_files(c, **{STATE: "xxh3_128:0"}),
    "a stamp with more": lambda c: with_files(
        c, **{STATE: {"size_bytes": 1, "checksum": "", "x": 1}}
    ),
    "a huge size": lambda c: sized(c, 2**62),
    "a size beyond all": lambda c: sized(c, 2**80),
    "a negative size": lambda c: sized(c, -1),
    "a size that is true": lambda c: sized(c, True),
    "a state that is a link": lambda c: linked(c, STATE, "/etc/passwd"),
    "a manifest that is a link": lambda c: linked(c, "manifest.json", "/etc/passwd"),
    "a state that is a link to its equal": lambda c: linked_to_its_equal(c, STATE),
    "a manifest that is a link to its equal": lambda c: linked_to_its_equal(c, "manifest.json"),
    "a state that is a directory": lambda c: c.replace(STATE).mkdir(),
    "a state that is a pipe": lambda c: os.mkfifo(c.replace(STATE)),
    "a manifest that is a pipe": lambda c: os.mkfifo(c.replace("manifest.json")),
    "a data that is a link": linked_data,
    "a checkpoint that is a link": linked_directory,
    **{
        f"a header with {name}": lambda c, header=header: c.put_header(header)
        for name, header in HEADERS.items()
    },
    **{
        f"a header with {name}": lambda c, header=header: c.put_header(header)
        for name, header in RAW_HEADERS.items()
    },
    **{
        f"a manifest: {name}": lambda c, text=text: (c.path / "manifest.json").write_text(text)
        for name, text in MANIFESTS.items()
    },
}


def npy_of_objects():
    file = io.BytesIO()
    np.save(file, np.array([Bomb()], object), allow_pickle=True)
    return file.getvalue()


@pytest.mark.parametrize("case", CASES)
def test_it_is_refused_with_a_code_before_much_is_allocated(case, checkpoint):
    CASES[case](checkpoint)

    tracemalloc.start()
    try:
        with pytest.raises(PerigeeError, match=r"PG52[126]"):
            checkpoint.checkpoints.load(1)
        _, most_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert most_bytes < MOST_BYTES


@pytest.mark.parametrize("name", [STATE, "manifest.json"])
def test_a_pipe_is_not_read_at_all(name, checkpoint):
    pipe = checkpoint.replace(name)
    os.mkfifo(pipe)
    descriptor = os.open(pipe, os.O_RDWR)
    os.write(descriptor, b"unread")

    with pytest.raises(PerigeeError, match="not a regular file"):
        checkpoint.checkpoints.load(1)

    assert os.read(descriptor, 100) == b"unread"
    os.close(descriptor)


def test_a_shape_is_compared_with_its_place_before_anything_is_made_of_it(checkpoint):
    checkpoint.put_header({"x": entry(shape=[2**40, 2**20])})

    with pytest.raises(PerigeeError, match="does not match its offsets"):
        checkpoint.checkpoints.load(1)


def test_a_huge_manifest_is_not_read_to_its_end(checkpoint):
    with (checkpoint.path / "manifest.json").open("r+b") as file:
        file.truncate(2**40)  # a hole, which takes no room

    with pytest.raises(PerigeeError, match="more than"):
        checkpoint.checkpoints.load(1)


def test_what_others_may_leave_beside_it_is_not_read(checkpoint):
    (checkpoint.path / "code.py").write_text("raise SystemExit")
    (checkpoint.path / "state.pkl").write_bytes(pickle.dumps(Bomb()))

    assert checkpoint.checkpoints.load(1).content.clock.step == 1


def test_a_header_with_notes_and_another_order_loads(checkpoint):
    """What the library of the format may write and this one does not."""
    header = {
        "__metadata__": {"format": "np"},
        "odd": entry("U8", [1], [0, 1]),
        "x": entry("F32", [], [1, 5]),
        "y": entry("U8", [3], [5, 8]),
    }
    checkpoint.put_header(header, b"\x07" + np.float32(1.5).tobytes() + b"abc")

    arrays = checkpoint.checkpoints.load(1).content.arrays

    assert arrays["x"] == np.float32(1.5)
    assert arrays["x"].flags.aligned
    assert arrays["y"].tobytes() == b"abc"


# Anything at all.

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)
SIZES = st.lists(st.integers(-2, 2**64) | st.integers(0, 16), max_size=4)
HEADER = st.dictionaries(
    st.text(max_size=4) | st.just("__metadata__"),
    st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(["F32", "BF16", "BOOL", "U8", "I64", "F8_E4M3", "X"]) | JSON,
            "shape": SIZES | JSON,
            "data_offsets": st.lists(st.integers(0, 16), min_size=2, max_size=2) | SIZES | JSON,
        }
    )
    | JSON,
    max_size=3,
)
MARKED = st.dictionaries(
    st.sampled_from(["a", "$array", "$float", "$x"]),
    JSON | st.sampled_from(["0", "1", "nan", "-inf"]),
    max_size=2,
)
MANIFEST = st.fixed_dictionaries(
    {},
    optional={
        "format_version": st.integers(0, 3) | JSON,
        "clock": st.fixed_dictionaries({"step": st.integers(0, 2), "epoch": JSON, "batch": JSON})
        | JSON,
        "monitored": st.fixed_dictionaries({"name": JSON, "value": JSON | MARKED}) | JSON,
        "facts": st.dictionaries(st.text(max_size=3), JSON | MARKED, max_size=3) | MARKED | JSON,
        "files": st.dictionaries(
            st.sampled_from([STATE, POSITION, "facts.safetensors", "data/arrays.safetensors", "x"]),
            st.fixed_dictionaries({"size_bytes": JSON, "checksum": st.text(max_size=40)}) | JSON,
        )
        | JSON,
    },
)

anything = settings(
    deadline=None,
    max_examples=150,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def loads_or_is_refused(checkpoint):
    try:
        checkpoint.checkpoints.load(1)
    except PerigeeError as error:
        assert error.code in ("PG521", "PG526")


@anything
@given(data=st.binary(max_size=300))
@pytest.mark.parametrize("name", [STATE, POSITION, "facts.safetensors", "data/arrays.safetensors"])
def test_any_bytes_of_a_file_load_or_are_refused(name, data, checkpoint):
    checkpoint.put(name, data)
    loads_or_is_refused(checkpoint)


@anything
@given(data=st.binary(max_size=300))
def test_any_bytes_of_a_manifest_are_refused(data, checkpoint):
    (checkpoint.path / "manifest.json").write_bytes(data)
    loads_or_is_refused(checkpoint)


@anything
@given(header=HEADER | JSON, data=st.binary(max_size=16), extra=st.integers(-3, 3) | st.just(0))
def test_any_header_loads_or_is_refused(header, data, extra, checkpoint):
    raw = json.dumps(header).encode()
    checkpoint.put_header(raw, data, length=max(len(raw) + extra, 0))
    loads_or_is_refused(checkpoint)


@anything
@given(position=JSON | MARKED | st.dictionaries(st.text(max_size=3), MARKED, max_size=3))
def test_any_position_loads_or_is_refused(position, checkpoint):
    checkpoint.put(POSITION, json.dumps(position).encode())
    loads_or_is_refused(checkpoint)


@anything
@given(changed=MANIFEST, whole=st.booleans())
def test_any_manifest_loads_or_is_refused(changed, whole, checkpoint):
    before = (checkpoint.path / "manifest.json").read_bytes()
    if whole:
        checkpoint.seal(json.dumps({"": 0, **changed}))
    else:
        checkpoint.say(**changed)
    loads_or_is_refused(checkpoint)
    (checkpoint.path / "manifest.json").write_bytes(before)


@anything
@given(value=JSON)
def test_what_is_written_is_read(value):
    arrays: dict = {}
    try:
        written = _plain.to_json(_plain.simplified(value, "x", arrays))
    except PerigeeError:
        return  # a key with a dollar
    assert repr(_plain.restored(_plain.from_json(written), arrays)) == repr(value)


@anything
@given(
    shapes=st.dictionaries(
        st.text(max_size=5).filter(lambda name: name != "__metadata__"),
        st.tuples(
            st.sampled_from(["float32", "bfloat16", "bool", "uint8", "int64", "float8_e5m2"]),
            st.lists(st.integers(0, 3), max_size=3),
        ),
        max_size=5,
    )
)
def test_arrays_that_are_written_are_read(shapes):
    arrays = {name: np.ones(shape, dtype) for name, (dtype, shape) in shapes.items()}
    written = b"".join(_tensors.encode(arrays))

    read = _tensors.decode(np.frombuffer(written, np.uint8))

    assert list(read) == list(arrays)
    for name, array in arrays.items():
        assert (read[name].dtype, read[name].shape) == (array.dtype, array.shape)
        assert read[name].tobytes() == array.tobytes()
