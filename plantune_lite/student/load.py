"""Load a student into memory: a small model with its adapter, chat format and generation.

    student = load_student(Student("qwen3_4b"), training=True)
    [[reply]] = student.generate([ask_plainly(problem)], Sampling(max_tokens=512))
    with student.untuned():  # the same weights with the adapter off: never a second copy
        [[before]] = student.generate([ask_step_by_step(problem)], Sampling(max_tokens=512))

Input: a preset, a Hub id or a folder, and the adapter of an earlier stage. Output: a Loaded student. The only
importer of unsloth: Unsloth on a GPU, transformers with PEFT on a CPU. The backend is chosen here and nowhere else;
$PLANTUNE_BACKEND=unsloth|plain overrides it.
"""

import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from plantune_lite import files
from plantune_lite.recipe.schema import Student
from plantune_lite.student import attention, chat, presets, text_part
from plantune_lite.student.attention import out_of_memory
from plantune_lite.student.chat import for_everybody
from plantune_lite.student.generate import Replies
from plantune_lite.student.presets import Preset
from plantune_lite.student.weights import Backend, Source, StudentError, resolve_source, short
from plantune_lite.types import Messages, MissingError, present

_POSITIONS = 32_768  # Unsloth keeps a table for this many in any case


class Loaded:
    """A student in memory."""

    replies: type[Replies] = Replies  # vLLM's student has its own

    def __init__(self, model: Any, tokenizer: Any, preset: Preset, source: Source) -> None:
        self.model, self.tokenizer, self.preset, self.source = model, tokenizer, preset, source
        self._padding_side = tokenizer.padding_side

    @cached_property
    def generate(self) -> Replies:
        """Generate replies to a batch of conversations."""
        return self.replies(self)

    @cached_property
    def generate_untuned(self) -> Replies:
        """Generate replies with the model as it was before any training."""
        return self.replies(self, untuned=True)

    def encode_chat(self, messages: Messages, *, for_reply: bool = True) -> list[int]:
        """Encode a conversation up to where the reply begins, or whole."""
        return chat.encode_chat(self.tokenizer, messages, for_reply=for_reply)

    @contextmanager
    def untuned(self) -> Iterator["Loaded"]:
        """Turn the adapter off within the context; no second copy of the weights."""
        off = self.model.disable_adapter() if hasattr(self.model, "disable_adapter") else nullcontext()
        with off:
            yield self

    @contextmanager
    def wearing(self, adapter: Path) -> Iterator["Loaded"]:
        """Use another training's adapter, of the same shape, within the context."""
        from peft import get_peft_model_state_dict, set_peft_model_state_dict

        own = get_peft_model_state_dict(self.model, save_embedding_layers=False)
        own = {name: tensor.clone() for name, tensor in own.items()}
        _fill(self.model, adapter)
        try:
            yield self
        finally:
            set_peft_model_state_dict(self.model, own)

    def save(self, folder: Path) -> None:
        """Write the adapter, which plain PEFT loads anywhere, and the tokenizer."""
        # "auto" would ask the Hub whether the vocabulary was resized, which ours never is.
        self.model.save_pretrained(folder, save_embedding_layers=False)
        # PEFT's empty card; the one that is pushed is written from the run.
        (folder / "README.md").unlink(missing_ok=True)
        self.tokenizer.padding_side = self._padding_side  # Unsloth's trainers pad on the right
        self.tokenizer.save_pretrained(folder)
        for_everybody(folder, self.tokenizer)

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Switch the model to inference mode within the context, then back to the mode it was in."""
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
                FastLanguageModel.for_training(self.model)
            elif training:
                self.model.train()


def load_student(
    part: Student,
    *,
    adapter: Path | None = None,
    training: bool = False,
    vllm: bool = False,
    pinned: str | None = None,
    room: int = 0,
    seed: int = 0,
    say: Callable[[str], object] = print,
) -> Loaded:
    """Load a student: its base, and the adapter of an earlier stage or, for training, a new one.

    `pinned` is the base's revision that an earlier stage resolved; `room` is a conversation's maximum tokens where that
    is more than the recipe's max_length; with `vllm`, Unsloth shares the weights with an engine that samples for GRPO.
    """
    backend = backend_here(part.engine)
    if backend == "unsloth":
        unsloth(vllm=vllm)
    _quiet()
    preset = presets.find(part.model)
    source = resolve_source(part, preset, backend, pinned, say)
    model, tokenizer = _base(part, source, max(part.max_length, room), vllm)
    preset = chat.prepare(tokenizer, preset or chat.preset_from_tokenizer(part.model, model, tokenizer))
    chat.settle(model, tokenizer, preset)
    if adapter is not None or training:
        model = _with_adapter(model, part, source, training, seed)
    if adapter is not None:
        _fill(model, adapter)
    if backend == "unsloth":
        _take_long_prompts(model)
        if part.bits == 32:
            os.environ["UNSLOTH_MIXED_PRECISION"] = "bfloat16"  # here it means: the weights' dtype, no autocast
    model.train(training)
    return Loaded(model, tokenizer, preset, source)


# --- which backend ----------------------------------------------------------------------------------------------------


def backend_here(engine: str = "auto") -> Backend:
    """Choose Unsloth where there is a GPU, else transformers with PEFT, unless one of them is set."""
    try:
        import torch
    except ImportError:
        raise MissingError("a student needs torch: pip install 'plantune-lite[cpu]'") from None
    chosen = os.environ.get("PLANTUNE_BACKEND", "") or {"unsloth": "unsloth", "transformers": "plain"}.get(engine, "")
    if chosen not in ("", "unsloth", "plain"):
        raise StudentError(f"PLANTUNE_BACKEND is {chosen!r}, but must be 'unsloth' or 'plain'")
    if chosen == "unsloth" or (torch.cuda.is_available() and not chosen):
        if find_spec("unsloth") is None:
            raise MissingError(
                "Training on a GPU needs Unsloth: pip install 'plantune-lite[train]' "
                "(or set PLANTUNE_BACKEND=plain: slower, and more memory)"
            )
        return "unsloth"
    return "plain"


def unsloth(*, vllm: bool = False) -> Any:
    """Import Unsloth before transformers, peft and trl, which it patches; the code it writes goes into our cache."""
    # Its default is the working directory.
    os.environ.setdefault("UNSLOTH_COMPILE_LOCATION", str(files.cache_folder().parent / "unsloth"))
    os.environ.setdefault("UNSLOTH_DECODE_CUDA_GRAPHS", "1")  # as in TRL's generate; gain unmeasured
    os.environ.setdefault("UNSLOTH_VLLM_STANDBY", str(int(vllm)))  # training and the engine take turns in memory
    import unsloth

    return unsloth


# --- loading ----------------------------------------------------------------------------------------------------------


def _base(part: Student, source: Source, max_length: int, vllm: bool) -> tuple[Any, Any]:
    """Load the base model and its tokenizer."""
    from safetensors import SafetensorError
    from transformers import AutoTokenizer

    try:
        model = _by_unsloth(part, source, max_length, vllm) if source.backend == "unsloth" else _plain(part, source)
        # From the same repository as the weights: Unsloth's copy is ungated where the original may be gated.
        place = model.name_or_path
        revision = source.revision if place == source.repo else None
        tokenizer = AutoTokenizer.from_pretrained(place, revision=revision or "main", trust_remote_code=False)
    except StudentError:
        raise
    except (OSError, ValueError, SafetensorError) as error:
        raise StudentError(
            f"student.model is {part.model}, which cannot be loaded (its own code is never run): {short(error)}"
        ) from error
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        raise StudentError(
            f"{part.model} in {part.bits} bits does not fit into memory: set student.bits=4, or a smaller "
            "student.model; plantune estimate says what fits"
        ) from error
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # bitsandbytes repacks 4-bit weights for inference and never back, which breaks training after it.
            module.support_avx512bf16_for_cpu = False
    return model, tokenizer


def _by_unsloth(part: Student, source: Source, max_length: int, vllm: bool) -> Any:
    import torch
    from huggingface_hub.constants import HF_HUB_CACHE
    from unsloth import FastLanguageModel

    folder = Path(source.place)
    if folder.is_dir():  # else it is one of the well-known models, whose context is larger than any max_length
        # For more than a model's context, Unsloth scales its positions, which changes every answer.
        config = text_part.config_of(folder)
        max_length = min(max_length, _context(config) or max_length)
        family = config.model_type
    else:
        family = present(presets.find(part.model)).family
    # Its CPU backend does not accept the argument.
    text_only = {"text_only": True} if family.removesuffix("_text") in text_part.SERVED else {}
    model, _ = FastLanguageModel.from_pretrained(
        model_name=source.place,
        use_exact_model_name=folder.is_dir(),
        max_seq_length=max_length,
        dtype=torch.float32 if part.bits == 32 else None,  # None: bf16 where the GPU has it, else fp16
        load_in_4bit=part.bits == 4,
        load_in_16bit=part.bits == 16,
        full_finetuning=False,
        # All of it on the GPU, or our error: by default it moves to the CPU what does not fit.
        **({"device_map": {"": _device()}, **text_only} if torch.cuda.is_available() else {}),
        **({"fast_inference": True, "max_lora_rank": part.lora_rank} if vllm else {}),
        use_gradient_checkpointing="unsloth" if part.checkpointing else False,
        trust_remote_code=False,
        token=False,  # it would write a token to disk; its copies need none
        cache_dir=HF_HUB_CACHE,  # on Colab it would use a folder in the working directory
    )
    return model


def _take_long_prompts(model: Any) -> None:
    """Allow prompts longer than training's max_seq_length, which Unsloth would cut."""
    room = min(_POSITIONS, _context(model.config) or _POSITIONS)
    for module in model.modules():
        if hasattr(module, "max_seq_length"):
            module.max_seq_length = max(room, module.max_seq_length)


def _context(config: Any) -> int | None:
    """Return a model's context length in tokens from its config; None where it does not say."""
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def _plain(part: Student, source: Source) -> Any:
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    config = text_part.config_of(source.place)
    if hasattr(config, "quantization_config"):
        raise StudentError(
            f"student.model is {part.model}, whose weights are already quantised: use the 16-bit original, which "
            "student.bits=4 quantises and a merge needs"
        )
    dtype = compute_dtype(part.bits)
    nf4 = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )
    model = AutoModelForCausalLM.from_pretrained(
        source.place,
        config=config,
        key_mapping=text_part.renaming(config),
        dtype=dtype,
        quantization_config=nf4 if part.bits == 4 else None,
        device_map={"": _device()},
        attn_implementation=attention.register(),
        use_safetensors=True,
        trust_remote_code=False,
    )
    if "unsloth" not in sys.modules:  # its fused kernels skip a head that has hooks
        # For a batch's last states, a slice, torch would copy the head's weights for each row.
        model.get_output_embeddings().register_forward_pre_hook(lambda head, given: (given[0].contiguous(),))
    return model


def compute_dtype(bits: int) -> Any:
    """Choose the compute dtype for weights of `bits` bits on this machine."""
    import torch

    if torch.cuda.is_available():
        # Without bf16 use float32: Gemma's activations overflow fp16, and a T4 only emulates bf16.
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has_bf16 = torch.backends.cpu.get_cpu_capability().startswith("AVX512")  # without it a hundred times slower
    return torch.bfloat16 if has_bf16 and bits != 32 else torch.float32


def _device() -> str:
    import torch

    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"


def _quiet() -> None:
    """Silence the libraries: their bars would break our progress lines, and their warnings look like ours."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # warns of a faster CPU kernel that it would download
    # PEFT asks the Hub at each save whether the vocabulary was resized, and warns that it could not.
    for message in ("Unable to fetch remote file", "Could not find a config file"):
        warnings.filterwarnings("ignore", message=message)


# --- the adapter ------------------------------------------------------------------------------------------------------


def _with_adapter(model: Any, part: Student, source: Source, training: bool, seed: int) -> Any:
    """Add a new adapter, with the same arguments on both backends, and name the public base in its config."""
    _refuse_unknown_layers(model, part.lora_targets)
    lora = {
        "r": part.lora_rank,
        "lora_alpha": part.lora_alpha,
        "lora_dropout": part.lora_dropout,
        "target_modules": list(part.lora_targets),
        "use_rslora": part.rslora,
        "bias": "none",
    }
    if source.backend == "unsloth":
        from unsloth import FastLanguageModel

        recompute = "unsloth" if part.checkpointing and training else False
        model = FastLanguageModel.get_peft_model(model, **lora, use_gradient_checkpointing=recompute, random_state=seed)
    else:
        import peft
        import torch

        torch.manual_seed(seed)
        model = peft.get_peft_model(model, peft.LoraConfig(**lora, task_type="CAUSAL_LM"))
    config = model.active_peft_config
    config.base_model_name_or_path, config.revision = source.repo, source.revision
    config.target_modules = set(part.lora_targets)  # Unsloth makes a regular expression of Gemma's
    return model


def _refuse_unknown_layers(model: Any, targets: Sequence[str]) -> None:
    """Raise for unknown lora_targets: PEFT accepts them when at least one name matches."""
    import torch

    layers = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    names = {name.rpartition(".")[2] for name in layers} - {"lm_head"}
    if missing := [name for name in targets if name not in names]:
        raise StudentError(
            f"student.lora_targets has {', '.join(missing)}, but this model's layers are {', '.join(sorted(names))}"
        )


def _fill(model: Any, adapter: Path) -> None:
    """Load an earlier stage's weights into the model's adapter."""
    from peft import get_peft_model_state_dict, set_peft_model_state_dict
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights = load_file(adapter / "adapter_model.safetensors")
    except (FileNotFoundError, SafetensorError) as error:
        raise StudentError(f"{adapter} has no whole adapter ({error}): name the folder of a training stage") from None
    config, mine = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8")), model.active_peft_config
    for field, name in (("lora_rank", "r"), ("lora_alpha", "lora_alpha"), ("rslora", "use_rslora")):
        trained, wanted = config.get(name, False), getattr(mine, name)
        if trained != wanted:
            raise StudentError(
                f"{adapter} was trained with student.{field}={trained}, but the recipe has {wanted}: make them equal"
            )
    own = get_peft_model_state_dict(model, save_embedding_layers=False)
    if {name: tensor.shape for name, tensor in weights.items()} != {name: tensor.shape for name, tensor in own.items()}:
        raise StudentError(
            f"{adapter} belongs to another model or other layers: set student.model and student.lora_targets as in its "
            "recipe"
        )
    set_peft_model_state_dict(model, weights)
