"""Tools for setting up a training: a profile, a learning rate range test, norms and histograms."""

from perigee.tools._profile import Profile as Profile
from perigee.tools._profile import Profiled as Profiled
from perigee.tools._rates import RateRange as RateRange
from perigee.tools._rates import learning_rate_range as learning_rate_range
from perigee.tools._watching import Histograms as Histograms
from perigee.tools._watching import Norms as Norms

__all__ = ["Histograms", "Norms", "Profile", "Profiled", "RateRange", "learning_rate_range"]
