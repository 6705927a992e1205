"""What the same command does with a run that is over, and other commands with one that is not."""

import sys

import pytest

import perigee as pg
from perigee._errors import (
    DataChangedError,
    NoCheckpointError,
    RunExistsError,
    StateMismatchError,
)
from perigee.checkpoints import Checkpoints
from perigee.writers.json_lines import read_json_lines
from tests.reliability import trainings
from tests.reliability.processes import run
from tests.reliability.trainings import BATCH, EPOCHS, STEPS_AN_EPOCH, Case, Everything, train

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(sys.platform != "linux", reason="processes are forked"),
]

CASE = Case(optimizers="one", mode="eager")


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    return run(folder, train, str(folder / "run"), CASE).returned()


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "run")


def saved_steps(path):
    return Checkpoints(f"{path}/checkpoints").steps()


class TrainedAgain(pg.Hook):
    def on_steps(self, event):
        raise AssertionError("a step was trained")


@pytest.mark.parametrize(
    "end, accumulate",
    [({}, 1), ({"epochs": None, "steps": STEPS_AN_EPOCH + 3}, 1), ({"steps": 9}, 2)],
    ids=["epochs", "mid-epoch", "mid-accumulation"],
)
def test_the_same_command_trains_nothing_and_returns_the_same(tmp_path, path, end, accumulate):
    case = Case(optimizers="one", mode="eager", accumulate=accumulate)
    first = run(tmp_path, _train, path, case, end, False).returned()

    again = run(tmp_path, _train, path, case, end, True).returned()

    assert {**again, "global generators": None} == {**first, "global generators": None}


def _train(path, case, arguments, is_over):
    more = (TrainedAgain(),) if is_over else ()
    return train(path, case, None, more, **arguments)


def test_a_training_that_a_hook_ended_stays_as_it_ended(tmp_path, path):
    first = run(tmp_path, _stopped, path).returned()

    assert first["stop_reason"] == "good enough"
    again = run(tmp_path, _train, path, CASE, {}, True).returned()
    assert {**again, "global generators": None} == {**first, "global generators": None}


class StopAt(pg.Hook):
    every = pg.Every(steps=STEPS_AN_EPOCH + 2)

    def on_steps(self, event):
        event.stop("good enough")


def _stopped(path):
    return train(path, CASE, None, (StopAt(),))


@pytest.mark.spread(1)
@pytest.mark.parametrize(
    "less",
    [
        {"epochs": EPOCHS - 1},
        {"epochs": None, "steps": STEPS_AN_EPOCH + 3},
        {"epochs": None, "steps": STEPS_AN_EPOCH},
    ],
    ids=["epochs", "steps in mid-epoch", "steps of an epoch"],
)
def test_more_of_it_goes_on_like_a_longer_training(tmp_path, path, straight, less):
    run(tmp_path, _train, path, CASE, less, False).returned()

    assert run(tmp_path, train, path, CASE).returned() == straight


def other_width(path):
    return _refused(path, StateMismatchError, step=Everything("one", units=7))


def _refused(path, error, step=None, data=None, **arguments):
    """Return what `fit` says when it refuses to go on."""
    try:
        pg.fit(
            step or Everything("one"),
            trainings.rows() if data is None else data,
            **{"epochs": EPOCHS, "batch_size": BATCH, "execution": "eager", **arguments},
            validation=trainings.rows(),
            run=pg.Run(path, **trainings.RUN),
            progress="off",
        )
    except error as refused:
        return str(refused)
    return None


def other_rows(path):
    x, y = trainings.rows()
    return _refused(path, DataChangedError, data=(x[1:], y[1:]))


def other_batch_size(path):
    return _refused(path, DataChangedError, batch_size=BATCH + 1)


OTHERS = [
    (other_width, ["trunk/", "kernel", "(5, 6)", "(5, 7)"]),
    (other_rows, ["43", "42"]),
    (other_batch_size, ["8", "9"]),
]


def all_others(path):
    return [other(path) for other, _ in OTHERS]


@pytest.mark.once
def test_other_trainings_are_refused_with_nothing_lost(tmp_path, path, straight):
    assert run(tmp_path, train, path, CASE, trainings.MID_EPOCH).was_killed()
    before = saved_steps(path)

    answers = run(tmp_path, all_others, path).returned()

    for said, (_, named) in zip(answers, OTHERS, strict=True):
        assert said and all(part in said for part in named), said
    assert saved_steps(path) == before
    assert run(tmp_path, train, path, CASE).returned() == straight


@pytest.mark.once
def test_a_damaged_checkpoint_is_passed_over_by_name_and_nothing_is_lost(tmp_path, path, straight):
    assert run(tmp_path, train, path, CASE, trainings.LAST_BATCH).was_killed()
    newest = Checkpoints(f"{path}/checkpoints").directory / f"step-{saved_steps(path)[-1]:08d}"
    state = newest / "state.safetensors"
    content = bytearray(state.read_bytes())
    content[len(content) // 2] ^= 1
    state.write_bytes(content)

    resumed = run(tmp_path, train, path, CASE)

    assert f"skipped. DamagedCheckpointError [PG521]: {state.name} in {newest}" in (resumed.output)
    assert resumed.returned() == straight


def resumed(path, how):
    try:
        return train(path, CASE, run={"resume": how})["clock"]["step"]
    except (RunExistsError, NoCheckpointError) as error:
        return type(error).__name__


@pytest.mark.once
def test_a_run_is_resumed_or_not_as_it_was_asked_for(tmp_path, path):
    assert run(tmp_path, resumed, path, "required").returned() == "NoCheckpointError"
    assert not (tmp_path / "run").exists()
    trained = run(tmp_path, resumed, path, "never").returned()
    assert trained == EPOCHS * STEPS_AN_EPOCH
    assert run(tmp_path, resumed, path, "never").returned() == "RunExistsError"
    assert run(tmp_path, resumed, path, "required").returned() == trained


def test_restore_gives_the_weights_that_validated_best(tmp_path, path):
    found, validated = run(tmp_path, _restored, path).returned()

    assert found == min(validated)


def _restored(path):
    train(path, CASE)
    step = Everything("one")
    pg.Run(path, **trainings.RUN).restore(step, "best", strict=False)
    found = pg.evaluate(step, trainings.rows(), batch_size=BATCH, execution="eager")["loss"]
    lines = read_json_lines(f"{path}/metrics.jsonl")
    return found, [line["values"]["val_loss"] for line in lines if "val_loss" in line["values"]]
