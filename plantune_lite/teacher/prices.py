"""Look up what a token costs: one table, in USD per million tokens of input and output, thoughts counted as output.

price_of("gemini-3.8-flash", today=date(2026, 11, 1)) -> Price(0.75, 3.75)      PLANTUNE_PRICE="0.10,0.40" overrides it
"""

import os
from collections.abc import Mapping
from datetime import date

from plantune_lite.teacher.provider import Price, TeacherError

AS_OF = date(2026, 10, 7)  # Google's price page as read on that day
_LATER = date(2027, 1, 1)  # when the introductory prices of 3.6 to 3.8 Flash end

# model -> (from this day on, price), the newest last. Prompts over 200,000 tokens cost more; ours are never that long.
_ALWAYS = date.min
_PRICES: dict[str, list[tuple[date, Price]]] = {
    "gemini-3.8-flash": [(_ALWAYS, Price(0.75, 3.75)), (_LATER, Price(1.50, 7.50))],
    "gemini-3.7-flash": [(_ALWAYS, Price(0.75, 3.75)), (_LATER, Price(1.50, 7.50))],
    "gemini-3.6-flash": [(_ALWAYS, Price(0.75, 3.75)), (_LATER, Price(1.50, 7.50))],
    "gemini-3.5-flash": [(_ALWAYS, Price(1.50, 9.00))],
    "gemini-3.5-flash-lite": [(_ALWAYS, Price(0.30, 2.50))],
    "gemini-3.1-flash-lite": [(_ALWAYS, Price(0.25, 1.50))],
    "gemini-3.1-pro-preview": [(_ALWAYS, Price(2.00, 12.00))],
    "gemini-2.5-pro": [(_ALWAYS, Price(1.25, 10.00))],
    "gemini-2.5-flash": [(_ALWAYS, Price(0.30, 2.50))],
    "gemini-2.5-flash-lite": [(_ALWAYS, Price(0.10, 0.40))],
}
OVERRIDE = "PLANTUNE_PRICE"


def price_of(model: str, *, environ: Mapping[str, str] = os.environ, today: date | None = None) -> Price:
    """Return the price of a model; the override in the environment goes first, an unknown price is an error."""
    if written := environ.get(OVERRIDE, "").strip():
        return _parsed(written)
    known = _PRICES.get(model.removeprefix("models/"))
    if known is None:
        raise TeacherError(
            f"the price of {model!r} is not known, so no budget could hold. Set {OVERRIDE}='IN,OUT' in the environment "
            f"(USD per million tokens; {OVERRIDE}='0,0' for a server of your own), or add the model to prices.py"
        )
    today = today or date.today()
    return [price for since, price in known if since <= today][-1]


def _parsed(written: str) -> Price:
    try:
        tokens_in, tokens_out = (float(number) for number in written.split(","))
        if not (0 <= tokens_in < float("inf") and 0 <= tokens_out < float("inf")):
            raise ValueError(written)
    except ValueError:
        raise TeacherError(
            f"{OVERRIDE} is {written!r}, but must be two numbers, USD per million tokens in and out: "
            f"{OVERRIDE}='0.30,2.50'"
        ) from None
    return Price(tokens_in, tokens_out)
