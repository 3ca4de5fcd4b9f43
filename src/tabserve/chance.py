"""Random numbers of the server's own: the code of a model may seed those of the module `random`,
and then each prediction would have the same id.
"""

import os
from random import Random

_own = Random()  # noqa: S311 - no secret
os.register_at_fork(after_in_child=_own.seed)

getrandbits = _own.getrandbits
random = _own.random
