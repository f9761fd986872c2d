"""SmolLM2-135M searches over plan steps and learns the ones that matter (CPL), on a CPU: no GPU, no key.

One small round: after the SFT of `smollm2_135m`, 24 of its problems are searched (MCTS, 8 iterations each), then an
adapter is trained from the base on the right paths and, by Step-APO, on pairs of steps. Problems are the easiest
of our own small generator: a search that never finds a right answer teaches nothing. It shows that everything works,
and what a search looks like (cpl/round1/trees.html, with trees to unfold). Minutes: unmeasured. Gain: unmeasured on
these problems; on others, with 64 questions and three seeds, neither Step-APO nor step-DPO was better than SFT on the
right paths alone (benchmarks/cpl.md); the paper searched 5,000 questions, 200 iterations each.
`plantune ablate preference smollm2_135m_cpl` learns from the same trees in four ways: right paths alone, DPO on whole
answers, DPO on steps, Step-APO. A longer search: cpl.questions=200 cpl.iterations=24 max_hours=8
"""

from plantune_lite import CPL, SFT, Corpus, Distill, Evaluate, Export, Problems, Recipe, Student, run

RECIPE = Recipe(
    name="smollm2_135m_cpl",
    seed=0,
    problems=Problems("practice", levels=(2,), limit=400, held_out=0.5),  # 200 more are held out
    distill=Distill(teacher="worked"),  # no model: a worked solution becomes a plan and its execution
    corpus=Corpus(filter="answer"),  # these plans have no scores
    student=Student("smollm2_135m", bits=16, max_length=512, checkpointing=False),
    sft=SFT(target="plan+solution", max_steps=40, learning_rate=1e-3, batch_size=8, accumulate=1),
    cpl=CPL(
        rounds=1,
        questions=24,
        iterations=8,
        depth=6,
        alpha=1.0,
        beta=0.3,
        learning_rate=2e-5,  # for an adapter; the paper trains all weights with 1e-6
    ),
    evaluate=Evaluate(("own", "practice_longer"), limit=100, max_tokens=128, prompts=("zero_shot_cot", "few_shot")),
    export=Export(("adapter",)),
    headroom=32,
    max_hours=1.5,
)

if __name__ == "__main__":
    run(RECIPE)
