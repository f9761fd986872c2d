"""What runs llama.cpp, in a process of its own: a C library that fails takes its process with it, and its memory.

    python -m plantune_lite.export.llama_child quantise SOURCE.gguf TARGET.gguf q4_k_m
    python -m plantune_lite.export.llama_child run JOB.json

What comes in: a job, {"file": GGUF, "lora": GGUF or null, "prompts": token ids, "tokens": 12, "texts": what is to be
cut into tokens, "chats": conversations, "long": token ids, "most": 512, "logits": FILE.npy}. What goes out, in the
job's place: {"tokens": said to each prompt, "texts": token ids, "chats": as its template has them, "ended": [...]}.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FTYPES = {"f32": 0, "q4_k_m": 15, "q5_k_m": 17, "q6_k": 18}  # llama.h's numbers


def quantise(source: str, target: str, kind: str) -> None:
    """Write a file's weights as another type."""
    import llama_cpp

    how = llama_cpp.llama_model_quantize_default_params()
    how.ftype = FTYPES[kind]
    how.allow_requantize = kind == "f32"  # what is only expanded loses nothing
    if failed := llama_cpp.llama_model_quantize(source.encode(), target.encode(), how):
        sys.exit(f"llama_model_quantize gave {failed}")


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Have a file say its most likely tokens."""
    import llama_cpp
    import numpy

    longest = max(map(len, [*job["prompts"], *job["long"]]))
    room = longest + max(job["tokens"], job["most"] if job["long"] else 0) + 8
    model = llama_cpp.Llama(job["file"], lora_path=job["lora"], n_ctx=room, n_batch=512, verbose=False)
    said, logits = [], []
    for prompt in job["prompts"]:
        tokens, scores = _greedy(model, prompt, job["tokens"])
        said.append(tokens)
        logits.append(scores)
    numpy.save(job["logits"], numpy.stack([numpy.stack(scores) for scores in logits]))
    return {
        "tokens": said,
        "texts": [model.tokenize(text.encode(), add_bos=False, special=True) for text in job["texts"]],
        "chats": _rendered(model, job["chats"]),
        "ended": [_ends(model, prompt, job["most"]) for prompt in job["long"]],
    }


def _greedy(model: Any, prompt: Sequence[int], count: int) -> tuple[list[int], list[Any]]:
    """The likeliest tokens after a prompt, and what each was chosen from."""
    import numpy

    model.reset()
    tokens, scores, given = [], [], list(prompt)
    for _ in range(count):
        model.eval(given)
        scores.append(numpy.ctypeslib.as_array(model._ctx.get_logits_ith(-1), shape=(model.n_vocab(),)).copy())
        tokens.append(int(scores[-1].argmax()))
        given = [tokens[-1]]
    return tokens, scores


def _ends(model: Any, prompt: Sequence[int], most: int) -> bool:
    """Whether the reply to a prompt comes to its end, as llama.cpp sees it."""
    import llama_cpp
    import numpy

    model.reset()
    vocabulary, given = llama_cpp.llama_model_get_vocab(model.model), list(prompt)
    for _ in range(most):
        model.eval(given)
        token = int(numpy.ctypeslib.as_array(model._ctx.get_logits_ith(-1), shape=(model.n_vocab(),)).argmax())
        if llama_cpp.llama_vocab_is_eog(vocabulary, token):
            return True
        given = [token]
    return False


def _rendered(model: Any, chats: Sequence[Any]) -> list[str]:
    """Conversations as the template in the file has them."""
    from llama_cpp.llama_chat_format import Jinja2ChatFormatter

    if not chats:
        return []
    words = {
        f"{name}_token": model._model.token_get_text(token) if token >= 0 else ""
        for name, token in (("bos", model.token_bos()), ("eos", model.token_eos()))
    }
    render = Jinja2ChatFormatter(template=model.metadata["tokenizer.chat_template"], **words)
    return [render(messages=chat).prompt for chat in chats]


if __name__ == "__main__":
    verb, *arguments = sys.argv[1:]
    if verb == "quantise":
        quantise(*arguments)
    else:
        job = Path(arguments[0])
        found = run(json.loads(job.read_text(encoding="utf-8")))
        job.write_text(json.dumps(found), encoding="utf-8")
