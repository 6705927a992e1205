"""What others read in the files of a run."""

import csv
import json
import logging

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def lines(directory):
    """The lines of `metrics.jsonl`; each must be whole."""
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def accumulator(directory):
    reader = EventAccumulator(str(directory), size_guidance={"scalars": 0, "tensors": 0})
    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    return reader.Reload()


def scalars(directory):
    """Return (step, value) for each tag of `events/train` and `events/validation`."""
    return {
        (place, tag): [(event.step, event.value) for event in reader.Scalars(tag)]
        for place in ("train", "validation")
        if (directory / "events" / place).exists()
        for reader in [accumulator(directory / "events" / place)]
        for tag in reader.Tags()["scalars"]
    }
