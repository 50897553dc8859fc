"""The report of an audit: page, text, plots."""
