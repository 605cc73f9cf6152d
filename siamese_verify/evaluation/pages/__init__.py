"""Figures and self-contained HTML pages of reports and comparisons."""
