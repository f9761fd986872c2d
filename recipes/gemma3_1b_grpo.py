"""Gemma-3-1B learns to plan before it solves: SFT, then GRPO for answer and plan. One 8 GB GPU, gain unmeasured.

Costs: the plans of `gemma3_1b_sft`, from the same ledger: if you ran that, they are free. Then 100 steps of
2 prompts x 8 answers.
Time: 2 h on an RTX 4060, 4 h without a key, by `plantune estimate`; unmeasured.
Memory: 4.2 GiB for GRPO by `plantune estimate`, not yet checked on a GPU.
Expect: PLAN-TUNING reports 28 % on GSM8K for this model after Plan-GRPO and 20 % after GRPO on the answer alone,
in its own protocol; the first line of the results table is the untuned model at its best prompt.
Prompts that the model always or never solves after SFT teach nothing and are left out; the run prints how many.

grpo.reward=answer is plain GRPO, answer+plan adds similarity to the reference plan (grpo.judge=teacher lets the
teacher judge it, which costs money), guided samples several continuations of each plan, as PTA-GRPO (grpo.group=12).
Out of memory? Lower in this order: grpo.max_completion=384, grpo.group=4, both with --again grpo; then
student.lora_rank=16 student.lora_alpha=16 with --again sft, because the SFT trains the same student.
The paper's settings: grpo.settings=paper grpo.group=4 grpo.prompts_per_step=8 grpo.learning_rate=5e-6 grpo.start=base
sft=none grpo.judge=teacher (its judge is a model; it trained all weights, on all prompts)
The weights are gated: accept Gemma's terms and set HF_TOKEN, or student.model=unsloth/gemma-3-1b-it.
"""

from plantune_lite import GRPO, SFT, Corpus, Distill, Evaluate, Export, Problems, Recipe, Student, run

RECIPE = Recipe(
    name="gemma3_1b_grpo",
    seed=0,
    problems=Problems("gsm8k", split="train", limit=1_000),
    distill=Distill(teacher="gemini", plans=5, min_score=80, max_tokens=1024, max_usd=5.0),  # no key set: "self"
    corpus=Corpus(filter="both"),
    student=Student("gemma3_1b", bits=16, max_length=1024, lora_rank=32, checkpointing=True),
    sft=SFT(target="plan+solution", epochs=1, learning_rate=2e-4, batch_size=2, accumulate=4),
    grpo=GRPO(reward="answer+plan", start="sft", steps=100, group=8, prompts_per_step=2, learning_rate=5e-6),
    evaluate=Evaluate(("own", "gsm8k"), limit=150, max_tokens=768),
    export=Export(("adapter", "merged", "q8_0")),
    max_hours=6.0,
)

if __name__ == "__main__":
    run(RECIPE)
