"""What users' own tests ask of a Step."""

from perigee.testing._resume import ResumeReport as ResumeReport
from perigee.testing._resume import verify_resume as verify_resume

__all__ = ["ResumeReport", "verify_resume"]
