"""One of several processes that train together: `python -m tests.distribution.worker PLAN.json`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path


def main(plan: dict) -> None:
    """Train as the plan says, and write what came of it.

    Args:
        plan: `index` of this process, `ports` of all, `folder` for files, `epochs`, whether to
            keep a `run`, `steps_a_call`, and a `shift` of the data to plant a difference.
    """
    cluster = {"worker": [f"127.0.0.1:{port}" for port in plan["ports"]]}
    task = {"type": "worker", "index": plan["index"]}
    if len(plan["ports"]) > 1:
        os.environ["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": task})
    import tensorflow as tf

    # It must be made before TensorFlow has done anything.
    strategy = (
        tf.distribute.MultiWorkerMirroredStrategy()
        if len(plan["ports"]) > 1
        else tf.distribute.get_strategy()
    )
    import keras
    import numpy as np

    import perigee as pg
    from perigee import _state
    from tests.backends.problems._problem import clusters, dense_model
    from tests.backends.problems.predicting import Classifier

    class Announcing(pg.Hook):
        every = pg.Every(steps=1) if plan["announces"] else None

        def on_steps(self, event) -> None:
            if plan["announces"]:
                print(f"step {event.clock.step}", flush=True)

    keras.utils.set_random_seed(7)
    with strategy.scope():
        step = Classifier(dense_model(4, 6, 3, name="classes"), keras.optimizers.Adam(0.01))
    x, y = clusters(22)
    folder = Path(plan["folder"])
    run = pg.Run(folder / "run", save_every=pg.Every(steps=3)) if plan["keeps_run"] else None
    history = pg.fit(
        step,
        (x + plan["shift"], y),
        batch_size=7,
        epochs=plan["epochs"],
        validation=clusters(9),
        seed=7,
        run=run,
        callbacks=[Announcing()],
        progress="off",
        execution=pg.Execution("graph", plan["steps_a_call"]),
    )
    entries = [e for e in _state.track(step).entries if e.kind not in ("metric", "seed")]
    values = _state.snapshot([entry.variable for entry in entries])
    np.savez(
        folder / f"{plan['name']}.npz",
        **{f"history/{name}": np.array(series) for name, series in history.history.items()},
        **{f"value/{entry.key}": value for entry, value in zip(entries, values, strict=True)},
    )


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
