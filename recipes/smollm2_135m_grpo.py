"""SmolLM2-135M after a short SFT on plans, then GRPO, on a CPU: no GPU, no key, no network beyond the package index.

The problems of smollm2_135m. A short SFT on plans makes a student that solves some of them; GRPO samples its plans and
solutions and rewards right answers, which need right plans. The report begins with what GRPO added on the same fresh
problems: from 43.5 % after the SFT to 68.5 %, the mean of three seeds (benchmarks/grpo_rewards.md), in 37 to 43 minutes
on two CPU cores. max_completion leaves room above a usual answer, since its last fifth is penalised.
grpo.reward=answer+plan should add little here (unmeasured): likeness by words leaves out the question's own words, of
which these plans are made. grpo.reward=guided grpo.group=12 makes groups of plans with several continuations each.
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
        extra={"per_device_train_batch_size": 8},  # trained at once, in place of 2
    ),
    evaluate=Evaluate(("own",), limit=200, max_tokens=160, prompts=("few_shot",), before_grpo=True),
    headroom=0,  # evaluation measures the untuned model
    max_hours=1.0,
)

if __name__ == "__main__":
    run(RECIPE)
