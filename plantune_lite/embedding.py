"""How alike two steps of a plan are to an embedding model: the alternative to comparing their words.

    alike = embedded("sentence-transformers/all-MiniLM-L6-v2")
    alike(["Halve the clips."], ["Take half of them."]) -> [[0.71]]

Any encoder that transformers knows, from the Hub or a folder: a text's vector is the mean over its tokens' last hidden
states, which is what most of these models were trained for. It runs on the CPU in float32, beside a training that needs
the card, and each different text is read once.
"""

from collections.abc import Callable, Sequence
from typing import Any

from plantune_lite.types import RecipeError

_AT_ONCE = 64  # texts
_LONGEST = 256  # tokens of a step


def embedded(name: str) -> Callable[[Sequence[str], Sequence[str]], list[list[float]]]:
    """The cosine, 0 to 1, of each text with each other."""
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
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    vectors: dict[str, Any] = {"": torch.zeros(model.config.hidden_size)}  # no words are like nothing

    def read(texts: Sequence[str]) -> None:
        new = sorted({text for text in texts if text not in vectors}, key=len)
        for start in range(0, len(new), _AT_ONCE):
            some = new[start : start + _AT_ONCE]
            asked = tokenizer(some, padding=True, truncation=True, max_length=_LONGEST, return_tensors="pt")
            with torch.no_grad():
                hidden_B_L_D = model(input_ids=asked.input_ids, attention_mask=asked.attention_mask).last_hidden_state
            seen_B_L_1 = asked.attention_mask.unsqueeze(-1)
            means_B_D = (hidden_B_L_D * seen_B_L_1).sum(1) / seen_B_L_1.sum(1).clamp(min=1)
            vectors.update(zip(some, torch.nn.functional.normalize(means_B_D, dim=-1), strict=True))

    def alike(these: Sequence[str], those: Sequence[str]) -> list[list[float]]:
        read([*these, *those])
        cosines = torch.stack([vectors[text] for text in these]) @ torch.stack([vectors[text] for text in those]).T
        return cosines.clamp(0, 1).tolist()

    return alike
