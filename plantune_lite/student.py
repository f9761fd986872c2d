"""The student in memory: a small model with its adapter, how it is spoken to, and how it answers.

    student = load(Student("qwen3_4b"), training=True)
    [[reply]] = student.generate([ask_plainly(problem)], Sampling(max_tokens=512))
    with student.untuned():  # the same weights with the adapter off: never a second copy
        [[before]] = student.generate([ask_step_by_step(problem)], Sampling(max_tokens=512))

What comes in: a preset, a Hub id or a folder, and the adapter of an earlier stage. What goes out: a LoadedStudent. The
only importer of unsloth: Unsloth where there is an accelerator, transformers with PEFT on a bare CPU. Which of the
two it is decides here and nowhere else; $PLANTUNE_BACKEND=unsloth|plain overrides it.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from plantune_lite import embedded, presets, speech
from plantune_lite.presets import Preset
from plantune_lite.recipe import Student
from plantune_lite.records import Generate, Messages, MissingError, PlantuneError, Reply, Sampling
from plantune_lite.replies import Replies

Backend = Literal["unsloth", "plain"]


class StudentError(PlantuneError, ValueError):
    """A model that cannot be loaded as asked."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where the weights came from, and what an adapter of them says its base is."""

    repo: str  # the public 16-bit original, or the user's own folder
    revision: str | None  # None: a folder, or the Hub could not be asked
    place: str  # what was really loaded: a folder, or a Hub id
    backend: Backend


class Loaded:
    """A student in memory; satisfies records.LoadedStudent."""

    def __init__(self, model: Any, tokenizer: Any, preset: Preset, source: Source, checkpointing: bool) -> None:
        self.model, self.tokenizer, self.preset, self.source = model, tokenizer, preset, source
        self.checkpointing = checkpointing
        self._replies = Replies(self)

    @property
    def generate(self) -> Generate:
        """Replies to a batch of conversations."""
        return self._answer

    def _answer(self, prompts: Any, sampling: Sampling) -> list[list[Reply]]:
        with self._answering():
            return self._replies(prompts, sampling)

    def encode_chat(self, messages: Messages, *, for_reply: bool = True) -> list[int]:
        """Token ids of a conversation; up to where the reply begins, or whole."""
        return speech.encode_chat(self.tokenizer, messages, for_reply=for_reply)

    @contextmanager
    def untuned(self) -> Iterator["Loaded"]:
        """The same weights with the adapter off."""
        off = self.model.disable_adapter() if hasattr(self.model, "disable_adapter") else nullcontext()
        with off:
            yield self

    def generate_untuned(self, prompts: Any, sampling: Sampling) -> list[list[Reply]]:
        """Replies of the model as it was before any training."""
        with self.untuned():
            return self._answer(prompts, sampling)

    def save(self, folder: Path) -> None:
        """Write the adapter as plain PEFT loads it anywhere, named after the public base, and the tokenizer."""
        for config in self.model.peft_config.values():
            config.base_model_name_or_path, config.revision = self.source.repo, self.source.revision
            config.inference_mode = True
        # "auto" asks the Hub whether the vocabulary has grown, which ours never does.
        self.model.save_pretrained(folder, save_embedding_layers=False)
        (folder / "README.md").unlink(
            missing_ok=True
        )  # PEFT's empty card; the one that is pushed is written from the run
        self.tokenizer.save_pretrained(folder)

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """The model in the mode for answering, and back in the one it was in."""
        training = self.model.training
        if self.source.backend == "unsloth":
            from unsloth import FastLanguageModel

            FastLanguageModel.for_inference(self.model)
        else:
            self.model.eval()
        try:
            yield
        finally:
            if training and self.source.backend == "unsloth":
                FastLanguageModel.for_training(self.model, use_gradient_checkpointing=self.checkpointing)
            elif training:
                self.model.train()


def load(
    part: Student,
    *,
    adapter: Path | None = None,
    training: bool = False,
    pinned: str | None = None,
    room: int = 0,
    seed: int = 0,
    say: Callable[[str], object] = print,
    environ: Mapping[str, str] = os.environ,
) -> Loaded:
    """Load a student: its base, and the adapter of an earlier stage or, for training, a new one.

    `pinned` is the base's revision as an earlier stage resolved it; `room` is how many tokens a conversation may grow
    to where that is more than the recipe's max_length.
    """
    backend = backend_here(environ)
    if backend == "unsloth":
        import unsloth  # noqa: F401 - before transformers and peft, which it patches
    preset = presets.find(part.model)
    source = _source(part, preset, backend, pinned, say)
    _quiet()
    place = _place(part, source)
    model = _base(part, place, max(part.max_length, room))
    tokenizer = _tokenizer(place, source)
    preset = speech.prepare(tokenizer, preset or _unknown(part.model, model, tokenizer))
    speech.settle(model, tokenizer, preset)
    if adapter is not None or training:
        model = _with_adapter(model, part, source, training, seed)
    if adapter is not None:
        _fill(model, adapter)
    model.train(training)
    return Loaded(model, tokenizer, preset, source, part.checkpointing)


# --- where it comes from ----------------------------------------------------------------------------------------------


def backend_here(environ: Mapping[str, str] = os.environ) -> Backend:
    """Unsloth where there is an accelerator, else transformers with PEFT."""
    try:
        import torch
    except ImportError:
        raise MissingError("a student needs torch: pip install 'plantune-lite[cpu]'") from None
    asked = environ.get("PLANTUNE_BACKEND", "")
    if asked not in ("", "unsloth", "plain"):
        raise StudentError(f"PLANTUNE_BACKEND is {asked!r}, but must be 'unsloth' or 'plain'")
    accelerated = torch.cuda.is_available() or (hasattr(torch, "xpu") and torch.xpu.is_available())
    if asked == "unsloth" or (accelerated and not asked):
        if find_spec("unsloth") is None:
            raise MissingError(
                "Training on a GPU needs Unsloth: pip install 'plantune-lite[train]' "
                "(or set PLANTUNE_BACKEND=plain: slower, and more memory)"
            )
        return "unsloth"
    return "plain"


def _source(
    part: Student, preset: Preset | None, backend: Backend, pinned: str | None, say: Callable[[str], object]
) -> Source:
    if preset is not None and preset.name == "smollm2_135m":
        return Source(repo=preset.repo, revision=None, place=str(embedded.folder(say=say)), backend=backend)
    if Path(part.model).expanduser().is_dir():
        folder = str(Path(part.model).expanduser().resolve())
        if not (Path(folder) / "config.json").is_file():
            raise StudentError(f"student.model is {part.model}, a folder without a config.json: give a model's folder")
        return Source(repo=folder, revision=None, place=folder, backend=backend)
    repo = preset.repo if preset is not None else part.model
    # An alias names the same weights elsewhere, say ungated or in 4 bits already; a preset's own name its first home.
    place = part.model if preset is not None and part.model != preset.name else repo
    return Source(repo=repo, revision=pinned or _commit(repo, part.revision), place=place, backend=backend)


def _commit(repo: str, revision: str | None) -> str | None:
    """The commit that a branch or nothing stands for, so that a merge next month starts from the same weights."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    try:
        return HfApi().model_info(repo, revision=revision, timeout=20).sha
    except HFValidationError:
        raise StudentError(
            f"student.model is {repo!r}: no preset, no folder, and no Hub id (plantune recipes lists what ships)"
        ) from None
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError):
        return revision  # gated or out of reach: what loading says is clearer


def _place(part: Student, source: Source) -> dict[str, Any]:
    """The arguments that find the weights."""
    # Unsloth keeps 4-bit copies of the well-known models, a quarter of the download, under names of their own; a
    # revision that the user asks for is one of the original's.
    exact = part.bits != 4 or part.revision is not None or source.revision is None
    at = source.revision if source.place == source.repo else None
    if source.backend == "unsloth":
        return {"model_name": source.place, "revision": at if exact else None, "use_exact_model_name": exact}
    return {"pretrained_model_name_or_path": source.place, "revision": at or "main"}


def _base(part: Student, place: dict[str, Any], max_length: int) -> Any:
    """The base model, frozen."""
    import torch

    try:
        if "model_name" in place:
            from unsloth import FastLanguageModel

            model, _ = FastLanguageModel.from_pretrained(
                **place,
                max_seq_length=max_length,
                dtype=torch.float32 if part.bits == 32 else None,  # None: bf16 where the card has it, else fp16
                load_in_4bit=part.bits == 4,
                load_in_16bit=part.bits == 16,
                full_finetuning=False,
                use_gradient_checkpointing="unsloth" if part.checkpointing else False,
                trust_remote_code=False,
            )
            return model
        from transformers import AutoModelForCausalLM

        dtype = compute_dtype(part.bits)
        model = AutoModelForCausalLM.from_pretrained(
            **place,
            dtype=dtype,
            quantization_config=_nf4(dtype) if part.bits == 4 else None,
            device_map={"": _device()},
            attn_implementation="sdpa",
            use_safetensors=True,
            trust_remote_code=False,
        )
    except (OSError, ValueError) as error:
        raise StudentError(_why_not(place, error)) from error
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # bitsandbytes repacks 4-bit weights for answering and never back, so that training after it goes wrong.
            module.support_avx512bf16_for_cpu = False
    for weights in model.parameters():
        weights.requires_grad_(False)
    return model


def compute_dtype(bits: int) -> Any:
    """The type that weights of so many bits are computed in here."""
    import torch

    if torch.cuda.is_available():
        has_bf16 = torch.cuda.is_bf16_supported()  # without it: not fp16, which Gemma's activations overflow
    else:
        has_bf16 = torch.backends.cpu.get_cpu_capability().startswith("AVX512")  # without it a hundred times slower
    return torch.bfloat16 if has_bf16 and bits != 32 else torch.float32


def _nf4(dtype: Any) -> Any:
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def _device() -> str:
    import torch

    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"


def _why_not(place: Mapping[str, Any], error: Exception) -> str:
    name = place.get("model_name") or place["pretrained_model_name_or_path"]
    text = " ".join(str(error).split())[:300]
    if "gated" in text.lower() or "401" in text or "403" in text:
        return f"{name} is gated: accept its terms on its page and set HF_TOKEN, or use a copy under unsloth/. ({text})"
    if "safetensors" in text and "Error no file" in text:
        return f"{name} has no safetensors files, and nothing else is loaded. ({text})"
    return f"{name} cannot be loaded: {text}"


def _tokenizer(place: Mapping[str, Any], source: Source) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(
        source.place, revision=place.get("revision") or "main", trust_remote_code=False
    )


def _unknown(name: str, model: Any, tokenizer: Any) -> Preset:
    """A preset for a model we do not know, from what its own tokenizer says."""
    if not tokenizer.chat_template:
        raise StudentError(
            f"student.model is {name}, which has no chat template: use an instruct model, not a base one"
        )
    turn_end = speech.end_of_turn(tokenizer)
    return Preset(
        name=name,
        title=name,
        repo=name,
        family=model.config.model_type,
        parameters=model.num_parameters() / 1e9,
        licence="unknown",
        chat_template=tokenizer.chat_template,
        turn_end=turn_end,
        bos=speech.beginning(tokenizer),
        pad=speech.padding(tokenizer, turn_end),
        stops=(tokenizer.eos_token,) if tokenizer.eos_token not in (None, turn_end) else (),
    )


def _quiet() -> None:
    """Our own lines say what is loaded; the libraries' bars would break them."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


# --- the adapter ------------------------------------------------------------------------------------------------------


def _with_adapter(model: Any, part: Student, source: Source, training: bool, seed: int) -> Any:
    """The model with a new adapter, the same arguments on both backends."""
    if source.backend == "unsloth":
        from unsloth import FastLanguageModel

        return FastLanguageModel.get_peft_model(
            model,
            r=part.lora_rank,
            target_modules=list(part.lora_targets),
            lora_alpha=part.lora_alpha,
            lora_dropout=part.lora_dropout,
            bias="none",
            use_rslora=part.rslora,
            use_gradient_checkpointing="unsloth" if part.checkpointing and training else False,
            random_state=seed,
        )
    import peft
    import torch

    config = peft.LoraConfig(
        r=part.lora_rank,
        lora_alpha=part.lora_alpha,
        lora_dropout=part.lora_dropout,
        target_modules=list(part.lora_targets),
        use_rslora=part.rslora,
        bias="none",
        task_type="CAUSAL_LM",
    )
    torch.manual_seed(seed)
    try:
        return peft.get_peft_model(model, config)
    except ValueError as error:
        names = sorted({name.rpartition(".")[2] for name, module in model.named_modules() if _is_linear(module)})
        raise StudentError(
            f"student.lora_targets is {', '.join(part.lora_targets)}, but this model's layers are {', '.join(names)}"
        ) from error


def _is_linear(module: Any) -> bool:
    import torch

    return isinstance(module, torch.nn.Linear)


def _fill(model: Any, adapter: Path) -> None:
    """An earlier stage's weights into the adapter that is there."""
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    file = adapter / "adapter_model.safetensors"
    if not file.is_file():
        raise StudentError(f"{adapter} holds no adapter (no {file.name}): name the folder of a training stage")
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    mine = next(iter(model.peft_config.values()))
    if config["r"] != mine.r or set(config["target_modules"]) != set(mine.target_modules):
        theirs, wanted = (", ".join(sorted(one)) for one in (config["target_modules"], mine.target_modules))
        raise StudentError(
            f"{adapter} has rank {config['r']} on {theirs}, and the recipe asks for rank {mine.r} on {wanted}: "
            "set student.lora_rank and student.lora_targets alike"
        )
    found = set_peft_model_state_dict(model, load_file(file))
    if found.unexpected_keys:
        raise StudentError(f"{adapter} is not of this model: it also holds {found.unexpected_keys[0]}")
