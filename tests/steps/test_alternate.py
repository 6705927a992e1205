"""`alternate` trains phases in turn as a hand-written loop does, in blocks and after a resume."""

import re
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

import perigee as pg
from perigee import _errors as errors
from perigee._step.state import INTERNALS, restore, snapshot, track
from perigee.testing import verify_resume

EXECUTION = "graph" if keras.backend.backend() == "jax" else "eager"
"""Where compiling makes no difference to what is asked, the faster one."""

BATCH, NOISE, CRITIC, GENERATOR = 8, 3, 5, 1
CYCLE = CRITIC + GENERATOR
STEPS = 20  # not whole cycles
ROWS = BATCH * 7 + 3  # the last batch of each pass has 3 rows


def network(inputs, outputs, name):
    hidden = keras.layers.Dense(6, activation="tanh")
    return keras.Sequential(
        [keras.Input((inputs,)), hidden, keras.layers.Dense(outputs)], name=name
    )


class Phases(pg.Step):
    """The two phases of a Wasserstein GAN with a gradient penalty."""

    def __init__(self):
        keras.utils.set_random_seed(3)
        self.generator, self.critic = network(NOISE, 2, "generator"), network(2, 1, "critic")
        self.generator_optimizer = keras.optimizers.Adam(2e-3, beta_1=0.0, beta_2=0.9)
        self.critic_optimizer = keras.optimizers.Adam(4e-3, beta_1=0.0, beta_2=0.9)
        self.slope = keras.metrics.Mean(name="slope")
        self.seed = keras.random.SeedGenerator(5)

    def noise_for(self, points):
        return keras.random.normal((ops.shape(points)[0], NOISE), seed=self.seed)

    def critic_step(self, points):
        drawn = self.generator(self.noise_for(points), training=True)
        mix = keras.random.uniform((ops.shape(points)[0], 1), seed=self.seed)
        between = mix * points + (1.0 - mix) * drawn

        def objective():
            gain = self.critic(drawn, training=True) - self.critic(points, training=True)
            gradient = self.gradients(lambda x: ops.sum(self.critic(x, training=True)), between)
            slopes = ops.sqrt(ops.sum(ops.square(gradient), axis=-1) + 1e-12)
            return gain[:, 0] + ops.square(slopes - 1.0), slopes

        loss, slopes = self.minimize(objective, self.critic_optimizer, self.critic)
        self.slope.update_state(slopes)
        return {"critic_loss": loss}

    def generator_step(self, points):
        noise = self.noise_for(points)

        def objective():
            return -self.critic(self.generator(noise, training=True), training=True)[:, 0]

        loss = self.minimize(objective, self.generator_optimizer, self.generator)
        return {"generator_loss": loss, "spread": ops.std(loss)}


class Alternating(Phases):
    train_step = pg.alternate(critic_step=CRITIC, generator_step=GENERATOR)


class Light(Phases):
    """Phases that compile soon."""

    train_step = pg.alternate(critic_step=2, generator_step=1)
    factor = 1.0

    def __init__(self):
        super().__init__()
        self.critic = network(2, 1, "critic")
        self.dropout = keras.layers.Dropout(0.3, seed=1)

    def critic_step(self, points):
        def objective():
            return (
                self.factor
                * ops.square(self.dropout(self.critic(points, training=True), training=True))[:, 0]
            )

        return {"critic_loss": self.minimize(objective, self.critic_optimizer, self.critic)}

    def generator_step(self, points):
        def objective():
            noise = self.noise_for(points)
            return self.factor * ops.square(self.generator(noise, training=True))[:, 0]

        loss = self.minimize(objective, self.generator_optimizer, self.generator)
        return {"generator_loss": loss, "spread": ops.std(loss)}


class OnlyCritic(Phases):
    train_step = Phases.critic_step


class OnlyGenerator(Phases):
    train_step = Phases.generator_step


def points():
    return np.random.default_rng(4).normal(size=(ROWS, 2)).astype("float32")


def batches(steps=STEPS):
    rows = points()
    passed = [rows[i : i + BATCH] for i in range(0, ROWS, BATCH)]
    return [passed[i % len(passed)] for i in range(steps)]


class Records(pg.Hook):
    def __init__(self):
        self.rows = []

    def on_record(self, event):
        if event.scope == "steps":
            self.rows.append(dict(event.values))


def weights(step, *, without=()):
    tracked = track(step)
    entries = [e for e in tracked.entries if not e.key.startswith(("perigee/", *without))]
    return {e.key: snapshot([e.variable])[0] for e in entries}


def fit(step, steps=STEPS, **options):
    arguments = {"batch_size": BATCH, "shuffle": False, "progress": "off", "seed": 0}
    return pg.fit(step, points(), steps=steps, **arguments, **options)


def by_hand(execution):
    """Return what a loop comes to that chooses in Python whose turn it is, and each step's logs."""
    critic, generator = OnlyCritic(), OnlyGenerator()
    for name, value in vars(critic).items():
        setattr(generator, name, value)
    logs = []
    for index, batch in enumerate(batches()):
        step = critic if index % CYCLE < CRITIC else generator
        history = pg.fit(step, [batch], progress="off", execution=execution)
        logs.append({name: values[0] for name, values in history.history.items()})
    return weights(critic), logs


def same(ours, theirs):
    assert ours.keys() == theirs.keys()
    return [key for key in ours if ours[key].tobytes() != theirs[key].tobytes()]


def furthest(ours, theirs):
    assert ours.keys() == theirs.keys()
    return max(np.max(np.abs(np.subtract(ours[key], theirs[key], dtype="float64"))) for key in ours)


@pytest.mark.spread(1)
@pytest.mark.filterwarnings("ignore:UncoveredVariables")
@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_it_trains_as_a_loop_that_chooses_by_hand(mode, tmp_path):
    if keras.backend.backend() == "torch" and mode == "graph":
        pytest.skip("torch runs op by op")
    if keras.backend.backend() == "jax" and mode == "eager":
        pytest.skip("JAX takes minutes op by op")
    execution = pg.Execution(mode, steps_per_call=1)
    step, records = Alternating(), Records()
    begin = weights(step)
    run = pg.Run(tmp_path / "run", record_every=pg.Every(steps=1))
    fit(step, execution=execution, run=run, callbacks=[records])
    ours, (theirs, logs) = weights(step, without=["train_step", "slope"]), by_hand(execution)
    theirs = {key: value for key, value in theirs.items() if not key.startswith("slope")}

    # A compiler rounds a phase among others another way than alone.
    if mode == "graph":
        assert furthest(ours, theirs) < 1e-6
    else:
        assert same(ours, theirs) == []
    kernels = [key for key in begin if key.endswith("kernel")]
    assert min(np.max(np.abs(ours[key] - begin[key])) for key in kernels) > 1e-3
    for index, (row, by_hand_row) in enumerate(zip(records.rows, logs, strict=True)):
        is_critic = index % CYCLE < CRITIC
        assert ("critic_loss" in row, "generator_loss" in row) == (is_critic, not is_critic)
        name = "critic_loss" if is_critic else "generator_loss"
        assert row[name] == pytest.approx(by_hand_row[name], rel=1e-6, abs=1e-7)


def test_blocks_of_any_size_give_the_same_bits():
    if keras.backend.backend() == "torch":
        pytest.skip("torch makes one call for each step")
    step, begin = Light(), None
    came_to = []
    for steps_per_call in (3, 2, 7, 64):
        execution = pg.Execution("graph", steps_per_call=steps_per_call)
        if begin is None:
            fit(step, steps=1, execution=execution)
            begin = track(step).variables, snapshot(track(step).variables)
        restore(*begin)
        history = fit(step, execution=execution)
        came_to.append((weights(step), history.history))

    for values, logs in came_to[1:]:
        assert same(values, came_to[0][0]) == []
        assert logs == came_to[0][1]


def test_it_goes_on_in_the_middle_of_a_cycle():
    arguments = {"batch_size": BATCH, "execution": EXECUTION}
    report = verify_resume(Light, points, steps=10, at=5, arguments=arguments)

    assert [key for key in report.variables if key.startswith("train_step/place")]


def test_a_mean_is_over_the_steps_of_its_phase():
    class Constant(pg.Step):
        train_step = pg.alternate(first=2, second=1)

        def first(self, batch):
            return {"loss": ops.mean(batch), "each": batch[:, 0], "own": pg.mean(batch, batch)}

        def second(self, batch):
            return {"loss": 10.0 * ops.mean(batch)}

    sizes, values = [2, 4, 2, 3, 1], [1.0, 2.0, 3.0, 4.0, 5.0]
    data = [np.full((n, 1), v, "float32") for n, v in zip(sizes, values, strict=True)]
    logs = pg.fit(Constant(), data, progress="off").history

    turns = [i for i in range(5) if i % 3 < 2]
    rows = sum(sizes[i] for i in turns)
    mean = sum(sizes[i] * values[i] for i in turns) / rows
    assert logs["first/loss"] == [pytest.approx(mean)]
    assert logs["each"] == [pytest.approx(mean)]
    weight = sum(sizes[i] * values[i] for i in turns)
    assert logs["own"] == [pytest.approx(sum(sizes[i] * values[i] ** 2 for i in turns) / weight)]
    assert logs["second/loss"] == [pytest.approx(10 * values[2])]


def test_nothing_is_compiled_again_when_the_phase_changes():
    step = Light()
    history = fit(step, steps=14, execution=pg.Execution(steps_per_call=1))
    [program] = _programs(step)

    assert program.traces <= 2  # full batches and the smaller last one
    assert [f for f in history.findings if f.code == "PG420"] == []


def _programs(step):
    return list(vars(step)[INTERNALS].programs.values())


def test_a_metric_holds_the_steps_of_its_phase_only():
    class Counting(Light):
        def critic_step(self, points):
            self.slope.update_state(points[:, 0])
            return super().critic_step(points)

    data = points()
    history = fit(Counting(), steps=8, execution=EXECUTION)

    turns = [i for i in range(8) if i % 3 < 2]
    rows = np.concatenate([data[i * BATCH : (i + 1) * BATCH, 0] for i in turns])
    assert history.history["slope"] == [pytest.approx(rows.mean(), rel=1e-5)]


def test_under_a_loss_scale_each_phase_counts_by_itself():
    class Scaled(Light):
        factor = 1e-2  # nothing overflows

        def __init__(self):
            keras.config.set_dtype_policy("mixed_float16")
            try:
                super().__init__()
            finally:
                keras.config.set_dtype_policy("float32")

    step = Scaled()
    fit(step, steps=6, execution=EXECUTION)

    own = vars(step)[INTERNALS]
    assert int(own.loss_scale.variables["loss_scale/good_steps"].value) == 6
    assert int(step.critic_optimizer.iterations.value) == 4
    assert int(step.generator_optimizer.iterations.value) == 2


def test_an_alternation_may_be_a_phase_of_another():
    class Nested(Light):
        adversarial = pg.alternate(critic_step=2, generator_step=1)
        train_step = pg.alternate(adversarial=3, rest=1)

        def rest(self, batch):
            return {"rest": ops.mean(batch)}

    step = Nested()
    history = fit(step, steps=7, execution=EXECUTION)

    assert set(history.history) >= {"critic_loss", "generator_loss", "rest"}
    assert int(step.critic_optimizer.iterations.value) == 4
    assert int(step.generator_optimizer.iterations.value) == 2


def test_called_by_hand_a_step_runs_the_phase_whose_turn_it_is():
    class Named(pg.Step):
        train_step = pg.alternate(first=2, second=1)

        def first(self, batch):
            return {"first": batch}

        def second(self, batch):
            return {"second": batch}

    step = Named()

    assert [list(step.train_step(ops.ones(()))) for _ in range(4)] == [
        ["first"],
        ["first"],
        ["second"],
        ["first"],
    ]


@pytest.mark.parametrize(
    "phases",
    [{}, {"one": 1}, {"one": 0, "two": 1}, {"one": 1.5, "two": 1}, {"one": True, "two": 1}],
)
def test_bad_phases_are_refused_where_they_are_written(phases):
    with pytest.raises(errors.ArgumentError):
        pg.alternate(**phases)


def test_a_phase_that_is_no_method_is_named():
    class Missing(Phases):
        train_step = pg.alternate(critic_step=1, discriminator_step=1)

    with pytest.raises(errors.MissingMethodError, match="discriminator_step"):
        fit(Missing())


def test_a_phase_that_returns_no_dict_is_named():
    class Silent(Phases):
        train_step = pg.alternate(critic_step=1, silent=1)

        def silent(self, batch):
            return 1.0

    with pytest.raises(errors.StepReturnError, match="`silent` returned a float"):
        fit(Silent())


def test_it_is_not_accumulated():
    with pytest.raises(errors.AccumulationError):
        fit(Light(), accumulate=2)


def test_it_is_set_in_the_class_only():
    with pytest.raises(AttributeError, match="alternates"):
        Alternating().train_step = None


def test_the_code_on_the_page_runs():
    path = Path(__file__).parents[2] / "docs" / "alternate.md"
    page = path.read_text(encoding="utf-8")
    [found] = re.finditer(r"```python\n(.*?)```", page, re.DOTALL)
    code = "\n" * page.count("\n", 0, found.start(1)) + found[1]  # TensorFlow reads it there

    exec(compile(code, str(path), "exec"), {"__name__": "page"})
