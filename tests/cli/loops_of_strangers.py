"""Training scripts with loops of their own, as people write them; `# HERE` marks the step."""

HEAD = """\
import functools
import time
import keras
import numpy as np
import tensorflow as tf

x = np.random.default_rng(0).normal(size=(64, 5)).astype("float32")
y = x[:, :1]
model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4), keras.layers.Dense(1)])
optimizer = keras.optimizers.SGD(0.1)
loss_fn = keras.losses.MeanSquaredError()
metric = keras.metrics.Mean()
batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(16)
first, before = model, [weight.numpy() for weight in model.weights]

def gradients_of(x, y, model=model):
    with tf.GradientTape() as tape:
        loss = loss_fn(y, model(x, training=True))
    return loss, tape.gradient(loss, model.trainable_variables)

"""

STEP = """\
def train_step(xb, yb):
    loss, gradients = gradients_of(xb, yb)
    optimizer.apply_gradients(zip(gradients, model.trainable_variables))
"""

FOUND = {
    "the tutorial's": (
        "train_step(x, y)",
        [(16, 5), (16, 1)],
        """
@tf.function
def train_step(x, y):  # HERE
    with tf.GradientTape() as tape:
        loss = loss_fn(y, model(x, training=True))
    gradients = tape.gradient(loss, model.trainable_variables)
    optimizer.apply_gradients(zip(gradients, model.trainable_variables))
    metric.update_state(loss)
    return loss

for epoch in range(2):
    metric.reset_state()
    for x_batch, y_batch in batches:
        train_step(x_batch, y_batch)
""",
    ),
    "no tf.function, and everything is an argument": (
        "train(inputs, labels)",
        [(16, 5), (16, 1)],
        """
def train(model, inputs, labels, loss_fn, optimizer, loss_weights):  # HERE
    with tf.GradientTape() as tape:
        loss = loss_weights[0] * loss_fn(labels, model(inputs))
    gradients = tape.gradient(loss, model.trainable_variables)
    optimizer.apply(gradients, model.trainable_variables)
    return loss

for epoch in range(3):
    for i in range(0, 64, 16):
        loss = train(model, x[i:i + 16], y[i:i + 16], loss_fn, optimizer, [0.5, 0.5])
""",
    ),
    "a method of a trainer, whose method fit has the arrays": (
        "train_on(xb, yb)",
        [(16, 5), (16, 1)],
        """
class Trainer:
    def __init__(self, model, optimizer):
        self.model, self.optimizer = model, optimizer

    @tf.function
    def train_on(self, xb, yb):  # HERE
        loss, gradients = gradients_of(xb, yb, self.model)
        self.optimizer.apply(gradients, self.model.trainable_variables)
        return loss

    def fit(self, x, y, epochs):
        for epoch in range(epochs):
            for start in range(0, len(x), 16):
                self.train_on(x[start:start + 16], y[start:start + 16])

def main(x, y):
    Trainer(model, optimizer).fit(x, y, epochs=2)

if __name__ == "__main__":
    main(x, y)
""",
    ),
    "a method that Python runs, and that changes what it was given": (
        "step(batch)",
        [((16, 5), (16, 1))],
        """
class Trainer:
    def apply(self, gradients):
        optimizer.apply_gradients(zip(gradients, model.trainable_variables))

    def step(self, batch, *, scale=2.0):  # HERE
        batch = tf.nest.map_structure(lambda each: each / scale, batch)
        loss, gradients = gradients_of(*batch)
        self.apply([tf.clip_by_norm(g, 1.0) for g in gradients])
        return loss

trainer = Trainer()
losses = [trainer.step((xb, yb)) for xb, yb in batches]
""",
    ),
    "a signature": (
        "step(x, y)",
        [(16, 5), (16, 1)],
        """
def make_step(model, optimizer):
    @tf.function(input_signature=[tf.TensorSpec([None, 5]), tf.TensorSpec([None, 1])])
    def step(x, y):  # HERE
        loss, gradients = gradients_of(x, y, model)
        optimizer.apply(gradients, model.trainable_variables)
        return loss
    return step

others = make_step(keras.Sequential([keras.layers.Dense(1)]), keras.optimizers.Adam())
step = make_step(model, optimizer)
for xb, yb in batches:
    step(xb, yb)
""",
    ),
    "a strategy, with the loop over batches inside a tf.function of an iterator": (
        "step_fn(xb, yb)",
        [(16, 5), (16, 1)],
        """
strategy = tf.distribute.MirroredStrategy(["CPU:0"])

@tf.function
def train_multiple_steps(iterator, steps):
    def step_fn(inputs):
        xb, yb = inputs
        loss, gradients = gradients_of(xb, yb)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables))
    for _ in tf.range(steps):
        strategy.run(step_fn, args=(next(iterator),))

iterator = iter(strategy.experimental_distribute_dataset(batches))
for epoch in range(2):
    train_multiple_steps(iterator, tf.constant(4))
""".replace(
            "def step_fn(inputs):\n        xb, yb = inputs\n", "def step_fn(xb, yb):  # HERE\n"
        ).replace("(next(iterator),)", "next(iterator)"),
    ),
    "strategy.run in Python, of a function that changes what it was given": (
        "replica_step(inputs)",
        [((16, 5), (16, 1))],
        """
strategy = tf.distribute.OneDeviceStrategy("CPU:0")

def replica_step(inputs):  # HERE
    xb, inputs = inputs
    loss, gradients = gradients_of(xb, inputs)
    optimizer.apply_gradients(zip(gradients, model.trainable_variables))
    return loss

def distributed_step(inputs):
    per_replica = strategy.run(replica_step, args=(inputs,))
    return strategy.reduce("SUM", per_replica, axis=None)

for batch in strategy.experimental_distribute_dataset(batches):
    distributed_step(batch)
""",
    ),
    "a partial of a function, called through a function of the epoch": (
        "update(x, y)",
        [(16, 5), (16, 1)],
        """
def update(model, optimizer, x, y, rate):  # HERE
    x, rate = x[:, :5], rate / 2
    loss, gradients = gradients_of(x, y, model)
    optimizer.apply_gradients(zip([rate * g for g in gradients], model.trainable_variables))
    return float(loss)

step = functools.partial(update, model, optimizer, rate=tf.constant(0.5))

def train_epoch(dataset):
    return np.mean([step(xb, yb) for xb, yb in dataset])

for epoch in range(2):
    print(epoch, train_epoch(batches))
""",
    ),
    "a decorator that measures, with wraps": (
        "train_step(x, y)",
        [(16, 5), (16, 1)],
        """
def timed(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        begin = time.time()
        result = function(*args, **kwargs)
        return result, time.time() - begin
    return wrapper

@timed
@tf.function
def train_step(x, y):  # HERE
    loss, gradients = gradients_of(x, y)
    optimizer.apply_gradients(zip(gradients, model.trainable_variables))
    return loss

for xb, yb in batches:
    loss, seconds = train_step(xb, y=yb)
""",
    ),
    "a decorator without wraps": (
        "train_step(x, y)",
        [(16, 5), (16, 1)],
        """
def logged(function):
    def wrapper(*args):
        print("step")
        return function(*args)
    return wrapper

@tf.function
@logged
def train_step(x, y):  # HERE
    loss, gradients = gradients_of(x, y)
    optimizer.apply_gradients(zip(gradients, model.trainable_variables))
    return loss

for batch in batches:
    train_step(*batch)
""",
    ),
    "a GAN: several updates of a critic, each in a function, in each step": (
        "train_step(real)",
        [(16, 5)],
        """
critic = keras.Sequential([keras.Input((5,)), keras.layers.Dense(1)])
generator = keras.Sequential([keras.Input((2,)), keras.layers.Dense(5)])
of_critic, of_generator = keras.optimizers.Adam(), keras.optimizers.Adam()

@tf.function
def critic_step(real):
    noise = tf.random.normal((tf.shape(real)[0], 2))
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(critic(generator(noise))) - tf.reduce_mean(critic(real))
    gradients = tape.gradient(loss, critic.trainable_variables)
    of_critic.apply(gradients, critic.trainable_variables)

def train_step(real):  # HERE
    for _ in range(3):
        critic_step(real)
    with tf.GradientTape() as tape:
        loss = -tf.reduce_mean(critic(generator(tf.random.normal((16, 2)))))
    gradients = tape.gradient(loss, generator.trainable_variables)
    of_generator.apply(gradients, generator.trainable_variables)

for epoch in range(2):
    for real, _ in batches:
        train_step(real)
""",
    ),
    "a step with the loop of the critic in it": (
        "train_step(real)",
        [(16, 5)],
        """
def train_step(real):  # HERE
    for _ in range(3):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(model(real))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables))

step = 0
while step < 4:
    train_step(x[:16])
    step += 1
""",
    ),
    "folds": (
        "step(xb, yb)",
        [(8, 5), (8, 1)],
        """
def train(x, y, epochs=2):
    for epoch in range(epochs):
        for i in range(0, len(x), 8):
            step(x[i:i + 8], y[i:i + 8])

def step(xb, yb):  # HERE
    loss, gradients = gradients_of(xb, yb)
    optimizer.apply_gradients(zip(gradients, model.trainable_variables))

for fold in np.array_split(np.arange(64), 4):
    train(x[fold], y[fold])
""",
    ),
    "a lambda, mixed precision, and a dict": (
        "<lambda>(batch)",
        [{"x": (16, 5), "y": (16, 1)}],
        """
scaled = keras.optimizers.LossScaleOptimizer(optimizer)

def train(model, batch):
    with tf.GradientTape() as tape:
        loss = scaled.scale_loss(loss_fn(batch["y"], model(batch["x"])))
    gradients = tape.gradient(loss, model.trainable_variables)
    scaled.apply_gradients(zip(gradients, model.trainable_variables))

step = lambda batch: train(model, batch)  # HERE
for xb, yb in batches:
    step({"x": xb, "y": yb})
""",
    ),
    "a subclassed model, which its first batch builds in the graph": (
        "step(data)",
        [((16, 5), (16, 1))],
        """
class Net(keras.Model):
    def __init__(self):
        super().__init__()
        self.inner = keras.layers.Dense(3, activation="relu")
        self.outer = keras.layers.Dense(1)

    def call(self, inputs):
        return self.outer(self.inner(inputs))

    @tf.function
    def step(self, data):  # HERE
        x, y = data
        loss, gradients = gradients_of(x, y, self)
        optimizer.apply_gradients(zip(gradients, self.trainable_variables))
        return {"loss": loss}

model = Net()
for data in batches:
    model.step(data)
""",
    ),
}
FOUND |= {
    "an argument that is left out": (
        "step(data)",
        [((16, 5), (16, 1))],
        """
@tf.function
def step(data, sample_weight=None):  # HERE
    loss, gradients = gradients_of(*data)
    optimizer.apply_gradients(zip(gradients, model.trainable_variables))

for data in batches:
    step(data)
""",
    ),
    "a step of any number of tensors": (
        "step(batch)",
        [(16, 5), (16, 1)],
        """
@tf.function
def step(*batch, training=True):  # HERE
    loss, gradients = gradients_of(*batch)
    optimizer.apply_gradients(zip(gradients, model.trainable_variables))

for batch in batches:
    step(*batch)
""",
    ),
    "two iterators, and other names for what they give": (
        "step(inputs, labels)",
        [(16, 5), (16, 1)],
        """
def step(inputs, labels, rate=0.5, weights=None):  # HERE
    if weights is None:
        weights = 1.0
    inputs = inputs + 0.0
    loss, gradients = gradients_of(inputs, labels)
    optimizer.apply_gradients(zip(gradients, model.trainable_variables))

inputs = iter(batches.map(lambda x, y: x))
labels = iter(batches.map(lambda x, y: y))
for _ in range(4):
    step(next(inputs), labels=next(labels))
""",
    ),
}

REFUSED = {
    "the body is inline": (
        "HERE updates the model in the body of the loop of line {loop}",
        """
for epoch in range(2):
    for xb, yb in batches:  # LOOP
        with tf.GradientTape() as tape:
            loss = loss_fn(yb, model(xb))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables))  # HERE
""",
    ),
    "inline, in a function of the arrays": (
        "HERE updates the model in the body of the loop of line {loop}",
        """
def train(x, y):
    for i in range(0, 64, 16):  # LOOP
        loss, gradients = gradients_of(x[i:i + 16], y[i:i + 16])
        optimizer.apply(gradients, model.trainable_variables)  # HERE

train(x, y)
""",
    ),
    "only the update is a function": (
        "HERE updates the model",
        """
def apply(tape, losses):
    gradients = tape.gradient(losses, model.trainable_variables)
    apply_all(gradients, model.trainable_variables)

def apply_all(gradients, variables):
    optimizer.apply_gradients(zip(gradients, variables))  # HERE

for xb, yb in batches:
    with tf.GradientTape() as tape:
        losses = keras.losses.mean_squared_error(yb, model(xb))
    apply(tape, losses)
""",
    ),
    "a data set inside a tf.function": (
        "HERE updates the model in the body of the loop of line {loop}",
        """
@tf.function
def train_epoch(dataset):
    for xb, yb in dataset:  # LOOP
        loss, gradients = gradients_of(xb, yb)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables))  # HERE

for epoch in range(2):
    train_epoch(batches)
""",
    ),
    "changed by a function that no code of the user's calls": (
        "gives the argument `xb` of `step` another value",
        """
def step(xb, yb):
    xb = xb * 2  # HERE
    loss, gradients = gradients_of(xb, yb)
    optimizer.apply_gradients(zip(gradients, model.trainable_variables))

list(map(lambda batch: step(*batch), []))
for _ in map(step, [x[:16]], [y[:16]]):
    pass
""",
    ),
}
