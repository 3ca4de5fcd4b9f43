"""Elementary functions as nodes, of a value of any shape.

onnxruntime's own Exp, Log, Sigmoid, Softmax, Tanh and Pow differ in the last digit with the place
of a row in its batch. These are made of operators that do not: tables, and short polynomials
between their entries (Tang, Table-driven implementation of the exponential function, ACM TOMS 15,
1989), to one or two units in the last place. At infinity, at 0 and of NaN they are as numpy's.
"""

from collections.abc import Sequence
from decimal import Decimal, localcontext
from functools import cache

import numpy as np

from tabserve.lower.graph import Graph
from tabserve.types import Array

# exp: of multiples of ln(2)/2048, and a polynomial of what is left.
_EXP_STEPS = 2048
_EXP_FACTORS = (1.0, 1 / 2, 1 / 6, 1 / 24)  # of (exp(r) - 1) / r, |r| < 1/5900
_LEAST, _LARGEST = -745.2, 709.8  # beyond them exp is 0 or infinite
_EXP_EXPONENTS = range(-1076, 1026)

# log: of multiples of 1/1024 between the roots of 1/2 and of 2.
_LOG_STEPS = 1024
_LOG_FACTORS = (1.0, -1 / 2, 1 / 3, -1 / 4, 1 / 5)  # of log(1 + r) / r, |r| < 1/1400
_LOG_EXPONENTS = range(-1075, 1026)
_DIGITS = 50  # of the tables' computation, many more than they keep


def exp(graph: Graph, value: str) -> str:
    result = _Exponential(graph, value).result()
    return graph.node("Where", graph.node("IsNaN", value), value, result)


def expm1(graph: Graph, value: str) -> str:
    exponential = _Exponential(graph, value)
    # Where 1 is nothing beside it, and before its parts are infinite.
    is_large = graph.node("Greater", value, graph.constant(40.0))
    result = graph.node("Where", is_large, exponential.result(), exponential.less_one())
    return graph.node("Where", graph.node("IsNaN", value), value, result)


def log(graph: Graph, value: str) -> str:
    return _Logarithm(graph, value, "e").result()


def log2(graph: Graph, value: str) -> str:
    return _Logarithm(graph, value, "2").result()


def log10(graph: Graph, value: str) -> str:
    return _Logarithm(graph, value, "10").result()


def log1p(graph: Graph, value: str) -> str:
    more = graph.node("Add", value, graph.constant(1.0))
    lost = graph.node("Sub", value, graph.node("Sub", more, graph.constant(1.0)))
    return _Logarithm(graph, more, "e", lost).result()


def power(graph: Graph, value: str, exponents: Array) -> str:
    """Of numbers that are not negative; of others NaN. exponents: none is 0; shape (n,) or ()."""
    logarithm = _Logarithm(graph, value, "e")
    product, rest = logarithm.times(exponents)
    result = _Exponential(graph, product, rest).result()
    ends = graph.node("Mul", logarithm.ends, graph.constant(exponents))
    zero, infinity = graph.constant(0.0), graph.constant(np.inf)
    ends = graph.node("Where", graph.node("Less", ends, zero), zero, ends)
    ends = graph.node("Where", graph.node("Greater", ends, zero), infinity, ends)
    return graph.node("Where", logarithm.is_usual, result, ends)


def logistic(graph: Graph, value: str) -> str:
    """1 / (1 + exp(-x)), without overflow on either side; 0 where that exp would be infinite, as
    scipy's expit has it: where all classes are 0, scikit-learn takes them to be equally likely.
    """
    one = graph.constant(1.0)
    size = graph.node("Abs", value)
    small = exp(graph, graph.node("Neg", size))
    overflows = graph.node("Greater", size, graph.constant(np.log(np.finfo(np.float64).max)))
    small = graph.node("Where", overflows, graph.constant(0.0), small)
    is_positive = graph.node("GreaterOrEqual", value, graph.constant(0.0))
    numerator = graph.node("Where", is_positive, one, small)
    return graph.node("Div", numerator, graph.node("Add", one, small))


def tanh(graph: Graph, value: str) -> str:
    less = expm1(graph, graph.node("Mul", graph.constant(-2.0), graph.node("Abs", value)))
    size = graph.node("Div", less, graph.node("Add", graph.constant(2.0), less))
    return graph.node("Mul", graph.node("Neg", graph.node("Sign", value)), size)


def softmax(graph: Graph, value: str, n: int) -> str:
    """Row by row, of shape (n_rows, n)."""
    largest = graph.node("ReduceMax", value, graph.constant([1], np.int64), keepdims=1)
    exponentials = exp(graph, graph.node("Sub", value, largest))
    total = graph.node("MatMul", exponentials, graph.constant(np.ones((n, 1))))
    return graph.node("Div", exponentials, total)


class _Exponential:
    """exp(value + rest) = root * (1 + more) * 2**exponent."""

    def __init__(self, graph: Graph, value: str, rest: str | None = None) -> None:
        self._graph = graph
        least, largest = graph.constant(_LEAST), graph.constant(_LARGEST)
        # A NaN is not greater; a place must be some number.
        is_greater = graph.node("Greater", value, least)
        bounded = graph.node("Min", graph.node("Where", is_greater, value, least), largest)
        with localcontext(prec=_DIGITS):
            step = Decimal(2).ln() / _EXP_STEPS
            # The first part has so few digits that its products with whole numbers are exact.
            high, low = _parts(step, 2.0**-42)
        whole = graph.node("Round", graph.node("Mul", bounded, graph.constant(1 / float(step))))
        left = graph.node("Sub", bounded, graph.node("Mul", whole, graph.constant(high)))
        left = graph.node("Sub", left, graph.node("Mul", whole, graph.constant(low)))
        if rest is not None:
            left = graph.node("Add", left, rest)
        self._more = graph.node("Mul", left, polynomial(graph, left, _EXP_FACTORS))
        offset = graph.constant(-_EXP_EXPONENTS[0] * _EXP_STEPS, np.int64)
        place = graph.node("Add", graph.as_integer(whole), offset)
        steps = graph.constant(_EXP_STEPS, np.int64)
        self._exponent = graph.node("Div", place, steps)
        self._step = graph.node("Mod", place, steps)
        roots, self._corrections = _roots()
        self._root = graph.node("Gather", graph.constant(roots), self._step)

    def result(self) -> str:
        graph = self._graph
        more = graph.node("Mul", self._root, self._more)
        return self._scaled(graph.node("Add", self._root, more))

    def less_one(self) -> str:
        """exp - 1, of what is so small that no part is infinite."""
        graph = self._graph
        correction = graph.node("Gather", graph.constant(self._corrections), self._step)
        more = graph.node("Add", correction, graph.node("Mul", self._root, self._more))
        root = graph.node("Sub", self._scaled(self._root), graph.constant(1.0))
        return graph.node("Add", root, self._scaled(more))

    def _scaled(self, value: str) -> str:
        return _scaled(self._graph, value, self._exponent, list(_EXP_EXPONENTS))


class _Logarithm:
    """log(value + lost) = high + low, where value is positive and finite; lost: what adding 1 lost.

    ends: of any other value.
    """

    def __init__(self, graph: Graph, value: str, base: str, lost: str | None = None) -> None:
        self._graph = graph
        zero, infinity = graph.constant(0.0), graph.constant(np.inf)
        is_finite = graph.node("Less", value, infinity)
        self.is_usual = graph.node("And", graph.node("Greater", value, zero), is_finite)
        self.ends = graph.node("Log", value)
        usual = graph.node("Where", self.is_usual, value, graph.constant(1.0))
        exponent, mantissa = _exponent_and_mantissa(graph, usual)
        steps = graph.constant(float(_LOG_STEPS))
        place = graph.node("Round", graph.node("Mul", mantissa, steps))
        near = graph.node("Div", place, steps)
        rest = graph.node("Div", graph.node("Sub", mantissa, near), near)
        tables = _logarithms(base)
        place = graph.as_integer(place)
        factors = tuple(factor * tables.of_e for factor in _LOG_FACTORS)
        low = graph.node("Mul", rest, polynomial(graph, rest, factors))
        if lost is not None:
            low = graph.node("Add", low, graph.node("Div", lost, usual))
        for table, where in ((tables.step_low, place), (tables.exponent_low, exponent)):
            low = graph.node("Add", graph.node("Gather", graph.constant(table), where), low)
        self._low = low
        self._high = graph.node(
            "Add",
            graph.node("Gather", graph.constant(tables.exponent_high), exponent),
            graph.node("Gather", graph.constant(tables.step_high), place),
        )

    def result(self) -> str:
        total = self._graph.node("Add", self._high, self._low)
        return self._graph.node("Where", self.is_usual, total, self.ends)

    def times(self, factors: Array) -> tuple[str, str]:
        """The product in two parts, of which the first is exact and nearly all."""
        graph = self._graph
        start = graph.short(graph.node("Add", self._high, self._low))
        left = graph.node("Add", graph.node("Sub", self._high, start), self._low)
        short = np.asarray(factors, dtype=np.float32).astype(np.float64)
        rest = graph.node(
            "Add",
            graph.node("Mul", left, graph.constant(factors)),
            graph.node("Mul", start, graph.constant(factors - short)),
        )
        return graph.node("Mul", start, graph.constant(short)), rest


def _exponent_and_mantissa(graph: Graph, value: str) -> tuple[str, str]:
    """Of x = mantissa * 2**exponent, the exponent's place among _LOG_EXPONENTS, and the mantissa,
    which is from sqrt(1/2) to sqrt(2).
    """
    # onnxruntime's logarithm is wrong in its last digits, and so this may be one too small for a
    # mantissa near sqrt(2), but never too large. The root is so that a subnormal number is none.
    guess = graph.node("Log", graph.node("Sqrt", value))
    guess = graph.node("Mul", guess, graph.constant(2 / np.log(2)))
    offset = graph.constant(-_LOG_EXPONENTS[0] - 1e-9)
    place = graph.as_integer(graph.node("Round", graph.node("Add", guess, offset)))
    mantissa = _scaled(graph, value, place, [-exponent for exponent in _LOG_EXPONENTS])
    is_large = graph.node("GreaterOrEqual", mantissa, graph.constant(np.sqrt(2)))
    half = graph.node("Mul", mantissa, graph.constant(0.5))
    mantissa = graph.node("Where", is_large, half, mantissa)
    return graph.node("Add", place, graph.as_integer(is_large)), mantissa


def _scaled(graph: Graph, value: str, place: str, exponents: Sequence[int]) -> str:
    """value * 2**exponents[place], in two steps: not each of these powers is a number itself."""
    halves = np.array([exponent // 2 for exponent in exponents])
    for some in (halves, np.array(exponents) - halves):
        factor = graph.node("Gather", graph.constant(np.ldexp(1.0, some)), place)
        value = graph.node("Mul", value, factor)
    return value


def polynomial(graph: Graph, value: str, coefficients: Sequence[float]) -> str:
    """coefficients: of the powers from 0 on."""
    *others, last = coefficients
    result = graph.constant(last)
    for coefficient in reversed(others):
        product = graph.node("Mul", value, result)
        result = graph.node("Add", product, graph.constant(coefficient))
    return result


@cache
def _roots() -> tuple[Array, Array]:
    """Powers of 2 from 0 to 1 in steps, and what each lacks."""
    with localcontext(prec=_DIGITS):
        roots = [Decimal(2) ** (Decimal(i) / _EXP_STEPS) for i in range(_EXP_STEPS)]
        nearest = [float(root) for root in roots]
        lacking = [float(root - Decimal(near)) for root, near in zip(roots, nearest, strict=True)]
    return np.array(nearest), np.array(lacking)


class _Tables:
    """Logarithms in two parts each, of which the first has so few digits that sums are exact."""

    def __init__(self, base: str) -> None:
        with localcontext(prec=_DIGITS):
            unit = Decimal(1) if base == "e" else 1 / Decimal(base).ln()
            doubled = Decimal(1) if base == "2" else Decimal(2).ln() * unit
            steps = range(_LOG_STEPS // 2, _LOG_STEPS * 3 // 2)
            logs = [(Decimal(i) / _LOG_STEPS).ln() * unit for i in steps]
            high, low = zip(*(_parts(log, 2.0**-40) for log in logs), strict=True)
            exponents = [_parts(doubled * exponent, 2.0**-40) for exponent in _LOG_EXPONENTS]
        unused = np.zeros(steps[0])
        self.of_e = float(unit)
        self.step_high = np.concatenate([unused, high])
        self.step_low = np.concatenate([unused, low])
        self.exponent_high, self.exponent_low = np.array(exponents).T


@cache
def _logarithms(base: str) -> _Tables:
    return _Tables(base)


def _parts(number: Decimal, unit: float) -> tuple[float, float]:
    """A multiple of the unit, which is a power of 2, and what is left."""
    high = float(round(number / Decimal(unit)) * Decimal(unit))
    return high, float(number - Decimal(high))
