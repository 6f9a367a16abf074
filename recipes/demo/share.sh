#!/usr/bin/env bash
# Shares what the demo has made, its final model and its pseudo-labels, and loads both back by their names, as anybody
# else would. Needs runs/demo, as `make demo` leaves it.
#
#   python -m local_hub recipes/demo/share.sh    on a Hub of this machine, without a network, which then is gone
#   HF_TOKEN=hf_... recipes/demo/share.sh USER         on huggingface.co: USER/mlpl-demo and the data set USER/mlpl-demo-labels
set -euo pipefail
cd "$(dirname "$0")/../.."

run=runs/demo model=${1:-me}/mlpl-demo labels=${1:-me}/mlpl-demo-labels
clips=($run/corpora/cv-corpus-demo/nl/clips/common_voice_nl_3*.mp3)

python recipes/publish.py --run $run/final --results $run/final.json --repo $model
python recipes/publish_labels.py $run/labels/*/ --repo $labels

python recipes/demo/load_shared.py $model $labels ${clips[0]}
python recipes/join_labels.py --labels $labels --languages nl --audio $run/data/unlabelled.parquet \
    --output $run/labels_from_hub.parquet
