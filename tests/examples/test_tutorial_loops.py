"""Each template trains, step by step, like a correct loop written by hand for TensorFlow."""

import importlib
from pathlib import Path

import keras
import numpy as np
import pytest

import perigee as pg

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

ROOT = Path(__file__).parents[2]
SEED = 5
BATCH_SIZE = 16
BATCHES = 7
SHORT_BATCH_SIZE = 5
EPOCHS = 3  # of seven batches, the last one short: 21 steps

SAME = 1e-6
"""Relative difference of a loss where both compute the same float32 sums in another order."""
AMPLIFIED = 1e-5
"""The same under Adam, which divides by the root of small second moments."""


def template(name):
    return importlib.import_module(f"examples.tutorial_loops.{name}")


def make_step(name, tmp_path):
    """Return the Step of a template; two calls return equal ones."""
    keras.utils.set_random_seed(SEED)
    module = template(name)
    if name == "assertions_and_summaries":
        return module.make_step(tmp_path / "events")
    return module.make_step()


def make_batches(name):
    data = template(name).make_data()
    if isinstance(data, list):
        return data
    sizes = [BATCH_SIZE] * (BATCHES - 1) + [SHORT_BATCH_SIZE]
    stops = np.cumsum(sizes)
    return [
        keras.tree.map_structure(lambda a, i=i: a[stops[i] - sizes[i] : stops[i]], data)
        for i in range(BATCHES)
    ]


class EachStep(pg.Hook):
    """Collect the values of each step: windows of one step."""

    def __init__(self):
        self.rows = []

    def on_record(self, event):
        if event.scope == "steps":
            self.rows.append(dict(event.values))


def train(step, batches, tmp_path, epochs=EPOCHS, **options):
    """Train with Perigee, and return its history and the values of each step."""
    each = EachStep()
    run = pg.Run(tmp_path / "run", record_every=pg.Every(steps=1))
    hooks = [each, *options.pop("callbacks", ())]
    history = pg.fit(
        step, batches, epochs=epochs, run=run, callbacks=hooks, progress="off", **options
    )
    return history, each.rows


# The same algorithms, written by hand. Each function gets a Step only as a holder of models,
# optimizers and losses, and returns a compiled function from one batch to a dict of values.


def one_optimizer(twin, forward, variables):
    """A loop with one tape and one optimizer; `forward` returns the loss and other values."""
    twin.optimizer.build(variables)

    @tf.function(reduce_retracing=True)
    def step(batch):
        with tf.GradientTape() as tape:
            values = forward(batch)
        gradients = tape.gradient(values["loss"], variables)
        twin.optimizer.apply(gradients, variables)
        return values

    return step


def plain_step(twin):
    def forward(batch):
        x, y = batch
        return {"loss": twin.loss(y, twin.model(x, training=True))}

    return one_optimizer(twin, forward, twin.model.trainable_variables)


def custom_model(twin):
    twin.model(np.zeros((1, 10), "float32"))
    return plain_step(twin)


def regularized_loss(twin):
    def forward(batch):
        x, y = batch
        data_loss = twin.loss(y, twin.model(x, training=True))
        return {"loss": data_loss + tf.add_n(twin.model.losses), "data_loss": data_loss}

    return one_optimizer(twin, forward, twin.model.trainable_variables)


def raw_tape(twin):
    def forward(batch):
        x, y = batch
        return {"loss": twin.loss(y, twin.model(x, training=True)) + tf.add_n(twin.model.losses)}

    return one_optimizer(twin, forward, twin.model.trainable_variables)


def two_optimizers(twin):
    backbone, head = twin.backbone.trainable_variables, twin.head.trainable_variables
    twin.slow.build(backbone)
    twin.fast.build(head)

    @tf.function(reduce_retracing=True)
    def step(batch):
        x, y = batch
        with tf.GradientTape() as tape:
            logits = twin.head(twin.backbone(x, training=True), training=True)
            loss = twin.loss(y, logits)
        of_backbone, of_head = tape.gradient(loss, [backbone, head])
        twin.slow.apply(of_backbone, backbone)
        twin.fast.apply(of_head, head)
        return {"loss": loss}

    return step


def alternating_updates(twin):
    of_generator = twin.generator.trainable_variables
    of_discriminator = twin.discriminator.trainable_variables
    twin.generator_optimizer.build(of_generator)
    twin.discriminator_optimizer.build(of_discriminator)

    def noise(rows):
        return keras.random.normal((rows, 4), seed=twin.noise)

    @tf.function(reduce_retracing=True)
    def step(real):
        rows = tf.shape(real)[0]
        generated = twin.generator(noise(rows), training=True)
        with tf.GradientTape() as tape:
            on_real = twin.discriminator(real, training=True)
            on_generated = twin.discriminator(generated, training=True)
            right = twin.loss(tf.ones((rows, 1)), on_real)
            discriminator_loss = (right + twin.loss(tf.zeros((rows, 1)), on_generated)) / 2
        gradients = tape.gradient(discriminator_loss, of_discriminator)
        twin.discriminator_optimizer.apply(gradients, of_discriminator)
        drawn = noise(rows)
        with tf.GradientTape() as tape:
            verdict = twin.discriminator(twin.generator(drawn, training=True), training=True)
            generator_loss = twin.loss(tf.ones((rows, 1)), verdict)
        gradients = tape.gradient(generator_loss, of_generator)
        twin.generator_optimizer.apply(gradients, of_generator)
        return {"discriminator_loss": discriminator_loss, "generator_loss": generator_loss}

    return step


def two_outputs(twin):
    twin.model(np.zeros((1, 10), "float32"))

    def forward(batch):
        x, (size, place) = batch
        size_pred, place_pred = twin.model(x, training=True)
        size_loss = tf.reduce_mean((size - size_pred) ** 2)
        place_loss = tf.reduce_mean((place - place_pred) ** 2)
        loss = twin.weights[0] * size_loss + twin.weights[1] * place_loss
        return {"loss": loss, "size_loss": size_loss, "place_loss": place_loss}

    return one_optimizer(twin, forward, twin.model.trainable_variables)


def metric_objects(twin):
    def forward(batch):
        x, y = batch
        y_pred = twin.model(x, training=True)
        for metric in twin.metrics:
            metric.update_state(y, y_pred)
        return {"loss": twin.loss(y, y_pred), "positives": tf.reduce_mean(y)}

    return one_optimizer(twin, forward, twin.model.trainable_variables)


def unreached_variables(twin):
    def forward(batch):
        x, y, z = batch
        first, second = twin.model(x, training=True)
        return {"loss": tf.reduce_mean((y - first) ** 2) + tf.reduce_mean((z - second) ** 2)}

    return one_optimizer(twin, forward, twin.model.trainable_variables)


def intermediate_layer(twin):
    def forward(batch):
        x, y = batch
        features, logits = twin.model(x, training=True)
        gaps = features - tf.gather(twin.centers.value, y)
        distance = tf.reduce_sum(gaps**2, axis=1)
        loss = twin.loss(y, logits) + twin.weight * tf.reduce_mean(distance)
        return {"loss": loss, "distance": tf.reduce_mean(distance)}

    return one_optimizer(twin, forward, [*twin.model.trainable_variables, twin.centers])


LOOPS = {
    "plain_step": (plain_step, SAME),
    "custom_model": (custom_model, AMPLIFIED),
    "validation_and_epoch_logs": (plain_step, AMPLIFIED),
    "regularized_loss": (regularized_loss, SAME),
    "two_optimizers": (two_optimizers, AMPLIFIED),
    "alternating_updates": (alternating_updates, AMPLIFIED),
    "two_outputs": (two_outputs, SAME),
    "metric_objects": (metric_objects, SAME),
    "unreached_variables": (unreached_variables, SAME),
    "intermediate_layer": (intermediate_layer, SAME),
    "varying_lengths": (plain_step, SAME),
    "raw_tape": (raw_tape, AMPLIFIED),
    "assertions_and_summaries": (plain_step, SAME),
}
"""For each template, the loop written by hand and the difference that is allowed."""


def train_by_hand(name, twin, batches, epochs=EPOCHS):
    """Return the values of each step of the hand-written loop for a template."""
    by_hand, _ = LOOPS[name]
    step = by_hand(twin)
    tensors = keras.tree.map_structure(tf.constant, batches)
    rows = [step(batch) for _ in range(epochs) for batch in tensors]
    return [{key: float(value) for key, value in row.items()} for row in rows]


def mean_over_examples(rows, batches, key):
    """Return the exact mean of a value of several steps."""
    sizes = [len(keras.tree.flatten(batch)[0]) for batch in batches]
    return np.average([row[key] for row in rows], weights=sizes)


@pytest.mark.spread(5)
@pytest.mark.only_tensorflow
@pytest.mark.parametrize("name", LOOPS)
def test_each_step_has_the_losses_of_the_hand_written_loop(name, tmp_path):
    batches = make_batches(name)
    _, tolerance = LOOPS[name]
    expected = train_by_hand(name, make_step(name, tmp_path), batches)

    _, rows = train(make_step(name, tmp_path), batches, tmp_path)

    assert len(rows) == len(expected) >= 20
    for number, (ours, theirs) in enumerate(zip(rows, expected, strict=True), start=1):
        others = ("learning_rate", "running/")
        losses = {k: v for k, v in ours.items() if not any(other in k for other in others)}
        assert losses == pytest.approx(theirs, rel=tolerance, abs=0), f"step {number}"


@pytest.mark.only_tensorflow
@pytest.mark.parametrize("name", ["custom_model", "two_optimizers", "alternating_updates"])
def test_arrays_whose_steps_run_in_blocks_give_the_same_epochs(name, tmp_path):
    batches = make_batches(name)
    arrays = keras.tree.map_structure(lambda *parts: np.concatenate(parts), *batches)
    _, tolerance = LOOPS[name]
    by_hand = train_by_hand(name, make_step(name, tmp_path), batches)

    history = pg.fit(
        make_step(name, tmp_path),
        arrays,
        batch_size=BATCH_SIZE,
        shuffle=False,
        epochs=EPOCHS,
        progress="off",
    )

    for key in by_hand[0]:
        epochs = [by_hand[i * BATCHES : (i + 1) * BATCHES] for i in range(EPOCHS)]
        exact = [mean_over_examples(rows, batches, key) for rows in epochs]
        assert history.history[key] == pytest.approx(exact, rel=tolerance)


def test_every_template_is_compared():
    files = {path.stem for path in (ROOT / "examples" / "tutorial_loops").glob("*.py")}

    assert files == set(LOOPS)


# What belongs to an epoch.


@pytest.mark.only_tensorflow
def test_the_loss_of_an_epoch_is_the_mean_over_its_examples(tmp_path):
    name = "plain_step"
    batches = make_batches(name)
    by_hand = train_by_hand(name, make_step(name, tmp_path), batches)

    history, _ = train(make_step(name, tmp_path), batches, tmp_path)

    for epoch in range(EPOCHS):
        rows = by_hand[epoch * BATCHES : (epoch + 1) * BATCHES]
        exact = mean_over_examples(rows, batches, "loss")
        mean_of_batches = np.mean([row["loss"] for row in rows])
        logged = history.history["loss"][epoch]
        assert logged == pytest.approx(exact, rel=SAME)
        assert logged != pytest.approx(mean_of_batches, rel=1e-3)  # what a `Mean()` would say


@pytest.mark.only_tensorflow
def test_validation_measures_as_a_loop_by_hand_and_changes_nothing(tmp_path):
    name = "validation_and_epoch_logs"
    batches = make_batches(name)
    unseen = make_batches(name)[::-1][:2]  # a short batch and a whole one
    twin = make_step(name, tmp_path)
    loop = plain_step(twin)
    expected = {"val_loss": [], "val_accuracy": []}
    losses = []
    for _ in range(EPOCHS):
        for batch in keras.tree.map_structure(tf.constant, batches):
            losses.append(float(loop(batch)["loss"]))
        x, y = (np.concatenate(parts) for parts in zip(*unseen, strict=True))
        logits = twin.model(x, training=False)
        expected["val_loss"].append(float(twin.loss(y, logits)))
        expected["val_accuracy"].append(np.mean(np.argmax(logits, axis=1) == y))

    history, rows = train(make_step(name, tmp_path), batches, tmp_path, validation=unseen)

    for key, values in expected.items():
        assert history.history[key] == pytest.approx(values, rel=AMPLIFIED)
    assert [row["loss"] for row in rows] == pytest.approx(losses, rel=AMPLIFIED)


@pytest.mark.only_tensorflow
def test_metrics_begin_anew_each_epoch_and_can_be_read_in_between(tmp_path):
    name, every = "metric_objects", 5
    batches = make_batches(name)
    twin = make_step(name, tmp_path)
    loop = metric_objects(twin)
    at_epoch, at_interval, number = [], [], 0
    for _ in range(EPOCHS):
        for metric in twin.metrics:
            metric.reset_state()
        for batch in keras.tree.map_structure(tf.constant, batches):
            loop(batch)
            number += 1
            if number % every == 0:
                at_interval.append({m.name: float(m.result()) for m in twin.metrics})
        at_epoch.append({m.name: float(m.result()) for m in twin.metrics})
    so_far = template(name).SoFar(pg.Every(steps=every))

    history, _ = train(make_step(name, tmp_path), batches, tmp_path, callbacks=[so_far])

    for epoch, theirs in enumerate(at_epoch):
        ours = {key: history.history[key][epoch] for key in theirs}
        assert ours == pytest.approx(theirs, rel=SAME)
    assert [step for step, _ in so_far.seen] == list(range(every, number + 1, every))
    for (_, ours), theirs in zip(so_far.seen, at_interval, strict=True):
        assert {key: ours[key] for key in theirs} == pytest.approx(theirs, rel=SAME)


@pytest.mark.only_tensorflow
def test_a_window_holds_all_steps_since_the_one_before_it(tmp_path):
    name, every = "metric_objects", 5  # of epochs of 7 steps
    batches = make_batches(name)
    by_hand = train_by_hand(name, make_step(name, tmp_path), batches)
    windows = template(name).Windows()

    pg.fit(
        make_step(name, tmp_path),
        batches,
        epochs=EPOCHS,
        run=pg.Run(tmp_path / "run", record_every=pg.Every(steps=every)),
        callbacks=[windows],
        progress="off",
    )

    stops = range(every, EPOCHS * BATCHES + 1, every)
    assert [step for step, _ in windows.seen] == list(stops)
    for stop, (_, values) in zip(stops, windows.seen, strict=True):
        drawn = [batches[i % BATCHES] for i in range(stop - every, stop)]
        exact = mean_over_examples(by_hand[stop - every : stop], drawn, "loss")
        assert values["loss"] == pytest.approx(exact, rel=SAME)


# What is refused, left alone, or counted.


def test_penalties_added_by_hand_are_refused(tmp_path):
    module = template("regularized_loss")
    step = module.PenalizedTwice(module.make_model())

    with pytest.raises(pg.PerigeeError, match="PG208"):
        train(step, make_batches("regularized_loss"), tmp_path)


def test_the_error_names_each_variable_that_no_gradient_reaches(tmp_path):
    module = template("unreached_variables")
    step = module.ForgottenHead(module.make_model())
    before = step.model.get_weights()

    with pytest.raises(pg.PerigeeError, match="PG101") as caught:
        train(step, make_batches("unreached_variables"), tmp_path)

    assert caught.value.unused == ("model/second/kernel", "model/second/bias")
    assert all(map(np.array_equal, before, step.model.get_weights()))


def test_a_part_can_be_trained_on_purpose(tmp_path):
    module = template("unreached_variables")
    step = module.OneHeadOnPurpose(module.make_model())
    layers = {name: step.model.get_layer(name) for name in ("hidden", "first", "second")}
    before = {name: layer.get_weights() for name, layer in layers.items()}

    with pytest.warns(UserWarning, match="PG110"):
        history, _ = train(step, make_batches("unreached_variables"), tmp_path)

    moved = {
        name: not all(map(np.array_equal, before[name], layer.get_weights()))
        for name, layer in layers.items()
    }
    assert moved == {"hidden": True, "first": True, "second": False}
    assert [finding.code for finding in history.findings] == ["PG110"]


def test_a_frozen_backbone_stays_and_moves_once_it_is_released(tmp_path):
    name = "two_optimizers"
    step, batches = make_step(name, tmp_path), make_batches(name)
    before = step.backbone.get_weights()

    step.backbone.trainable = False
    frozen = pg.fit(step, batches, progress="off")
    assert all(map(np.array_equal, before, step.backbone.get_weights()))
    assert "learning_rate" in frozen.history

    step.backbone.trainable = True
    both = pg.fit(step, batches, progress="off")
    assert not any(map(np.array_equal, before, step.backbone.get_weights()))
    assert {"slow/learning_rate", "fast/learning_rate"} <= set(both.history)


@pytest.mark.only_tensorflow
def test_any_number_of_lengths_takes_two_traces(tmp_path):
    name = "varying_lengths"
    module, batches = template(name), make_batches("varying_lengths")
    lengths = {words.shape[1] for words, _ in batches}
    traced_by_hand = []

    @tf.function
    def naive(words):
        traced_by_hand.append(words.shape)
        return tf.reduce_sum(words)

    for words, _ in batches:
        naive(tf.constant(words))
    module.seen_shapes.clear()
    train(make_step(name, tmp_path), batches, tmp_path)

    traced = [shape for shape in module.seen_shapes if shape[0] is None]
    assert traced == [(None, batches[0][0].shape[1]), (None, None)]
    assert len(traced_by_hand) == len(lengths) == BATCHES


@pytest.mark.only_tensorflow
def test_summaries_are_those_of_the_steps_that_counted(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util import tensor_util

    name = "assertions_and_summaries"
    module, step = template(name), make_step(name, tmp_path)
    step.every_steps = 1  # due in the rehearsal too, if that counted

    _, rows = train(step, make_batches(name), tmp_path, callbacks=[module.Closing(step.writer)])

    reader = EventAccumulator(str(tmp_path / "events"), size_guidance={"tensors": 0})
    events = reader.Reload().Tensors("loss")
    assert [event.step for event in events] == list(range(1, EPOCHS * BATCHES + 1))
    written = [float(tensor_util.make_ndarray(event.tensor_proto)) for event in events]
    assert written == pytest.approx([row["loss"] for row in rows], rel=SAME)


@pytest.mark.only_tensorflow
def test_a_failing_assertion_ends_the_training_and_says_where(tmp_path):
    name, bad = "assertions_and_summaries", 3
    module, step, batches = template(name), make_step(name, tmp_path), make_batches(name)
    closing = module.Closing(step.writer)
    batches[bad][0][2, 1] = np.nan

    with pytest.raises(tf.errors.InvalidArgumentError, match="NaN or infinite") as caught:
        train(step, batches, tmp_path, callbacks=[closing])

    assert f"after step {bad}, epoch 1, batch {bad + 1}" in "".join(caught.value.__notes__)
    assert all(np.isfinite(weights).all() for weights in step.model.get_weights())


@pytest.mark.only_tensorflow
def test_a_raw_tape_cannot_be_accumulated(tmp_path):
    step, batches = make_step("raw_tape", tmp_path), make_batches("raw_tape")

    with pytest.raises(pg.PerigeeError, match=r"PG209.*itself applies 'optimizer'"):
        train(step, batches, tmp_path, accumulate=2)

    assert int(step.optimizer.iterations.value) == 0


# The scripts themselves.


def last(history, key="loss"):
    return history.history[key][-1]


def first(history, key="loss"):
    return history.history[key][0]


@pytest.mark.spread(4)
@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("plain_step", 0.6),
        ("custom_model", 0.1),
        ("validation_and_epoch_logs", 0.4),
        ("regularized_loss", 0.2),
        ("two_outputs", 0.1),
        ("intermediate_layer", 0.7),
        pytest.param("raw_tape", 0.5, marks=pytest.mark.only_tensorflow),
        pytest.param("assertions_and_summaries", 0.7, marks=pytest.mark.only_tensorflow),
    ],
)
def test_a_script_learns(name, most):
    history = template(name).main()

    assert last(history) < most < first(history)


def test_the_script_on_two_optimizers_goes_on_where_the_frozen_phase_ended():
    history = template("two_optimizers").main()

    assert last(history) < 0.7
    assert last(history, "accuracy") > 0.7


def test_the_script_on_alternating_updates_learns_to_draw():
    wanted = template("alternating_updates").make_data()

    _, drawn = template("alternating_updates").main()

    assert drawn.shape == wanted.shape
    assert abs(drawn.mean() - wanted.mean()) < 0.5


def test_the_script_on_metrics_reports_them(tmp_path):
    history, so_far, windows = template("metric_objects").main(directory=tmp_path / "run")

    assert last(history, "f1") > 0.8
    precision, recall = last(history, "precision"), last(history, "recall")
    assert last(history, "f1") == pytest.approx(2 / (1 / precision + 1 / recall), rel=1e-5)
    assert len(so_far) == len(windows) == history.clock.step // 10
    assert (tmp_path / "run" / "metrics.jsonl").exists()


def test_the_script_on_unreached_variables_shows_the_error_and_the_mend(capsys):
    refused, history = template("unreached_variables").main()

    assert refused is not None and refused.code == "PG101"
    assert "model/second/kernel" in capsys.readouterr().out
    assert last(history) < 0.3 < first(history)


def test_the_script_on_lengths_learns():
    history, _ = template("varying_lengths").main()

    assert last(history) < 0.3 < first(history)


def test_digits_reaches_its_accuracy_and_keeps_the_run(tmp_path):
    module = importlib.import_module("examples.digits")

    accuracy = module.main(["--run", str(tmp_path / "run")])

    assert accuracy >= module.WANTED_ACCURACY >= 0.97
    assert module.complaint(accuracy) is None  # the exit status of the script
    assert module.complaint(0.969) is not None
    assert (tmp_path / "run" / "run.json").exists()
