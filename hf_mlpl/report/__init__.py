"""Reports runs and label sets as self-contained HTML pages."""

from ..lazy import lazy_names

__all__, __getattr__, __dir__ = lazy_names(
    __name__,
    {
        "clips": "Clip read_clips",
        "comparison": "comparison_report",
        "label_set": "label_set_report",
        "run": "run_report",
        "run_folder": "Run is_run read_runs",
    },
)
