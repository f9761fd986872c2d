"""Score partial plans with a value head on the student: trained on one search, used in the next.

    train(student, [("practice/train/7", messages, 0.4), ...], folder)  -> {"line": "off by 0.31 on 40 states ...", ...}
    value_of(student, folder)([messages, ...])                          -> [0.38, ...]

V(s) = tanh(w . h + b), with h the last layer's output at the state's last token. The student's weights are frozen: only
the head is trained, by mean squared error on the search's q. CPL trains a second whole model for this; one GPU has room
for one. The head is saved next to the adapter whose outputs it reads, in value_head.safetensors, and fits no other.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

from plantune_lite.student.load import Loaded
from plantune_lite.types import Messages, PlantuneError

FILE = "value_head.safetensors"
ROWS = 16  # states read at once
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)  # of the penalty on weights; the held-out questions choose the best
KEPT_APART = 0.2  # share of the questions

Known = tuple[str, Messages, float]  # a question's id, a state of its tree, and its q


def train(student: Loaded, known: Sequence[Known], out: Path, *, seed: int = 0) -> dict[str, Any]:
    """Train a head on states with known q, save it next to the student's adapter, and return how far off it is."""
    import torch
    from safetensors.torch import save_file

    if len(known) < 2:
        raise PlantuneError(
            f"a value head needs states to learn from, and the search left {len(known)}: search more questions "
            "(cpl.questions), or set cpl.leaf=rollout"
        )
    h_N_H = outputs(student, [messages for _, messages, _ in known])
    q_N = torch.tensor([q for _, _, q in known])
    apart_N = torch.tensor(_apart([id for id, _, _ in known], seed))
    if apart_N.all() or not apart_N.any():  # one question: nothing to hold out
        apart_N = torch.zeros_like(apart_N)
    learned = (h_N_H[~apart_N], q_N[~apart_N])
    heads = [_fitted(*learned, strength) for strength in STRENGTHS]
    judged = (h_N_H[apart_N], q_N[apart_N]) if apart_N.any() else learned
    errors = [_error(judged[0] @ weight + bias, judged[1]) for weight, bias in heads]
    best = min(range(len(heads)), key=errors.__getitem__)
    weight, bias = heads[best]
    out.mkdir(parents=True, exist_ok=True)
    save_file({"weight": weight.contiguous(), "bias": bias.reshape(1)}, out / FILE)
    mean = float(learned[1].mean().clamp(-0.999, 0.999))
    constant = _error(torch.full_like(judged[1], mean).atanh(), judged[1])
    where = f"{len(judged[1])} states of {'other' if apart_N.any() else 'the same'} questions"
    return {
        "line": f"off by {errors[best]:.2f} on {where}, where their mean is off by {constant:.2f}",
        "states": len(learned[1]),
        "judged": len(judged[1]),
        "error": round(errors[best], 4),
        "error_of_the_mean": round(constant, 4),
    }


def value_of(student: Loaded, folder: Path) -> Callable[[Sequence[Messages]], list[float]]:
    """Build a value function from the head saved next to this student's adapter."""
    from safetensors.torch import load_file

    if not (folder / FILE).is_file():
        raise PlantuneError(f"{folder} holds no value head ({FILE}): train one, or set cpl.leaf=rollout")
    head = load_file(folder / FILE)

    def value(states: Sequence[Messages]) -> list[float]:
        return (outputs(student, states) @ head["weight"] + head["bias"]).tanh().tolist()

    return value


def outputs(student: Loaded, states: Sequence[Messages]) -> Any:
    """Compute the last layer's output at the last token of each state, as float32 in main memory."""
    import torch

    model = student.model.get_base_model() if hasattr(student.model, "get_base_model") else student.model
    encoded = [student.encode_chat(messages, for_reply=True) for messages in states]
    by_length = sorted(range(len(states)), key=lambda at: len(encoded[at]))
    output_of: dict[int, Any] = {}
    with student.answering(), torch.inference_mode():
        for start in range(0, len(by_length), ROWS):
            places = by_length[start : start + ROWS]
            width = max(len(encoded[at]) for at in places)
            padded = [encoded[at] + [student.tokenizer.pad_token_id] * (width - len(encoded[at])) for at in places]
            seen = [[1] * len(encoded[at]) + [0] * (width - len(encoded[at])) for at in places]
            h_B_L_H = model.base_model(
                input_ids=torch.tensor(padded, device=model.device),
                attention_mask=torch.tensor(seen, device=model.device),
                use_cache=False,
            ).last_hidden_state
            for row, at in enumerate(places):
                output_of[at] = h_B_L_H[row, len(encoded[at]) - 1].float().cpu()
    return torch.stack([output_of[at] for at in range(len(states))]).clone()


# --- fitting ----------------------------------------------------------------------------------------------------------


def _apart(ids: Sequence[str], seed: int) -> list[bool]:
    """Mark the states held out to judge the head: all of some questions."""
    questions = sorted(set(ids))
    chosen = set(Random(seed).sample(questions, round(KEPT_APART * len(questions))))
    return [id in chosen for id in ids]


def _fitted(h_N_H: Any, q_N: Any, strength: float) -> tuple[Any, Any]:
    """Fit the weights and bias of the head by least squared error, with a penalty on the weights."""
    import torch

    mean, spread = h_N_H.mean(0), h_N_H.std(0, correction=0).clamp_min(1e-6)
    x_N_H = (h_N_H - mean) / spread
    weight = torch.zeros(h_N_H.shape[1], requires_grad=True)
    bias = torch.zeros((), requires_grad=True)
    solver = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Any:
        solver.zero_grad()
        total = (((x_N_H @ weight + bias).tanh() - q_N) ** 2).mean() + strength * (weight**2).sum()
        total.backward()
        return total

    solver.step(loss)
    scaled = weight.detach() / spread
    return scaled, bias.detach() - scaled @ mean


def _error(logits_N: Any, q_N: Any) -> float:
    """Compute the root mean squared error of tanh(logits)."""
    return float(((logits_N.tanh() - q_N) ** 2).mean().sqrt())
