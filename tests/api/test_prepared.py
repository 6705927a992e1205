"""`prepare`: a loop that the user drives has what `fit` has, and goes on exactly."""

import signal
import sys

import keras
import numpy as np
import pytest
from keras import ops

import perigee as pg
from perigee import PerigeeWarning
from perigee._errors import (
    ArgumentError,
    DataChangedError,
    LoopError,
    MissingMethodError,
    NonFiniteError,
    StateMismatchError,
)
from perigee._events.clock import Clock
from perigee.checkpoints import Checkpoints
from tests.api import prepared_loops
from tests.api.prepared_loops import STEPS, STEPS_PER_EPOCH, Learner, play
from tests.reliability.processes import run

forked = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked")


class Line(pg.Step):
    """A line through points, and what is asked of it counted by a metric."""

    def __init__(self, rate=0.1):
        self.model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        self.optimizer = keras.optimizers.SGD(rate)
        self.error = keras.metrics.MeanSquaredError(name="error")
        self.scale = 1.0

    def train_step(self, batch):
        x, y = batch

        def objective():
            y_pred = self.model(x, training=True) * self.scale
            return ops.square(y_pred - y)[:, 0], y_pred

        loss, y_pred = self.minimize(objective, self.optimizer, self.model)
        self.error.update_state(y, y_pred)
        return {"loss": loss}

    def test_step(self, batch):
        x, y = batch
        y_pred = self.model(x, training=False)
        self.error.update_state(y, y_pred)
        return {"loss": ops.square(y_pred - y)[:, 0]}


def points(rows=6, seed=0):
    x = np.random.default_rng(seed).normal(size=(rows, 1)).astype("float32")
    return x, 2 * x


def prepared(step, **arguments):
    return pg.prepare(step, **{"progress": "off", **arguments})


def weights(step):
    return [w.tolist() for w in step.model.get_weights()]


def test_a_loop_of_ones_own_trains_and_logs_like_fit():
    x, y = points(8)
    ours, theirs = Line(), Line()
    theirs.model.set_weights(ours.model.get_weights())
    history = pg.fit(
        theirs, (x, y), batch_size=3, shuffle=False, epochs=4, progress="off",
        execution=pg.Execution("auto", 1),
    )  # fmt: skip

    with prepared(ours, steps_per_epoch=3) as trainer:
        while trainer.goes_on(epochs=4):
            for i in range(0, 8, 3):
                trainer.train_step((x[i : i + 3], y[i : i + 3]))

    assert trainer.history.history == history.history
    assert trainer.stop_reason == history.stop_reason == "epochs"
    assert weights(ours) == weights(theirs)


def test_what_a_step_returns_are_the_means_over_its_batch():
    step, (x, y) = Line(rate=0.0), points()
    expected = float(np.mean(np.square(step.model.predict(x, verbose=0) - y)))

    with prepared(step) as trainer:
        logs = trainer.train_step((x, y))

    assert dict(logs) == {"loss": pytest.approx(expected, rel=1e-5)}
    assert len(logs) == 1 and "loss" in logs


def test_batches_of_several_structures_are_averaged_exactly_together():
    class Either(Line):
        def train_step(self, batch):
            if isinstance(batch, dict):
                return {"extra": ops.mean(batch["x"]), **super().train_step(tuple(batch.values()))}
            return super().train_step(batch)

    step, first, second = Either(rate=0.0), points(6), points(2, seed=1)

    with prepared(step, steps_per_epoch=3) as trainer:
        losses = [
            trainer.train_step(first)["loss"],
            trainer.train_step({"x": second[0], "y": second[1]})["loss"],
            trainer.train_step(first)["loss"],
        ]

    [found] = trainer.history.history["loss"]
    assert found == pytest.approx((12 * losses[0] + 2 * losses[1]) / 14, rel=1e-6)
    assert trainer.history.history["extra"] == [pytest.approx(float(second[0].mean()), rel=1e-5)]
    assert trainer.history.history["error"] == [pytest.approx(found, rel=1e-5)]


def test_a_test_step_leaves_no_trace_and_begins_with_metrics_anew():
    step, first, second = Line(rate=0.0), points(), points(4, seed=2)
    with prepared(step, steps_per_epoch=2) as trainer:
        trainer.train_step(first)
        tested = trainer.test_step(second)
        again = trainer.test_step(second)
        trainer.train_step(first)

    assert tested == again
    assert tested["error"] == pytest.approx(tested["loss"], rel=1e-5)
    [error], [loss] = trainer.history.history["error"], trainer.history.history["loss"]
    assert error == pytest.approx(loss, rel=1e-5)


def test_predictions_draw_anew_each_time():
    class Draws(Line):
        def __init__(self):
            super().__init__()
            self.seed = keras.random.SeedGenerator(1)

        def predict_step(self, batch):
            return keras.random.normal((4,), seed=self.seed)

    with prepared(Draws()) as trainer:
        drawn = [ops.convert_to_numpy(trainer.predict_step(np.zeros((4, 1)))) for _ in range(2)]

    assert not np.array_equal(*drawn)


def test_numbers_of_ones_own_are_averaged_over_the_epoch():
    step, batch = Line(), points()
    with prepared(step, steps_per_epoch=2) as trainer:
        for value in (1.0, 3.0, 10.0, 20.0):
            trainer.log({"reward": value})
            trainer.train_step(batch)

    assert trainer.history.history["reward"] == [2.0, 15.0]


def test_epochs_may_be_ended_by_hand():
    step, batch = Line(), points()
    with prepared(step, steps_per_epoch=None) as trainer:
        for length in (1, 3):
            for _ in range(length):
                trainer.train_step(batch)
            values = trainer.end_epoch()

    assert trainer.clock == Clock(step=4, epoch=2)
    assert trainer.history.history["loss"][-1] == values["loss"]
    assert len(trainer.history.history["loss"]) == 2


def test_a_step_that_changes_is_seen_at_once():
    step, batch = Line(rate=0.0), points()
    with prepared(step) as trainer:
        first = trainer.train_step(batch)["loss"]
        step.scale = 0.0
        second = trainer.train_step(batch)["loss"]

    assert first != second
    assert second == pytest.approx(float(np.mean(np.square(batch[1]))), rel=1e-5)


def test_a_step_that_changes_all_the_time_is_told():
    step, batch = Line(), points()
    with (
        pytest.warns(PerigeeWarning, match="recompiled 5 times"),
        prepared(step, execution="eager") as trainer,
    ):
        for _ in range(7):
            trainer.train_step(batch)
            step.scale *= 0.9

    [finding] = [f for f in trainer.history.findings if f.code == "PG420"]
    assert finding.items == ("scale",)


class TakingTurns(pg.Step):
    """An actor and a critic, trained by batches of two structures."""

    def __init__(self):
        self.actor, self.critic, self.extra = (keras.layers.Dense(1) for _ in range(3))
        for layer in (self.actor, self.critic, self.extra):
            layer.build((None, 1))
        self.extra.trainable = False
        self.actor_optimizer = keras.optimizers.Adam(3e-4)
        self.critic_optimizer = keras.optimizers.Adam(1e-3)

    def train_step(self, batch):
        if "gain" in batch:
            layer, optimizer, y = self.actor, self.actor_optimizer, batch["gain"]
        else:
            layer, optimizer, y = self.critic, self.critic_optimizer, batch["value"]
        squares = lambda: ops.square(y - layer(batch["x"]))[:, 0]  # noqa: E731
        return {f"{layer is self.actor}": self.minimize(squares, optimizer, layer)}


def in_turns():
    x, y = points()
    return {"x": x, "gain": y}, {"x": x, "value": y}


def test_batches_of_two_structures_are_judged_together():
    with prepared(TakingTurns(), steps_per_epoch=4, execution="eager") as trainer:
        for batch in in_turns() * 2:
            trainer.train_step(batch)

    assert trainer.history.findings == []
    logged = trainer.history.history
    assert logged["actor_optimizer/learning_rate"] == [pytest.approx(3e-4)]
    assert logged["critic_optimizer/learning_rate"] == [pytest.approx(1e-3)]
    assert "learning_rate" not in logged


def test_what_was_updated_is_known_when_a_run_goes_on(tmp_path):
    first, second = in_turns()
    run = pg.Run(tmp_path / "run", save_every=pg.Every(epochs=1))
    with prepared(TakingTurns(), run=run, steps_per_epoch=2, execution="eager") as trainer:
        while trainer.goes_on(epochs=1):
            trainer.train_step(first)
            trainer.train_step(second)

    with prepared(TakingTurns(), run=run, steps_per_epoch=2, execution="eager") as trainer:
        while trainer.goes_on(epochs=2):
            trainer.train_step(first)
            trainer.train_step(first)

    assert trainer.history.findings == []  # the critic was trained before
    assert len(trainer.history.history["critic_optimizer/learning_rate"]) == 2
    assert "learning_rate" not in trainer.history.history


def of_perigee(told):
    """Leave out what frameworks warn of."""
    return [one for one in told if issubclass(one.category, PerigeeWarning)]


def test_what_no_batch_of_any_structure_updates_is_told_when_an_epoch_is_over():
    step = TakingTurns()
    step.extra.trainable = True
    with (
        pytest.warns(PerigeeWarning, match="PG110") as told,
        prepared(step, steps_per_epoch=2, execution="eager") as trainer,
    ):
        for batch in in_turns():
            assert not of_perigee(told.list)
            trainer.train_step(batch)
        assert len(of_perigee(told.list)) == 1

    [finding] = trainer.history.findings
    assert finding.items == ("extra/kernel", "extra/bias")


def test_a_loop_that_trains_nothing_is_told():
    class Forgetful(Line):
        def train_step(self, batch):
            return self.test_step(batch)

    with (
        pytest.warns(PerigeeWarning, match="PG112"),
        prepared(Forgetful(), execution="eager") as trainer,
    ):
        trainer.train_step(points())

    assert [finding.code for finding in trainer.history.findings] == ["PG112"]


def test_a_frozen_layer_is_seen_at_the_next_epoch():
    step, batch = Line(), points()
    with (
        pytest.raises(ValueError, match="no trainable variable"),
        prepared(step, steps_per_epoch=2) as trainer,
    ):
        trainer.train_step(batch)
        step.model.trainable = False
        trainer.train_step(batch)
        trainer.train_step(batch)
    assert trainer.clock.step in (1, 2)  # code that is not compiled sees it sooner


def test_hooks_hear_of_steps_and_stop_the_loop():
    class Stop(pg.Hook):
        every = pg.Every(steps=3)

        def on_steps(self, event):
            event.stop(f"at {event.clock.step}, {event.read()['loss'] > 0}")

    with prepared(Line(), callbacks=[Stop()]) as trainer:
        while trainer.goes_on(steps=10):
            trainer.train_step(points())

    assert (trainer.clock.step, trainer.stop_reason) == (3, "at 3, True")


@pytest.mark.parametrize("policy", ["raise", "stop", "skip"])
def test_values_that_are_not_finite_are_treated_as_in_fit(policy):
    step, (x, y) = Line(), points()
    bad = np.full_like(x, np.nan)

    def drive():
        with prepared(step, nonfinite=policy, steps_per_epoch=3) as trainer:
            while trainer.goes_on(epochs=1):
                trainer.train_step((bad if trainer.clock.step == 1 else x, y))
        return trainer

    if policy == "raise":
        with pytest.raises(NonFiniteError, match="step 2"):
            drive()
        return
    trainer = drive()
    assert trainer.stop_reason == ("non-finite" if policy == "stop" else "epochs")
    assert trainer.clock.step == (2 if policy == "stop" else 3)
    if policy == "skip":
        assert trainer.history.history["skipped_steps"] == [1.0]
        assert np.isfinite(weights(step)[0]).all()


def test_what_the_loop_raises_comes_out_with_a_note(tmp_path):
    with (
        pytest.raises(ZeroDivisionError) as caught,
        prepared(Line(), run=tmp_path / "run") as trainer,
    ):
        while trainer.goes_on(steps=5):
            trainer.train_step(points())
            if trainer.clock.step == 2:
                raise ZeroDivisionError
    assert "after step 2" in caught.value.__notes__[0]
    assert trainer.history.stop_reason == "error: ZeroDivisionError"


# Misuse


def test_methods_are_called_within_a_with_block():
    trainer = prepared(Line())
    with pytest.raises(LoopError, match="outside a `with` block"):
        trainer.train_step(points())
    with trainer:
        trainer.train_step(points())
    with pytest.raises(LoopError, match="after the `with` block"):
        trainer.train_step(points())
    with pytest.raises(LoopError, match="twice"), trainer:
        pass


def test_a_step_with_one_more_built_model_than_the_run_is_refused(tmp_path):
    run, batch = pg.Run(tmp_path / "run"), points()
    with prepared(Line(), run=run, execution="eager") as trainer:
        while trainer.goes_on(steps=2):
            trainer.train_step(batch)
    other = Line()
    other.critic = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])

    with pytest.raises(StateMismatchError, match="critic"), prepared(other, run=run):
        pass


def test_a_run_is_driven_in_turns(tmp_path):
    with (
        pytest.raises(LoopError, match="before `goes_on`"),
        prepared(Line(), run=tmp_path / "run") as trainer,
    ):
        trainer.train_step(points())


@pytest.mark.parametrize(
    "arguments, named",
    [
        ({"steps_per_epoch": 0}, "steps_per_epoch"),
        ({"nonfinite": "ignore"}, "nonfinite"),
        ({"execution": pg.Execution("auto", 4)}, "steps_per_call"),
        ({"callbacks": [keras.callbacks.History()]}, "callbacks"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments, named):
    with pytest.raises(ArgumentError, match=named):
        prepared(Line(), **arguments)


def test_a_step_without_the_method_is_refused():
    with pytest.raises(MissingMethodError):
        prepared(pg.Step())
    with pytest.raises(MissingMethodError), prepared(Line()) as trainer:
        trainer.predict_step(points()[0])


def test_a_name_that_the_step_logs_is_not_logged_again():
    with pytest.raises(ArgumentError, match="log='loss'"), prepared(Line()) as trainer:
        trainer.train_step(points())
        trainer.log({"loss": 1.0})


# Runs


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    return run(folder, play, str(folder / "run")).returned()


@pytest.mark.slow
@pytest.mark.process
@forked
def test_a_loop_killed_again_and_again_goes_on_exactly(tmp_path, straight):
    path = str(tmp_path / "run")
    # Instants are the same on every framework, so one has them all.
    instants = (1, 2 * STEPS_PER_EPOCH, 19)
    for kill_at in instants if keras.backend.backend() == "tensorflow" else (19,):
        assert run(tmp_path, play, path, STEPS, kill_at).was_killed(), kill_at

    assert run(tmp_path, play, path).returned() == straight


@pytest.mark.once
@pytest.mark.process
@forked
def test_the_run_itself_changes_no_number(tmp_path, straight):
    without = run(tmp_path, play, None).returned()

    assert without["state"] == straight["state"]
    assert without["history"] == straight["history"]


@pytest.mark.once
@pytest.mark.process
@forked
def test_the_same_command_trains_nothing_and_more_of_it_goes_on(tmp_path, straight):
    path = str(tmp_path / "run")
    first = run(tmp_path, play, path, 16).returned()
    again = run(tmp_path, play, path, 16, 16).returned()

    for name in ("history", "clock", "reason", "metrics", "host"):
        assert again[name] == first[name], name
    assert run(tmp_path, play, path).returned() == straight


def stopped(path):
    keras.utils.set_random_seed(3)
    step, turns = Learner(), 0
    with prepared(step, run=path) as trainer:
        while trainer.goes_on(steps=STEPS):
            turns += 1
            prepared_loops.turn(step, trainer)
            if trainer.clock.step == 5:
                trainer.stop("solved")
    return turns, trainer.stop_reason, trainer.clock.step


@pytest.mark.once
@pytest.mark.process
@forked
def test_a_loop_that_was_stopped_stays_so(tmp_path):
    path = str(tmp_path / "run")
    assert run(tmp_path, stopped, path).returned() == [5, "solved", 5]
    assert run(tmp_path, stopped, path).returned() == [0, "solved", 5]


def signaled(path):
    keras.utils.set_random_seed(3)
    step = Learner()
    with prepared(step, run=path, steps_per_epoch=STEPS_PER_EPOCH) as trainer:
        while trainer.goes_on(steps=STEPS):
            prepared_loops.turn(step, trainer)
            if trainer.clock.step == 10:
                signal.raise_signal(signal.SIGTERM)


@pytest.mark.once
@pytest.mark.process
@forked
def test_a_signal_ends_the_loop_where_it_stands_and_saves(tmp_path, straight):
    path = str(tmp_path / "run")

    assert run(tmp_path, signaled, path).code == -signal.SIGTERM

    assert Checkpoints(f"{path}/checkpoints").steps()[-1] == 10


def other_width(path):
    try:
        with prepared(Learner(units=7), run=path):
            pass
    except StateMismatchError as error:
        return str(error)


def fitted(path):
    x = np.zeros((8, 1), "float32")
    try:
        pg.fit(Line(), (x, x), run=path, progress="off")
    except DataChangedError as error:
        return str(error)


@pytest.mark.once
@pytest.mark.process
@forked
@pytest.mark.parametrize("other, named", [(other_width, "(4, 7)"), (fitted, "loop of your own")])
def test_another_step_or_another_loop_is_refused(tmp_path, other, named):
    path = str(tmp_path / "run")
    run(tmp_path, play, path, 10).returned()

    assert named in run(tmp_path, other, path).returned()


def lazily(path, steps):
    """Layers without an input, built by the first predictions, and their weights from a run."""
    keras.utils.set_random_seed(1)
    step = Line()
    step.model = keras.Sequential([keras.layers.Dense(2), keras.layers.Dense(1)])
    step.predict_step = lambda x: step.model(x)
    seen = []
    with prepared(step, run=path, execution="eager") as trainer:
        while trainer.goes_on(steps=steps):
            x = np.random.normal(size=(4, 1)).astype("float32")
            seen.append(ops.convert_to_numpy(trainer.predict_step(x)).tolist())
            trainer.train_step((x, x))
    return seen, [w.tolist() for w in step.model.get_weights()]


@pytest.mark.process
@forked
def test_layers_that_are_built_late_are_restored_before_they_are_used(tmp_path):
    seen, left = run(tmp_path, lazily, str(tmp_path / "straight"), 6).returned()
    run(tmp_path, lazily, str(tmp_path / "run"), 3).returned()

    assert run(tmp_path, lazily, str(tmp_path / "run"), 6).returned() == [seen[3:], left]
