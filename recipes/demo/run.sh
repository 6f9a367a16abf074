#!/usr/bin/env bash
# Runs the whole recipe on synthetic speech, from nothing to a shared model, in about 11 minutes on two CPU cores, after
# the installation; within 5 minutes there is a page with a transcript to read and hear. Of four languages, two have 400
# labelled utterances, and two have 50 labelled and 600 unlabelled ones. To continue an interrupted run, start it again:
# every step continues where it stopped.
set -euo pipefail
cd "$(dirname "$0")/../.."

low_resource="ro sv-SE"
run=runs/demo
launch="accelerate launch --config_file recipes/accelerate/multi_cpu.yaml --num_cpu_threads_per_process 1"
search=() # greedy labels, without flashlight's beam search
source recipes/demo/steps.bash recipes/demo/run.sh $run/logs

name=20190115-0900-PLENARY_ro # of a recording without a label, four minutes long
recording=$run/corpora/voxpopuli-demo/raw_audios/ro/2019/$name.ogg

step 30 corpus "A corpus: espeak-ng reads out dates, numbers and names, in the formats of Common Voice and VoxPopuli"
hf-mlpl demo --root $run/corpora --dev 25 --test 60 \
    --labelled de=400 it=400 ro=50 sv-SE=50 --unlabelled ro=600 sv-SE=600

step 10 data "Utterance files, and the tokens of the training transcripts"
python recipes/prepare_data.py --common-voice $run/corpora/cv-corpus-demo --voxpopuli $run/corpora/voxpopuli-demo \
    --output $run/data
python recipes/build_tokenizer.py $run/data/train.parquet --output $run/data/tokens-all.lst

step 140 supervised "Stage 1, supervised: train one multilingual model on all labelled speech"
$launch recipes/train.py recipes/demo/supervised.yaml

step 20 first_page "A first look: the model of stage 1 transcribes a recording that it has never heard"
hf-mlpl transcribe --model $run/supervised/model --format html --output $run/pages/supervised $recording
say "    Open in a browser, click a word, and listen: file://$PWD/$run/pages/supervised/$name.html"
say "    Words run together, because this synthetic speech has no pauses between them."

step 130 language_finetune \
    "Stages 2 and 3, slimIPL and pseudo-labels: train a model for each low-resource language, and label with it"
if python -c "import flashlight.lib.text" 2>/dev/null; then # there is none for Python 3.13 yet
    python recipes/build_lm.py $run/data/train.parquet --output $run/lm
    search=(--lm $run/lm --lm-weight 0.8)
else
    say "    The labels are greedy: flashlight-text, which finds them with a language model, is not installed."
fi
finetune=(python recipes/language_finetune.py recipes/demo/language_finetune.yaml --labels $run/labels)
finetune+=(${search[@]+"${search[@]}"}) # bash before 4.4 calls an empty list unset
trainings=()
for language in $low_resource; do # at the same time, each on a core, which takes less than one by one on both
    OMP_NUM_THREADS=1 "${finetune[@]}" --languages $language --launch python &
    trainings+=($!)
done
wait_for "${trainings[@]}"
"${finetune[@]}" --launch "$launch" # tries again what failed, and counts the labels of all

step 75 mixed "Stage 4, first part: train the supervised model further on labels and pseudo-labels"
$launch recipes/train.py recipes/demo/mixed.yaml

step 35 final "Stage 4, second part: train on labels alone, as in the paper"
$launch recipes/train.py recipes/demo/final.yaml license=apache-2.0 # of the weights, for their card

step 85 control "The control: train the supervised model further on labels alone, for as many updates"
$launch recipes/train.py recipes/demo/mixed.yaml output_dir=$run/control stage=control max_updates=500 \
    "train=[$run/data/train.parquet]"

step 45 evaluation "Character error rates on test speakers, who are in no training data"
for stage in supervised control final; do
    if [ $run/$stage.json -nt $run/$stage/model ]; then continue; fi # done in an earlier run
    python recipes/evaluate_model.py --model $run/$stage/model --data $run/data/test.parquet --output $run/$stage.json
done
python recipes/compare.py supervised=$run/supervised.json control=$run/control.json final=$run/final.json \
    --languages $low_resource >$run/comparison.txt
say "$(cat $run/comparison.txt)"

step 40 sharing "Sharing: push the model and the pseudo-labels to a Hub on this machine, and load them by their names"
if ! [ $run/labels_from_hub.parquet -nt $run/final.json ]; then python -m local_hub recipes/demo/share.sh; fi

step 45 pages "Pages to read and hear: the same recording, the models side by side, the best and the worst pseudo-labels"
hf-mlpl transcribe --model $run/final/model --format html --output $run/pages/final $recording
if ! [ $run/pages/labels.html -nt $run/final.json ]; then
    hf-mlpl report $run/supervised $run/control $run/final --output $run/pages/models.html \
        --results $run/supervised.json $run/control.json $run/final.json
    hf-mlpl report $run/labels --utterances $run/data/unlabelled.parquet --output $run/pages/labels.html
fi
finish_step

cat <<EOF

The demo is complete. Open in a browser:
    file://$PWD/$run/pages/final/$name.html
    file://$PWD/$run/pages/models.html
    file://$PWD/$run/pages/labels.html

Transcribe a file with the final model, or record yourself in the browser:
    .venv/bin/hf-mlpl transcribe --model $run/final/model $recording
    .venv/bin/hf-mlpl app --model $run/final/model
Share the model and the labels on huggingface.co, as USER/mlpl-demo and USER/mlpl-demo-labels:
    HF_TOKEN=... PATH=.venv/bin:\$PATH recipes/demo/share.sh USER
EOF
