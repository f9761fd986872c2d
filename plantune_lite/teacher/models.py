"""Look up prices and options of Gemini's models: one table, the only place in the project with their names.

price_of(DEFAULT_MODEL, today=date(2026, 11, 1)) -> Price(0.75, 3.75)      PLANTUNE_PRICE="0.10,0.40" overrides it
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Literal

from plantune_lite.teacher.provider import FREE, Price, TeacherError

# Google's price page on that day. On 2026-11-30 there was nothing newer, and 2.5 was gone.
AS_OF = date(2026, 10, 7)
Level = Literal["minimal", "low", "medium", "high"]


@dataclass(frozen=True)
class Model:
    """A model's price, and what differs in its requests."""

    price: Price  # USD per million tokens. Prompts over 200,000 tokens cost more; ours are never that long
    least: Level | None  # minimum thinking, which cannot be turned off; None: it does not think
    tunes: bool = False  # False: temperature and top_p are ignored, only the seed varies
    later: tuple[date, Price] | None = None  # price from this day on
    ends: date | None = None  # announced shutdown


_RISE = (date(2027, 1, 1), Price(1.50, 7.50))  # when the introductory prices end
MODELS = {
    "gemini-3.8-flash": Model(Price(0.75, 3.75), "low", later=_RISE),
    "gemini-3.7-flash": Model(Price(0.75, 3.75), "low", later=_RISE),
    "gemini-3.6-flash": Model(Price(0.75, 3.75), "minimal", later=_RISE),
    "gemini-3.5-flash-lite": Model(Price(0.30, 2.50), "minimal"),
    "gemini-3.5-flash": Model(Price(1.50, 9.00), "minimal", tunes=True),
    "gemini-3.1-flash-lite": Model(Price(0.25, 1.50), "minimal", tunes=True, ends=date(2027, 5, 7)),
    "gemini-3.1-pro-preview": Model(Price(2.00, 12.00), "low", tunes=True),
}
DEFAULT_MODEL = "gemini-3.8-flash"
_OTHER = Model(FREE, None, tunes=True)  # other models of the same server: Gemma
OVERRIDE = "PLANTUNE_PRICE"


def model_name(model: str | None, environ: Mapping[str, str], today: date | None = None) -> str:
    """Return the model's name, the default where none is given; raise for one that has been shut down."""
    name = (model or DEFAULT_MODEL).removeprefix("models/")
    ends = MODELS[name].ends if name in MODELS else None
    own_address = environ.get("GOOGLE_GEMINI_BASE_URL", "").strip()  # may still serve it
    if ends and ends <= (today or date.today()) and not own_address:
        raise TeacherError(f"Google shut {name} down on {ends}: set distill.model={DEFAULT_MODEL}, or leave it out")
    return name


def takes(name: str) -> Model:
    """Return what a request to this model may contain; a Gemini that is not in the table counts as the default."""
    return MODELS.get(name) or (MODELS[DEFAULT_MODEL] if name.startswith("gemini-") else _OTHER)


def price_of(model: str, *, environ: Mapping[str, str] = os.environ, today: date | None = None) -> Price:
    """Return the price of a model; the environment's override takes precedence, an unknown price is an error."""
    if written := environ.get(OVERRIDE, "").strip():
        return _parsed(written)
    known = MODELS.get(model)
    if known is None:
        others = f", or distill.model to one of {', '.join(MODELS)}" if model.startswith("gemini-") else ""
        raise TeacherError(
            f"the price of {model!r} is not known, so no budget could hold. Set {OVERRIDE}='IN,OUT' in the environment "
            f"(USD per million tokens; {OVERRIDE}='0,0' for your own server){others}"
        )
    later = known.later
    return later[1] if later and later[0] <= (today or date.today()) else known.price


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
