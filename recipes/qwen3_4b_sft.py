"""Qwen3-4B learns to plan before it solves (M1): QLoRA SFT, one 12 GB GPU, batch 2 x 1024 tokens. Gain: unmeasured.

Costs: with a Gemini key the calls for 500 problems (`plantune estimate qwen3_4b_sft` prints the cost
beforehand); without a key the untuned model plans for itself, which costs only time; its plans are not scored.
Time: 3 h on an RTX 3060, 5 h without a key, by `plantune estimate`; unmeasured.
Memory: 5.4 GiB for SFT by `plantune estimate`, not yet checked on a GPU.
Expect: little on easy problems. Untuned, this model solves nearly all of GSM8K, so the recipe trains on MATH levels 3
to 5, where there may be headroom; before anything is spent, `plantune run` tests it on 64 of them and prints how many
it already solves.
PLAN-TUNING reports no SFT figure for this model.

Out of memory? Lower in this order, with --again sft: sft.batch_size=1 sft.accumulate=8, student.max_length=768,
student.lora_rank=16 student.lora_alpha=16.
The paper's size: problems.limit=none distill.keep=best evaluate.suites=paper evaluate.limit=none (its learning rate
of 5e-6 is for training all weights and would hardly move an adapter)
"""

from plantune_lite import SFT, Corpus, Distill, Evaluate, Export, Problems, Recipe, Student, run

RECIPE = Recipe(
    name="qwen3_4b_sft",
    seed=0,
    problems=Problems("math", split="train", levels=(3, 4, 5), limit=500),
    distill=Distill(teacher="gemini", plans=5, min_score=80, max_tokens=1024, max_usd=5.0),  # no key set: "self"
    corpus=Corpus(filter="both"),
    student=Student("qwen3_4b", bits=4, max_length=1024, lora_rank=32, checkpointing=True),
    sft=SFT(target="plan+solution", epochs=1, learning_rate=2e-4, batch_size=2, accumulate=4),
    evaluate=Evaluate(("own", "math500"), limit=150, max_tokens=1536),
    export=Export(("adapter", "merged", "q8_0")),
    max_hours=6.0,
)

if __name__ == "__main__":
    run(RECIPE)
