"""SmolLM2-135M learns to plan in blocksworld, on a CPU: no GPU, no key, no network beyond the package index.

Problems are drawn by a generator, plans come from a planner and are graded by an exact simulator: a plan is right if
every step can be done and the goal holds at the end. It is tested on problems of the trained sizes and on larger ones.
`plantune probe smollm2_135m_worlds` then tests what the student knows about its world. Needs the extra [lab].

Other worlds: problems.source=world:gripper, or :logistics. Random walks instead of plans,
which show more of a world: :blocksworld_walks; half and half: :blocksworld_mixed.
`plantune ablate world smollm2_135m_worlds` trains and probes all three side by side.
"""

from plantune_lite import GRPO, SFT, Corpus, Distill, Evaluate, Export, Problems, Recipe, Student, run

RECIPE = Recipe(
    name="smollm2_135m_worlds",
    seed=0,
    problems=Problems("world:blocksworld", limit=400),
    distill=Distill(teacher="worked"),  # no model: the planner's plans
    # These plans have no scores. All questions of a world share its words, so only exact copies count as duplicates.
    corpus=Corpus(filter="none", dedup="exact", decontaminate=100),
    student=Student("smollm2_135m", bits=16, max_length=512, checkpointing=False),
    sft=SFT(target="plan+solution", max_steps=120, learning_rate=1e-3, batch_size=8, accumulate=1),
    grpo=GRPO(
        reward="answer",  # 2 for a valid plan
        rewards=("world:valid_prefix",),  # up to 1 for how far a plan can be carried out
        steps=8,
        group=6,
        prompts_per_step=2,
        learning_rate=1e-5,
        max_completion=160,
    ),
    evaluate=Evaluate(("own",), limit=60, max_tokens=256),
    export=Export(("merged", "q8_0")),
    headroom=0,  # untuned, it solves none
    max_hours=1.5,
)

if __name__ == "__main__":
    run(RECIPE)
