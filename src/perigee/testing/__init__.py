"""Checks for users' own tests of a Step."""

from perigee.testing._parity import ParityReport as ParityReport
from perigee.testing._parity import Parting as Parting
from perigee.testing._parity import parity as parity
from perigee.testing._resume import ResumeReport as ResumeReport
from perigee.testing._resume import verify_resume as verify_resume

__all__ = ["ParityReport", "Parting", "ResumeReport", "parity", "verify_resume"]
