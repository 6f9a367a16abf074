#!/usr/bin/env bash
# Pushes the demo's final model and its pseudo-labels to the Hub, and loads both by their names, as other users would.
# Needs runs/demo from `make demo`.
#
#   python -m local_hub recipes/demo/share.sh     pushes to a temporary Hub on this machine, without a network
#   HF_TOKEN=hf_... recipes/demo/share.sh USER    pushes to huggingface.co: USER/mlpl-demo and the data set
#                                                 USER/mlpl-demo-labels
set -euo pipefail
cd "$(dirname "$0")/../.."

run=runs/demo model=${1:-me}/mlpl-demo labels=${1:-me}/mlpl-demo-labels
clips=($run/corpora/cv-corpus-demo/ro/clips/common_voice_ro_3*.mp3)

python recipes/publish.py --run $run/final --results $run/final.json --repo $model
python recipes/publish_labels.py $run/labels/*/ --repo $labels

python recipes/demo/load_shared.py $model $labels ${clips[0]}
python recipes/join_labels.py --labels $labels --languages ro --audio $run/data/unlabelled.parquet \
    --output $run/labels_from_hub.parquet
