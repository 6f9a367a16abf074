# Shows how far a script of steps has come. A script that sources this file, with $run as its folder, begins each step
# with a line
#
#     step SECONDS NAME "TEXT"    # SECONDS that it takes on two quiet cores
#
# which prints its number, the number of steps, and about how long the rest takes: the seconds of the steps that are left,
# times the slowness of this machine in those that are done. $run/logs/seconds records these, so that a run that is
# started again also knows. What the commands of a step print goes to $run/logs/NAME.log, whose last line a terminal
# shows meanwhile. If a command fails, its errors are printed, and the script ends. `say` and >&3 print to the screen.

mkdir -p "$run/logs"
exec 3>&1 4>&2
current="" watcher="" begin=0
trap end_of_script EXIT

step() { # SECONDS NAME TEXT
    finish_step
    current=$2 begin=$SECONDS
    exec >"$run/logs/$2.log" 2>&1
    say "[$(position)] $3"
    if [ -t 3 ]; then
        watch_log &
        watcher=$!
    fi
}

say() { # prints text to the screen, on a line of its own
    if [ -t 3 ]; then printf '\r\033[K' >&3; fi
    printf '%s\n' "$*" >&3
}

finish_step() { # also ends the last step of a script
    if [ -n "$current" ]; then
        record done
        stop_watching
        say "    took $((SECONDS - begin)) s"
    fi
    current=""
    exec 1>&3 2>&4
}

position() { # "3 of 12, about 9 minutes left": of the current step
    touch "$run/logs/seconds"
    awk -v current="$current" '
        FILENAME == ARGV[1] { spent[$1] += $2; if ($3 == "done") finished[$1]; next }
        $1 == "step" {
            number++
            if ($3 == current) at = number
            if ($3 in finished) { planned += $2; taken += spent[$3] } else left += $2
        }
        END {
            if (planned) left *= taken / planned
            minutes = int(left / 60 + 0.5)
            time = minutes > 1 ? "about " minutes " minutes left" : "about a minute left"
            print at " of " number ", " time
        }' "$run/logs/seconds" "$0"
}

record() { # done|stopped: notes the seconds of a step, once it is done for good
    if ! grep -q "^$current .* done$" "$run/logs/seconds"; then
        echo "$current $((SECONDS - begin)) $1" >>"$run/logs/seconds"
    fi
}

watch_log() {
    while sleep 1; do
        printf '\r\033[K    %.*s' $((${COLUMNS:-80} - 5)) "$(tail -c 1000 "$run/logs/$current.log" | tr '\r' '\n' | tail -n 1)" >&3
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
    if [ -z "$current" ]; then return; fi
    record stopped
    log=$run/logs/$current.log
    say "    stopped after $((SECONDS - begin)) s; start it again, and it goes on here. All that it printed is in $log"
    if ((status != 130)); then # ^C needs no explanation
        { grep -a '^error: ' "$log" || tail -n 10 "$log"; } >&4
    fi
}
