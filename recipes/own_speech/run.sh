#!/usr/bin/env bash
# Trains a model on your own speech, labels the recordings that nobody has transcribed, and trains it on these labels too.
#
#     recipes/own_speech/run.sh [--plan] [machine=laptop] [accelerate=NAME] DATA
#
# DATA is the folder that `hf-mlpl prepare-data` wrote: train.parquet, and dev.parquet, test.parquet and
# unlabelled.parquet as far as there is such speech.
#
#     --plan               train nothing, but measure ten updates, and print how long every stage will take here, and
#                          what is missing
#     machine=laptop|gpu   a new model of 2 million parameters for a CPU, or the released model of a billion parameters,
#                          fine-tuned on a GPU with 24 GB or several: the YAML files in the folder of that name
#     accelerate=NAME      launch with NAME.yaml in recipes/accelerate; by default cpu for a laptop, single_gpu for a gpu
#
# To continue an interrupted run, start it again: every step continues where it stopped. The results are written to
# runs/own_speech.
set -euo pipefail

plan=false machine=laptop accelerate= data=
for argument; do
    case $argument in
        --help | -h) sed -n '2,/^set /{s/^# \{0,1\}//;/^set /d;p;}' "$0"; exit ;;
        --plan) plan=true ;;
        machine=laptop | machine=gpu | accelerate=?*) declare "$argument" ;;
        -* | *=*) echo "error: $argument is not understood; there are --plan, machine=laptop or gpu, accelerate=NAME," \
            "and --help" >&2; exit 1 ;;
        *) data=$(realpath "$argument") ;;
    esac
done
if [[ ! -e $data/train.parquet ]]; then
    echo "error: ${data:-DATA}: no train.parquet; name the folder that hf-mlpl prepare-data wrote" >&2; exit 1
fi
cd "$(dirname "$0")/../.."

run=runs/own_speech
here=recipes/own_speech/$machine
if [[ $machine == laptop ]]; then default=cpu; else default=single_gpu; fi
launch="accelerate launch --config_file recipes/accelerate/${accelerate:-$default}.yaml"

speech=(tokens="$data/tokens-all.lst" "train=[$data/train.parquet]" "dev=[]")
if [[ -e $data/dev.parquet ]]; then speech[2]="dev=[$data/dev.parquet]"; fi
supervised=($here/supervised.yaml "${speech[@]}")
language_finetune=($here/language_finetune.yaml "${speech[@]:1}" "unlabelled=[$data/unlabelled.parquet]")
mixed=($here/mixed.yaml "${speech[@]:1}" "train=[$data/train.parquet, $run/labels/*/labels.parquet]")
final=($here/final.yaml "${speech[@]:1}")

if [[ ! -e $data/tokens-all.lst ]]; then
    python recipes/build_tokenizer.py "$data/train.parquet" --output "$data/tokens-all.lst"
fi
stages=(--stage "${supervised[@]}")
if [[ -e $data/unlabelled.parquet ]]; then
    stages+=(--stage "${language_finetune[@]}" --stage "${mixed[@]}" --stage "${final[@]}")
fi
if [[ $plan == true ]]; then
    exec $launch recipes/estimate.py "${stages[@]}" --labels $run/labels --measure
fi
python recipes/estimate.py "${stages[@]}" --labels $run/labels --launch "$launch" > /dev/null # what is missing is found now

$launch recipes/train.py "${supervised[@]}"
models=supervised search=() # labels are greedy, but for a new model of characters
if [[ -e $data/unlabelled.parquet ]]; then
    if [[ $machine == laptop ]] && python -c "import flashlight.lib.text" 2>/dev/null; then # the extra lm
        python recipes/build_lm.py "$data/train.parquet" --output $run/lm
        search=(--lm $run/lm)
    elif [[ $machine == laptop ]]; then
        echo "labels are greedy; pip install -e '.[lm]' finds them with a language model of the transcripts"
    fi
    python recipes/language_finetune.py "${language_finetune[@]}" --labels $run/labels --launch "$launch" \
        ${search[@]+"${search[@]}"} # bash before 4.4 calls an empty list unset
    $launch recipes/train.py "${mixed[@]}"
    $launch recipes/train.py "${final[@]}"
    models="supervised final"
fi

for split in test dev; do
    if [[ -e $data/$split.parquet ]]; then break; fi
done
if [[ -e $data/$split.parquet ]]; then
    runs=() files=() results=()
    for model in $models; do
        $launch recipes/evaluate_model.py --model $run/$model/model --data "$data/$split.parquet" \
            --output $run/$model.json > /dev/null
        runs+=($run/$model) files+=($run/$model.json) results+=($model=$run/$model.json)
    done
    python recipes/report.py "${runs[@]}" --results "${files[@]}" --output $run/report.html
    echo "== character error rates of $split"
    python recipes/compare.py "${results[@]}"
fi
cat <<END

model           $run/${models##* }/model
report          $run/report.html, to open in a browser, and one of each run: $run/*/report.html
curves          $run/*/curves.png
pseudo-labels   $run/labels/*/labels.parquet, counted in complete.json beside each

Transcribe a recording:
    hf-mlpl transcribe --model $run/${models##* }/model RECORDING
END
