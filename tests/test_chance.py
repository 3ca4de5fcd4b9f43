"""What the server draws is nobody else's to seed."""

import random
import subprocess
import sys

from tabserve import chance
from tabserve.types import new_id, new_ids
from tests.serving import PATIENCE_S


def drawn() -> list[object]:
    return [new_id(), *new_ids(2), chance.random()]


def test_a_model_that_seeds_what_is_random_makes_no_id_come_again() -> None:
    random.seed(0)
    first = drawn()
    random.seed(0)
    assert not {*first} & {*drawn()}


# In a process without threads.
FORKED = """
import os
from tabserve.types import new_id
if child := os.fork():
    os.waitpid(child, 0)  # one after the other
print(new_id(), flush=True)
"""


def test_a_fork_draws_other_numbers() -> None:
    told = subprocess.check_output([sys.executable, "-c", FORKED], text=True, timeout=PATIENCE_S)
    first, second = told.split()
    assert first != second
