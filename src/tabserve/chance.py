"""Random numbers of the server's own: those of the module `random` are seeded by the code of models,
for whom each prediction would then have the same id.
"""

import os
from random import Random

_own = Random()  # noqa: S311 - no secret
os.register_at_fork(after_in_child=_own.seed)

getrandbits = _own.getrandbits
random = _own.random
