"""Few rows of two numbers, and two classes of them."""

import numpy as np
import pandas as pd

VALUES = np.random.default_rng(0).integers(0, 4, (60, 2)).astype(float)
ROWS = pd.DataFrame(VALUES, columns=["a", "b"])
TARGET = np.where((VALUES[:, 0] + VALUES[:, 1]) % 3 > 1, "Yes", "No")
