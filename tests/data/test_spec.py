from collections import namedtuple

import numpy as np
import pytest

from perigee.data._spec import describe, leaves_with_paths, map_leaves, signature

Pair = namedtuple("Pair", ["image", "label"])

IMAGES = np.zeros((32, 64), np.float32)
LABELS = np.zeros(32, np.int64)


@pytest.mark.parametrize(
    ("batch", "text"),
    [
        ((IMAGES, LABELS), "(float32 (32, 64), int64 (32,))"),
        ((IMAGES,), "(float32 (32, 64),)"),
        ([IMAGES, None], "[float32 (32, 64), None]"),
        ({"image": IMAGES, "id": 7}, "{'image': float32 (32, 64), 'id': int}"),
        (["a", "b", "c"], "list of 3 str"),
    ],
)
def test_a_batch_is_described_as_one_would_write_it(batch, text):
    assert describe(batch) == text


def test_a_long_structure_is_described_in_short():
    assert describe([LABELS] * 20).endswith(", ... 12 more]")


@pytest.mark.parametrize(
    "other",
    [
        (IMAGES[:3], LABELS[:3]),
        (np.zeros((7, 5), np.float32), np.zeros(7, np.int64)),
    ],
    ids=["fewer examples", "other sizes"],
)
def test_sizes_are_no_part_of_a_signature(other):
    assert signature(other) == signature((IMAGES, LABELS))


@pytest.mark.parametrize(
    "other",
    [
        (IMAGES, LABELS, LABELS),
        [IMAGES, LABELS],
        (IMAGES, LABELS.astype(np.int32)),
        (IMAGES, LABELS[:, None]),
        (IMAGES, None),
        {"image": IMAGES, "label": LABELS},
    ],
    ids=["a leaf more", "list", "dtype", "rank", "None", "dict"],
)
def test_a_signature_tells_what_a_step_would_trip_over(other):
    assert signature(other) != signature((IMAGES, LABELS))


def test_the_order_of_keys_is_no_part_of_a_signature():
    assert signature({"a": IMAGES, "b": LABELS}) == signature({"b": LABELS, "a": IMAGES})


def test_the_length_of_strings_is_no_part_of_a_signature():
    assert signature(np.array(["a", "b"])) == signature(np.array(["abc"]))


def test_a_column_of_plain_strings_counts_as_one_leaf():
    assert signature((IMAGES, ["a", "b", "c"])) == signature((IMAGES, ["a", "b"]))


def test_mapping_keeps_structures_and_none():
    tree = (Pair(1, [2]), {"a": 3, "b": None})

    doubled = map_leaves(lambda leaf: 2 * leaf, tree)

    assert doubled == (Pair(2, [4]), {"a": 6, "b": None})
    assert isinstance(doubled[0], Pair)


def test_paths_are_written_as_one_would_index():
    tree = ({"image": IMAGES, "more": [LABELS]}, None, LABELS)

    paths = [path for path, _ in leaves_with_paths(tree)]

    assert paths == ["[0]['image']", "[0]['more'][0]", "[2]"]
