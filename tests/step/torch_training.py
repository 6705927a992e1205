"""A training of one of the programs, to be killed and started again by the same command."""

import os
import signal

import perigee as pg
from tests.step.torch_programs import BATCH, MOST_STEPS, data, made


class Dying(pg.Hook):
    """Kills its process after a step."""

    def __init__(self, step):
        self.every = pg.Every(steps=step)

    def on_steps(self, event):
        os.kill(os.getpid(), signal.SIGKILL)


def train(name, directory, kill_at):
    run = pg.Run(directory, save_every=pg.Every(steps=1))
    pg.fit(
        made(name),
        data(),
        steps=MOST_STEPS,
        batch_size=BATCH,
        validation=data(),
        run=run,
        callbacks=[] if kill_at is None else [Dying(kill_at)],
        progress="off",
        seed=7,
    )
