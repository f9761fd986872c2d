"""SmolLM2-135M learns to plan before it solves, on a CPU: no GPU, no key, no network beyond the package index.

Problems are from our own small generator, chosen to need planning: three chains of relations in shuffled order, and a
question about the end of one. A solution must begin where that chain begins, two hops back; a plan runs backwards from
the question and finds it. Three arms answer the same fresh problems: the untuned model at its best prompt, a baseline
trained on the solutions alone, and the same training with a plan before each solution. Results of every
seed, and minutes: benchmarks/demo.md. On stories, which need little planning:
`plantune run smollm2_135m problems.source=practice_stories name=stories`.
"""

from plantune_lite import SFT, Corpus, Distill, Evaluate, Export, Problems, Recipe, Student, run

RECIPE = Recipe(
    name="smollm2_135m",
    seed=0,
    problems=Problems("practice", levels=(2,), limit=256, held_out=0.8),  # hops; 205 more are held out
    distill=Distill(teacher="worked"),  # no model: a worked solution becomes a plan and its execution
    corpus=Corpus(filter="answer", validation=0.0),  # these plans have no scores
    student=Student("smollm2_135m", bits=16, max_length=512, checkpointing=False),
    sft=SFT(target="plan+solution", max_steps=64, learning_rate=2e-3, batch_size=4, accumulate=1),
    evaluate=Evaluate(
        ("own",),
        limit=200,
        max_tokens=160,
        baseline=True,
        prompts=("zero_shot_cot", "few_shot"),
        plan_use=True,
    ),
    export=Export(("merged", "q8_0")),
    headroom=0,  # evaluation measures the untuned model
    max_hours=1.0,
)

if __name__ == "__main__":
    run(RECIPE)
