"""A GGUF file beside the model it was made of: llama.cpp runs the one, PyTorch the other in float32.

    Acceptance(merged, prompts, most=512, out=folder, whole=bf16_file).of("q8_0", file)
    -> {"ran": True, "agreement": "11 of 12 prompts alike", "kl": 0.0032}

What comes in: both, and prompts as token ids. What goes out: on how many prompts the next tokens are all the same, and
the mean KL divergence of what they are chosen from; or an error, because such a file is not handed out. llama.cpp
says its likeliest tokens and PyTorch reads them all at once: where each is the likeliest to it too, it says the same.
"""

import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from plantune_lite.export import check_merge, llama_cpp
from plantune_lite.export.adapter import skeleton
from plantune_lite.export.llama_cpp import GGUFError
from plantune_lite.export.safetensors_io import Reader

PROMPTS = TOKENS = 12
MISSES = {"f16": 0, "bf16": 0, "q8_0": 2}  # prompts that may be answered otherwise; a k-quant's are only shown
_LONG = 3  # prompts that a k-quant is to answer to the end
_CHATS = (
    [{"role": "user", "content": "What is 17 + 25?"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say  it:\n\n 1234,\tñ — 漢字 'don't'"}],
    [
        {"role": "user", "content": "Add 1 and 2."},
        {"role": "assistant", "content": "\\boxed{3}"},
        {"role": "user", "content": "And 4?"},
    ],
)


class Acceptance:
    """What files of one merged model must show."""

    def __init__(
        self,
        merged: Path,
        prompts: Sequence[Sequence[int]],
        *,
        most: int,  # tokens in which a k-quant is to end its turn; 0: not asked of this model
        out: Path,  # temporary files go there
        whole: Callable[[], Path],  # a GGUF file that lost nothing of the model
    ) -> None:
        self._merged, self._out, self._whole = merged, out, whole
        self._prompts, self._most = [list(prompt) for prompt in prompts[:PROMPTS]], most
        self._spoken: dict[str, list[Any]] | None = None

    def of(self, kind: str, file: Path) -> dict[str, Any]:
        """Run a file of the whole model."""
        quantised, name = kind not in MISSES, file.name.removeprefix(".").removesuffix(".part")
        long = self._prompts[:_LONG] if quantised and self._most else []
        least = 0 if quantised else len(self._prompts) - MISSES[kind]
        found = self._beside(file, long=long)
        if found["alike"] < least:
            # llama.cpp rounds what goes through the layers to the file's own type; expanded to 32 bits it does not.
            with tempfile.TemporaryDirectory(prefix=".check-", dir=self._out) as folder:
                expanded = Path(folder) / "f32.gguf"
                llama_cpp.quantise(file, expanded, "f32")
                found["alike"] = max(found["alike"], self._beside(expanded)["alike"])
        if found["alike"] < least or not math.isfinite(found["kl"]):
            raise GGUFError(
                f"{name} does not say what the merged model says: {found['alike']} of {len(self._prompts)} prompts "
                f"alike, {least} are asked, mean KL {found['kl']:.4f}. It was not kept. Another llama.cpp "
                "(UNSLOTH_LLAMA_CPP_PATH) may convert this model; export.formats=merged does without."
            )
        if long and not any(found["ended"]) and any(self._run(self._whole(), long=long)["ended"]):
            raise GGUFError(
                f"{name} ends none of {len(long)} replies within {self._most} tokens, as the 16-bit file does: it was "
                "not kept. Take a larger one in export.formats, q8_0 or q6_k."
            )
        ended = {"ended": f"{sum(found['ended'])} of {len(long)}"} if long else {}
        return {"ran": True, "agreement": self._alike(found), "kl": found["kl"], **ended}

    def of_lora(self, file: Path, base: Path) -> dict[str, Any]:
        """Run an adapter's file over its base: it is to be nearer to the merged model than the base alone."""
        found, alone = self._beside(base, lora=file, speaks=False), self._beside(base, speaks=False)
        name = file.name.removeprefix(".").removesuffix(".part")
        if not found["kl"] <= alone["kl"]:
            raise GGUFError(
                f"{name} does not do what the adapter does: mean KL to the merged model "
                f"{found['kl']:.4f} with it, {alone['kl']:.4f} without. It was not kept: q8_0 needs none."
            )
        over = f"{self._alike(found)} over its base"
        return {"ran": True, "agreement": over, "kl": found["kl"], "kl_without": alone["kl"]}

    def _alike(self, found: dict[str, Any]) -> str:
        return f"{found['alike']} of {len(self._prompts)} prompts alike"

    def _beside(
        self, file: Path, *, long: Sequence[Sequence[int]] = (), lora: Path | None = None, speaks: bool = True
    ) -> dict[str, Any]:
        """How far a file says what the merged model says, token by token after the same beginning."""
        import torch

        found = self._run(file, long=long, lora=lora)
        if speaks:
            self._refuse_other_words(file, found)
        rows = [[*prompt, *said] for prompt, said in zip(self._prompts, found["tokens"], strict=True)]
        chosen_from = [range(len(row) - TOKENS - 1, len(row) - 1) for row in rows]
        kept = sorted({position for positions in chosen_from for position in positions})
        longest = max(map(len, rows))
        ids = torch.tensor([row + row[-1:] * (longest - len(row)) for row in rows])  # what comes later changes nothing
        logits = _logits(self._merged, ids, torch.tensor(kept))
        expected = torch.stack(
            [logits[row, [kept.index(one) for one in positions]] for row, positions in enumerate(chosen_from)]
        )
        ours = torch.from_numpy(found["logits"]).double().log_softmax(-1)
        theirs = expected.double().log_softmax(-1)
        same = (expected.argmax(-1) == torch.tensor(found["tokens"])).all(-1)
        kl = (theirs.exp() * (theirs - ours)).sum(-1).mean().item()
        return {"alike": int(same.sum()), "kl": float(f"{kl:.3g}"), "ended": found["ended"]}

    def _run(self, file: Path, *, long: Sequence[Sequence[int]] = (), lora: Path | None = None) -> dict[str, Any]:
        import numpy

        with tempfile.TemporaryDirectory(prefix=".check-", dir=self._out) as folder:
            job, logits = Path(folder) / "job.json", Path(folder) / "logits.npy"
            asked = {
                "file": str(file),
                "lora": str(lora) if lora else None,
                "prompts": self._prompts,
                "tokens": TOKENS,
                "texts": self._speech()["chats"],
                "chats": _CHATS if self._speech()["chats"] else [],
                "long": long,
                "most": self._most,
                "logits": str(logits),
            }
            job.write_text(json.dumps(asked), encoding="utf-8")
            done = subprocess.run(
                [sys.executable, "-m", "plantune_lite.export.llama_child", "run", str(job)],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                encoding="utf-8",
                errors="replace",
            )
            if done.returncode != 0:
                why = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1][-300:]
                raise GGUFError(f"llama.cpp cannot run {file.name.removeprefix('.')}: {why}. It was not kept.")
            return {**json.loads(job.read_text(encoding="utf-8")), "logits": numpy.load(logits)}

    # --- the same words -----------------------------------------------------------------------------------------------

    def _speech(self) -> dict[str, list[Any]]:
        """A few conversations as transformers has them, in text and in tokens; none for a model that does not chat."""
        if self._spoken is None:
            from transformers import AutoTokenizer

            tokenizer = AutoTokenizer.from_pretrained(self._merged, trust_remote_code=False)
            how = {"tokenize": False, "add_generation_prompt": True}
            asked = _CHATS if tokenizer.chat_template else ()
            texts = [tokenizer.apply_chat_template(chat, **how) for chat in asked]
            tokens = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
            self._spoken = {"chats": texts, "texts": tokens}
        return self._spoken

    def _refuse_other_words(self, file: Path, found: dict[str, Any]) -> None:
        for what, does in (("chats", "its chat template renders"), ("texts", "its tokenizer cuts")):
            for mine, theirs in zip(found[what], self._speech()[what], strict=True):
                if mine != theirs:
                    raise GGUFError(
                        f"{file.name.removeprefix('.').removesuffix('.part')}: {does} a conversation as "
                        f"{str(mine)[:120]!r}, transformers as {str(theirs)[:120]!r}. It was not kept: llama.cpp does "
                        "not know this model's tokenizer; export.formats=merged does without."
                    )


def _logits(folder: Path, ids: Any, kept: Any) -> Any:
    """A model's logits at these positions, in float32, its weights read layer by layer."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, reader = skeleton(folder).eval(), Reader()
    found = check_merge.stored(model, folder)
    for path, module in model.named_modules():
        for name, values in module.named_buffers(recurse=False):
            setattr(module, name, values.to(device))
        check_merge.read_when_used(module, path, False, found, {}, reader, device)
    try:
        with torch.inference_mode():
            return model(input_ids=ids.to(device), use_cache=False, logits_to_keep=kept.to(device)).logits.cpu()
    finally:
        reader.close()
