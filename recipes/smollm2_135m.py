"""SmolLM2-135M learns to plan before it solves, on a CPU: no GPU, no key, no network beyond the package index.

Problems are the easiest of our own small generator's, plans come from their worked solutions. Three arms answer the
same test problems: the untuned model at its best prompt, a baseline trained on the solutions alone, and plans with
GRPO. The suite `own` is of templates that training never sees: there a model of this size gains nothing that could be
shown, with plans or without (benchmarks/arms.md). `practice_known` is of templates it has seen, with other names and
numbers: there it learns (benchmarks/practice.md), from solutions at least as much as from plans (benchmarks/arms.md).
"""

from plantune_lite import GRPO, SFT, Corpus, Distill, Evaluate, Export, Problems, Recipe, Student, run

RECIPE = Recipe(
    name="smollm2_135m",
    seed=0,
    problems=Problems("practice", levels=(1,), limit=400, held_out=0.5),  # 200 more, of other templates, are held out
    distill=Distill(teacher="worked"),  # no model: a worked solution becomes a plan and its execution
    corpus=Corpus(filter="answer"),  # nobody scored these plans
    student=Student("smollm2_135m", bits=16, max_length=512, checkpointing=False),
    sft=SFT(target="plan+solution", max_steps=40, learning_rate=1e-3, batch_size=8, accumulate=1),
    grpo=GRPO(steps=8, group=6, prompts_per_step=2, learning_rate=1e-5, max_completion=128),
    evaluate=Evaluate(
        ("own", "practice_known"), limit=200, max_tokens=128, baseline=True, prompts=("zero_shot_cot", "few_shot")
    ),
    export=Export(("merged", "q8_0")),
    headroom=32,
    max_hours=1.0,
)

if __name__ == "__main__":
    run(RECIPE)
