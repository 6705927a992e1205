"""A step with its own tape is seen alike in a Step and in the `train_step` of a Keras model."""

from __future__ import annotations

import warnings

import keras
import numpy as np
import pytest
from keras import layers

import perigee as pg
from perigee.tools import Norms

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

pytestmark = pytest.mark.only_tensorflow

ROWS, FEATURES, CLASSES, BATCH = 64, 6, 3, 32
cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def data():
    x = np.random.default_rng(0).normal(size=(ROWS, FEATURES)).astype("float32")
    return x, x[:, :CLASSES].argmax(axis=1).astype("int32")


class Net(keras.Model):
    """Two towers of equal shapes, and a layer that is called only if it is asked for."""

    def __init__(self):
        super().__init__()
        kernel = keras.initializers.GlorotUniform(seed=1)
        self.first = layers.Dense(FEATURES, "tanh", kernel_initializer=kernel, name="first")
        self.second = layers.Dense(FEATURES, "tanh", name="second")
        self.spare = layers.Dense(FEATURES, name="spare")
        self.head = layers.Dense(CLASSES, name="head")
        for layer in (self.first, self.second, self.spare, self.head):
            layer.build((None, FEATURES))
        self.built = True

    def call(self, x, training=False, spare=True):
        hidden = self.second(self.first(x))
        return self.head(hidden + self.spare(x) if spare else hidden)


def adam():
    return keras.optimizers.Adam(0.01)


def sgd(**given):
    return keras.optimizers.SGD(0.1, **given)


class Parts:
    """What a program uses: a network, and up to two optimizers."""

    def __init__(self, net, first, second):
        self.net, self.first, self.second = net, first, second

    def gradients(self, x, y, variables=None, **given):
        with tf.GradientTape() as tape:
            loss = cross_entropy(y, self.net(x, training=True, **given))
        return loss, tape.gradient(loss, variables or self.net.trainable_variables)


# Programs: the body of a `train_step`, and what makes its optimizers.


def whole(parts, x, y):
    loss, gradients = parts.gradients(x, y)
    parts.first.apply_gradients(zip(gradients, parts.net.trainable_variables, strict=True))
    return loss


def clipped(parts, x, y):
    loss, gradients = parts.gradients(x, y)
    gradients, _ = tf.clip_by_global_norm(gradients, 0.1)
    parts.first.apply(gradients, parts.net.trainable_variables)
    return loss


def subset(parts, x, y):
    chosen = parts.net.trainable_variables[2:]
    loss, gradients = parts.gradients(x, y, chosen)
    parts.first.apply(gradients, chosen)
    return loss


def missing(parts, x, y):
    loss, gradients = parts.gradients(x, y, spare=False)
    parts.first.apply(gradients, parts.net.trainable_variables)
    return loss


def filtered(parts, x, y):
    variables = parts.net.trainable_variables
    loss, gradients = parts.gradients(x, y, spare=False)
    pairs = [(g, v) for g, v in zip(gradients, variables, strict=True) if g is not None]
    parts.first.apply_gradients(pairs)
    return loss


def constant(parts, x, y):
    variables = parts.net.trainable_variables
    with tf.GradientTape() as tape:
        loss = cross_entropy(y, tf.stop_gradient(parts.net(x)))
    parts.first.apply(tape.gradient(loss, variables), variables)
    return loss


def scaled(parts, x, y):
    variables = parts.net.trainable_variables
    with tf.GradientTape() as tape:
        loss = cross_entropy(y, parts.net(x, training=True))
        to_differentiate = parts.first.scale_loss(loss)
    parts.first.apply(tape.gradient(to_differentiate, variables), variables)
    return loss


def exchanged(parts, x, y):
    variables = parts.net.trainable_variables
    loss, gradients = parts.gradients(x, y)
    order = [2, 3, 0, 1, *range(4, len(variables))]
    parts.first.apply([gradients[i] for i in order], variables)
    return loss


def exchanged_and_scaled(parts, x, y):
    variables = parts.net.trainable_variables
    loss, gradients = parts.gradients(x, y)
    order = [2, 3, 0, 1, *range(4, len(variables))]
    parts.first.apply([0.5 * gradients[i] for i in order], variables)
    return loss


def apart(parts, x, y):
    variables = parts.net.trainable_variables
    loss, gradients = parts.gradients(x, y)
    parts.first.apply(gradients[:2], variables[:2])
    parts.first.apply(gradients[2:], variables[2:])
    return loss


def repeated(parts, x, y):
    for _ in range(2):
        loss = whole(parts, x, y)
    return loss


def shared(parts, x, y):
    variables = parts.net.trainable_variables
    loss, gradients = parts.gradients(x, y)
    parts.first.apply(gradients, variables)
    parts.second.apply(gradients[2:4], variables[2:4])
    return loss


def divided(parts, x, y):
    variables = parts.net.trainable_variables
    loss, gradients = parts.gradients(x, y)
    parts.first.apply(gradients[:2], variables[:2])
    parts.second.apply(gradients[2:], variables[2:])
    return loss


def in_turn(parts, x, y):
    variables = parts.net.trainable_variables
    loss, gradients = parts.gradients(x, y)
    tf.cond(
        tf.equal(parts.first.iterations % 2, 0),
        lambda: parts.first.apply(gradients[:4], variables[:4]),
        lambda: parts.second.apply(gradients[4:], variables[4:]),
    )
    return loss


def two_losses(parts, x, y):
    variables = parts.net.trainable_variables
    with tf.GradientTape(persistent=True) as tape:
        with_spare = cross_entropy(y, parts.net(x, training=True))
        without = cross_entropy(y, parts.net(x, training=True, spare=False))
    one, other = tape.gradient(with_spare, variables), tape.gradient(without, variables)
    sums = [a if b is None else a + b for a, b in zip(one, other, strict=True)]
    parts.first.apply(sums, variables)
    return with_spare + without


def raw_values(parts, x, y):
    variables = parts.net.trainable_variables
    loss, gradients = parts.gradients(x, y, [v.value for v in variables])
    parts.first.apply(grads=gradients, trainable_variables=iter(variables))
    return loss


def unnamed(parts, x, y):
    loss, gradients = parts.gradients(x, y)
    parts.first.apply(gradients)
    return loss


def built(make):
    def optimizer(net):
        made = make()
        made.build(net.trainable_variables)
        return made

    return optimizer


def fresh(make):
    return lambda net: make()


def scaling(**given):
    return keras.optimizers.LossScaleOptimizer(sgd(), **given)


RAISED = "raised"
PROGRAMS = {
    # name: body, optimizers, codes of `check`, codes of `fit`
    "whole": (whole, [fresh(adam)], [], []),
    "whole, built": (whole, [built(adam)], [], []),
    "clipped": (clipped, [fresh(sgd)], [], []),
    "raw values": (raw_values, [fresh(sgd)], [], []),
    "no variables named": (unnamed, [built(sgd)], [], []),
    "subset": (subset, [fresh(adam)], ["PG110"], ["PG110"]),
    "subset, built": (subset, [built(adam)], ["PG110"], ["PG110"]),
    "missing": (missing, [fresh(adam)], ["PG101"], ["PG101"]),
    "filtered": (filtered, [fresh(sgd)], ["PG101"], ["PG101"]),
    "no gradient": (constant, [fresh(sgd)], ["PG101"], ["ValueError"]),
    "scaled": (scaled, [fresh(scaling)], [], []),
    "unscaled": (whole, [fresh(scaling)], ["PG411"], ["PG411"]),
    "constant scale": (scaled, [fresh(lambda: sgd(loss_scale_factor=64.0))], [], []),
    "unscaled by a constant": (
        whole,
        [fresh(lambda: sgd(loss_scale_factor=64.0))],
        ["PG411"],
        ["PG411"],
    ),
    "exchanged": (exchanged, [fresh(sgd)], ["PG121"], ["PG121"]),
    "exchanged and scaled": (exchanged_and_scaled, [fresh(sgd)], ["PG121"], []),
    "apart": (apart, [fresh(adam)], ["PG105"], ["PG105"]),
    "apart, built": (apart, [built(adam)], ["PG105"], ["PG105"]),
    "apart, without a count": (apart, [fresh(sgd)], [], []),
    "repeated": (repeated, [fresh(adam)], [], []),
    "shared": (shared, [fresh(sgd), fresh(adam)], ["PG104"], ["PG104"]),
    "divided": (divided, [fresh(sgd), fresh(adam)], [], []),
    "in turn": (in_turn, [fresh(sgd), fresh(adam)], [], []),
    "two losses": (two_losses, [fresh(sgd)], [], []),
}


class OwnTape(pg.Step):
    def __init__(self, body, optimizers):
        net = Net()
        first, second = [make(net) for make in optimizers] + [None] * (2 - len(optimizers))
        self.parts, self.body = Parts(net, first, second), body

    def train_step(self, batch):
        return {"loss": self.body(self.parts, *batch)}


class OwnTrainStep(Net):
    def __init__(self, body, optimizers):
        super().__init__()
        first, second = [make(self) for make in optimizers] + [None] * (2 - len(optimizers))
        self.compile(first)
        self.second_optimizer, self.body = second, body

    def train_step(self, data):
        return {"loss": self.body(Parts(self, self.optimizer, self.second_optimizer), *data)}


def findings_of_fit(target):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            history = pg.fit(target, data(), epochs=1, batch_size=BATCH, progress="off")
        except pg.PerigeeError as error:
            return [error]
        except ValueError as error:
            return [error]
    return history.findings


def codes_of(findings):
    return [getattr(each, "code", type(each).__name__) for each in findings]


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_step_and_a_model_with_the_same_tape_get_the_same_findings(name):
    body, optimizers, of_check, of_fit = PROGRAMS[name]

    checked = [
        pg.check(make(body, optimizers), data(), batch_size=BATCH)
        for make in (OwnTape, OwnTrainStep)
    ]
    steps = OwnTape(body, optimizers), pg.KerasStep(OwnTrainStep(body, optimizers))
    trained = [findings_of_fit(step) for step in steps]

    assert [codes_of(findings) for findings in checked] == [of_check] * 2
    assert [codes_of(findings) for findings in trained] == [of_fit] * 2


def test_the_variables_are_named():
    names = {"subset": {"first/kernel", "first/bias"}, "filtered": {"spare/kernel", "spare/bias"}}

    for name, expected in names.items():
        body, optimizers, *_ = PROGRAMS[name]
        for step in (OwnTape(body, optimizers), pg.KerasStep(OwnTrainStep(body, optimizers))):
            (finding,) = findings_of_fit(step)
            assert {"/".join(item.split("/")[-2:]) for item in finding.items} == expected


class Loose(pg.Step):
    """A step whose body is the whole `train_step`."""

    def __init__(self, body, *optimizers, **others):
        self.net, self.body = Net(), body
        self.optimizers = list(optimizers)
        self.others = others

    def train_step(self, batch):
        return {"loss": self.body(self, *batch)}


def by_copy(step, x, y):
    """First-order meta-learning: gradients of a copy move the model itself."""
    copy, net = step.others["copy"], step.net
    with tf.GradientTape() as tape:
        loss = cross_entropy(y, copy(x, training=True))
    gradients = tape.gradient(loss, copy.trainable_variables)
    step.optimizers[0].apply(gradients, net.trainable_variables)
    for old, new in zip(copy.trainable_variables, net.trainable_variables, strict=True):
        old.assign(new)
    return loss


def with_average(step, x, y):
    loss = whole_of(step, x, y)
    for old, new in zip(step.others["averages"], step.net.trainable_variables, strict=True):
        old.assign(0.9 * old + 0.1 * new)
    return loss


def whole_of(step, x, y):
    variables = step.net.trainable_variables
    with tf.GradientTape() as tape:
        loss = cross_entropy(y, step.net(x, training=True))
    step.optimizers[0].apply(tape.gradient(loss, variables), variables)
    return loss


def by_sums(step, x, y):
    """Adds gradients up over two batches, and divides them."""
    variables, count = step.net.trainable_variables, step.others["count"]
    with tf.GradientTape() as tape:
        loss = cross_entropy(y, step.net(x, training=True))
    for total, gradient in zip(step.others["sums"], tape.gradient(loss, variables), strict=True):
        total.assign_add(gradient)
    count.assign_add(1)

    def update():
        step.optimizers[0].apply([total / 2.0 for total in step.others["sums"]], variables)
        for total in step.others["sums"]:
            total.assign(tf.zeros_like(total))

    tf.cond(tf.equal(count % 2, 0), update, lambda: None)
    return loss


def by_shares(step, x, y):
    """Divides the batch, and the sum of the gradients of its shares."""
    variables, sums, losses = step.net.trainable_variables, None, []
    for at in range(2):
        with tf.GradientTape() as tape:
            part = slice(at * BATCH // 2, (at + 1) * BATCH // 2)
            losses.append(cross_entropy(y[part], step.net(x[part], training=True)))
        gradients = tape.gradient(losses[-1], variables)
        sums = gradients if sums is None else [a + b for a, b in zip(sums, gradients, strict=True)]
    divisor = step.others.get("divisor", 2.0)
    step.optimizers[0].apply([total / divisor for total in sums], variables)
    return tf.add_n(losses) / 2.0


def by_parts_of_the_mean(step, x, y):
    """Divides the batch, and each part's sum by the size of the batch."""
    variables, sums, total = step.net.trainable_variables, None, 0.0
    for at in range(2):
        with tf.GradientTape() as tape:
            part = slice(at * BATCH // 2, (at + 1) * BATCH // 2)
            loss = cross_entropy(y[part], step.net(x[part], training=True)) / 2.0
        gradients, total = tape.gradient(loss, variables), total + loss
        sums = gradients if sums is None else [a + b for a, b in zip(sums, gradients, strict=True)]
    step.optimizers[0].apply(sums, variables)
    return total


def by_two_losses(step, x, y):
    """Adds the gradients of two losses on the whole batch."""
    variables = step.net.trainable_variables
    with tf.GradientTape(persistent=True) as tape:
        one = cross_entropy(y, step.net(x, training=True))
        other = cross_entropy(y, step.net(0.5 * x, training=True))
    both = [tape.gradient(loss, variables) for loss in (one, other)]
    step.optimizers[0].apply([a + b for a, b in zip(*both, strict=True)], variables)
    return one + other


def zeros_like(variables):
    return [keras.Variable(np.zeros(v.shape, "float32"), trainable=False) for v in variables]


def with_target(step, x, y):
    """A network whose weights a hook copies, read outside the tape."""
    target = step.others["copy"](x, training=False)
    variables = step.net.trainable_variables
    with tf.GradientTape() as tape:
        logits = step.net(x, training=True)
        loss = cross_entropy(y, logits) + tf.reduce_mean(tf.square(logits - target))
    step.optimizers[0].apply(tape.gradient(loss, variables), variables)
    return loss


def with_target_in_the_tape(step, x, y):
    variables = step.net.trainable_variables
    with tf.GradientTape() as tape:
        target, logits = step.others["copy"](x), step.net(x, training=True)
        loss = cross_entropy(y, logits) + tf.reduce_mean(tf.square(logits - target))
    step.optimizers[0].apply(tape.gradient(loss, variables), variables)
    return loss


def forgets_one_of_two(step, x, y):
    """Trains a network, and not the one before it."""
    variables = step.net.trainable_variables
    with tf.GradientTape() as tape:
        loss = cross_entropy(y, step.net(step.others["encoder"](x), training=True))
    step.optimizers[0].apply(tape.gradient(loss, variables), variables)
    return loss


def averages():
    return [keras.Variable(np.zeros(v.shape, "float32")) for v in Net().trainable_variables]


def teacher():
    return keras.Sequential([keras.Input((FEATURES,)), layers.Dense(CLASSES)])


def encoder():
    return keras.Sequential([keras.Input((FEATURES,)), layers.Dense(FEATURES, name="code")])


HEALTHY = {
    "with target": lambda: Loose(with_target, sgd(), copy=Net()),
    "with a teacher": lambda: Loose(with_target, sgd(), copy=teacher()),
    "with target in the tape": lambda: Loose(with_target_in_the_tape, sgd(), copy=Net()),
    "by copy": lambda: Loose(by_copy, sgd(), copy=Net()),
    "with average": lambda: Loose(with_average, adam(), averages=averages()),
    "by sums": lambda: Loose(
        by_sums,
        sgd(),
        sums=zeros_like(Net().trainable_variables),
        count=keras.Variable(0, dtype="int32", trainable=False),
    ),
    "by parts of the mean": lambda: Loose(by_parts_of_the_mean, sgd()),
    "by two losses": lambda: Loose(by_two_losses, sgd()),
    "by shares": lambda: Loose(by_shares, sgd()),
    "another optimizer for later": lambda: Loose(whole_of, adam(), sgd()),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_steps_with_tapes_are_left_alone(name):
    make = HEALTHY[name]

    assert codes_of(pg.check(make(), data(), batch_size=BATCH)) == []
    assert codes_of(findings_of_fit(make())) == []


def test_a_network_inside_the_tape_that_is_not_trained_is_found():
    make = lambda: Loose(forgets_one_of_two, sgd(), encoder=encoder())  # noqa: E731

    for findings in (pg.check(make(), data(), batch_size=BATCH), findings_of_fit(make())):
        (finding,) = findings
        assert finding.code == "PG110"
        assert finding.items == ("others/encoder/code/kernel", "others/encoder/code/bias")


def test_gradients_of_parts_of_a_batch_that_are_only_added_are_found():
    step = Loose(by_shares, sgd(), divisor=1.0)

    (finding,) = pg.check(step, data(), batch_size=BATCH)

    assert (finding.code, finding.severity) == ("PG129", "warning")
    assert f"2 parts of the batch ({BATCH // 2} + {BATCH // 2} rows)" in finding.happened


@pytest.mark.parametrize("optimizer", [adam, scaling], ids=["plain", "scaling"])
def test_an_optimizer_is_built_for_all_that_it_is_applied_to(optimizer):
    step = OwnTape(apart, [fresh(optimizer)])
    if optimizer is scaling:
        step.ignore_findings = ("PG411",)
    before = step.parts.net.get_weights()

    findings_of_fit(step)

    inner = getattr(step.parts.first, "inner_optimizer", step.parts.first)
    assert int(inner.iterations) == 2 * 2  # batches, and calls
    for old, new in zip(before, step.parts.net.get_weights(), strict=True):
        assert (old != new).any()


@pytest.mark.parametrize("execution", ["graph", "eager"])
def test_a_function_compiled_by_the_user_keeps_its_update(execution):
    step = Loose(None, sgd())
    outside = tf.function(whole_of)
    step.body = lambda *given: outside(*given)
    before = step.net.get_weights()

    pg.fit(step, data(), epochs=1, batch_size=BATCH, execution=execution, progress="off")
    outside(step, *data())

    assert int(step.optimizers[0].iterations) == 3
    assert any((old != new).any() for old, new in zip(before, step.net.get_weights(), strict=True))


def test_norms_of_raw_updates_are_those_of_minimize():
    class Asked(pg.Step):
        def __init__(self, net, optimizer):
            self.net, self.optimizer = net, optimizer

        def train_step(self, batch):
            x, y = batch
            objective = lambda: cross_entropy(y, self.net(x, training=True))  # noqa: E731
            return {"loss": self.minimize(objective, self.optimizer, self.net)}

    given = {"epochs": 1, "batch_size": BATCH, "shuffle": False, "progress": "off"}
    raw = Loose(whole_of, adam())
    asked = Asked(Net(), adam())
    asked.net.set_weights(raw.net.get_weights())

    shown = [pg.fit(step, data(), callbacks=[Norms()], **given).history for step in (raw, asked)]

    assert shown[0]["gradient_norm"][0] > 0
    for name in ("loss", "learning_rate", "gradient_norm", "update_norm"):
        np.testing.assert_allclose(shown[0][name], shown[1][name], rtol=1e-5)


def test_norms_of_scaled_gradients_are_refused():
    step = OwnTape(scaled, [fresh(scaling)])

    with pytest.raises(pg.PerigeeError, match="the only ones that are seen"):
        pg.fit(step, data(), batch_size=BATCH, callbacks=[Norms()], progress="off")


def test_a_tape_leaves_averaged_weights_to_its_user():
    averaging = keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5)
    step = Loose(whole_of, averaging)
    plain = Loose(whole_of, sgd())
    plain.net.set_weights(step.net.get_weights())

    for each in (step, plain):
        pg.fit(each, data(), epochs=1, batch_size=BATCH, shuffle=False, progress="off")

    for ours, theirs in zip(step.net.get_weights(), plain.net.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


@pytest.mark.parametrize(
    ("given", "code"), [({"accumulate": 2}, "PG209"), ({"nonfinite": "skip"}, "PG601")]
)
def test_what_needs_minimize_says_how_a_tape_becomes_it(given, code):
    with pytest.raises(pg.PerigeeError) as raised:
        pg.fit(Loose(whole_of, adam()), data(), batch_size=BATCH, progress="off", **given)

    assert raised.value.code == code
    assert "def objective(): return loss_fn(y, self.model(x, training=True))" in raised.value.fix
    assert "loss = self.minimize(objective, self.optimizer, self.model)" in raised.value.fix


@pytest.mark.parametrize("name", ["subset", "filtered", "exchanged", "apart", "shared"])
def test_what_is_meant_is_left_alone(name):
    body, optimizers, codes, _ = PROGRAMS[name]
    step = OwnTape(body, optimizers)
    step.ignore_findings = tuple(codes)

    assert codes_of(pg.check(step, data(), batch_size=BATCH)) == []
    assert codes_of(findings_of_fit(step)) == []
