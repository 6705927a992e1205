"""The experiment: `perigee fit experiment.py`."""

from data import load_train, load_valid
from step import make_step

import perigee as pg

experiment = pg.Experiment(
    step=make_step,
    data=load_train,
    validation=load_valid,
    fit={
        "epochs": 20,
        "batch_size": 32,
        "seed": 7,
        "run": pg.Run("runs/first", best="val_loss"),
    },
)
