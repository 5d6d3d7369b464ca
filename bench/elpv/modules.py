"""Which module a cell of ELPV is from. The labels do not say; the file numbers suggest it.

Where the brightness of the gaps between cells and the make of the busbars change, there are 44 blocks of consecutive
files, each of one cell type, as many as the data set's authors name modules. Inferred, not published.
"""

import numpy as np
import pandas as pd

MODULE_SIZES = (60,) * 20 + (54,) + (60,) * 8 + (50,) + (60,) * 6 + (72,) + (60,) * 3 + (48,) + (60,) * 3
"""Cells of every module, in the order of the file numbers."""


def modules(files: pd.Series) -> np.ndarray:
    """The module of every cell as the file numbers suggest it: int64 (N,), from 0 on.

    Args:
        files: names of the manifest ("images/cell0001.png").
    """
    numbers = files.str.extract(r"cell(\d{4})\.png$")[0].astype(int).to_numpy()
    return np.repeat(np.arange(len(MODULE_SIZES)), MODULE_SIZES)[numbers - 1]
