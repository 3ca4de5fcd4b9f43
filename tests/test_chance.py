"""What the server draws is nobody else's to seed."""

import os
import random

from tabserve import chance
from tabserve.types import new_id, new_ids


def drawn() -> list[object]:
    return [new_id(), *new_ids(2), chance.random()]


def test_a_model_that_seeds_what_is_random_makes_no_id_come_again() -> None:
    random.seed(0)
    first = drawn()
    random.seed(0)
    assert not {*first} & {*drawn()}


def test_a_fork_draws_other_numbers() -> None:
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(theirs, repr(drawn()).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    os.close(theirs)
    with os.fdopen(ours) as pipe:
        assert pipe.read() != repr(drawn())
