"""Qwen3-4B learns from groups of plans and what follows them (PTA-GRPO): SFT, then GRPO. One 12 GB GPU, gain unknown.

SFT trains on plans that are summaries of the data set's own solutions, one call each, not scored. Then 60 steps of
2 prompts x 4 plans x 3 continuations, rewarded for the answer, the plan's share of right answers, form and length.
Costs: with a Gemini key 500 calls (`plantune estimate qwen3_4b_pta_grpo` prints the cost beforehand); without one
the untuned model writes the summaries itself.
Time: 5 h on an RTX 4070, 6 h without a key, by `plantune estimate`; unmeasured.
Memory: 8.5 GiB for GRPO by `plantune estimate`, not yet checked on a GPU.
Expect: little. The paper reports no figure for this model; another paper that ran PTA-GRPO on it found 95.8 % on
MATH-500 and 96.0 % untuned, by majority of 16. For Qwen2.5-7B the PTA-GRPO paper has 58.5 %, and 54.8 % for GRPO.

As in the paper: advantages by the group's spread, clip and KL, no warm-up, weight decay 0.01, the weights 0.5 of a plan
and 0.2 of the form, sampling at 1.0, testing at 0.6 with top_p 0.95. It gives no KL weight or clip, nor weight, softmax
and longest for the length term: those are ours (grpo.extra.beta, grpo.length_weight, grpo.plan_softmax, grpo.longest).
Out of memory? Lower in this order: grpo.max_completion=384, grpo.prompts_per_step=1, both with --again grpo; then
student.lora_rank=16 student.lora_alpha=16 with --again sft, because the SFT trains the same student.
The paper's size: problems.limit=none grpo.steps=150 grpo.prompts_per_step=11 grpo.max_completion=4500
student.max_length=6000 evaluate.suites=pta evaluate.samples=64 evaluate.limit=none evaluate.max_tokens=4500
max_hours=none (it trained all weights, with a rate of 1e-6, on 60,000 problems of DeepMath, after 10,000 plans)
"""

from plantune_lite import GRPO, SFT, Corpus, Distill, Evaluate, Export, Problems, Recipe, Student, run

RECIPE = Recipe(
    name="qwen3_4b_pta_grpo",
    seed=0,
    problems=Problems("math", split="train", levels=(3, 4, 5), limit=500),
    distill=Distill(teacher="gemini", plan_from="solution", plans=1, min_score=None, max_tokens=512, max_usd=5.0),
    corpus=Corpus(filter="none"),
    student=Student("qwen3_4b", bits=4, max_length=1024, lora_rank=32, checkpointing=True),
    sft=SFT(target="plan+solution", epochs=3, learning_rate=2e-4, batch_size=2, accumulate=4),
    grpo=GRPO(
        reward="guided",
        settings="pta",
        start="sft",
        steps=60,
        group=12,
        plans=4,
        continuations=3,
        plan_weight=0.5,
        structure_weight=0.2,
        prompts_per_step=2,
        learning_rate=5e-6,  # for an adapter; the paper trains all weights with 1e-6
    ),
    evaluate=Evaluate(("own", "math500"), limit=75, samples=4, temperature=0.6, top_p=0.95, max_tokens=1024),
    export=Export(("adapter", "merged", "q8_0")),
    max_hours=8.0,
)

if __name__ == "__main__":
    run(RECIPE)
