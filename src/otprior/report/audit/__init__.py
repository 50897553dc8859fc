"""The report of an audit: record, words, plots, page."""

from __future__ import annotations

from otprior.report.audit.page import write_audit
from otprior.report.audit.record import AuditReport

__all__ = ["AuditReport", "write_audit"]
