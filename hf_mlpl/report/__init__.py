"""Reports runs and label sets as self-contained HTML pages."""

from ..lazy import lazy_names

__all__, __getattr__, __dir__ = lazy_names(__name__, {"run": "is_run run_report", "comparison": "comparison_report"})
