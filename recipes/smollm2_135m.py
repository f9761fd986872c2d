"""SmolLM2-135M learns to plan before it solves, on a CPU: no GPU, no key, no network beyond the package index.

Problems are our own small generator's, plans come from their worked solutions, and the test problems are of templates
that training never sees. Minutes and gain on this model: unmeasured until every stage is there.
"""

from plantune_lite import SFT, Corpus, Distill, Evaluate, Export, Problems, Recipe, Student, run

RECIPE = Recipe(
    name="smollm2_135m",
    seed=0,
    problems=Problems("practice", limit=1_000),
    distill=Distill(teacher="worked"),  # no model: a worked solution becomes a plan and its execution
    corpus=Corpus(filter="answer"),  # nobody scored these plans
    student=Student("smollm2_135m", bits=16, max_length=512, checkpointing=False),
    sft=SFT(target="plan+solution", epochs=1, batch_size=8, accumulate=1),
    grpo=None,
    evaluate=Evaluate(("own",), limit=200, max_tokens=256),
    export=Export(("merged", "q8_0")),
    max_hours=1.0,
)

if __name__ == "__main__":
    run(RECIPE)
