#!/usr/bin/env bash
# GPAW (GPL) from PyPI, serial, without LibXC and BLAS: only a C++ compiler is needed, about a minute.
#   rigs/gpaw.sh VENV [BASE]   into VENV, which is made if it is not there; with BASE, the packages of the environment BASE are seen too.
set -euo pipefail
venv=${1:?usage: rigs/gpaw.sh VENV [BASE]}
base=${2:-}
here=$(cd "$(dirname "$0")" && pwd)
if [ ! -x "$venv/bin/python" ]; then
  "${base:+$base/bin/}python3" -m venv "$venv"
  if [ -n "$base" ]; then
    packages=$(cd "$base" && bin/python -c 'import site; print(site.getsitepackages()[0])')
    echo "import site; site.addsitedir('$packages')" > "$("$venv/bin/python" -c 'import site; print(site.getsitepackages()[0])')/base.pth"
  fi
fi
configuration=$(mktemp)
trap 'rm -f "$configuration"' EXIT
printf "compiler = 'g++'\nmpi = False\nnolibxc = True\nnoblas = True\n" > "$configuration"
GPAW_CONFIG="$configuration" "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$here/../requirements-dft.lock"
"$venv/bin/python" -c 'import gpaw; print("GPAW", gpaw.__version__, "in", gpaw.__file__)'
