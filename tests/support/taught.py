"""A tiny student that knows some replies by heart, and draws one of them.

base = taught(tmp_path / "base", [(ask_plainly(problem), ("<plan> ...", "<plan> ..."))])      one of two, half and half
"""

from pathlib import Path

import torch
from grpo_child import make_base

from plantune_lite.recipe.schema import Student
from plantune_lite.student.load import load_student

AT_ONCE = 4  # prompts a step, each with all of its replies, or it would write what came last


def taught(folder: Path, replies, *, steps: int = 60) -> Path:
    """The whole of a random base trained on (conversation, replies): an adapter alone stays unsure of itself."""
    loaded = load_student(Student(str(make_base(folder)), bits=32), say=lambda line: None)
    rows = []
    for asked, texts in replies:
        begins = len(loaded.encode_chat(asked))
        wholes = [loaded.encode_chat((*asked, _said(text)), for_reply=False) for text in texts]
        rows.append([(whole, [-100] * begins + whole[begins:]) for whole in wholes])
    optimiser, dice = torch.optim.AdamW(loaded.model.parameters(), lr=3e-3), torch.Generator().manual_seed(0)
    for _ in range(steps):
        drawn = [row for place in torch.randperm(len(rows), generator=dice)[:AT_ONCE] for row in rows[place]]
        longest = max(len(whole) for whole, _ in drawn)
        ids, labels = (
            torch.tensor([row[part] + [empty] * (longest - len(row[part])) for row in drawn])
            for part, empty in ((0, 0), (1, -100))
        )
        optimiser.zero_grad()
        loaded.model(input_ids=ids, labels=labels).loss.backward()
        optimiser.step()
    loaded.model.save_pretrained(folder)
    return folder


def _said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}
