"""An audit: the signal left where sampling begins, the error of each start at every t*, and its cost in samples."""

from __future__ import annotations

from otprior.error.audit.request import AuditRequest, default_timesteps
from otprior.error.audit.run import run_audit

__all__ = ["AuditRequest", "default_timesteps", "run_audit"]
