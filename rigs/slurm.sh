#!/usr/bin/env bash
# A real Slurm on this one machine, from Debian's packages, for the tests of the Slurm engine. Needs root, no systemd, no cgroups.
#   rigs/slurm.sh up | down | stop-controller | start-controller
# Everything but the packages and /etc/slurm/slurm.conf lives in $AL_CRYSTAL_RIG (default /tmp/al-crystal-slurm).
set -euo pipefail
rig=${AL_CRYSTAL_RIG:-/tmp/al-crystal-slurm}

write_configuration() {
  mkdir -p "$rig/state" "$rig/spool" /etc/slurm
  # Two cores more than there are, so that a job that sleeps does not keep the others waiting.
  cat > /etc/slurm/slurm.conf <<EOF
# al-crystal test rig
ClusterName=rig
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CryptoType=crypto/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SwitchType=switch/none
ReturnToService=2
MinJobAge=300
KillWait=2
InactiveLimit=0
StateSaveLocation=$rig/state
SlurmdSpoolDir=$rig/spool
SlurmctldPidFile=$rig/slurmctld.pid
SlurmdPidFile=$rig/slurmd.pid
SlurmctldLogFile=$rig/slurmctld.log
SlurmdLogFile=$rig/slurmd.log
NodeName=$(hostname -s) NodeAddr=127.0.0.1 CPUs=$(($(nproc) + 2)) Boards=1 SocketsPerBoard=1 CoresPerSocket=$(($(nproc) + 2)) ThreadsPerCore=1 RealMemory=$(awk '/MemTotal/ {print int($2 / 1024 * 0.9)}' /proc/meminfo)
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
PartitionName=closed Nodes=ALL MaxTime=INFINITE State=DOWN
SlurmdParameters=config_overrides
EOF
}

start_munge() {
  pgrep -x munged > /dev/null && return
  [ -s /etc/munge/munge.key ] || (umask 077 && head -c 1024 /dev/urandom > /etc/munge/munge.key)
  chown -R munge: /etc/munge && chmod 400 /etc/munge/munge.key
  install -d -o munge -g munge -m 755 /run/munge && install -d -o munge -g munge -m 700 /var/log/munge /var/lib/munge
  touch "$rig/munged-is-ours"
  if command -v runuser > /dev/null; then runuser -u munge -- munged; else su -s /bin/sh munge -c munged; fi
}

stop() {
  if [ -s "$rig/$1.pid" ]; then
    pid=$(cat "$rig/$1.pid")
    kill "$pid" 2> /dev/null || true
    for _ in $(seq 50); do kill -0 "$pid" 2> /dev/null || return 0; sleep 0.1; done
  fi
}

wait_until_up() {
  for _ in $(seq 100); do
    if [ "$(sinfo -h -p main -o %T 2> /dev/null)" = idle ] || [ "$(sinfo -h -p main -o %T 2> /dev/null)" = mixed ]; then return 0; fi
    sleep 0.2
  done
  echo "the rig's Slurm did not come up; see $rig/slurmctld.log and $rig/slurmd.log" >&2
  exit 1
}

case "${1:-up}" in
  up)
    if [ "$(id -u)" != 0 ]; then echo "rigs/slurm.sh needs root: it installs packages and writes /etc/slurm/slurm.conf" >&2; exit 1; fi
    if ! command -v slurmctld > /dev/null || ! command -v munged > /dev/null; then
      apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurm-wlm munge > /dev/null
    fi
    if [ -e /etc/slurm/slurm.conf ] && ! grep -q "al-crystal test rig" /etc/slurm/slurm.conf; then
      echo "/etc/slurm/slurm.conf is another cluster's; the rig leaves it alone" >&2; exit 1
    fi
    stop slurmctld; stop slurmd
    write_configuration; start_munge
    slurmctld; slurmd; wait_until_up
    ;;
  down)
    stop slurmctld; stop slurmd
    if [ -e "$rig/munged-is-ours" ]; then pkill -x munged || true; rm "$rig/munged-is-ours"; fi
    ;;
  stop-controller) stop slurmctld ;;
  start-controller) slurmctld ;;
  *) echo "usage: rigs/slurm.sh up | down | stop-controller | start-controller" >&2; exit 2 ;;
esac
