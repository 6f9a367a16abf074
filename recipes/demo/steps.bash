# Shows how far a script of steps has come. The script sources this file with its own name and a folder, and begins each
# step with a line
#
#     step SECONDS NAME "TEXT"    # SECONDS that it takes on two quiet cores
#
# which prints its number, the number of steps, and about how long the rest takes: the seconds of the steps that are left,
# times the slowness of this machine in those that are done. FOLDER/seconds records these, so that a script that is
# started again also knows, and says which steps were done before. The output of a step's commands goes to
# FOLDER/NAME.log, whose last line a terminal shows meanwhile. If a command fails, its errors are printed, and the script
# ends, and so do those that it has started in the background. `say` prints to the screen.

script=$1 logs=$2
mkdir -p "$logs"
touch "$logs/seconds"
exec 3>&1 4>&2
current="" watcher="" begin=0
trap end_of_script EXIT
trap 'exit 130' INT # else bash ignores a ^C that comes while a command ends well

step() { # SECONDS NAME TEXT
    finish_step
    current=$2 begin=$SECONDS
    exec >"$logs/$current.log" 2>&1
    say "[$(position)] $3"
    if [ -t 3 ]; then
        watch_log &
        watcher=$!
    fi
}

finish_step() { # `step` calls it; a script calls it after its last step
    if [ -n "$current" ]; then
        record done
        stop_watching
        say "    took $((SECONDS - begin)) s"
    fi
    current=""
    exec 1>&3 2>&4
}

say() { # TEXT: prints it to the screen, on lines of its own
    if [ -t 3 ]; then printf '\r\033[K' >&3; fi
    printf '%s\n' "$1" >&3
}

wait_for() { # PID ...: waits until these commands have ended; bash's own `wait` may miss a ^C
    for pid in "$@"; do
        while kill -0 "$pid" 2>/dev/null; do sleep 1; done
    done
}

position() { # prints where the current step stands, such as "3 of 12, done before, about 9 minutes left"
    awk -v current="$current" '
        FILENAME == ARGV[1] { spent[$1] += $2; if ($3 == "done") finished[$1]; next }
        $1 == "step" {
            number++
            if ($3 == current) at = number
            if (!($3 in finished)) left += $2
            else if (spent[$3] > $2 / 4) { planned += $2; taken += spent[$3] } # others had been done before
        }
        END {
            if (planned) left *= taken / planned
            minutes = int(left / 60 + 0.5)
            time = minutes > 1 ? minutes " minutes" : "a minute"
            print at " of " number (current in finished ? ", done before" : "") (left ? ", about " time " left" : "")
        }' "$logs/seconds" "$script"
}

record() { # done|stopped: notes the seconds of the current step, unless it was done in an earlier run
    if ! grep -q "^$current .* done$" "$logs/seconds"; then
        echo "$current $((SECONDS - begin)) $1" >>"$logs/seconds"
    fi
}

watch_log() { # shows the last line of the log again and again
    size=$(stty size <&3)
    while sleep 1; do
        line=$(tail -c 1000 "$logs/$current.log" | tr '\r' '\n' | tail -n 1)
        printf '\r\033[K    %.*s' $((${size#* } - 5)) "$line" >&3
    done
}

stop_watching() {
    if [ -n "$watcher" ]; then
        kill "$watcher" 2>/dev/null || true
        wait "$watcher" 2>/dev/null || true
    fi
    watcher=""
}

end_of_script() {
    status=$?
    stop_watching
    if [ -n "$(jobs -p)" ]; then # commands in the background, which bash lets ignore ^C
        kill $(jobs -p) 2>/dev/null || true
        wait
    fi
    if [ -z "$current" ]; then return; fi
    record stopped
    say "    stopped after $((SECONDS - begin)) s; start it again, and it goes on here; $logs/$current.log has all output"
    if ((status != 130 && status != 143)); then # ^C and `kill` need no explanation
        lines=$(tr '\r' '\n' <"$logs/$current.log" | tail -n 1000)
        { grep -a '^error: ' <<<"$lines" || tail -n 10 <<<"$lines"; } >&4
    fi
}
