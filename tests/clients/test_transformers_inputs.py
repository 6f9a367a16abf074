"""Runs transformers' own tests of feature extractors, processors and tokenizers on our classes."""

import unittest

import numpy as np
import pytest

from hf_mlpl import MlplFeatureExtractor, MlplProcessor, MlplTokenizer
from hf_mlpl.model.text import write_tokens

from .transformers_tests import mixins

pytestmark = pytest.mark.slow

sequences = mixins("test_sequence_feature_extraction_common")
processing = mixins("test_processing_common")
tokenization = mixins("test_tokenization_common")

import tempfile
from pathlib import Path


def make_tokenizer(lines="|abcdefghijklmnopqrstuvwxyz,.'0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ") -> MlplTokenizer:
    path = Path(tempfile.mkdtemp(), "tokens.lst")
    write_tokens(path, lines)
    return MlplTokenizer(path)


class ExtractorTester:
    batch_size, min_seq_length, max_seq_length = 7, 400, 2000
    seq_length_diff = (max_seq_length - min_seq_length) // (batch_size - 1)
    feature_size = 10

    def prepare_feat_extract_dict(self):
        return {"feature_size": self.feature_size}

    def prepare_inputs_for_common(self, equal_length=False, numpify=False):
        rng = np.random.default_rng(0)
        lengths = (
            [self.max_seq_length] * self.batch_size
            if equal_length
            else range(self.min_seq_length, self.max_seq_length, self.seq_length_diff)
        )
        inputs = [rng.random((n, self.feature_size)).astype(np.float32) for n in lengths]
        return inputs if numpify else [x.tolist() for x in inputs]


class FeatureExtractorTest(sequences.SequenceFeatureExtractionTestMixin, unittest.TestCase):
    feature_extraction_class = MlplFeatureExtractor

    def setUp(self):
        self.feat_extract_tester = ExtractorTester()


class ProcessorTest(processing.ProcessorTesterMixin, unittest.TestCase):
    processor_class = MlplProcessor

    @classmethod
    def _setup_feature_extractor(cls):
        return MlplFeatureExtractor()

    @classmethod
    def _setup_tokenizer(cls):
        return make_tokenizer()


class TokenizerTest(tokenization.TokenizerTesterMixin, unittest.TestCase):
    tokenizer_class = MlplTokenizer
    test_rust_tokenizer = False
    test_sentencepiece = False

    @classmethod
    def setUpClass(cls):
        cls.tokenizers_list, cls.tmpdirname = [], tempfile.mkdtemp()
        make_tokenizer().save_pretrained(cls.tmpdirname)

    def get_input_output_texts(self, tokenizer):
        return "ab c", "ab c"
