#!/usr/bin/env bash
# Trains a small encoder of another architecture from nothing through all stages, beside our model of that size.
#
#     recipes/any_model/demo.sh KIND [DATA]        KIND is conformer, wav2vec2 or tiny (our model)
#
# DATA is runs/synthetic/data, which recipes/proof/corpus.sh writes. This is `recipes/proof.sh` with one seed, two low-resource languages
# and fewer updates, in one process. The results are in runs/any_model/KIND/0/{supervised,control,final}.json.
set -euo pipefail
cd "$(dirname "$0")/../.."

kind=$1 data=${2:-runs/synthetic/data} run=runs/any_model/$1
if [[ $kind == tiny ]]; then
    start=tiny settings=""
else
    start=$run/start
    # A feature encoder without training must learn, too.
    settings="freeze_feature_encoder=false"
    python recipes/any_model/new_encoder.py "$kind" "$start"
fi
export start settings updates=${updates:-1500} later_updates=${later_updates:-600}
launch=python models="supervised control final" recipes/proof.sh "$data" "$run" "nl pt" 0
