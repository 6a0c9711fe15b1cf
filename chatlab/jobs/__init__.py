"""Turns under way. `Jobs` is what the rest of chatlab is written against."""

from chatlab.jobs.local import Job
from chatlab.jobs.local import LocalJobs as Jobs

__all__ = ["Job", "Jobs"]
