"""The table of problems that every framework must solve alike."""

from tests.backends.problems import predicting, updating
from tests.backends.problems._problem import BATCH as BATCH
from tests.backends.problems._problem import Problem as Problem
from tests.backends.problems._problem import Tolerance as Tolerance

PROBLEMS: dict[str, Problem] = {
    problem.name: problem for problem in (*predicting.PROBLEMS, *updating.PROBLEMS)
}
