"""Makes pseudo-labels with scores, filters, joins and publishes them."""

from ..lazy import lazy_names

__all__, __getattr__, __dir__ = lazy_names(
    __name__,
    {
        "calibrating": "calibrate read_judged_labels",
        "calibration": "Calibration",
        "filtering": "FilterReport filter_labels",
        "filters": "DEFAULT_FILTERS LabelFilter read_filters",
        "folder": "read_complete",
        "join": "JoinReport find_label_set join_labels join_own_audio",
        "publishing": "push_label_set write_label_set",
        "labelling": "pseudo_label",
        "schema": "LABEL_FEATURES LABEL_SET_FEATURES SCORES",
        "summary": "LabelSummary",
        "thresholds": "ThresholdCounts best_order",
        "vote": "VoteReport vote_labels",
    },
)
