"""Gemma-3-1B learns to plan before it solves (M1): LoRA SFT, one 8 GB GPU, batch 2 x 1024 tokens. Gain: unmeasured.

Costs: with a Gemini key the calls for 1,000 problems (`plantune estimate gemma3_1b_sft` prints the cost
beforehand); without a key the untuned model plans for itself, which costs only time; its plans are not scored.
Time: 1 h on an RTX 4060, 3 h without a key, by `plantune estimate`; unmeasured.
Memory: 4.2 GiB for SFT by `plantune estimate`, not yet checked on a GPU.
Expect: unknown. PLAN-TUNING reports no SFT figure for this model; its authors saw 5 % on GSM8K after plain SFT and 28 %
after Plan-GRPO, so SFT alone may well make it worse than untuned. The first line of the table says so if it does.

Out of memory? Lower in this order, with --again sft: sft.batch_size=1 sft.accumulate=8, student.max_length=768,
student.lora_rank=16 student.lora_alpha=16.
On a T4 (no bf16) Gemma computes in float32, slower: its activations overflow fp16.
The paper's size: problems.limit=none distill.keep=best evaluate.suites=paper evaluate.limit=none (its learning rate
of 5e-6 is for training all weights and would hardly move an adapter)
The weights are gated: accept Gemma's terms and set HF_TOKEN, or student.model=unsloth/gemma-3-1b-it.
"""

from plantune_lite import SFT, Corpus, Distill, Evaluate, Export, Problems, Recipe, Student, run

RECIPE = Recipe(
    name="gemma3_1b_sft",
    seed=0,
    problems=Problems("gsm8k", split="train", limit=1_000),
    distill=Distill(teacher="gemini", plans=5, min_score=80, max_tokens=1024, max_usd=5.0),  # no key set: "self"
    corpus=Corpus(filter="both"),
    student=Student("gemma3_1b", bits=16, max_length=1024, lora_rank=32, checkpointing=True),
    sft=SFT(target="plan+solution", epochs=2, learning_rate=2e-4, batch_size=2, accumulate=4),
    evaluate=Evaluate(("own", "gsm8k"), limit=150, max_tokens=768),
    export=Export(("adapter", "merged", "q8_0")),
    max_hours=5.0,
)

if __name__ == "__main__":
    run(RECIPE)
