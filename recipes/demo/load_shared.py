"""What it takes to use a model and a label set that somebody has shared.

python recipes/demo/load_shared.py me/mlpl-demo me/mlpl-demo-labels recording.mp3
"""

import sys

from datasets import load_dataset
from transformers import pipeline

import hf_mlpl  # noqa: F401 - makes the pipeline know the model

model, labels, recording = sys.argv[1:]
recognize = pipeline("automatic-speech-recognition", model=model)
print(f"{model} hears in {recording}: {recognize(recording)['text']}")
for row in load_dataset(labels, "nl", split="train", streaming=True).take(3):
    print(f"{labels} has for {row['id']}: {row['text']}")
