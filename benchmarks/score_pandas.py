"""What a notebook does with a large file: MODEL IN OUT ROWS, chunk by chunk over pandas."""

import sys

import joblib
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

if __name__ == "__main__":
    model_path, source, out, n_rows = sys.argv[1:]
    model = joblib.load(model_path)
    writer, first = None, 0
    for batch in pq.ParquetFile(source).iter_batches(int(n_rows)):
        probability = model.predict_proba(batch.to_pandas())[:, 1]
        answers = pd.DataFrame({"churn_probability": probability})
        answers.insert(0, "row", range(first, first + len(answers)))
        table = pa.Table.from_pandas(answers, preserve_index=False)
        writer = writer or pq.ParquetWriter(out, table.schema)
        writer.write_table(table)
        first += len(answers)
    if writer is not None:
        writer.close()
