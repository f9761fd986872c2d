"""Run llama.cpp in a separate process: a C library that crashes takes only that process with it.

    python -m plantune_lite.export.llama_child quantise SOURCE.gguf TARGET.gguf q4_k_m
    python -m plantune_lite.export.llama_child run JOB.json

Input: a job with the fields of check_gguf.Expected, "file" and "lora" (or null). Output, in the same file: "likeliest",
"template" and "tokens" of the GGUF file, and "stops": whether a turn ends at the token "end".
"""

import json
import sys
from pathlib import Path
from typing import Any

FTYPES = {"q4_k_m": 15, "q5_k_m": 17, "q6_k": 18}  # llama.h's numbers


def quantise(source: str, target: str, kind: str) -> None:
    """Write a file's weights as another type."""
    import llama_cpp

    how = llama_cpp.llama_model_quantize_default_params()
    how.ftype = FTYPES[kind]
    if failed := llama_cpp.llama_model_quantize(source.encode(), target.encode(), how):
        sys.exit(f"llama_model_quantize returned {failed}")


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Run a GGUF file on the job's rows and text, for comparison with transformers."""
    import llama_cpp

    room = max(map(len, job["rows"]))
    model = llama_cpp.Llama(job["file"], lora_path=job["lora"], n_ctx=room, logits_all=True, verbose=False)
    likeliest = []
    for row, expected in zip(job["rows"], job["likeliest"], strict=True):
        model.reset()
        model.eval(row)
        likeliest.append(model.scores[len(row) - len(expected) : len(row)].argmax(-1).tolist())
    vocabulary = llama_cpp.llama_model_get_vocab(model.model)
    return {
        "likeliest": likeliest,
        "template": model.metadata.get("tokenizer.chat_template"),
        "tokens": model.tokenize(job["text"].encode(), add_bos=False, special=True) if job["text"] else [],
        "stops": job["end"] is None or llama_cpp.llama_vocab_is_eog(vocabulary, job["end"]),
    }


if __name__ == "__main__":
    verb, *arguments = sys.argv[1:]
    if verb == "quantise":
        quantise(*arguments)
    else:
        job = Path(arguments[0])
        result = run(json.loads(job.read_text(encoding="utf-8")))
        job.write_text(json.dumps(result), encoding="utf-8")
