"""Loads a model and a label set that somebody has shared, and uses them.

python recipes/demo/load_shared.py me/mlpl-demo me/mlpl-demo-labels recording.mp3
"""

import sys

from datasets import load_dataset
from transformers import pipeline

import hf_mlpl  # noqa: F401 - registers the model for the pipeline

model, labels, recording = sys.argv[1:]
recognize = pipeline("automatic-speech-recognition", model=model)
print(f"{model} transcribes {recording} as: {recognize(recording)['text']}")
for row in load_dataset(labels, "ro", split="train", streaming=True).take(3):
    print(f"{labels} labels {row['id']} as: {row['text']}")
