"""Scores models: error rates, results of labelled utterances, and tables that compare them."""

from ..lazy import lazy_names

__all__, __getattr__, __dir__ = lazy_names(
    __name__,
    {
        "confusions": "character_confusions language_confusions",
        "error_rate": "ErrorRate",
        "hypotheses": "hypotheses_path read_hypotheses",
        "intervals": "interval resampled_rates",
        "normalization": "leads_with_cer score_text",
        "rescoring": "rescore write_trn",
        "results": "interval_of rate_of read_results",
        "scoring": "evaluate_model score",
        "speed_line": "describe_speed",
        "tables": "comparison_table gap_table results_table",
        "test_set_corpora": "SetRequest",
        "test_sets": "PreparedSet prepare_test_set",
    },
)
