"""An audit: what is left of the data where sampling begins, how wrong each start is at every t*, and what it costs."""

from __future__ import annotations

from otprior.error.audit.request import AuditRequest, default_timesteps
from otprior.error.audit.run import run_audit

__all__ = ["AuditRequest", "default_timesteps", "run_audit"]
