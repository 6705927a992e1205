"""What is left above the floor: the dense step in a graph loop on TensorFlow, with one thing more.

Each line is a loop of its own over a model of its own. Those of the first group add one thing to
the line before, up to what Perigee does in a step, and then Perigee itself. Those of the second
group are the floor with another optimizer (none; one kernel a variable; one for all variables at
once), and the floor compiled by XLA: they say what the many small operations of a step cost.

    python -m benchmarks.above_the_floor
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from benchmarks import options
from benchmarks.facts import facts, write
from benchmarks.timing import in_turn

BATCH_SIZES = (32, 256)


def parser() -> argparse.ArgumentParser:
    made = options.parser(__doc__)
    made.add_argument("--rounds", type=int, default=9)
    return made


def main() -> None:
    chosen = options.parse(parser())
    if chosen.backend != "tensorflow":
        raise SystemExit("This is about TensorFlow's graphs.")
    result = measure(chosen)
    for run in result["runs"]:
        print(f"{run['batch_size']}, {run['name']}: {sorted(run['microseconds'])}")
    write(result, "above_the_floor-tensorflow", chosen.out)


def measure(chosen: argparse.Namespace) -> dict[str, Any]:
    """Run every loop in turn, and return what the report needs of it."""
    import keras
    import tensorflow as tf

    from benchmarks.contestants import steps_an_epoch
    from benchmarks.workloads.classification import Dense

    tf.get_logger().setLevel("ERROR")  # it would warn of traces, one for each of these objects
    keras.utils.set_random_seed(0)
    rounds = 2 if chosen.quick else chosen.rounds
    runs: dict[tuple[str, str, int], Callable[[], object]] = {}
    steps = {}
    for batch_size in BATCH_SIZES:
        workload = Dense()
        # Whole batches only, so that all loops make the same steps.
        workload.rows = (4 if chosen.quick else workload.rows // batch_size) * batch_size
        steps[batch_size] = steps_an_epoch(workload.rows, batch_size)
        for group, loops in _loops(workload, batch_size).items():
            for name, run in loops.items():
                runs[group, name, batch_size] = run
    in_turn(runs, 1 if chosen.quick else 3)  # warm
    seconds = in_turn(runs, rounds)
    return {
        "kind": "above_the_floor",
        **facts(chosen.backend),
        "rounds": rounds,
        "steps": {str(size): count for size, count in steps.items()},
        "runs": [
            {
                "group": group,
                "name": name,
                "batch_size": size,
                "microseconds": [
                    round(value / steps[size] * 1e6, 2) for value in seconds[group, name, size]
                ],
            }
            for group, name, size in runs
        ],
    }


def _loops(workload: Any, batch_size: int) -> dict[str, dict[str, Callable[[], object]]]:
    import perigee as pg

    def added(**things: bool) -> Callable[[], object]:
        return _Loop(workload, batch_size, **things).run

    step, data = workload.step(), workload.data()
    return {
        "added": {
            "floor: one fixed batch, Keras's Adam": added(),
            "+ batches gathered from resident arrays by a permutation": added(gathers=True),
            "+ the loss of each step stacked": added(gathers=True, stacks=True),
            "+ the accuracy updated": added(gathers=True, stacks=True, measures=True),
            "+ a new permutation, and all read by the host": added(
                gathers=True, stacks=True, measures=True, reads=True
            ),
            "Perigee, arrays": lambda: pg.fit(step, data, batch_size=batch_size, progress="off"),
        },
        "optimizer": {
            "gradients only, no optimizer": _Optimized(workload, batch_size, "none").run,
            "one fused kernel a variable": _Optimized(workload, batch_size, "kernel").run,
            "all variables as one vector": _Optimized(workload, batch_size, "vector").run,
            "Keras's Adam, the loop compiled by XLA": _Loop(
                workload, batch_size, is_compiled=True
            ).run,
        },
    }


class _Loop:
    """The step in a graph loop.

    Args:
        workload: The dense one.
        batch_size: Rows a batch.
        gathers: Whether each step has a batch of its own.
        stacks: Whether the loss of each step is kept.
        measures: Whether the metric is updated.
        reads: Whether the host draws a permutation, resets the metric and reads everything.
        is_compiled: Whether XLA compiles the loop.
    """

    def __init__(
        self,
        workload: Any,
        batch_size: int,
        *,
        gathers: bool = False,
        stacks: bool = False,
        measures: bool = False,
        reads: bool = False,
        is_compiled: bool = False,
    ) -> None:
        import numpy as np
        import tensorflow as tf

        self.workload, self.batch_size = workload, batch_size
        self.gathers, self.stacks, self.measures, self.reads = gathers, stacks, measures, reads
        self.count = workload.rows // batch_size
        self.by_hand = workload.tensorflow_step()
        self.arrays = tuple(tf.constant(array) for array in workload.data())
        self.order = np.random.permutation(workload.rows).astype("int32")
        self.function = tf.function(self.loop, jit_compile=is_compiled)

    def run(self) -> object:
        import numpy as np
        import tensorflow as tf

        metric = self.by_hand.metrics[1]
        if self.reads:
            self.order = np.random.permutation(self.workload.rows).astype("int32")
            metric.reset_state()
        losses = self.function(self.arrays, tf.constant(self.order), tf.constant(self.count))
        return (losses.numpy(), float(metric.result())) if self.reads else losses

    def loop(self, arrays: Any, order: Any, count: Any) -> Any:
        import tensorflow as tf

        fixed = tuple(array[: self.batch_size] for array in arrays)
        size = self.batch_size

        def body(i: Any, losses: Any) -> tuple[Any, Any]:
            batch = fixed
            if self.gathers:
                rows = order[i * size : (i + 1) * size]
                batch = tuple(tf.gather(array, rows) for array in arrays)
            loss, arguments = self.update(batch)
            if self.measures:
                self.by_hand.metrics[1].update_state(*arguments)
            return i + 1, losses.write(i, loss) if self.stacks else losses

        room = tf.TensorArray(tf.float32, count if self.stacks else 0, element_shape=())
        _, losses = tf.while_loop(lambda i, _: i < count, body, [0, room], parallel_iterations=1)
        return losses.stack() if self.stacks else tf.constant(0.0)

    def update(self, batch: Any) -> tuple[Any, tuple[Any, ...]]:
        """Take one step; return the loss and the arguments of the metric."""
        values = self.by_hand.update(batch)
        return values[0][0][0], values[0][1]


class _Optimized(_Loop):
    """The floor with another way to apply Adam's update.

    Args:
        workload: The dense one.
        batch_size: Rows a batch.
        kind: `"none"`, `"kernel"` or `"vector"`.
    """

    def __init__(self, workload: Any, batch_size: int, kind: str) -> None:
        import tensorflow as tf

        super().__init__(workload, batch_size)
        self.kind = kind
        self.variables = [v.value for v in self.by_hand.model.trainable_variables]
        self.slots = [
            (tf.Variable(tf.zeros(v.shape)), tf.Variable(tf.zeros(v.shape))) for v in self.variables
        ]
        total = sum(v.shape.num_elements() for v in self.variables)
        self.vectors = [tf.Variable(tf.zeros(total)) for _ in range(3)]
        self.powers = [tf.Variable(0.9), tf.Variable(0.999)]

    def update(self, batch: Any) -> tuple[Any, tuple[Any, ...]]:
        import tensorflow as tf

        with tf.GradientTape() as tape:
            logits = self.by_hand.model(batch[0], training=True)
            loss = self.workload.loss(batch[1], logits)
        gradients = tape.gradient(loss, self.variables)
        if self.kind == "none":
            # Something must ask for every gradient, or the graph leaves it out.
            self.powers[0].assign(tf.add_n([_flat(gradient)[0] for gradient in gradients]))
            return loss, ()
        one, two = self.powers
        if self.kind == "kernel":
            for variable, gradient, (m, v) in zip(
                self.variables, gradients, self.slots, strict=True
            ):
                self._apply(variable, m, v, gradient)
        else:
            weights, m, v = self.vectors
            self._apply(weights, m, v, tf.concat([_flat(g) for g in gradients], 0))
            sizes = [variable.shape.num_elements() for variable in self.variables]
            for variable, part in zip(self.variables, tf.split(weights, sizes), strict=True):
                variable.assign(tf.reshape(part, variable.shape))
        one.assign(one * 0.9)
        two.assign(two * 0.999)
        return loss, ()

    def _apply(self, variable: Any, m: Any, v: Any, gradient: Any) -> None:
        import tensorflow as tf

        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=m.handle,
            v=v.handle,
            beta1_power=self.powers[0],
            beta2_power=self.powers[1],
            lr=1e-3,
            beta1=0.9,
            beta2=0.999,
            epsilon=1e-7,
            grad=gradient,
        )


def _flat(tensor: Any) -> Any:
    import tensorflow as tf

    return tf.reshape(tensor, [-1])


if __name__ == "__main__":
    main()
