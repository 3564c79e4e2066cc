#!/usr/bin/env bash
#
# Packages: pyarrow 26.0.1, numpy 2.4.6
# Behavior: A fixed-size-list column (one embedding a row) with a missing row, written to Parquet
#   and read again: flatten() leaves the missing row out, so reshape(-1, width)[2] is the
#   embedding of row 3. On a slice, .values still returns the whole column, so reshape(-1,
#   width)[0] is row 0 of the table. Both reshape without an error.
# Expected instead: Fixed-size storage keeps one slot for every row in view: rows x width values,
#   with NaN or zero for a missing row.
# Why it matters: Reading an embedding or box column as a NumPy matrix is the common fast path.
#   One image without a label, or one slice for a worker, pairs all following rows with the
#   vectors of other images. Check that values and rows agree, and fill missing rows before
#   flattening.
# Output seen (CPython 3.11, Linux x86-64):
#   pyarrow 26.0.1
#   type fixed_size_list<element: float>[2], rows 4, rows after flatten() 3, index 2 -> [3.0, 3.5], wanted [2.0, 2.5]
#   slice of 2 rows from row 2: rows in .values 4, index 0 -> [0.0, 0.5], wanted [2.0, 2.5]

set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python=${FINDINGS_PYTHON:-}
if [ -z "$python" ]; then
    python3 -m venv "$work/venv"
    python="$work/venv/bin/python"
    "$python" -m pip install --quiet --disable-pip-version-check --no-cache-dir \
        pyarrow==26.0.1 numpy==2.4.6
fi

cat > "$work/probe.py" <<'PY'
import tempfile
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

print("pyarrow", pa.__version__)
rows = [[0.0, 0.5], None, [2.0, 2.5], [3.0, 3.5]]
column = pa.array(rows, pa.list_(pa.float32(), 2))
with tempfile.TemporaryFile() as file:
    pq.write_table(pa.table({"embedding": column}), file)
    file.seek(0)
    column = pq.read_table(file)["embedding"].chunk(0)
flat = column.flatten().to_numpy().reshape(-1, 2)
print(f"type {column.type}, rows {len(column)}, rows after flatten() {len(flat)}, index 2 -> {flat[2].tolist()}, wanted {rows[2]}")
part = column.slice(2)
values = part.values.to_numpy(zero_copy_only=False).reshape(-1, 2)
print(f"slice of {len(part)} rows from row 2: rows in .values {len(values)}, index 0 -> {values[0].tolist()}, wanted {rows[2]}")
raise SystemExit(not (flat[2].tolist() == rows[3] and len(values) == 4 and values[0].tolist() == rows[0]))
PY
OMP_NUM_THREADS=1 "$python" "$work/probe.py"
