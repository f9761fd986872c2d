"""Qwen3-4B learns to plan in blocksworld: QLoRA SFT, then GRPO on valid plans, one 12 GB GPU. Gain: unmeasured.

Costs: nothing but time. Problems are drawn by a generator, plans come from a planner, and an exact simulator grades
them: a plan is right if every step can be done and the goal holds at the end. Minutes on a GPU: unmeasured.
`plantune probe qwen3_4b_worlds` then tests what the student knows about its world. Needs the extra [lab].

Memory: 7.1 GiB for GRPO by `plantune estimate`, not yet checked on a GPU.
Other worlds: problems.source=world:gripper, or :logistics. Random walks instead of plans,
which show more of a world: :blocksworld_walks; half and half: :blocksworld_mixed.
Out of memory? Lower in this order: sft.batch_size=2 sft.accumulate=4 with --again sft, grpo.group=6 with --again
grpo, student.lora_rank=16 student.lora_alpha=16 with --again sft.
"""

from plantune_lite import GRPO, SFT, Corpus, Distill, Evaluate, Export, Problems, Recipe, Student, run

RECIPE = Recipe(
    name="qwen3_4b_worlds",
    seed=0,
    problems=Problems("world:blocksworld", limit=1_000),
    distill=Distill(teacher="worked"),  # no model: the planner's plans
    # These plans have no scores. All questions of a world share its words, so only exact copies count as duplicates.
    corpus=Corpus(filter="none", dedup="exact", decontaminate=100),
    student=Student("qwen3_4b", bits=4, max_length=768, lora_rank=32, checkpointing=True),
    sft=SFT(target="plan+solution", epochs=1, learning_rate=2e-4, batch_size=4, accumulate=2),
    grpo=GRPO(
        reward="answer",  # 2 for a valid plan
        rewards=("world:valid_prefix",),  # up to 1 for how far a plan can be carried out
        steps=100,
        group=8,
        prompts_per_step=4,
        learning_rate=1e-6,
        max_completion=256,
    ),
    evaluate=Evaluate(("own",), limit=60, max_tokens=384),
    export=Export(("merged", "q8_0")),
    headroom=0,
    max_hours=5.0,
)

if __name__ == "__main__":
    run(RECIPE)
