"""Read the residuals of every layer at one token: in batches, kept on disk, one layer in memory at a time.

    with room(Path("probe")) as folder:
        kept = read(student, [[1, 9690, ...], ...], folder / "residuals.f32", learned=[4, 5, ...])
    kept.layer(0)           N x H: the embeddings;   kept.layer(kept.layers - 1): what the output layer reads
    kept.logprobs[3]        the log-probabilities of the last 5 tokens of text 3, as the model would write them

The token is the last one of each text. Memory is bounded by the batch: nothing is kept of the other tokens.
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from plantune_lite.evaluate.answers import Show
from plantune_lite.student.load import Loaded
from plantune_lite.types import PlantuneError

TOKENS_AT_ONCE = 2048  # padding included: all layers of these are in memory together
ROOM = ".residuals-"  # how the names of such folders begin


@contextmanager
def room(out: Path) -> Iterator[Path]:
    """Create a folder in `out` for residuals and delete it at the end; also delete any that a kill left behind."""
    out.mkdir(parents=True, exist_ok=True)
    for left in out.glob(f"{ROOM}*"):
        shutil.rmtree(left, ignore_errors=True)
    with TemporaryDirectory(prefix=ROOM, dir=out, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@dataclass(frozen=True)
class Residuals:
    """Residual stream at the last token of each text."""

    file: Path
    layers: int  # with the embeddings
    texts: int
    width: int
    logprobs: tuple[tuple[float, ...], ...]  # of the requested tokens

    def layer(self, number: int) -> Any:
        """Load one layer of all texts."""
        import numpy as np

        shape = (self.layers, self.texts, self.width)
        return np.array(np.memmap(self.file, dtype=np.float32, mode="r", shape=shape)[number])


def read(
    student: Loaded,
    texts: Sequence[Sequence[int]],
    file: Path,
    *,
    learned: Sequence[int],
    show: Show = lambda line, last: None,
) -> Residuals:
    """Read the residuals of the last token of each text, and the log-probabilities of its last `learned` tokens."""
    import numpy as np
    import torch

    if not texts:
        raise PlantuneError("no texts to read residuals from: give at least one")
    config = student.model.config.get_text_config()
    layers, width = config.num_hidden_layers + 1, config.hidden_size
    file.parent.mkdir(parents=True, exist_ok=True)
    kept: Any = np.memmap(file, dtype=np.float32, mode="w+", shape=(layers, len(texts), width))
    logprobs: list[tuple[float, ...]] = [()] * len(texts)
    done = 0
    with student.answering(), torch.inference_mode():
        for places in _batches(texts):
            states_L_B_H, logits_B_K_V = _forward(student, [texts[place] for place in places], max(learned) + 1)
            kept[:, places] = states_L_B_H.numpy()
            for row, place in enumerate(places):
                if count := learned[place]:
                    logprobs_K_V = logits_B_K_V[row, -count - 1 : -1].log_softmax(-1, dtype=torch.float32)
                    ids = torch.tensor(texts[place][-count:], device=logprobs_K_V.device)
                    logprobs[place] = tuple(logprobs_K_V.gather(1, ids[:, None])[:, 0].tolist())
            done += len(places)
            show(f"residuals, {file.stem}: {done} of {len(texts)} texts read", done == len(texts))
    kept.flush()
    return Residuals(file, layers, len(texts), width, tuple(logprobs))


def _batches(texts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Group indices of texts of similar length, the longest first: memory runs out in the first batch or never."""
    order = sorted(range(len(texts)), key=lambda place: -len(texts[place]))
    batches: list[list[int]] = []
    for place in order:
        full = not batches or (len(batches[-1]) + 1) * len(texts[batches[-1][0]]) > TOKENS_AT_ONCE
        if full:
            batches.append([])
        batches[-1].append(place)
    return batches


def _forward(student: Loaded, texts: Sequence[Sequence[int]], logits: int) -> tuple[Any, Any]:
    """Return every layer at the last token, and the last few logits; padded on the left so that all end together."""
    import torch

    model, pad = student.model, student.tokenizer.pad_token_id
    width = max(map(len, texts))
    ids_B_T = torch.tensor([[pad] * (width - len(ids)) + list(ids) for ids in texts], device=model.device)
    mask_B_T = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in texts], device=model.device)
    output = model(
        input_ids=ids_B_T,
        attention_mask=mask_B_T,
        position_ids=(mask_B_T.cumsum(-1) - 1).clamp(min=0),
        output_hidden_states=True,
        use_cache=False,
        logits_to_keep=min(logits, width),
    )
    states_L_B_H = torch.stack([layer[:, -1].float().cpu() for layer in output.hidden_states])
    return states_L_B_H, output.logits
