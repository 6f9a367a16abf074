#!/usr/bin/env bash
# Runs the whole recipe on synthetic speech, from nothing to a transcribed file and a shared model, in about 17 minutes
# on two CPU cores, after the installation. Of eight languages, four have 400 labelled utterances, and four have 50
# labelled and 600 unlabelled ones. To continue an interrupted run, start it again: every step continues where it
# stopped.
set -euo pipefail
cd "$(dirname "$0")/../.."

low_resource="nl pt ro sv-SE"
run=runs/demo
launch="accelerate launch --config_file recipes/accelerate/multi_cpu.yaml --num_cpu_threads_per_process 1"
section() { echo; echo "== $*"; }

section "A corpus: espeak-ng reads out dates, numbers and names, in the formats of Common Voice and VoxPopuli"
hf-mlpl demo --root $run/corpora --dev 25 --test 60 \
    --labelled de=400 es=400 it=400 pl=400 nl=50 pt=50 ro=50 sv-SE=50 \
    --unlabelled nl=600 pt=600 ro=600 sv-SE=600

section "Utterance files, and the tokens of the training transcripts"
python recipes/prepare_data.py --common-voice $run/corpora/cv-corpus-demo --voxpopuli $run/corpora/voxpopuli-demo \
    --output $run/data
python recipes/build_tokenizer.py $run/data/train.parquet --output $run/data/tokens-all.lst

section "Stage 1, supervised: train one multilingual model on all labelled speech"
$launch recipes/train.py recipes/demo/supervised.yaml

section "Stages 2 and 3, slimIPL and pseudo-labels: train a model for each low-resource language, and label with it"
python recipes/language_finetune.py recipes/demo/language_finetune.yaml --labels $run/labels --launch "$launch"

section "Stage 4, final: train the model further on labels and pseudo-labels, then on labels alone, as in the paper"
$launch recipes/train.py recipes/demo/mixed.yaml
$launch recipes/train.py recipes/demo/final.yaml license=apache-2.0 # of the weights, for their card

section "For comparison: slimIPL on all languages at once, which the paper found poor for low-resource languages"
$launch recipes/train.py recipes/demo/language_finetune.yaml output_dir=$run/at_once stage=at_once language=null \
    language_alpha=0.3 max_updates=350 slimipl.cache_size=32

section "The control: train the supervised model further on labels alone, for as many updates"
$launch recipes/train.py recipes/demo/final.yaml output_dir=$run/control stage=control \
    model=$run/supervised/model max_updates=600

section "Character error rates on test speakers, who are in no training data"
for stage in supervised control at_once final; do
    python recipes/evaluate_model.py --model $run/$stage/model --data $run/data/test.parquet --output $run/$stage.json \
        > $run/$stage.txt
done
python recipes/compare.py supervised=$run/supervised.json control=$run/control.json at_once=$run/at_once.json \
    final=$run/final.json --languages $low_resource

section "Character error rates of pseudo-labels: by slimIPL on all languages at once, and on each alone"
python recipes/evaluate_model.py --model $run/at_once/model --data $run/data/unlabelled.parquet \
    --output $run/labels_at_once.json > $run/labels_at_once.txt
python recipes/compare.py at_once=$run/labels_at_once.json per_language=$run/labels/complete.json

section "Sharing: push the model and the pseudo-labels to a Hub on this machine, and load them by their names"
python -m local_hub recipes/demo/share.sh

clips=($run/corpora/cv-corpus-demo/nl/clips/common_voice_nl_3*.mp3) clip=${clips[0]}
cat <<EOF

final model     $run/final/model
pseudo-labels   $run/labels/*/labels.parquet, counted in complete.json beside each
curves          $run/*/curves.png
results         $run/final.json and, as a table, $run/final.txt

Transcribe a file:
    .venv/bin/hf-mlpl transcribe --model $run/final/model $clip
Share them on huggingface.co, as USER/mlpl-demo and USER/mlpl-demo-labels:
    HF_TOKEN=... PATH=.venv/bin:\$PATH recipes/demo/share.sh USER

EOF
hf-mlpl transcribe --model $run/final/model $clip
