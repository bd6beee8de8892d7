# Tests on real queues and real DFT codes; the Makefile includes this file. Both rigs live outside .venv, which stays as locked.
.PHONY: test-hpc test-dft

DFT_VENV := .venv-dft
HPC_VENV := .venv-hpc

# A one-node Slurm from Debian's packages (needs root) and jobflow-remote over a MongoDB-compatible server.
test-hpc: $(HPC_VENV)/.ready
	rigs/slurm.sh up
	OMP_NUM_THREADS=1 $(HPC_VENV)/bin/python -m pytest -m hpc tests/hpc; status=$$?; rigs/slurm.sh down; exit $$status

# GPAW from PyPI; one campaign on every engine, on Slurm too where this is root.
test-dft: $(DFT_VENV)/.ready
	if [ "$$(id -u)" = 0 ]; then rigs/slurm.sh up; fi
	OMP_NUM_THREADS=1 $(DFT_VENV)/bin/python -m pytest -m dft tests/oracles/dft tests/hpc; status=$$?; \
	if [ "$$(id -u)" = 0 ]; then rigs/slurm.sh down; fi; exit $$status

$(DFT_VENV)/.ready: $(READY) requirements-dft.lock rigs/gpaw.sh
	rigs/gpaw.sh $(DFT_VENV) $(VENV)
	touch $@

$(HPC_VENV)/.ready: $(READY) requirements-hpc.lock rigs/jobflow_remote.sh
	rigs/jobflow_remote.sh install $(HPC_VENV) $(VENV)
	touch $@
