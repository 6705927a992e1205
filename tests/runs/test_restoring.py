"""What is restored from a run: into any Step of the kind, as it was measured, without options."""

import collections
import json
from dataclasses import replace

import keras
import numpy as np
import pytest
from keras import ops

import perigee as pg
from perigee._errors import (
    ArgumentError,
    NoCheckpointError,
    StateMismatchError,
    StepNotBuiltError,
)
from perigee._step.state import host_random, snapshot, track
from perigee.checkpoints import Checkpoints

ROWS, BATCH, FEATURES, EPOCHS = 24, 8, 3, 3
STEPS_AN_EPOCH = ROWS // BATCH


def rows(seed=5):
    x = np.random.default_rng(seed).normal(size=(ROWS, FEATURES)).astype("float32")
    return x, x[:, :1] - 2 * x[:, 1:2]


VALIDATION = rows(6)


class Lazy(keras.Model):
    """A model that has no variables before it is called."""

    def __init__(self):
        super().__init__()
        self.hidden = keras.layers.Dense(4, activation="tanh")
        self.norm = keras.layers.BatchNormalization()
        self.drop = keras.layers.Dropout(0.2)
        self.out = keras.layers.Dense(1)

    def call(self, x, training=False):
        return self.out(self.drop(self.norm(self.hidden(x), training=training), training=training))


def lazy_step(**options):
    return pg.Supervised(Lazy(), keras.optimizers.Adam(0.05, **options), "mse")


def built_step(**options):
    keras.utils.set_random_seed(2)
    model = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(1)])
    return pg.Supervised(model, keras.optimizers.SGD(0.05, **options), "mse")


def train(path, step, run=None, **arguments):
    keras.utils.set_random_seed(4)
    arguments = {
        "epochs": EPOCHS,
        "batch_size": BATCH,
        "validation": VALIDATION,
        "progress": "off",
        "seed": 0,
        "execution": "eager",
        **arguments,
    }
    return pg.fit(step, rows(), run=run or pg.Run(path, best="val_loss"), **arguments)


def measured(step, data=VALIDATION, **arguments):
    return pg.evaluate(step, data, batch_size=BATCH, execution="eager", **arguments)


def state_of(step):
    return {e.key: v for e, v in zip(*_entries(step), strict=True)}


def _entries(step):
    entries = track(step).entries
    return entries, snapshot([entry.variable for entry in entries])


# A Step that is not built.


def test_a_step_that_is_not_built_is_built_and_gets_all(tmp_path):
    trained = lazy_step()
    history = train(tmp_path / "run", trained)

    step = lazy_step()
    clock = pg.Run(tmp_path / "run").restore(step)

    assert clock == history.clock
    now, then = state_of(step), state_of(trained)
    assert now.keys() == then.keys()
    assert all(np.array_equal(now[key], then[key]) for key in then)
    assert measured(step)["loss"] == history.history["val_loss"][-1]


def test_restoring_draws_nothing_and_counts_nothing(tmp_path):
    train(tmp_path / "run", lazy_step())

    def draws():
        return [float(keras.random.uniform(())), float(np.random.rand())]

    keras.utils.set_random_seed(9)
    step = lazy_step()
    before = host_random()
    pg.Run(tmp_path / "run").restore(step)
    after = host_random()
    drawn = draws()
    keras.utils.set_random_seed(9)
    lazy_step()

    assert repr(after) == repr(before)
    assert drawn == draws()


Pair = collections.namedtuple("Pair", ["image", "label"])


class TwoModels(pg.Step):
    """Two lazy models, two optimizers, a counter, and batches of any structure."""

    def __init__(self, batch_of):
        self.one, self.two = Lazy(), keras.Sequential([keras.layers.Dense(1)])
        self.first, self.second = keras.optimizers.Adam(0.01), keras.optimizers.SGD(0.01)
        self.seen = keras.Variable(0, dtype="int32", trainable=False, name="seen")
        self.batch_of = batch_of
        self.calls = 0

    def read(self, batch):
        return batch["in"]["x"] if self.batch_of is dict else batch.image

    def train_step(self, batch):
        x = self.read(batch)
        self.calls += 1
        self.seen.assign_add(1)

        def square(model):
            return ops.mean(ops.square(model(x)), axis=-1)

        loss = self.minimize(lambda: square(self.one), self.first, self.one)
        other = self.minimize(lambda: square(self.two), self.second, self.two)
        return {"loss": loss, "other": other}

    def test_step(self, batch):
        return {"loss": ops.mean(ops.square(self.one(self.read(batch))), axis=-1)}


@pytest.mark.parametrize("batch_of", [dict, tuple])
def test_batches_of_any_structure_are_recorded(tmp_path, batch_of):
    x, y = rows()
    batches = [
        {"in": {"x": x[i : i + BATCH]}, "out": [y[i : i + BATCH], None]}
        if batch_of is dict
        else Pair(x[i : i + BATCH], y[i : i + BATCH])
        for i in range(0, ROWS, BATCH)
    ]
    trained = TwoModels(batch_of)
    run = pg.Run(tmp_path / "run", best="val_loss")
    history = pg.fit(
        trained,
        batches,
        epochs=2,
        validation=batches,
        run=run,
        progress="off",
        execution="eager",
    )

    step = TwoModels(batch_of)
    pg.Run(tmp_path / "run").restore(step, "best")

    assert step.calls == history.best.clock.step  # Python counts it, and building it does not
    assert int(ops.convert_to_numpy(step.seen)) == history.best.clock.step
    assert measured_on(step, batches) == history.best.value


def measured_on(step, batches):
    return pg.evaluate(step, batches, execution="eager")["loss"]


def test_a_compiled_model_that_is_not_built_is_built(tmp_path):
    def compiled():
        model = Lazy()
        model.compile(keras.optimizers.Adam(0.05), "mse", metrics=["mae"])
        return pg.KerasStep(model)

    keras.utils.set_random_seed(0)
    run = pg.Run(tmp_path / "run", best="val_mae")
    history = pg.fit(
        compiled(),
        rows(),
        epochs=2,
        batch_size=BATCH,
        validation=VALIDATION,
        run=run,
        progress="off",
        execution="eager",
    )

    step = compiled()
    pg.Run(tmp_path / "run").restore(step, "best")

    assert measured(step)["mae"] == history.best.value


def test_a_loop_of_ones_own_is_restored(tmp_path):
    x, y = rows()
    trained = TwoModels(tuple)
    with pg.prepare(trained, tmp_path / "run", execution="eager", progress="off") as trainer:
        while trainer.goes_on(steps=4):
            trainer.train_step(Pair(x[:BATCH], y[:BATCH]))

    step = TwoModels(tuple)
    pg.Run(tmp_path / "run").restore(step)

    now, then = state_of(step), state_of(trained)
    assert now.keys() == then.keys()
    assert all(np.array_equal(now[key], then[key]) for key in then)


def without_facts(monkeypatch, *names):
    """Let checkpoints be read as if they were written before these facts were."""
    from perigee.checkpoints import content

    read = content.read_manifest

    def older(directory):
        manifest = read(directory)
        facts = {name: fact for name, fact in manifest.facts.items() if name not in names}
        return content.Manifest(manifest.clock, manifest.monitored, facts, manifest.files)

    monkeypatch.setattr(content, "read_manifest", older)


def with_facts(monkeypatch, **facts):
    """Let checkpoints be read as if they held these facts."""
    from perigee.checkpoints import content

    read = content.read_manifest

    def other(directory):
        manifest = read(directory)
        return replace(manifest, facts={**manifest.facts, **facts})

    monkeypatch.setattr(content, "read_manifest", other)


def test_an_old_run_says_what_to_build(tmp_path, monkeypatch):
    history = train(tmp_path / "run", lazy_step())
    without_facts(monkeypatch, "batches", "criterion", "measured")
    step = lazy_step()

    with pytest.raises(StepNotBuiltError, match="does not say the shapes") as caught:
        pg.Run(tmp_path / "run").restore(step, "best")

    assert caught.value.layers == ("model",)
    measured(step, steps=1)  # as the error says
    pg.Run(tmp_path / "run").restore(step, "best")
    assert measured(step)["loss"] == min(history.history["val_loss"])


LEAF = {"shape": [BATCH, FEATURES], "dtype": "float32"}


@pytest.mark.parametrize(
    "batches",
    [
        7,
        [7],
        [{"method": "train_step"}],
        [{"method": "__init__", "batch": LEAF}],
        [{"method": ["train_step"], "batch": LEAF}],
        [{"method": "train_step", "batch": {"shape": [-1], "dtype": "float32"}}],
        [{"method": "train_step", "batch": {"shape": [True, 2], "dtype": "float32"}}],
        [{"method": "train_step", "batch": {"shape": [10**9, 10**9], "dtype": "float32"}}],
        [{"method": "train_step", "batch": {"shape": [2], "dtype": "object"}}],
        [{"method": "train_step", "batch": {"tuple": [LEAF], "fields": ["a b"]}}],
        [{"method": "train_step", "batch": {"tuple": [LEAF], "fields": ["a", "b"]}}],
        [{"method": "train_step", "batch": {"dict": [[["k"], LEAF]]}}],
        [{"method": "train_step", "batch": {"dict": [LEAF]}}],
        [{"method": "train_step", "batch": {"list": [{"shape": [2**28], "dtype": "float64"}] * 9}}],
    ],
    ids=str,
)
def test_shapes_that_cannot_be_are_not_believed(tmp_path, monkeypatch, batches):
    train(tmp_path / "run", lazy_step(), epochs=1)
    step = lazy_step()
    with_facts(monkeypatch, batches=batches, criterion=[{}], metrics=[[], 3], measured=[3])

    with pytest.raises(StepNotBuiltError, match=r"cannot be read|does not say"):
        pg.Run(tmp_path / "run").restore(step, "best")

    assert not track(step).of_kind("trainable")


def test_a_step_that_fails_on_zeros_is_refused_with_the_reason(tmp_path):
    class Careful(pg.Supervised):
        def train_step(self, batch):
            if not float(ops.sum(ops.abs(batch[0]))):
                raise ZeroDivisionError("nothing in it")
            return super().train_step(batch)

        test_step = train_step

    def made():
        return Careful(Lazy(), keras.optimizers.Adam(0.05), "mse")

    if keras.backend.backend() == "jax":
        pytest.skip("a step that reads values is not rehearsed on JAX")
    train(tmp_path / "run", made(), validation=None, run=pg.Run(tmp_path / "run"))

    with pytest.raises(StepNotBuiltError, match="ZeroDivisionError on a batch of zeros: nothing"):
        pg.Run(tmp_path / "run").restore(made())


# What is loaded.


def test_an_optimizer_that_is_not_built_stays_as_it_is_and_a_built_one_is_loaded(tmp_path):
    history = train(tmp_path / "run", built_step(momentum=0.9))

    fresh, built = built_step(momentum=0.9), built_step(momentum=0.9)
    built.optimizer.build(built.model.trainable_variables)
    for step in (fresh, built):
        pg.Run(tmp_path / "run").restore(step)
        assert measured(step)["loss"] == history.history["val_loss"][-1]

    assert not fresh.optimizer.built
    assert int(ops.convert_to_numpy(fresh.optimizer.iterations)) == 0
    assert int(ops.convert_to_numpy(built.optimizer.iterations)) == history.clock.step
    assert any(np.any(v) for k, v in state_of(built).items() if k.endswith("momentum"))


def test_another_step_is_refused_and_unchanged(tmp_path):
    train(tmp_path / "run", built_step())
    model = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(2)])
    other = pg.Supervised(model, keras.optimizers.SGD(0.05), "mse")
    before = state_of(other)

    with pytest.raises(StateMismatchError):
        pg.Run(tmp_path / "run").restore(other)

    assert all(np.array_equal(value, before[key]) for key, value in state_of(other).items())


def test_other_metrics_and_another_optimizer_that_is_not_built_are_no_hindrance(tmp_path):
    def made(optimizer, *metrics):
        step = pg.Supervised(Lazy(), optimizer, "mse", metrics=list(metrics))
        step.seen = keras.metrics.Sum(name="seen")
        return step

    run = pg.Run(tmp_path / "run", best="val_loss")
    adam = keras.optimizers.Adam(0.05)
    history = train(tmp_path, made(adam, keras.metrics.MeanAbsoluteError()), run=run)

    step = made(keras.optimizers.SGD(0.5, momentum=0.9), keras.metrics.MeanSquaredError(), "mae")
    pg.Run(tmp_path / "run").restore(step, "best")

    logged = measured(step)
    assert logged["loss"] == history.best.value
    assert logged["mean_squared_error"] == pytest.approx(history.best.value)
    assert int(ops.convert_to_numpy(step.optimizer.iterations)) == 0


def test_variables_that_a_step_makes_when_it_first_runs_are_made(tmp_path):
    class Late(pg.Supervised):
        offset = None

        def train_step(self, batch):
            if self.offset is None:
                self.offset = keras.Variable(0.0, trainable=False, name="offset")
            self.offset.assign_add(0.5)
            return super().train_step(batch)

        def test_step(self, batch):
            return {"loss": super().test_step(batch)["loss"] + self.offset}

    def made():
        model = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(1)])
        return Late(model, keras.optimizers.SGD(0.05), "mse")

    run = pg.Run(tmp_path / "run", best="val_loss")
    history = train(tmp_path / "run", made(), run=run)
    step = made()
    pg.Run(tmp_path / "run").restore(step, "best")

    assert float(ops.convert_to_numpy(step.offset)) == 0.5 * history.best.clock.step
    assert measured(step)["loss"] == history.best.value


def test_what_a_step_keeps_outside_variables_is_restored(tmp_path):
    class Scaled(pg.Supervised):
        scale = 1.0

        def test_step(self, batch):
            return {"loss": self.scale * super().test_step(batch)["loss"]}

        def host_state(self):
            return {"scale": self.scale}

        def load_host_state(self, state):
            self.scale = state["scale"]

    def made():
        model = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(1)])
        return Scaled(model, keras.optimizers.SGD(0.05), "mse")

    trained = made()
    trained.scale = 0.25
    history = train(tmp_path / "run", trained)
    step = made()
    pg.Run(tmp_path / "run").restore(step, "best")

    assert measured(step)["loss"] == history.best.value


# The best one.


def test_the_run_says_by_which_value_the_best_one_is_chosen(tmp_path):
    class Scored(pg.Supervised):
        def test_step(self, batch):
            return {**super().test_step(batch), "score": -super().test_step(batch)["loss"]}

    def made():
        model = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(1)])
        # It gets worse, so that the best one is not the newest.
        return Scored(model, keras.optimizers.SGD(1.5), "mse")

    run = pg.Run(tmp_path / "run", best="val_score", mode="max", keep=1)
    history = train(tmp_path / "run", made(), run=run)
    scores = history.history["val_score"]
    assert np.argmax(scores) == 0

    step = made()
    clock = pg.Run(tmp_path / "run").restore(step, "best")

    assert clock.epoch == 1
    assert measured(step)["score"] == max(scores)
    best = history.best
    assert (best.name, best.value, best.clock) == ("val_score", max(scores), clock)
    assert best.path == tmp_path / "run" / "checkpoints" / "step-00000003"
    assert best.path.is_dir()


def test_a_run_without_best_says_so(tmp_path):
    history = train(tmp_path / "run", built_step(), run=pg.Run(tmp_path / "run"))

    assert history.best is None
    with pytest.raises(ArgumentError, match="trained with `best=`"):
        pg.Run(tmp_path / "run").restore(built_step(), "best")
    with pytest.raises(NoCheckpointError):
        pg.Run(tmp_path / "nothing").restore(built_step(), "best")


def test_the_history_of_a_resumed_and_of_a_finished_run_has_the_best_one(tmp_path):
    first = train(tmp_path / "run", built_step(), epochs=1)
    longer = train(tmp_path / "run", built_step())
    again = train(tmp_path / "run", built_step())

    assert first.best.clock.epoch == 1
    assert longer.best == again.best
    assert longer.best.value == min(longer.history["val_loss"])
    assert longer.best.clock.epoch == EPOCHS
    assert pg.fit(built_step(), rows(), progress="off").best is None


def test_a_best_value_at_an_end_within_an_epoch_counts(tmp_path):
    step = built_step()
    history = train(tmp_path / "run", step, epochs=None, steps=STEPS_AN_EPOCH + 1)
    losses = history.history["val_loss"]
    assert len(losses) == 2 and losses[1] < losses[0]

    restored = built_step()
    clock = pg.Run(tmp_path / "run").restore(restored, "best")

    assert clock.step == STEPS_AN_EPOCH + 1
    assert measured(restored)["loss"] == losses[1] == history.best.value
    # And the run continues as if it had not ended there.
    longer = train(tmp_path / "run", built_step())
    straight = train(tmp_path / "straight", built_step())
    assert longer.history == straight.history


def test_a_gradient_left_over_at_such_an_end_is_in_what_was_measured(tmp_path):
    history = train(
        tmp_path / "run", built_step(), epochs=None, steps=STEPS_AN_EPOCH + 1, accumulate=2
    )

    step = built_step()
    pg.Run(tmp_path / "run").restore(step, "best")

    assert measured(step)["loss"] == history.best.value == min(history.history["val_loss"])


def test_a_value_belongs_to_the_checkpoint_of_its_step(tmp_path):
    class Level(pg.Supervised):
        def test_step(self, batch):
            return {**super().test_step(batch), "accuracy": ops.ones(())}

    def made():
        model = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(1)])
        return Level(model, keras.optimizers.SGD(0.05), "mse")

    every = pg.Every(steps=STEPS_AN_EPOCH + 1)
    run = pg.Run(tmp_path / "run", best="val_accuracy", save_every=every, keep=None)
    train(tmp_path / "run", made(), run=run)

    found = Checkpoints(tmp_path / "run" / "checkpoints", best="val_accuracy")
    monitored = {step: found.load(step).monitored for step in found.steps()}
    assert monitored == {3: 1.0, 4: None, 8: None, 9: 1.0}


# As it was measured.


class OwnAverage(keras.callbacks.Callback):
    """Measures with an average of the weights that it holds itself."""

    def __init__(self, decay=0.8):
        super().__init__()
        self.decay, self.average = decay, None

    def on_train_batch_end(self, batch, logs=None):
        weights = self.model.get_weights()
        known = weights if self.average is None else self.average
        self.average = [
            self.decay * a + (1 - self.decay) * w for a, w in zip(known, weights, strict=True)
        ]

    def on_test_begin(self, logs=None):
        self.raw = self.model.get_weights()
        self.model.set_weights(self.average)

    def on_test_end(self, logs=None):
        self.model.set_weights(self.raw)


class Halving(keras.callbacks.Callback):
    """Changes weights between the validation and the save."""

    def on_epoch_end(self, epoch, logs=None):
        self.model.set_weights([0.5 * weight for weight in self.model.get_weights()])


AVERAGING = {
    "none": (lambda: [], {}),
    "use_ema": (lambda: [], {"use_ema": True, "ema_momentum": 0.8}),
    "overwritten": (lambda: [], {"use_ema": True, "ema_overwrite_frequency": 2}),
    "SwapEMAWeights": (
        lambda: [keras.callbacks.SwapEMAWeights()],
        {"use_ema": True, "ema_momentum": 0.8},
    ),
    "SwapEMAWeights on epochs": (
        lambda: [keras.callbacks.SwapEMAWeights(swap_on_epoch=True)],
        {"use_ema": True, "ema_momentum": 0.8},
    ),
    "own average": (lambda: [OwnAverage()], {}),
    "changed at the end of an epoch": (lambda: [Halving()], {}),
    "by functions": (
        lambda: [keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: None)],
        {},
    ),
}


@pytest.mark.parametrize("kind", AVERAGING)
def test_what_is_restored_evaluates_to_what_was_logged(tmp_path, kind):
    callbacks, options = AVERAGING[kind]
    run = pg.Run(tmp_path / "run", best="val_loss", keep=None)
    history = train(tmp_path / "run", built_step(**options), run=run, callbacks=callbacks())
    logged = history.history["val_loss"]

    for which, value in {
        "best": min(logged),
        "newest": logged[-1],
        STEPS_AN_EPOCH: logged[0],
    }.items():
        step = built_step(**options)
        pg.Run(tmp_path / "run").restore(step, which)
        assert measured(step)["loss"] == value


def test_a_run_is_resumed_from_the_weights_that_train_not_from_those_measured(tmp_path):
    def trained(name, *epochs):
        for end in epochs:
            callbacks = [keras.callbacks.SwapEMAWeights()]
            step = built_step(use_ema=True, ema_momentum=0.8)
            history = train(tmp_path / name, step, epochs=end, callbacks=callbacks)
        return history.history

    assert trained("stopped", 1, EPOCHS) == trained("straight", EPOCHS)


def test_measured_weights_are_stored_only_where_they_differ(tmp_path):
    train(tmp_path / "run", built_step(), callbacks=[keras.callbacks.LambdaCallback(
        on_test_begin=lambda logs: None
    )])  # fmt: skip

    newest = Checkpoints(tmp_path / "run" / "checkpoints").load("newest")
    assert newest.content.facts["measured"] == {}
    manifest = json.loads((newest.path / "manifest.json").read_text())
    assert manifest["facts"]["criterion"] == {"name": "val_loss", "mode": "min"}
