"""Score how closely a plan follows a reference plan, by the words of their steps: by default without a model.

    alignment = Alignment([(question, plan), ...])              the corpus sets word weights and the zero point
    alignment([question], [plan], [reference]) -> [0.83]

After ROSCOE: the average of reasoning alignment (mean over the plan's steps of their best match in the reference) and
missing step (minimum over the reference's steps of their best match in the plan). A step match is the product of two
similarities, of all words and of the words that are not in the question: a copied question matches nothing. A plan
with more of the question's wording than the reference scores lower, so a copy with "subtract" appended gains little.
Plans of other problems score about 0, the reference itself 1.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from random import Random
from statistics import fmean
from typing import Any

from plantune_lite.types import RecipeError

Plan = Sequence[str]
Alike = Callable[[Sequence[str], Sequence[str]], list[list[float]]]  # the cosine, 0 to 1, of each text with each other

_PAIRS = 500  # of a question and another problem's plan, to estimate the zero point
_CHANCE = 0.75  # of them score 0: among the rest are problems of the same kind, whose plans are much alike


class Alignment:
    """A judge of plans: scores plans against their references, from 0 to 1."""

    def __init__(self, corpus: Sequence[tuple[str, Plan]], *, alike: Alike | None = None, seed: int = 0) -> None:
        self._alike = alike or lexical(" ".join(plan) for _, plan in corpus)
        self.zero = self._by_chance(corpus, Random(seed))

    def __call__(self, questions: Sequence[str], plans: Sequence[Plan], references: Sequence[Plan]) -> list[float]:
        raw = map(self.raw, questions, plans, references)
        return [max(0.0, score - self.zero) / (1 - self.zero) for score in raw]

    def raw(self, question: str, plan: Plan, reference: Plan) -> float:
        """Average reasoning alignment and missing step, before rescaling."""
        known = frozenset(words(question))
        written, expected = _step_words(plan, known), _step_words(reference, known)
        copied = {step for step, new in expected.items() if not new}  # steps that only repeat the question
        written = {step: new for step, new in written.items() if step not in copied}
        expected = {step: new for step, new in expected.items() if new}
        if not written or not expected:
            return 0.0
        whole = self._alike([*written], [*expected])
        novel = self._alike([*written.values()], [*expected.values()])
        match = [[a * b for a, b in zip(*rows, strict=True)] for rows in zip(whole, novel, strict=True)]
        reasoning_alignment = fmean(map(max, match))
        missing_step = min(map(max, zip(*match, strict=True)))
        own, needed = _own(plan, question), _own(reference, question)
        return min(1.0, (1 if own >= needed else own / needed) * (reasoning_alignment + missing_step) / 2)

    def _by_chance(self, corpus: Sequence[tuple[str, Plan]], rng: Random) -> float:
        """Estimate the score of another problem's plan; 0 where there is no other."""
        plans = list(dict.fromkeys(tuple(plan) for _, plan in corpus))
        if len(plans) < 2:
            return 0.0
        drawn = [(*rng.choice(corpus), rng.choice(plans)) for _ in range(_PAIRS)]
        raw = sorted(self.raw(question, other, plan) for question, plan, other in drawn if other != tuple(plan))
        return min(raw[int(_CHANCE * len(raw))], 0.9)


def _step_words(plan: Plan, known: frozenset[str]) -> dict[str, str]:
    """Map each distinct step's words to those of them that the question does not have."""
    steps = (list(_tokens(step)) for step in plan)
    return {
        " ".join(word for word, _ in step): " ".join(word for word, stem in step if stem not in known) for step in steps
    }


def _own(plan: Plan, question: str) -> float:
    """Compute the share of a plan's word bigrams that are not in the question."""
    known = set(_pairs(question))
    pairs = [pair for step in plan for pair in _pairs(step)]
    return sum(pair not in known for pair in pairs) / max(1, len(pairs))


def _pairs(text: str) -> list[tuple[str, str]]:
    tokens = re.findall(r"\w+", text.casefold())
    return list(zip(["", *tokens], tokens, strict=False))  # "" first, so that a single word is a pair


# --- words ------------------------------------------------------------------------------------------------------------

_SMALL_CHANGE = """a an the of to in on at by for from with and or then than that this these those it its is are was
    were be been has have had he she they his her their there which what who how many much each every all one as so do
    does did get gets will would can could into out up after before first next last step find calculate number total"""
_STOP = frozenset(_SMALL_CHANGE.split())
_SIGNS = {"+": "add", "-": "subtract", "*": "multiply", "/": "divide", "×": "multiply", "÷": "divide", "−": "subtract"}
_SIGN = re.compile(r"(?<=[0-9)])\s*([-+*/×÷−])\s*(?=[$€£(0-9])")
_WORD = re.compile(r"[^\W\d_]{2,}")


def words(text: str) -> list[str]:
    """Reduce a step to its content words: without endings and stop words, its operators as words."""
    return [stem for _, stem in _tokens(text)]


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    for word in _WORD.findall(text.casefold()):
        if word not in _STOP:
            yield word, _stem(word)
    for sign in _SIGN.findall(text):
        yield _SIGNS[sign], _SIGNS[sign]


def _stem(word: str) -> str:
    for ending in ("ing", "ed", "es", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word.removesuffix(ending)
    return word


# --- how alike two texts are ------------------------------------------------------------------------------------------

_PIECES = 0.5  # weight of a word's pieces relative to the word: "subtraction" is like "subtract", but not the same


def lexical(texts: Iterable[str]) -> Alike:
    """Return a cosine over words and their three-letter pieces, rarer words in `texts` weighing more."""
    documents = [frozenset(words(text)) for text in texts]
    seen = Counter(word for document in documents for word in document)

    @lru_cache(maxsize=10_000)
    def vector(text: str) -> Mapping[str, float]:
        sums: dict[str, float] = defaultdict(float)
        for word in words(text):
            weight = 1 + math.log((1 + len(documents)) / (1 + seen[word]))
            sums[word] += weight
            marked = f"^{word}$"
            pieces = [marked[start : start + 3] for start in range(len(marked) - 2)]
            for piece in pieces:
                sums[f"{piece}*"] += _PIECES * weight / math.sqrt(len(pieces))
        length = math.sqrt(sum(weight * weight for weight in sums.values()))
        return {feature: weight / length for feature, weight in sums.items()}

    def cosine(left: str, right: str) -> float:
        first, second = vector(left), vector(right)
        return sum(weight * second.get(feature, 0.0) for feature, weight in first.items())

    return lambda these, those: [[cosine(left, right) for right in those] for left in these]


# --- how alike two texts are, by an embedding model -------------------------------------------------------------------

_LONGEST = 256  # tokens of a step


def embedding_similarity(name: str) -> Callable[[Sequence[str], Sequence[str]], list[list[float]]]:
    """Load a sentence encoder that scores each pair of texts by cosine, 0 to 1."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        model = AutoModel.from_pretrained(
            name, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
        ).eval()
    except (OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise RecipeError(
            f"grpo.embedder is {name}, which cannot be loaded: {reason} "
            "Set a sentence encoder's Hub id or folder, or none to compare words"
        ) from error

    @lru_cache(maxsize=10_000)
    def vector(text: str) -> Any:
        if not text:
            return torch.zeros(model.config.hidden_size)  # similar to nothing
        encoded = tokenizer(text, truncation=True, max_length=_LONGEST, return_tensors="pt")
        with torch.no_grad():
            hidden_1_L_D = model(input_ids=encoded.input_ids, attention_mask=encoded.attention_mask).last_hidden_state
        return torch.nn.functional.normalize(hidden_1_L_D.mean(1)[0], dim=-1)

    def alike(these: Sequence[str], those: Sequence[str]) -> list[list[float]]:
        left, right = (torch.stack([vector(text) for text in texts]) for texts in (these, those))
        return (left @ right.T).clamp(0, 1).tolist()

    return alike
