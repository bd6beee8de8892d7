#!/usr/bin/env bash
# jobflow-remote for tests: a server that speaks MongoDB's wire protocol (SecantusDB), a project `al-crystal-rig` with one local worker,
# and its runner. Everything is under $AL_CRYSTAL_REMOTE_RIG (default /tmp/al-crystal-remote); no root.
#   rigs/jobflow_remote.sh install VENV BASE     VENV with requirements-hpc.lock, seeing the packages of the environment BASE
#   rigs/jobflow_remote.sh up VENV               prints the variable that makes the project known
#   rigs/jobflow_remote.sh stop-database | start-database VENV | stop-runner | start-runner VENV | down
set -euo pipefail
rig=${AL_CRYSTAL_REMOTE_RIG:-/tmp/al-crystal-remote}
here=$(cd "$(dirname "$0")/.." && pwd)
port=${AL_CRYSTAL_REMOTE_PORT:-27117}
export JFREMOTE_PROJECTS_FOLDER=$rig/projects

install() {
  local venv=$1 base=$2 packages
  [ -x "$venv/bin/python" ] || "$base/bin/python" -m venv "$venv"
  packages=$(cd "$base" && bin/python -c 'import site; print(site.getsitepackages()[0])')
  echo "import site; site.addsitedir('$packages')" > "$("$venv/bin/python" -c 'import site; print(site.getsitepackages()[0])')/base.pth"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$here/requirements-hpc.lock"
}

write_project() {
  mkdir -p "$rig/projects" "$rig/work" "$rig/logs" "$rig/data"
  cat > "$rig/projects/al-crystal-rig.yaml" <<EOF
name: al-crystal-rig
base_dir: $rig/project
runner: {delay_checkout: 1, delay_check_run_status: 1, delay_advance_status: 1, delay_refresh_limited: 5, max_step_attempts: 2, delta_retry: [1, 1]}
workers:
  here:
    type: local
    scheduler_type: shell
    work_dir: $rig/work
    pre_run: |
      source $1/bin/activate
      export PYTHONPATH=$here OMP_NUM_THREADS=1
    max_jobs: 3
queue: {store: {type: MongoStore, host: 127.0.0.1, port: $port, database: rig, collection_name: jobs}}
exec_config: {}
jobstore: {docs_store: {type: MongoStore, host: 127.0.0.1, port: $port, database: rig, collection_name: outputs}}
EOF
}

start() { # name, command...
  local name=$1; shift
  setsid nohup "$@" > "$rig/logs/$name.log" 2>&1 &
  echo $! > "$rig/$name.pid"
}

stop() {
  [ -s "$rig/$1.pid" ] || return 0
  kill -- "-$(cat "$rig/$1.pid")" 2> /dev/null || true
  for _ in $(seq 50); do kill -0 "$(cat "$rig/$1.pid")" 2> /dev/null || break; sleep 0.1; done
  rm -f "$rig/$1.pid"
}

start_database() {
  start database "$1/bin/secantusd-py" --host 127.0.0.1 --port "$port" --storage-path "$rig/data" --standalone
  for _ in $(seq 150); do (exec 3<> "/dev/tcp/127.0.0.1/$port") 2> /dev/null && return 0; sleep 0.2; done
  echo "the database did not come up; see $rig/logs/database.log" >&2; exit 1
}

start_runner() { start runner "$1/bin/jf" -p al-crystal-rig runner run; }

case "${1:-}" in
  install) install "$2" "$3" ;;
  up)
    venv=$(cd "$2" && pwd)
    stop runner; stop database
    rm -rf "$rig"; write_project "$venv"
    start_database "$venv"
    "$venv/bin/jf" -p al-crystal-rig admin reset --yes > "$rig/logs/reset.log" 2>&1
    start_runner "$venv"
    echo "export JFREMOTE_PROJECTS_FOLDER=$JFREMOTE_PROJECTS_FOLDER"
    ;;
  stop-database) stop database ;;
  start-database) start_database "$(cd "$2" && pwd)" ;;
  stop-runner) stop runner ;;
  start-runner) start_runner "$(cd "$2" && pwd)" ;;
  down) stop runner; stop database ;;
  *) echo "usage: rigs/jobflow_remote.sh install VENV BASE | up VENV | down | (start|stop)-(database|runner) [VENV]" >&2; exit 2 ;;
esac
