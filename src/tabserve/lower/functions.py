"""Elementary functions as nodes, of a value of shape (n_rows, n).

onnxruntime's own Exp, Log, Sigmoid, Softmax and Tanh differ in the last digit with the place of a
row in its batch. These are made of operators that do not: tables, and short polynomials between
their entries, to some units in the last place of numpy's.
"""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from tabserve.lower.graph import Graph
from tabserve.types import Array

_LOG2 = Fraction("0.6931471805599453094172321214581765680755001343602552")

# exp: of multiples of ln(2)/2048, in two parts, of which the first has so few digits that its
# products with whole numbers are exact.
_STEPS = 2048
_STEP_HIGH = float(np.float32(float(_LOG2 / _STEPS)))
_STEP_LOW = float(_LOG2 / _STEPS - Fraction(_STEP_HIGH))
# Twice the roots and half the powers of two: the largest number is no product of a root and a
# power that are both numbers.
_TWICE_ROOTS = (2 * np.exp2(np.arange(_STEPS, dtype=np.longdouble) / _STEPS)).astype(np.float64)
_LEAST, _LARGEST = -745.2, 709.8  # beyond them exp is 0 or infinite
_LEAST_POWER = -1076
_HALF_POWERS = np.ldexp(0.5, np.arange(_LEAST_POWER, 1025))

# log: the exponent is found by comparisons, first in steps of 46 and then of 2.
_STRIDE = 46
_COARSE = _STRIDE * np.arange(-24, 23)
_FINE = 2 * np.arange(_STRIDE // 2)
_MANTISSA_STEPS = 1024


def exp(graph: Graph, value: str) -> str:
    """As a root of two, and a power of two, and what is left."""
    least, largest = graph.constant(_LEAST), graph.constant(_LARGEST)
    # A NaN is no greater, and put back in the end.
    is_greater = graph.node("Greater", value, least)
    bounded = graph.node("Min", graph.node("Where", is_greater, value, least), largest)
    step = graph.node("Round", graph.node("Mul", bounded, graph.constant(float(_STEPS / _LOG2))))
    high = graph.node("Mul", step, graph.constant(_STEP_HIGH))
    low = graph.node("Mul", step, graph.constant(_STEP_LOW))
    rest = graph.node("Sub", graph.node("Sub", bounded, high), low)
    # Of |rest| < 1/5900.
    rest = _polynomial(graph, rest, [1.0, 1.0, 1 / 2, 1 / 6, 1 / 24])
    offset = graph.constant(-_LEAST_POWER * _STEPS, np.int64)
    place = graph.node("Add", graph.as_integer(step), offset)
    steps = graph.constant(_STEPS, np.int64)
    root = graph.node("Gather", graph.constant(_TWICE_ROOTS), graph.node("Mod", place, steps))
    power = graph.node("Gather", graph.constant(_HALF_POWERS), graph.node("Div", place, steps))
    result = graph.node("Mul", graph.node("Mul", root, rest), power)
    return graph.node("Where", graph.node("IsNaN", value), value, result)


def expm1(graph: Graph, value: str) -> str:
    """To the last digits of 1, or of what is larger."""
    return graph.node("Sub", exp(graph, value), graph.constant(1.0))


def logistic(graph: Graph, value: str) -> str:
    """1 / (1 + exp(-x)), without overflow on either side."""
    one = graph.constant(1.0)
    small = exp(graph, graph.node("Neg", graph.node("Abs", value)))
    is_positive = graph.node("GreaterOrEqual", value, graph.constant(0.0))
    numerator = graph.node("Where", is_positive, one, small)
    return graph.node("Div", numerator, graph.node("Add", one, small))


def tanh(graph: Graph, value: str) -> str:
    """To the last digits of 1."""
    double = graph.node("Mul", graph.constant(-2.0), graph.node("Abs", value))
    less = expm1(graph, double)
    size = graph.node("Div", less, graph.node("Add", graph.constant(2.0), less))
    return graph.node("Mul", graph.node("Neg", graph.node("Sign", value)), size)


def softmax(graph: Graph, value: str, n: int) -> str:
    """Row by row."""
    largest = graph.node("ReduceMax", value, graph.constant([1], np.int64), keepdims=1)
    exponentials = exp(graph, graph.node("Sub", value, largest))
    total = graph.node("MatMul", exponentials, graph.constant(np.ones((n, 1))))
    return graph.node("Div", exponentials, total)


def log(graph: Graph, value: str) -> str:
    is_usual = graph.node(
        "And",
        graph.node("Greater", value, graph.constant(0.0)),
        graph.node("Less", value, graph.constant(np.inf)),
    )
    usual = graph.node("Where", is_usual, value, graph.constant(1.0))
    return graph.node("Where", is_usual, _log_of_usual(graph, usual), _end_of_log(graph, value))


def log1p(graph: Graph, value: str) -> str:
    """To the last digits of 1, or of what is larger."""
    return log(graph, graph.node("Add", graph.constant(1.0), value))


def _log_of_usual(graph: Graph, value: str) -> str:
    exponent, mantissa = _exponent_and_mantissa(graph, value)
    steps = graph.constant(float(_MANTISSA_STEPS))
    place = graph.node("Round", graph.node("Mul", mantissa, steps))
    near = graph.node("Div", place, steps)
    rest = graph.node("Div", graph.node("Sub", mantissa, near), near)
    table = np.log(np.arange(1, 3 * _MANTISSA_STEPS, dtype=np.longdouble) / _MANTISSA_STEPS)
    table = np.append(0.0, table.astype(np.float64))
    start = graph.node("Gather", graph.constant(table), graph.as_integer(place))
    # log(1 + r) = r (1 - r/2 + r²/3 - ...), of |r| < 1/1400
    factor = _polynomial(graph, rest, [1.0, -1 / 2, 1 / 3, -1 / 4, 1 / 5])
    fine = graph.node("Add", start, graph.node("Mul", rest, factor))
    return graph.node("Add", graph.node("Mul", exponent, graph.constant(float(_LOG2))), fine)


def _exponent_and_mantissa(graph: Graph, value: str) -> tuple[str, str]:
    """x = 2**exponent * mantissa, which is from sqrt(1/2) to sqrt(8)."""
    coarse, half = _exponent(graph, value, _COARSE)
    # Half of it twice: the whole factor may be no number.
    rest = graph.node("Mul", graph.node("Mul", value, half), half)
    fine, half = _exponent(graph, rest, _FINE)
    mantissa = graph.node("Mul", graph.node("Mul", rest, half), half)
    return graph.node("Add", coarse, fine), mantissa


def _exponent(graph: Graph, value: str, exponents: Array) -> tuple[str, str]:
    """The last of the even exponents with 2**exponent * sqrt(1/2) <= x, and 2**(-exponent/2)."""
    powers = np.ldexp(np.sqrt(0.5), exponents[1:])
    each = graph.node("Unsqueeze", value, graph.constant([-1], np.int64))
    reached = graph.as_integer(graph.node("GreaterOrEqual", each, graph.constant(powers)))
    place = graph.node("ReduceSum", reached, graph.constant([-1], np.int64), keepdims=0)
    exponent = graph.node("Gather", graph.constant(exponents.astype(np.float64)), place)
    half = graph.node("Gather", graph.constant(np.ldexp(1.0, -exponents // 2)), place)
    return exponent, half


def _end_of_log(graph: Graph, value: str) -> str:
    """Infinite of what is infinite, -infinite of 0, and no number of all else."""
    zero, infinity = graph.constant(0.0), graph.constant(np.inf)
    is_infinite = graph.node("Equal", value, infinity)
    other = graph.node("Where", is_infinite, infinity, graph.constant(np.nan))
    return graph.node("Where", graph.node("Equal", value, zero), graph.constant(-np.inf), other)


def _polynomial(graph: Graph, value: str, coefficients: Sequence[float]) -> str:
    """coefficients: of the powers from 0 on."""
    *others, last = coefficients
    result = graph.constant(last)
    for coefficient in reversed(others):
        product = graph.node("Mul", value, result)
        result = graph.node("Add", product, graph.constant(coefficient))
    return result
