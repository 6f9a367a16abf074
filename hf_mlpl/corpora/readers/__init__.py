"""Reads each form of corpus with a module of its own: it yields utterances, and counts drops in a `ReadingReport`."""

from ...lazy import lazy_names

__all__, __getattr__, __dir__ = lazy_names(
    __name__,
    {
        "common_voice": "find_locales read_common_voice",
        "downloads": "download_mirror download_published download_release",
        "folders": "read_folder",
        "hf_datasets": "read_dataset",
        "kaldi": "read_kaldi",
        "librispeech": "read_librispeech",
        "lists": "read_fl_lists read_list",
        "manifests": "read_manifest",
        "parquet_mirrors": "read_mirror",
        "segmentations": "read_rttm read_segmentation",
        "voxpopuli": "read_voxpopuli",
        "voxpopuli_asr": "read_voxpopuli_asr",
    },
)
