#!/usr/bin/env bash
# Run the tests that use OpenCLIP with another version of it, in a virtual environment of its own:
#   scripts/check_open_clip.sh 3.3.0            a release of open_clip_torch
#   scripts/check_open_clip.sh FOLDER           a checkout of its source
#   scripts/check_open_clip.sh 3.3.0 -k export  options of pytest follow
# All other packages are those of $PYTHON (default: python), which is not changed.
set -euo pipefail
version=${1:?give a version of open_clip_torch, or a folder with its source}
shift
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
venv=$(mktemp -d "${TMPDIR:-/tmp}/open-clip.XXXXXX")
trap 'rm -rf "$venv"' EXIT
spec=open_clip_torch==$version
if [ -d "$version" ]; then spec=$version; fi
"$python" -m venv "$venv"
"$python" -c 'import site; print("\n".join(site.getsitepackages()))' > "$(echo "$venv"/lib/python*/site-packages)/outer.pth"
"$venv/bin/pip" install --quiet --no-deps --disable-pip-version-check "$spec"
export PYTHONPATH=$PWD/src OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
"$venv/bin/python" -c 'from importlib.metadata import version; import open_clip
print("open_clip_torch", version("open_clip_torch"), "in", open_clip.__path__[0])'
"$venv/bin/python" -m pytest -p no:cacheprovider -q -m "not slow" tests/test_student.py tests/test_students.py \
  tests/test_open_vocabulary.py tests/test_recognition.py tests/test_interpolation.py tests/test_export.py \
  tests/test_export_examples.py tests/test_export_targets.py tests/test_encoders.py tests/test_predict.py \
  tests/test_foreign_weights.py tests/test_training.py "$@"
