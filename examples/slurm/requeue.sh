# Functions of the batch files. Slurm sends SIGUSR1 to the batch shell two minutes before the time limit.

# Run a command in the background, and pass SIGTERM on to it; it saves its state and ends. If that was because of the
# time limit, put the job into the queue again, in which it resumes.
with_requeue() {
    local limit= code=0 step
    "$@" &
    step=$!
    trap 'limit=reached; kill -TERM "$step"' USR1
    trap 'kill -TERM "$step"' TERM
    while true; do
        code=0
        wait "$step" || code=$?
        kill -0 "$step" 2>/dev/null || break # else a signal has ended only the wait
    done
    if [ -n "$limit" ] && [ "$code" != 0 ]; then
        scontrol requeue "$SLURM_JOB_ID"
    fi
    return "$code"
}
