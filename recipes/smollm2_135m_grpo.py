"""SmolLM2-135M after a short SFT on plans, then GRPO, on a CPU: no GPU, no key, no network beyond the package index.

The problems of smollm2_135m. A short SFT on plans makes a student that finds the way back from the question at times;
GRPO samples plans and solutions of its own and rewards right answers, which only right plans reach. The first lines say
what GRPO added to the SFT on the same fresh problems: nothing with earlier settings in one seed, unmeasured with these.
max_completion leaves room above a usual answer, since the last fifth of it is penalised.
grpo.reward=answer+plan adds nothing here: likeness by words leaves out the question's own words, of which these plans
are made. grpo.reward=guided grpo.group=12 makes groups of plans with several continuations each.
"""

from plantune_lite import GRPO, SFT, Corpus, Distill, Evaluate, Problems, Recipe, Student, run

RECIPE = Recipe(
    name="smollm2_135m_grpo",
    seed=0,
    problems=Problems("practice", levels=(2,), limit=256, held_out=0.8),  # hops; 205 more are held out
    distill=Distill(teacher="worked"),  # no model: a worked solution becomes a plan and its execution
    corpus=Corpus(filter="answer", validation=0.0),  # these plans have no scores
    student=Student("smollm2_135m", bits=16, max_length=512, checkpointing=False),
    sft=SFT(target="plan+solution", max_steps=24, learning_rate=2e-3, batch_size=4, accumulate=1),
    grpo=GRPO(
        reward="answer",
        steps=24,
        group=8,
        prompts_per_step=8,
        learning_rate=3e-4,
        temperature=0.7,
        max_completion=160,
        extra={"per_device_train_batch_size": 8},  # of 2 rows at once a CPU makes a third less
    ),
    evaluate=Evaluate(("own",), limit=200, max_tokens=160, prompts=("few_shot",), before_grpo=True),
    headroom=0,  # evaluation measures the untuned model
    max_hours=1.0,
)

if __name__ == "__main__":
    run(RECIPE)
