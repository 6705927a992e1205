"""Checkpoints: the state of a run on the disk, written atomically, without executable content."""

from perigee.checkpoints.content import Content as Content
from perigee.checkpoints.directory import Checkpoints as Checkpoints
from perigee.checkpoints.directory import Loaded as Loaded
from perigee.checkpoints.lock import RunLock as RunLock
from perigee.checkpoints.randomness import random_state as random_state
from perigee.checkpoints.randomness import set_random_state as set_random_state
from perigee.checkpoints.state import Unlike as Unlike
from perigee.checkpoints.state import arrays_of as arrays_of
from perigee.checkpoints.state import load_arrays as load_arrays
