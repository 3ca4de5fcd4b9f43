"""What a notebook does with a large file: MODEL IN OUT ROWS, chunk by chunk over pandas."""

import sys
from pathlib import Path

import joblib
import pyarrow.parquet as pq

if __name__ == "__main__":
    model_path, source, out, n_rows = sys.argv[1:]
    model = joblib.load(model_path)
    with Path(out).open("wb") as file:
        for batch in pq.ParquetFile(source).iter_batches(int(n_rows)):
            file.write(model.predict_proba(batch.to_pandas())[:, 1].tobytes())
