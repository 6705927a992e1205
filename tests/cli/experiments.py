"""Files that the command line is tried with, right ones and wrong ones."""

RIGHT = """
import keras, numpy as np, perigee as pg
from keras import ops

class Line(pg.Step):
    def __init__(self, slope=2.0, name="line", wide=False, sizes=(1,)):
        self.model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        self.optimizer = keras.optimizers.SGD(0.05)
        self.slope, self.name = slope, name

    def train_step(self, batch):
        loss = self.minimize(lambda: self.errors(batch), self.optimizer, self.model)
        return {"loss": loss}

    def test_step(self, batch):
        return {"loss": self.errors(batch)}

    def errors(self, batch):
        return ops.square(self.model(batch) - self.slope * batch[:, :1])[:, 0]

def make(slope: float = 2.0, name="line", wide=False, sizes=(1,)):
    return Line(slope, name, wide, sizes)

def load(rows=32):
    print("loading", rows)
    return np.random.default_rng(0).normal(size=(rows, 2)).astype("float32")

def others():
    return np.random.default_rng(1).normal(size=(16, 2)).astype("float32")

experiment = pg.Experiment(
    step=make, data=load, validation=others, fit={"epochs": 2, "batch_size": 8, "seed": 3}
)
"""

_HEAD = "import numpy as np, perigee as pg\nfrom right import make, load\n"

WRONG = {
    "empty.py": "",
    "syntax.py": "def make(:\n    pass\n",
    "bytes.py": "\0",
    "raises.py": "raise RuntimeError('of the file')\n",
    "leaves.py": "import sys\nsys.exit(3)\n",
    "missing.py": "import a_package_that_is_not_there\n",
    "several.py": _HEAD + "a = pg.Experiment(make, load)\nb = pg.Experiment(make, load)\n",
    "no_step.py": _HEAD + "experiment = pg.Experiment(make(), load)\n",
    "no_argument.py": _HEAD + "experiment = pg.Experiment(make, load, fit={'epoch': 2})\n",
    "no_default.py": _HEAD + "experiment = pg.Experiment(lambda width: make(), load)\n",
    "no_made.py": _HEAD + "experiment = pg.Experiment(lambda: 3, load)\n",
    "no_validation.py": _HEAD + "experiment = pg.Experiment(make, load)\n",
    "no_data.py": _HEAD + "experiment = pg.Experiment(make, lambda: None)\n",
    "plain_data.py": _HEAD + "experiment = pg.Experiment(make, load())\n",
    "bad_step.py": _HEAD
    + "class Bad(pg.Step):\n"
    + "    def train_step(self, batch):\n"
    + "        raise ZeroDivisionError('of the step')\n"
    + "experiment = pg.Experiment(Bad, load)\n",
    "no_dict.py": _HEAD
    + "class NoDict(pg.Step):\n"
    + "    def train_step(self, batch):\n"
    + "        return 1.0\n"
    + "experiment = pg.Experiment(NoDict, load)\n",
    "bad_data.py": _HEAD
    + "def rows():\n"
    + "    raise OSError('the disk is away')\n"
    + "experiment = pg.Experiment(make, rows)\n",
    "script.py": _HEAD + "if __name__ == '__main__':\n    pg.fit(make(), load())\n",
}


def write(folder):
    """Write all of them into a folder."""
    (folder / "right.py").write_text(RIGHT)
    for name, text in WRONG.items():
        (folder / name).write_text(text)
