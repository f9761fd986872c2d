"""Qwen2.5-7B searches over plan steps and learns the ones that matter (CPL): one 24 GB GPU, gain unmeasured.

Two rounds: search (MCTS), SFT from the base on right paths, Step-APO on pairs of steps; the second round's policy is
the first one's model, and its leaves are judged by a value head in place of rollouts. The first round's policy is the
student of `qwen2_5_7b_sft`, whose plans come from the same ledger: if you ran that, they are free.
Budget: 200 questions x 24 iterations, about 500 tokens each, is 2 to 3 million generated tokens a round, and never
more than cpl.max_tokens in all. Minutes on a GPU: unmeasured. The paper searched 5,000 questions with 200 iterations
and 15,000 with 100, and trained all weights on eight 80 GB GPUs: expect less than its figures, which have no intervals.
Memory: QLoRA with two rows at once, like `qwen2_5_7b_sft`; a pair of steps is two rows.
16 GB: student.max_length=768 sft.batch_size=1 sft.accumulate=8 cpl.questions=100 (if memory runs out,
replies are generated in smaller batches; rerun the command to resume a search that max_hours ended).
A 24 GB GPU with a free night: cpl.questions=1000 cpl.iterations=50 cpl.max_tokens=40000000 max_hours=24.
Ablation: cpl.alpha=0 is step-DPO. The paper's suites: evaluate.suites=cpl evaluate.allow_code=true
"""

from plantune_lite import CPL, SFT, Corpus, Distill, Evaluate, Export, Problems, Recipe, Student, run

RECIPE = Recipe(
    name="qwen2_5_7b_cpl",
    seed=0,
    problems=Problems("math", split="train", levels=(3, 4, 5), limit=1_000),
    distill=Distill(teacher="gemini", plans=5, min_score=80, max_usd=5.0),  # no key set: teacher="self"
    corpus=Corpus(filter="both"),
    student=Student("qwen2_5_7b", bits=4, max_length=1024, lora_rank=32, checkpointing=True),
    sft=SFT(target="plan+solution", epochs=1, learning_rate=2e-4, batch_size=2, accumulate=4),
    cpl=CPL(
        rounds=2,
        questions=200,
        iterations=24,
        root_width=5,
        width=3,
        depth=6,
        leaf="value",  # from the second round on: the first has no value head yet and uses rollouts
        alpha=1.0,
        beta=0.3,
        learning_rate=5e-6,  # for an adapter; the paper trains all weights with 1e-6
        max_tokens=6_000_000,
    ),
    evaluate=Evaluate(("own", "math500"), limit=300, max_tokens=2048),
    export=Export(("adapter", "merged", "q8_0")),
    max_hours=12.0,
)

if __name__ == "__main__":
    run(RECIPE)
