"""P4: the exact refresh of all neighbour lists after 1,000 events ÷ a full rebuild by `implicit`.

``python -m benchmarks.refresh --json [--limit N] [--batches 50]``, with the extra `bench`. Purchase lines of
Complete Journey are counted in order of time; the refresh is then what each of the last batches takes: pairs
within the default window, the fold, and the exact top 50 of every row that changed. After it all lists are
those of all lines. The rebuild is `CosineRecommender(K=50, num_threads=1)` fitted on the matrix of baskets by
items; making the matrix is not counted. Both in CPU time of one thread, one after the other.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from benchmarks.kernel import Histories, K, Kernel, Stream, complete_journey, first, transactions
from benchmarks.report import Report, arguments, figure, repeated, tell
from stream.allocator import keep_freed_memory
from stream.settings import Settings

GOAL = 0.01
BATCH = 1000


def baskets(path: Path) -> NDArray[np.int64]:
    """The basket of each line, in order of time: numbers 0.."""
    table = pq.ParquetFile(path).read(columns=["basket_id", "transaction_timestamp"])
    order = np.argsort(table["transaction_timestamp"].to_numpy(), kind="stable")
    found: NDArray[np.int64] = np.unique(table["basket_id"].to_numpy()[order], return_inverse=True)[1]
    return found


def rebuild_s(basket: NDArray[np.int64], stream: Stream) -> float:
    """CPU seconds of implicit's fit."""
    from implicit.nearest_neighbours import CosineRecommender

    ones = np.ones(len(basket))
    matrix = csr_matrix((ones, (basket, stream.item)))
    model = CosineRecommender(K=K, num_threads=1)
    with warnings.catch_warnings(action="ignore"):  # it normalises in another form, and warns of that
        begun = time.process_time()
        model.fit(matrix, show_progress=False)
        return time.process_time() - begun


def refresh_s(stream: Stream, window: int, batches: int) -> float:
    """CPU seconds of a batch: the median of the last ones."""
    kernel = Kernel(int(stream.item.max()) + 1, window)
    histories, took = Histories(stream, window), []
    for start in range(0, len(stream.user), BATCH):
        part = slice(start, start + BATCH)
        tail, row = histories.tails(stream.user[part])
        begun = time.process_time()
        kernel.batch(tail, row, stream.item[part], stream.time[part])
        took.append(time.process_time() - begun)
    whole = took[:-1] if len(stream.user) % BATCH and len(took) > 1 else took
    return median(whole[-batches:])


def measure(stream: Stream, basket: NDArray[np.int64], batches: int) -> Mapping[str, float]:
    """Both, and their ratio."""
    refresh = refresh_s(stream, Settings().window, batches)
    rebuild = rebuild_s(basket, stream)
    return {"P4 refresh ÷ rebuild": refresh / rebuild, "refresh": refresh * 1e3, "rebuild": rebuild * 1e3}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--limit", type=int, default=None, help="only the first N lines")
    parser.add_argument("--batches", type=int, default=50, help="how many of the last batches are timed")
    given = parser.parse_args()
    keep_freed_memory()
    stream, basket = first(complete_journey(), given.limit), baskets(transactions())[: given.limit]
    found = repeated(partial(measure, stream, basket, given.batches), given.repeats)
    ratio, *rest = found.items()
    figures = {ratio[0]: figure(ratio[1], "× rebuild", most=GOAL)}
    figures |= {name: figure(values, "ms") for name, values in rest}
    tell(Report("refresh", figures, {"lines": len(stream.user), "items": int(stream.item.max()) + 1}), given)


if __name__ == "__main__":
    main()
