"""Rate limits that count together over the servers of several machines, in Redis.

One thread asks, for all requests that wait at the moment at once, and no request ever holds a
connection: one that is given up cannot leave its answer to another. Each answer carries the number
of its question all the same.
"""

import hashlib
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from math import inf
from queue import Empty, SimpleQueue

from tabserve.errors import InvalidSettings, MissingExtra, ModelNotReady
from tabserve.settings import Rate

try:
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry
except ImportError:
    raise MissingExtra("redis", "redis") from None

logger = logging.getLogger("tabserve")

# Nobody waits longer for an answer or a connection.
_TIMEOUT_S = 0.5
# Between two looks at a store that is away, or that nobody asks.
_LOOK_S = 0.5
_MOST_AT_ONCE = 256

# One window for each client, that its first request opens and that Redis ends. One that lasts
# longer than it should, or has no end, began before Redis' clock was set back.
# KEYS: the client's. ARGV: the number of the question, how many to count (0 asks whether there is
# room for one), the most that are admitted, the window in ms.
_COUNT = """
local asked, most, period = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local n = tonumber(redis.call('GET', KEYS[1]) or '0')
local left = redis.call('PTTL', KEYS[1])
if left <= 0 or left > period then n, left = 0, period end
if n + math.max(asked, 1) > most then return {ARGV[1], left} end
if asked > 0 then redis.call('SET', KEYS[1], n + asked, 'PX', left) end
return {ARGV[1], 0}
"""


@dataclass
class _Question:
    number: int
    client: str
    n: int
    wait_s: Future[float] = field(default_factory=Future)


class RedisLimiter:
    """url: redis://, rediss:// or unix://. It may hold a password, and is shown to nobody.

    is_open: whether requests are admitted while Redis is away, or refused.
    on_away: told when it is, and when it is back. Raises InvalidSettings.
    """

    def __init__(
        self, rate: Rate, url: str, *, is_open: bool, on_away: Callable[[bool], None]
    ) -> None:
        self.rate = rate
        self._is_open = is_open
        self._on_away = on_away
        self._is_away = False
        self._numbers = count()
        self._asked: SimpleQueue[_Question | None] = SimpleQueue()  # None wakes
        self._closing = threading.Event()
        try:
            self._redis = redis.Redis.from_url(
                url,
                socket_timeout=_TIMEOUT_S,
                socket_connect_timeout=_TIMEOUT_S,
                retry=Retry(NoBackoff(), 0),  # what was counted, and not answered, is not twice
            )
        except ValueError:  # such as a port that is none; it repeats what stands there
            raise InvalidSettings(
                "Expected the address of a store of rate limits, such as redis://127.0.0.1:6379/0, "
                "got one that cannot be read."
            ) from None
        self._thread = threading.Thread(target=self._work, name="tabserve-limits", daemon=True)
        self._thread.start()

    def admit(self, client: str, n: int = 1) -> float | Future[float]:
        """Count `n`; 0.0 if that is admitted, else the seconds until the next one may be. n: 0 asks
        whether one would be. Raises ModelNotReady, or gives it to the future.
        """
        if self._is_away:
            return self._fallback()
        question = _Question(next(self._numbers), client, n)
        self._asked.put(question)
        return question.wait_s

    def close(self) -> None:
        self._closing.set()
        self._asked.put(None)
        self._thread.join(4 * _TIMEOUT_S)

    def _fallback(self) -> float:
        if self._is_open:
            return 0.0
        raise ModelNotReady("The rate limit cannot be counted at the moment.")

    def _work(self) -> None:
        while not self._closing.is_set():
            questions = self._gathered()
            try:
                if questions:
                    waits = self._answers(questions)
                else:
                    self._redis.ping()
            except Exception as error:  # noqa: BLE001 - without this thread nobody is answered
                self._set_away(error)
                for question in [*questions, *self._waiting()]:
                    self._answer(question, None)
                self._closing.wait(_LOOK_S)
                continue
            self._set_away(None)
            for question, wait_s in zip(questions, waits if questions else (), strict=True):
                self._answer(question, wait_s)
        for question in self._waiting():
            self._answer(question, None)
        self._redis.close()

    def _gathered(self) -> list[_Question]:
        """Those that wait, after the first one came; none where none did for a while."""
        try:
            # While it is away none comes: whether it is back must be asked.
            first = self._asked.get(timeout=0.001 if self._is_away else _LOOK_S)
        except Empty:
            return []
        return [*([] if first is None else [first]), *self._waiting(_MOST_AT_ONCE - 1)]

    def _waiting(self, most: float = inf) -> list[_Question]:
        found: list[_Question] = []
        with suppress(Empty):
            while len(found) < most:
                question = self._asked.get_nowait()
                if question is not None:
                    found.append(question)
        return found

    def _answers(self, questions: Sequence[_Question]) -> list[float]:
        """Raises whatever the store fails with, and ValueError for answers to other questions."""
        most, period_ms = self.rate.count, 1000 * self.rate.period_s
        pipeline = self._redis.pipeline(transaction=False)
        for question in questions:
            digest = hashlib.blake2b(question.client.encode(), digest_size=16).hexdigest()
            key = f"tabserve:{most}/{self.rate.period_s}:{digest}"
            pipeline.eval(_COUNT, 1, key, question.number, question.n, most, period_ms)
        answers = pipeline.execute()
        numbers = [int(number) for number, _ in answers]
        if numbers != [question.number for question in questions]:
            raise ValueError("answers to other questions")
        return [wait_ms / 1000 for _, wait_ms in answers]

    def _answer(self, question: _Question, wait_s: float | None) -> None:
        """wait_s: None where nobody knows."""
        if not question.wait_s.set_running_or_notify_cancel():
            return  # its request was given up
        try:
            question.wait_s.set_result(self._fallback() if wait_s is None else wait_s)
        except ModelNotReady as error:
            question.wait_s.set_exception(error)

    def _set_away(self, error: Exception | None) -> None:
        """error: what the store failed with; None where it answered."""
        if error is not None:
            self._redis.connection_pool.disconnect()  # nobody knows what may still come on it
        if self._is_away == (error is not None):
            return
        self._is_away = error is not None
        self._on_away(self._is_away)
        if error is None:
            logger.info("The store of rate limits is back")
        else:
            what = "admitted uncounted" if self._is_open else "refused"
            logger.warning(
                "The store of rate limits is away (%s): meanwhile requests are %s",
                type(error).__name__,
                what,
            )
