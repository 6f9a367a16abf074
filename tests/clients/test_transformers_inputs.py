"""Runs transformers' own tests of feature extractors, processors and tokenizers on our classes."""

import tempfile
import unittest
from pathlib import Path

import numpy as np
import pytest

from hf_mlpl import MlplFeatureExtractor, MlplProcessor, MlplTokenizer
from hf_mlpl.model.text import write_tokens

from .transformers_tests import mixins

pytestmark = pytest.mark.slow

sequences = mixins("test_sequence_feature_extraction_common")
processing = mixins("test_processing_common")
tokenization = mixins("test_tokenization_common")

ADDED = "adds a token, and the CTC head has one class for each line of the tokens file and one for the blank"
FAILURES = {  # a reason for each of transformers' tests that fails, which docs/clients.md repeats
    "test_bos_token_with_add_bos_token_false": ADDED,
    "test_bos_token_with_add_bos_token_true": ADDED,
    "test_get_vocab": ADDED,
    "test_save_and_load_tokenizer": ADDED,
    "test_save_load_pretrained_additional_features": ADDED,
    "test_tokenize_special_tokens": ADDED,
    "test_pad_token_initialization": "takes another padding than the blank, whose class the loss and decoding skip",
    "test_tokenizer_initialization_with_conflicting_key": "expects AttributeError; ours is a ValueError of one line",
    "test_tokenizer_store_full_signature": "wants settings saved that nobody has set",
    "test_processor_from_and_save_pretrained": "transformers leaves `auto_map` on a processor that it saves with code",
    "test_processor_from_and_save_pretrained_as_nested_dict": "the same",
}


def expect_failures(test_class: type) -> type:
    """Marks the tests of FAILURES, so that one that begins to pass is noticed."""
    for name, reason in FAILURES.items():
        if test := getattr(test_class, name, None):

            def marked(self, test=test):
                return test(self)

            setattr(test_class, name, pytest.mark.xfail(reason=reason, strict=True)(marked))
    return test_class


def make_tokenizer() -> MlplTokenizer:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "tokens.lst")
        write_tokens(path, "|abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,'")
        return MlplTokenizer(path)


class FeatureExtractorTester:
    """Makes the inputs that SequenceFeatureExtractionTestMixin pads and truncates."""

    batch_size, feature_size, min_seq_length, max_seq_length = 7, 10, 400, 2000
    seq_length_diff = (max_seq_length - min_seq_length) // (batch_size - 1)

    def prepare_feat_extract_dict(self) -> dict:
        return {"feature_size": self.feature_size}

    def prepare_inputs_for_common(self, equal_length=False, numpify=False) -> list:
        rng = np.random.default_rng(0)
        lengths = range(self.min_seq_length, self.max_seq_length, self.seq_length_diff)
        lengths = [self.max_seq_length] * self.batch_size if equal_length else lengths
        inputs = [rng.random((length, self.feature_size), np.float32) for length in lengths]
        return inputs if numpify else [frames.tolist() for frames in inputs]


@expect_failures
class TestFeatureExtractor(sequences.SequenceFeatureExtractionTestMixin, unittest.TestCase):
    feature_extraction_class = MlplFeatureExtractor
    feat_extract_tester = FeatureExtractorTester()


@expect_failures
class TestProcessor(processing.ProcessorTesterMixin, unittest.TestCase):
    processor_class = MlplProcessor
    text_input_name = "labels"  # as Wav2Vec2Processor's, beside audio

    @classmethod
    def _setup_feature_extractor(cls) -> MlplFeatureExtractor:
        return MlplFeatureExtractor()

    @classmethod
    def _setup_tokenizer(cls) -> MlplTokenizer:
        return make_tokenizer()


@expect_failures
class TestTokenizer(tokenization.TokenizerTesterMixin, unittest.TestCase):
    tokenizer_class = MlplTokenizer
    test_seq2seq = False  # it passes languages of a translation

    @classmethod
    def setUpClass(cls) -> None:  # the mixin's reads a file that its source distribution lacks
        cls.tokenizers_list, cls.tmpdirname = [], tempfile.mkdtemp()
        make_tokenizer().save_pretrained(cls.tmpdirname)

    def get_input_output_texts(self, tokenizer) -> tuple[str, str]:
        return "This is a test", "This is a test"
