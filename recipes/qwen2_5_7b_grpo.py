"""Qwen2.5-7B learns to plan before it solves: SFT, then GRPO for answer and plan. One 16 GB GPU, gain unmeasured.

Costs: the plans of `qwen2_5_7b_sft`, from the same ledger: if you ran that, they are free. Then 60 steps of
2 prompts x 8 answers.
Time: 5 h on a T4, 8 h without a key, by `plantune estimate`; unmeasured.
Memory: 9.4 GiB for GRPO by `plantune estimate`, not yet checked on a GPU.
Expect: unknown. PLAN-TUNING reports no GRPO figure for this model.
Prompts that the model always or never solves after SFT teach nothing and are left out; the run prints how many.

grpo.reward=answer is plain GRPO, answer+plan adds similarity to the reference plan (grpo.judge=teacher lets the
teacher judge it, which costs money), guided samples several continuations of each plan, as PTA-GRPO (grpo.group=12).
Out of memory? Lower in this order: grpo.max_completion=384, grpo.group=4, both with --again grpo; then
student.lora_rank=16 student.lora_alpha=16 with --again sft, because the SFT trains the same student.
The paper's settings: grpo.settings=paper grpo.group=4 grpo.prompts_per_step=8 grpo.learning_rate=5e-6 grpo.start=base
sft=none grpo.judge=teacher (its judge is a model; it trained all weights, on all prompts)
"""

from plantune_lite import GRPO, SFT, Corpus, Distill, Evaluate, Export, Problems, Recipe, Student, run

RECIPE = Recipe(
    name="qwen2_5_7b_grpo",
    seed=0,
    problems=Problems("math", split="train", levels=(3, 4, 5), limit=500),
    distill=Distill(teacher="gemini", plans=5, min_score=80, max_tokens=1024, max_usd=5.0),  # no key set: "self"
    corpus=Corpus(filter="both"),
    student=Student("qwen2_5_7b", bits=4, max_length=1024, lora_rank=32, checkpointing=True),
    sft=SFT(target="plan+solution", epochs=1, learning_rate=2e-4, batch_size=2, accumulate=4),
    grpo=GRPO(reward="answer+plan", start="sft", steps=60, group=8, prompts_per_step=2, learning_rate=5e-6),
    evaluate=Evaluate(("own", "math500"), limit=150, max_tokens=1024),
    export=Export(("adapter", "merged", "q8_0")),
    max_hours=8.0,
)

if __name__ == "__main__":
    run(RECIPE)
